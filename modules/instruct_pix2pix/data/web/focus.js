// The keyboard's focus: when what had it goes away, its heir has it; and gradio's lists close as lists do.
(() => {
    "use strict";

    const FOCUSABLE = ":is(a[href], button, input, select, textarea, [tabindex]):not(:disabled, [tabindex='-1'])";
    const LEVELS = 8; // of boxes around what has the focus, in which its heir is looked for
    const INSTEAD = {
        img2img_generate: "img2img_interrupt", img2img_interrupt: "img2img_generate", img2img_skip: "img2img_generate",
    };
    const MARKS = ["data-ip2p-going", "data-ip2p-results", "data-ip2p-job", "data-ip2p-matrix"]; // of page.css
    const LIST = "input[role=combobox]";

    const isThere = (element) => element.isConnected && element.checkVisibility({ visibilityProperty: true });
    const focusableIn = (box) => [...box.querySelectorAll(FOCUSABLE)].filter(isThere);

    // --- its heir ---

    // What has the focus: { element, boxes: [a box around it, its place among the focusable there][], opener, byKeys }.
    // `opener` had it before the dialog around the element, if there is one. Who has only used a mouse is not given an
    // heir: the next Space, meant to scroll, would press it.
    let held = null;

    document.addEventListener("focusin", ({ target }) => {
        const outside = held?.opener ?? held?.element;
        const opener = target.closest("dialog, [role=dialog], [role=alertdialog]") && outside;
        const boxes = [];
        for (let box = target.parentElement; box && box !== document.body; box = box.parentElement) {
            if (boxes.length === LEVELS) break;
            boxes.push([box, focusableIn(box).indexOf(target)]);
        }
        held = { element: target, boxes, opener, byKeys: target.matches(":focus-visible") };
    });
    document.addEventListener("keydown", () => { if (held) held.byKeys = true; }, true);

    document.addEventListener("focusout", () => {
        const was = held;
        setTimeout(() => { // it may go away in the same moment
            const letGo = document.hasFocus() && document.activeElement === document.body;
            if (was && held === was && letGo && isThere(was.element)) held = null;
        });
    });

    function heirOf({ element, boxes, opener }) {
        const named = [element.id, INSTEAD[element.id]].map((id) => id && document.getElementById(id));
        const other = [opener, ...named].find((one) => one && isThere(one));
        if (other) return other;
        for (const [box, place] of boxes) {
            const left = isThere(box) ? focusableIn(box) : [];
            if (left.length) return left[Math.min(Math.max(place, 0), left.length - 1)];
        }
        return null;
    }

    let asked = false;
    function look() {
        asked = false;
        if (!held?.byKeys || isThere(held.element)) return;
        const now = document.activeElement;
        if (now && now !== document.body && now !== held.element) return;
        heirOf(held)?.focus({ preventScroll: true });
    }

    function begin() {
        new MutationObserver(() => {
            if (asked || !held) return;
            asked = true;
            setTimeout(look, 50);
        }).observe(document.body, {
            childList: true, subtree: true, attributes: true, attributeFilter: ["class", "style", "hidden", ...MARKS],
        });
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();

    // A key that is still held down when Interrupt has taken the place of Generate must not press it.
    document.addEventListener("keydown", (event) => {
        if (event.repeat && ["Enter", " "].includes(event.key) && event.target.id in INSTEAD) event.preventDefault();
    }, true);

    // --- gradio's lists ---

    let chosenBy = null; // the field of a list out of which Enter takes something

    document.addEventListener("keydown", (event) => {
        chosenBy = null;
        if (!event.target.matches?.(LIST)) return;
        // gradio's own listener would open the list that loses the focus
        if (event.key === "Tab") event.stopPropagation();
        if (event.key === "Enter") chosenBy = event.target;
    }, true);

    // After a choice gradio lets go of the focus. It takes the field for opened once that has the focus again.
    document.addEventListener("focusout", ({ target, relatedTarget }) => {
        if (target !== chosenBy || relatedTarget) return;
        chosenBy = null;
        setTimeout(() => {
            target.focus({ preventScroll: true });
            target.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        });
    });
})();
