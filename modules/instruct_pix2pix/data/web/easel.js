// How a picture is seen in the Inpaint tab, or several in step beside each other: zoom, pan, the outline of the brush.
(() => {
    "use strict";

    const MOST = 8; // times the size at which all of the picture is seen, and more where it has more pixels:
    const MOST_OF_A_PIXEL = 4; // of the window for each of the picture
    const within = (value, least, most) => Math.min(Math.max(value, least), most);

    /** Return the view of an easel, a box onto its sheet, on which the picture and the mask lie; or of several easels of
        one size, which are moved in step. Points are [x, y] in pixels of the window, as events have them. */
    window.ip2pView = (...easels) => {
        const [easel] = easels;
        const ring = easel.querySelector(".ip2p-ring");
        const sheets = easels.map((one) => one.querySelector(".ip2p-sheet"));
        let [zoom, x, y] = [1, 0, 0]; // x and y: of the sheets' centres, from the easels'

        /** Put the sheets in their places; the edges of the largest stay out of the box, or the whole of it inside. */
        function place() {
            const spare = (side) => Math.max(...sheets.map((sheet, i) =>
                Math.max(0, (sheet[`offset${side}`] * zoom - easels[i][`client${side}`]) / 2)));
            const [across, down] = [spare("Width"), spare("Height")];
            [x, y] = [within(x, -across, across), within(y, -down, down)];
            for (const sheet of sheets) sheet.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
        }

        const most = () => Math.max(MOST, ...sheets.map((sheet) =>
            (MOST_OF_A_PIXEL * sheet.querySelector("img").naturalWidth) / Math.max(1, sheet.offsetWidth)));

        function move(right, down) {
            [x, y] = [x + right, y + down];
            place();
        }

        const view = {
            /** How much larger than the whole picture. */
            get zoom() {
                return zoom;
            },
            move,
            /** Show the whole picture. */
            fit() {
                zoom = 1;
                place();
            },
            /** Zoom by a factor; what is seen at a point, by default the middle, stays there. */
            zoomBy(factor, at) {
                const boxes = easels.map((one) => one.getBoundingClientRect());
                const box = boxes.find(({ left, right, top, bottom }) =>
                    at && at[0] >= left && at[0] <= right && at[1] >= top && at[1] <= bottom) ?? boxes[0];
                const [right, down] = at ? [at[0] - box.left - box.width / 2, at[1] - box.top - box.height / 2] : [0, 0];
                const wanted = within(zoom * factor, 1, most());
                [x, y] = [right - ((right - x) * wanted) / zoom, down - ((down - y) * wanted) / zoom];
                zoom = wanted;
                place();
            },
            middle() {
                const box = easel.getBoundingClientRect();
                return [box.left + box.width / 2, box.top + box.height / 2];
            },
            /** Bring a point into the box. */
            reveal([right, down]) {
                const box = easel.getBoundingClientRect();
                move(within(right, box.left, box.right) - right, within(down, box.top, box.bottom) - down);
            },
            /** Draw the outline of a brush around a point. */
            outline([right, down], width) {
                const box = easel.getBoundingClientRect();
                ring.style.width = ring.style.height = `${width}px`;
                const [left, top] = [right - box.left - easel.clientLeft, down - box.top - easel.clientTop];
                ring.style.transform = `translate(${left - width / 2}px, ${top - width / 2}px)`;
                ring.hidden = false;
            },
            hideOutline() {
                ring.hidden = true;
            },
        };
        const resizing = new ResizeObserver(place);
        for (const one of easels) resizing.observe(one);
        return view;
    };
})();
