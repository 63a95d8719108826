// The mask of the Inpaint tab: strokes over the picture to edit, sent as a black and white PNG.
(() => {
    "use strict";

    const LONGEST = 1024; // pixels of the mask's longest side
    let strokes = []; // { erase, width, points: [[x, y], …] } in pixels of the mask, or { image } of any size
    let past = []; // what `strokes` was before each change, to undo it
    let future = []; // what was undone, to do it again
    let current = null; // the stroke that is being painted, and the `pointer` that paints it
    let source = null; // address of the picture under the strokes
    let canvas = null;
    let view = null; // of the easel, see easel.js
    let sent = null; // a mask to take once its picture is there: { image, picture }, with no image for an empty one

    const part = (selector) => document.querySelector(`#ip2p_paint ${selector}`);
    const picture = () => document.querySelector("#img2img_image .image-frame img");
    const open = () => canvas?.isConnected && canvas.closest("#ip2p_paint").offsetParent !== null;

    /** Show the picture to edit; a new one starts without strokes. */
    function look() {
        const shown = part("img");
        if (!shown) return;
        const wanted = picture()?.getAttribute("src") ?? null;
        if (wanted !== source) {
            const same = ip2pSamePicture(source, wanted); // on a server that was started again
            source = wanted;
            if (!same) {
                strokes = past = future = [];
                current = null;
                view?.fit();
                changed();
            }
        }
        if (shown.getAttribute("src") !== source && source) shown.src = source;
        part(".ip2p-easel").classList.toggle("empty", !source);
        if (canvas !== part("canvas")) begin();
        take();
    }

    /** Begin with a mask, white where the picture may change, or with none; `told` names its file and its picture's. */
    window.ip2pUseMask = (told) => {
        if (!told) return;
        const { mask, picture: of } = JSON.parse(told);
        const image = mask ? new Image() : null;
        sent = { image, picture: of };
        if (image) {
            image.addEventListener("load", take);
            image.src = `gradio_api/file=${mask}`;
        }
        take();
    };

    function take() {
        const shown = part("img");
        const there = (image) => image?.complete && image.naturalWidth;
        if (!sent || !canvas || !there(shown) || (sent.image && !there(sent.image))) return;
        if (!(source?.endsWith(sent.picture) || source?.endsWith(encodeURI(sent.picture)))) return;
        const wanted = sent.image ? [{ image: painted(sent.image) }] : [];
        sent = null;
        fit();
        if (wanted.length || strokes.length) change(wanted);
        requestAnimationFrame(() => { // once the tab is open; from the result, which may lie far below
            canvas.closest("#ip2p_paint").scrollIntoView({ block: "center" });
            canvas.focus({ preventScroll: true });
        });
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

    /** Use the elements that are on the page now: gradio may have made new ones. */
    function begin() {
        canvas = part("canvas");
        const [shown, easel] = [part("img"), part(".ip2p-easel")];
        view = ip2pView(easel);
        shown.addEventListener("load", fit);
        for (const [name, listener] of Object.entries({
            pointerdown: start, pointermove: move, pointerup: finish, pointercancel: finish,
            pointerenter: (event) => { hovering = event.pointerType !== "touch"; },
            pointerleave: () => { hovering = false; view.hideOutline(); },
            mousedown: (event) => { if (event.button === 1) event.preventDefault(); }, // or the page would scroll
            keydown: paintByKey, keyup: (event) => { if (event.key === "Shift") endOf(KEYS); },
            focus: () => { if (source && canvas.matches(":focus-visible")) outline(at); },
            blur: () => { endOf(KEYS); view.hideOutline(); },
        })) canvas.addEventListener(name, listener);
        easel.addEventListener("wheel", (event) => {
            if (!source || !(event.ctrlKey || event.metaKey)) return;
            event.preventDefault();
            view.zoomBy(2 ** ((-event.deltaY * (event.deltaMode ? 16 : 1)) / 200), [event.clientX, event.clientY]);
            if (hovering) outline(point(event));
        }, { passive: false });
        for (const [name, action] of Object.entries({
            undo, redo, clear, erase, "zoom-in": () => view.zoomBy(Math.SQRT2), fit: () => view.fit(),
            "zoom-out": () => view.zoomBy(Math.SQRT1_2),
            choose: () => document.querySelector("#ip2p_arrival input[type=file]")?.click(),
        })) part(`.ip2p-${name}`).addEventListener("click", action);
        part(".ip2p-brush").addEventListener("input", sized);
        tellWhatCanBeDone();
        if (shown.complete && shown.naturalWidth) fit();
    }

    function fit() {
        const shown = part("img");
        const scale = LONGEST / Math.max(shown.naturalWidth, shown.naturalHeight);
        canvas.width = Math.max(1, Math.round(shown.naturalWidth * scale));
        canvas.height = Math.max(1, Math.round(shown.naturalHeight * scale));
        at = [canvas.width / 2, canvas.height / 2];
        part(".ip2p-easel").style.setProperty("--ratio", shown.naturalWidth / shown.naturalHeight);
        view.fit();
        draw();
        take();
    }

    // --- what was painted ---

    function change(wanted) {
        past = [...past, strokes];
        future = [];
        strokes = wanted;
        changed();
    }

    function undo() {
        if (current) {
            current = null;
        } else if (past.length) {
            future = [...future, strokes];
            strokes = past.at(-1);
            past = past.slice(0, -1);
        }
        changed();
    }

    function redo() {
        if (current || !future.length) return;
        past = [...past, strokes];
        strokes = future.at(-1);
        future = future.slice(0, -1);
        changed();
    }

    function clear() {
        if (strokes.length) change([]);
    }

    /** Draw and send what `strokes` is now. */
    function changed() {
        if (!canvas) return;
        draw();
        send();
        tellWhatCanBeDone();
    }

    function tellWhatCanBeDone() {
        for (const [name, there] of [["undo", past.length], ["redo", future.length], ["clear", strokes.length]]) {
            part(`.ip2p-${name}`).setAttribute("aria-disabled", !there); // 'disabled' would lose the focus
        }
    }

    // --- the brush ---

    let at = [0, 0]; // where it is, in pixels of the mask
    let hovering = false; // whether a mouse or a pen is over the picture
    let hiding = 0; // the timer that hides an outline shown for its size alone

    const erases = () => part(".ip2p-erase").getAttribute("aria-pressed") === "true";
    const width = () => Math.max(2, (part(".ip2p-brush").value / 100) * Math.max(canvas.width, canvas.height));

    function erase() {
        part(".ip2p-erase").setAttribute("aria-pressed", !erases());
    }

    function point({ clientX, clientY }) {
        const box = canvas.getBoundingClientRect();
        return [
            ((clientX - box.left) / box.width) * canvas.width,
            ((clientY - box.top) / box.height) * canvas.height,
        ];
    }

    /** Return where in the window a point of the mask is. */
    function seen([x, y]) {
        const box = canvas.getBoundingClientRect();
        return [box.left + (x / canvas.width) * box.width, box.top + (y / canvas.height) * box.height];
    }

    function outline(where) {
        at = where;
        view.outline(seen(at), (width() * canvas.getBoundingClientRect().width) / canvas.width);
    }

    /** Show the size of the brush: where it is, or for a second in the middle. */
    function sized() {
        if (!source) return;
        const [clientX, clientY] = view.middle();
        outline(hovering || canvas.matches(":focus-visible") ? at : point({ clientX, clientY }));
        clearTimeout(hiding);
        hiding = setTimeout(() => { if (!hovering && document.activeElement !== canvas) view.hideOutline(); }, 1000);
    }

    function resize(direction) {
        const brush = part(".ip2p-brush");
        brush.value = Number(brush.value) + direction * Math.max(1, Math.round(brush.value / 8));
        sized();
    }

    // --- strokes: by mouse, pen, finger and keys ---

    const fingers = new Map(); // where those on the picture are, by pointer
    let held = null; // the pointer that moves the picture, and where it is
    let space = false; // held down, so that the pointer moves the picture

    function stroke(where, pointer) {
        current = { pointer, erase: erases(), width: width(), points: [where] };
        draw();
    }

    function go(where) {
        current.points.push(where);
        draw();
    }

    function endOf(pointer) {
        if (current?.pointer !== pointer) return;
        const done = current;
        current = null;
        change([...strokes, done]);
    }

    function start(event) {
        const { pointerId, pointerType, button, clientX, clientY } = event;
        const moves = button === 1 || (button === 0 && space);
        if (!source || (button !== 0 && !moves)) return;
        canvas.setPointerCapture(pointerId);
        if (pointerType !== "mouse") canvas.focus({ preventScroll: true });
        if (pointerType === "touch") fingers.set(pointerId, [clientX, clientY]);
        if (fingers.size > 1) { // they zoom; the first has begun a stroke
            current = null;
            draw();
            view.hideOutline();
        } else if (moves) {
            held = { pointerId, clientX, clientY };
            view.hideOutline();
        } else if (!current) {
            stroke(point(event), pointerId);
            outline(point(event));
        }
    }

    function move(event) {
        const { pointerId, clientX, clientY } = event;
        if (fingers.size > 1) {
            const before = between();
            if (fingers.has(pointerId)) fingers.set(pointerId, [clientX, clientY]);
            const after = between();
            view.zoomBy(after.apart / before.apart, [before.x, before.y]); // first, or there may be no room to move
            view.move(after.x - before.x, after.y - before.y);
        } else if (held) {
            if (held.pointerId !== pointerId) return;
            view.move(clientX - held.clientX, clientY - held.clientY);
            held = { pointerId, clientX, clientY };
        } else {
            if (current?.pointer === pointerId) go(point(event));
            if (source && (current?.pointer === pointerId || hovering)) outline(point(event));
        }
    }

    /** Return the middle of two fingers, and how far apart they are. */
    function between() {
        const [[x1, y1], [x2, y2]] = fingers.values();
        return { x: (x1 + x2) / 2, y: (y1 + y2) / 2, apart: Math.max(1, Math.hypot(x1 - x2, y1 - y2)) };
    }

    function finish({ pointerId }) {
        if (held?.pointerId === pointerId) held = null;
        if (fingers.delete(pointerId)) view.hideOutline();
        endOf(pointerId);
    }

    const KEYS = "keys";
    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

    /** Arrow keys move the brush, with Shift they paint; Enter paints a dot. */
    function paintByKey(event) {
        const arrow = ARROWS[event.key];
        if (!source || event.ctrlKey || event.metaKey || event.altKey || !(arrow || event.key === "Enter")) return;
        event.preventDefault();
        event.stopPropagation();
        if ((event.key === "Enter" || event.shiftKey) && !current && !event.repeat) stroke(at, KEYS);
        if (arrow) {
            const step = Math.max(4, width() / 4);
            const end = [canvas.width, canvas.height];
            at = at.map((value, i) => Math.min(Math.max(value + step * arrow[i], 0), end[i]));
            if (current?.pointer === KEYS) go(at);
        } else {
            endOf(KEYS);
        }
        view.reveal(seen(at));
        outline(at);
    }

    // --- keys, wherever the focus is, unless somebody types ---

    const SHORTCUTS = {
        "[": () => resize(-1), "]": () => resize(1), "+": () => view.zoomBy(Math.SQRT2), "=": () => view.zoomBy(Math.SQRT2),
        "-": () => view.zoomBy(Math.SQRT1_2), 0: () => view.fit(),
    };

    let walked = false; // whether the focus came to where it is by keys
    document.addEventListener("focusin", ({ target }) => { walked = target.matches(":focus-visible"); });
    document.addEventListener("focusout", () => { walked = false; });

    document.addEventListener("keydown", (event) => {
        const focused = document.activeElement;
        if (!open() || event.isComposing || focused?.matches(":read-write")) return;
        const command = (event.ctrlKey || event.metaKey) && !event.altKey; // AltGr is Ctrl+Alt, and types [ for many
        const key = event.key?.toLowerCase(); // none where the browser fills a form
        if (command && (key === "z" || key === "y")) {
            // Also with nothing to undo: the browser would change a number of the form instead.
            event.preventDefault();
            if (key === "z" && !event.shiftKey) undo();
            else redo();
        } else if (key === " " && hovering && (focused === canvas || !walked)) {
            event.preventDefault(); // or the page would scroll, or the button of the last click be pressed
            grasp(true);
        } else if (!command && source && SHORTCUTS[key]) {
            event.preventDefault();
            SHORTCUTS[key]();
            if ("+=-0".includes(key) && hovering) view.hideOutline(); // until the mouse moves
        }
    });

    document.addEventListener("keyup", (event) => {
        if (event.key !== " " || !space) return;
        event.preventDefault();
        grasp(false);
    });
    window.addEventListener("blur", () => { if (space) grasp(false); });

    function grasp(on) {
        space = on;
        part(".ip2p-easel").classList.toggle("grasped", on);
        if (on) view.hideOutline();
    }

    function draw() {
        const pen = canvas.getContext("2d");
        pen.clearRect(0, 0, canvas.width, canvas.height);
        pen.lineCap = pen.lineJoin = "round";
        pen.strokeStyle = getComputedStyle(canvas).color;
        for (const { image, erase, width, points } of current ? [...strokes, current] : strokes) {
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
