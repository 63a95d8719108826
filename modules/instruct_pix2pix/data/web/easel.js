// How the picture in the Inpaint tab is seen: zoom, pan, and the outline of the brush.
(() => {
    "use strict";

    const MOST = 8; // times the size at which all of the picture is seen
    const within = (value, least, most) => Math.min(Math.max(value, least), most);

    /** Return the view of an easel, a box onto its sheet, on which the picture and the mask lie.
        Points are [x, y] in pixels of the window, as events have them. */
    window.ip2pView = (easel) => {
        const [sheet, ring] = [".ip2p-sheet", ".ip2p-ring"].map((part) => easel.querySelector(part));
        let [zoom, x, y] = [1, 0, 0]; // x and y: of the sheet's centre, from the easel's

        /** Put the sheet in its place; its edges stay out of the box, or the whole of it inside. */
        function place() {
            const spare = (length, box) => Math.max(0, (length * zoom - box) / 2);
            const across = spare(sheet.offsetWidth, easel.clientWidth);
            const down = spare(sheet.offsetHeight, easel.clientHeight);
            [x, y] = [within(x, -across, across), within(y, -down, down)];
            sheet.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
        }

        function move(right, down) {
            [x, y] = [x + right, y + down];
            place();
        }

        const view = {
            move,
            /** Show the whole picture. */
            fit() {
                zoom = 1;
                place();
            },
            /** Zoom by a factor; what is seen at a point, by default the middle, stays there. */
            zoomBy(factor, at) {
                const box = easel.getBoundingClientRect();
                const [right, down] = at ? [at[0] - box.left - box.width / 2, at[1] - box.top - box.height / 2] : [0, 0];
                const wanted = within(zoom * factor, 1, MOST);
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
        new ResizeObserver(place).observe(easel);
        return view;
    };
})();
