// The mask of the Inpaint tab: strokes over the picture to edit, sent as a black and white PNG.
(() => {
    "use strict";

    const LONGEST = 1024; // pixels of the mask's longest side
    let strokes = []; // { erase, width, points: [[x, y], …] } in pixels of the mask, or { image } of any size
    let source = null; // address of the picture under the strokes
    let canvas = null;
    let sent = null; // a mask to take once its picture is there: { image, picture }

    const part = (selector) => document.querySelector(`#ip2p_paint ${selector}`);
    const picture = () => document.querySelector("#img2img_image .image-frame img");

    /** Show the picture to edit; a new one starts without strokes. */
    function look() {
        const shown = part("img");
        if (!shown) return;
        const wanted = picture()?.getAttribute("src") ?? null;
        if (wanted !== source) {
            source = wanted;
            strokes = [];
            send();
        }
        if (shown.getAttribute("src") !== source && source) shown.src = source;
        part(".ip2p-easel").classList.toggle("empty", !source);
        if (canvas !== part("canvas")) begin();
        take();
    }

    /** Take a mask, white where the picture may change, as the first stroke; `told` names its file and its picture's. */
    window.ip2pUseMask = (told) => {
        if (!told) return;
        const { mask, picture: of } = JSON.parse(told);
        const image = new Image();
        sent = { image, picture: of };
        image.addEventListener("load", take);
        image.src = `gradio_api/file=${mask}`;
    };

    function take() {
        const shown = part("img");
        const there = sent?.image.complete && sent.image.naturalWidth && canvas && shown?.complete && shown.naturalWidth;
        if (!there || !(source?.endsWith(sent.picture) || source?.endsWith(encodeURI(sent.picture)))) return;
        strokes = [{ image: painted(sent.image) }];
        sent = null;
        fit();
        send();
        part(".ip2p-easel").scrollIntoView({ block: "center" }); // from the result, which may lie far below
    }

    /** Return a mask as paint: as opaque as it is white. */
    function painted(image) {
        const paint = document.createElement("canvas");
        [paint.width, paint.height] = [image.naturalWidth, image.naturalHeight];
        const pen = paint.getContext("2d");
        pen.fillStyle = getComputedStyle(canvas).color;
        pen.fillRect(0, 0, 1, 1);
        const colour = pen.getImageData(0, 0, 1, 1).data;
        pen.drawImage(image, 0, 0);
        const pixels = pen.getImageData(0, 0, paint.width, paint.height);
        for (let i = 0; i < pixels.data.length; i += 4) {
            const white = pixels.data[i];
            pixels.data.set([colour[0], colour[1], colour[2], white], i);
        }
        pen.putImageData(pixels, 0, 0);
        return paint;
    }

    /** Use the canvas that is on the page now: gradio may have made a new one. */
    function begin() {
        canvas = part("canvas");
        const shown = part("img");
        shown.addEventListener("load", fit);
        canvas.addEventListener("pointerdown", start);
        canvas.addEventListener("pointermove", move);
        for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, finish);
        part(".ip2p-undo").addEventListener("click", () => { strokes.pop(); draw(); send(); });
        part(".ip2p-clear").addEventListener("click", () => { strokes = []; draw(); send(); });
        part(".ip2p-easel").addEventListener("click", () => {
            if (!source) document.querySelector("#ip2p_arrival input[type=file]")?.click();
        });
        if (shown.complete && shown.naturalWidth) fit();
    }

    function fit() {
        const shown = part("img");
        const scale = LONGEST / Math.max(shown.naturalWidth, shown.naturalHeight);
        canvas.width = Math.max(1, Math.round(shown.naturalWidth * scale));
        canvas.height = Math.max(1, Math.round(shown.naturalHeight * scale));
        draw();
        take();
    }

    // --- strokes ---

    let current = null;

    function point(event) {
        const box = canvas.getBoundingClientRect();
        return [
            ((event.clientX - box.left) / box.width) * canvas.width,
            ((event.clientY - box.top) / box.height) * canvas.height,
        ];
    }

    function start(event) {
        if (event.button > 0 || !source) return;
        canvas.setPointerCapture(event.pointerId);
        const share = Number(part(".ip2p-brush").value) / 100;
        const width = Math.max(2, share * Math.max(canvas.width, canvas.height));
        current = { erase: part(".ip2p-erase").checked, width, points: [point(event)] };
        strokes.push(current);
        draw();
        event.preventDefault();
    }

    function move(event) {
        if (!current) return;
        current.points.push(point(event));
        draw();
    }

    function finish() {
        if (!current) return;
        current = null;
        send();
    }

    function draw() {
        const pen = canvas.getContext("2d");
        pen.clearRect(0, 0, canvas.width, canvas.height);
        pen.lineCap = pen.lineJoin = "round";
        pen.strokeStyle = getComputedStyle(canvas).color;
        for (const { image, erase, width, points } of strokes) {
            if (image) {
                pen.drawImage(image, 0, 0, canvas.width, canvas.height);
                continue;
            }
            pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
            pen.lineWidth = width;
            pen.beginPath();
            pen.moveTo(points[0][0] - 0.01, points[0][1]); // a line of no length, from a mere click, is not drawn
            for (const to of points) pen.lineTo(...to);
            pen.stroke();
        }
        pen.globalCompositeOperation = "source-over";
    }

    /** Put the mask into the hidden field: white where there is paint. */
    function send() {
        const target = document.querySelector("#ip2p_mask textarea");
        if (!target) return;
        target.value = strokes.length ? blackAndWhite() : "";
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function blackAndWhite() {
        const mask = document.createElement("canvas");
        [mask.width, mask.height] = [canvas.width, canvas.height];
        const pen = mask.getContext("2d");
        pen.drawImage(canvas, 0, 0);
        pen.globalCompositeOperation = "source-in";
        pen.fillStyle = "white";
        pen.fillRect(0, 0, mask.width, mask.height);
        pen.globalCompositeOperation = "destination-over";
        pen.fillStyle = "black";
        pen.fillRect(0, 0, mask.width, mask.height);
        return mask.toDataURL("image/png");
    }

    window.ip2pPaint = look;
})();
