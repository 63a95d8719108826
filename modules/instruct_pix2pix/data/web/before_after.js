// The line between before and after as a slider for keys and for those who listen: gradio's takes a pointer alone.
(() => {
    "use strict";

    const NAME = "Before and after: how much is shown as it was";
    const STEP = 5; // percent
    const STEPS = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -20, PageUp: 20 };
    const ENDS = { Home: 0, End: 100 };

    /** Return where the picture lies under the line: its left side and its width, in pixels from the frame's left. */
    function picture(line) {
        const image = line.parentElement.querySelector("img");
        const [frame, box] = [line.parentElement, image.parentElement].map((one) => one.getBoundingClientRect());
        const width = Math.min(box.width, (box.height * image.naturalWidth) / image.naturalHeight);
        return { frame, left: (box.width - width) / 2, width };
    }

    /** Return how much, in percent, is shown as it was. */
    function share(line) {
        const { left, width } = picture(line);
        const at = new DOMMatrix(getComputedStyle(line).transform).m41;
        return Math.round(Math.min(Math.max((100 * (at - left)) / width, 0), 100));
    }

    function tell(line) {
        const now = String(share(line));
        if (line.getAttribute("aria-valuenow") !== now) line.setAttribute("aria-valuenow", now);
    }

    /** Move the line as a pointer does, which is all that it knows. */
    function move(line, percent) {
        const { frame, left, width } = picture(line);
        const [clientX, clientY] = [frame.left + left + (percent / 100) * width, frame.top + frame.height / 2];
        const pointer = (kind) => new MouseEvent(kind, { clientX, clientY, view: window, bubbles: true, cancelable: true });
        line.dispatchEvent(pointer("mousedown"));
        window.dispatchEvent(pointer("mouseup"));
    }

    /** The page changed: a line that is new gets what a slider has. */
    window.ip2pBeforeAfter = () => {
        const line = document.querySelector("#ip2p_compare [data-testid=slider]");
        if (!line || line.role === "slider") return;
        const fixed = { role: "slider", tabindex: 0, "aria-label": NAME, "aria-valuemin": 0, "aria-valuemax": 100 };
        for (const [name, value] of Object.entries(fixed)) line.setAttribute(name, value);
        tell(line);
        new MutationObserver(() => tell(line)).observe(line, { attributeFilter: ["style"] });
        line.addEventListener("keydown", (event) => {
            if (event.ctrlKey || event.metaKey || event.altKey) return;
            const to = ENDS[event.key] ?? share(line) + STEPS[event.key];
            if (Number.isNaN(to)) return;
            event.preventDefault();
            move(line, Math.min(Math.max(to, 0), 100));
        });
    };
})();
