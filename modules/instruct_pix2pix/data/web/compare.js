// The window in which one result is seen large, or two side by side with zoom and pan in step, and what they were before.
(() => {
    "use strict";

    const SHARP = 1.05; // the zoom above which a large result itself is fetched, in place of its small copy

    let dialog = null;
    let strip = null; // what strip.js gave: `results()`, `address(id, side)`, `show(id)`
    let panes = []; // { id, element } of each picture
    let view = null; // of all of them, see easel.js

    const part = (selector) => dialog.querySelector(selector);
    const result = (id) => strip.results().find((one) => one.id === id);
    const paneWith = (element) => panes.find((pane) => pane.element.contains(element));
    /** Return the pane whose picture the arrow keys change. */
    const chosen = () => paneWith(document.activeElement) ?? panes.find((pane) => pane.element.ariaCurrent) ?? panes[0];

    function made(tag, classes, text = "") {
        const element = document.createElement(tag);
        element.className = classes;
        element.textContent = text;
        return element;
    }

    function button(classes, text, told, action) {
        const element = made("button", classes, text);
        element.type = "button";
        element.title = told;
        if (text.length === 1) element.ariaLabel = told; // it is a sign, which is no name
        element.addEventListener("click", action);
        return element;
    }

    /** Return a pane with a result, in which another one can be turned to. */
    function paneOf(id) {
        const pane = { id, element: made("figure", "ip2p-pane") };
        const [lens, sheet, caption] = [made("div", "ip2p-lens"), made("div", "ip2p-sheet"), made("figcaption", "")];
        const [after, before] = [made("img", "ip2p-after"), made("img", "ip2p-before")];
        for (const image of [after, before]) image.draggable = false;
        after.addEventListener("load", () => {
            sheet.style.setProperty("--ratio", after.naturalWidth / after.naturalHeight);
            view?.move(0, 0);
        });
        after.addEventListener("error", () => {
            pane.element.querySelector(".ip2p-told").textContent = "This result is no longer here.";
        });
        sheet.append(after, before);
        lens.append(sheet);
        caption.append(
            button("ip2p-previous", "‹", "The result to the left in the strip (←)", () => turn(pane, -1)),
            made("span", "ip2p-told"),
            button("ip2p-take", "Show on the page", "Close, and show this result on the page", () => {
                dialog.close();
                strip.show(pane.id);
            }),
            button("ip2p-next", "›", "The result to the right in the strip (→)", () => turn(pane, 1)),
        );
        pane.element.append(lens, caption);
        pane.element.tabIndex = 0;
        pane.element.role = "group";
        pane.element.addEventListener("focusin", mark);
        return pane;
    }

    /** Show what a pane is to show. */
    function fill(pane) {
        const { id, instruction, caption, before } = result(pane.id);
        const [shown, former] = [".ip2p-after", ".ip2p-before"].map((side) => pane.element.querySelector(side));
        const told = caption.replace("\n", " · ");
        shown.src = strip.address(id, "after");
        former.hidden = !before;
        if (before) former.src = strip.address(id, "before");
        else former.removeAttribute("src");
        shown.alt = `${instruction}: ${told}`;
        former.alt = "The input";
        pane.element.querySelector(".ip2p-told").textContent = before ? told : `${told} · the input is no longer here`;
        pane.element.ariaLabel = shown.alt;
        pane.sharp = false;
        const all = strip.results();
        const place = all.findIndex((one) => one.id === id);
        pane.element.querySelector(".ip2p-previous").ariaDisabled = String(place === 0);
        pane.element.querySelector(".ip2p-next").ariaDisabled = String(place === all.length - 1);
        sharpen();
    }

    function turn(pane, direction) {
        const all = strip.results();
        const next = all[all.findIndex((one) => one.id === pane.id) + direction];
        if (!next) return;
        pane.id = next.id;
        fill(pane);
    }

    function mark() {
        const current = chosen();
        for (const pane of panes) pane.element.ariaCurrent = pane === current && panes.length > 1 ? "true" : null;
    }

    /** Fetch large results themselves once they are looked at closely. */
    async function sharpen() {
        for (const pane of view.zoom > SHARP ? panes : []) {
            const { id, large } = result(pane.id) ?? {}; // it may be gone from the strip
            if (!large || pane.sharp) continue;
            pane.sharp = true;
            const whole = new Image();
            whole.src = strip.address(id, "whole");
            await whole.decode().catch(() => {});
            if (pane.id === id && whole.naturalWidth) pane.element.querySelector(".ip2p-after").src = whole.src;
        }
    }

    function zoomBy(factor, at) {
        view.zoomBy(factor, at);
        sharpen();
    }

    // --- what was before, as long as a key or the button is held ---

    function seeBefore(yes) {
        if (yes) dialog.dataset.before = "yes";
        else delete dialog.dataset.before;
        part(".ip2p-see-before").ariaPressed = String(yes);
    }

    const seesBefore = () => "before" in dialog.dataset;

    // --- pointers: one moves, two zoom and move ---

    const held = new Map(); // where they are, by their ids

    function middle() {
        const all = [...held.values()];
        const mean = (axis) => all.reduce((sum, one) => sum + one[axis], 0) / all.length;
        const apart = all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 1;
        return { x: mean(0), y: mean(1), apart: Math.max(1, apart) };
    }

    function grasp(event) {
        if (event.button !== 0 || held.size > 1 || !event.target.closest(".ip2p-lens")) return;
        held.set(event.pointerId, [event.clientX, event.clientY]);
        event.target.closest(".ip2p-lens").setPointerCapture(event.pointerId);
    }

    function drag({ pointerId, clientX, clientY }) {
        if (!held.has(pointerId)) return;
        const before = middle();
        held.set(pointerId, [clientX, clientY]);
        const after = middle();
        if (held.size > 1) zoomBy(after.apart / before.apart, [before.x, before.y]); // first, or there is no room to move
        view.move(after.x - before.x, after.y - before.y);
    }

    function wheel(event) {
        if (!event.target.closest(".ip2p-lens")) return;
        event.preventDefault();
        zoomBy(2 ** ((-event.deltaY * (event.deltaMode ? 16 : 1)) / 200), [event.clientX, event.clientY]);
    }

    // --- keys: before all others, of which none is meant while the window is open ---

    function pressed(event) {
        if (!dialog?.open) return;
        event.stopPropagation();
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const [focused, key] = [document.activeElement, event.key?.toLowerCase()];
        const acts = focused?.matches("button:not(.ip2p-see-before)"); // Space presses it
        const action = {
            escape: () => dialog.close(),
            arrowleft: () => turn(chosen(), -1),
            arrowright: () => turn(chosen(), 1),
            "+": () => zoomBy(Math.SQRT2), "=": () => zoomBy(Math.SQRT2), "-": () => zoomBy(Math.SQRT1_2),
            0: () => view.fit(),
            b: () => seeBefore(true),
            " ": acts ? undefined : () => seeBefore(true),
        }[key];
        if (!action) return;
        event.preventDefault();
        action();
    }

    function released(event) {
        if (!dialog?.open) return;
        event.stopPropagation();
        if (event.key?.toLowerCase() !== "b" && event.key !== " ") return;
        if (seesBefore()) event.preventDefault(); // or the button would be pressed as well
        seeBefore(false);
    }

    window.addEventListener("keydown", pressed, true);
    window.addEventListener("keyup", released, true);
    window.addEventListener("blur", () => { if (dialog?.open) seeBefore(false); });

    /** Listen to the window's own elements: gradio may have made new ones. */
    function begin() {
        dialog = document.getElementById("ip2p_lightbox");
        if ("begun" in dialog.dataset) return;
        dialog.dataset.begun = "yes";
        const holds = part(".ip2p-see-before");
        const listen = (element, listeners) => {
            for (const [name, listener] of Object.entries(listeners)) element.addEventListener(name, listener);
        };
        listen(holds, {
            pointerdown: (event) => { holds.setPointerCapture(event.pointerId); seeBefore(true); },
            pointerup: () => seeBefore(false),
            pointercancel: () => seeBefore(false),
            contextmenu: (event) => event.preventDefault(), // of a long touch
            click: (event) => { if (!event.detail) seeBefore(!seesBefore()); }, // by Enter, or by what reads the screen
        });
        listen(part(".ip2p-panes"), {
            pointerdown: grasp, pointermove: drag, pointerup: ({ pointerId }) => held.delete(pointerId),
            pointercancel: ({ pointerId }) => held.delete(pointerId),
            dblclick: ({ target }) => { if (target.closest(".ip2p-lens")) view.fit(); },
        });
        part(".ip2p-panes").addEventListener("wheel", wheel, { passive: false });
        listen(dialog, { close: () => { seeBefore(false); held.clear(); } });
        for (const [name, action] of Object.entries({
            "zoom-in": () => zoomBy(Math.SQRT2), "zoom-out": () => zoomBy(Math.SQRT1_2),
            fit: () => view.fit(), close: () => dialog.close(),
        })) part(`.ip2p-${name}`).addEventListener("click", action);
    }

    /** Show one result large, or two beside each other, over all of the page. */
    window.ip2pCompare = (ids, from) => {
        strip = from;
        begin();
        panes = ids.map(paneOf);
        part(".ip2p-panes").replaceChildren(...panes.map((pane) => pane.element));
        if (!dialog.open) dialog.showModal(); // first: what is not on the screen has no size
        view = ip2pView(...panes.map((pane) => pane.element.querySelector(".ip2p-lens")));
        panes.forEach(fill);
        panes[0].element.focus();
        mark();
    };
})();
