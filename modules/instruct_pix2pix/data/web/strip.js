// The strip: every result of this tab, pinned or thrown away; marks the one that is shown, and hands two to compare.js.
(() => {
    "use strict";

    const OTHER_TABS = 200; // milliseconds in which they must have answered
    const KEPT = { session: "ip2p_session", stored: "ip2p_strip" }; // keys of the browser's two storages
    const byId = (id) => document.getElementById(id);
    const part = (selector) => document.querySelector(`#ip2p_strip ${selector}`);

    let results = []; // what the server last told, the newest first
    let shown = ""; // the id of the result that is shown beside what it was
    let current = ""; // the id of the result to which Tab leads
    let wanted = ""; // the id of the result that was clicked last
    let first = null; // the first one of two to compare: '' while it is to be chosen, null while none is wanted
    let awaited = false; // whether what was clicked is about to be shown
    let thrown = ""; // the id of the result that was thrown away last
    let calls = 0;

    // --- the session: that of this tab before it was loaded again, or of the last tab, unless another tab has it ---

    let session = ""; // its id, which nobody can guess
    const tabs = new BroadcastChannel(`ip2p strip ${location.pathname}`);
    tabs.addEventListener("message", ({ data }) => {
        if (data.asked && data.asked === session) tabs.postMessage({ taken: session });
    });

    const isTaken = (id) => new Promise((resolve) => {
        const hear = ({ data }) => { if (data.taken === id) end(true); };
        const end = (found) => {
            tabs.removeEventListener("message", hear);
            resolve(found);
        };
        tabs.addEventListener("message", hear);
        tabs.postMessage({ asked: id });
        setTimeout(end, OTHER_TABS, false);
    });

    function madeUp() {
        const bytes = crypto.getRandomValues(new Uint8Array(16)); // not randomUUID, which http has not
        return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    }

    const begun = (async () => {
        const before = KEPT.session in sessionStorage ? sessionStorage : localStorage;
        const [id, stored] = [before.getItem(KEPT.session), before.getItem(KEPT.stored)];
        const goesOn = id && !(await isTaken(id));
        session = goesOn ? id : madeUp();
        remember((goesOn && stored) || "{}");
    })();

    /** Keep what the server told of the session, for this tab and for the one that is opened next. */
    function remember(stored) {
        for (const storage of [sessionStorage, localStorage]) {
            storage.setItem(KEPT.session, session);
            storage.setItem(KEPT.stored, stored);
        }
    }

    const address = (id, side) => `strip/${session}/${id}/${side}`;

    /** Show what the session has by now; tell the server what it had, in case that was started again. */
    async function update() {
        const call = ++calls;
        await begun;
        for (;;) {
            let answer = null;
            try {
                answer = await fetch(`strip/${session}`, {
                    method: "POST",
                    headers: { "Content-Type": "application/json" },
                    body: sessionStorage.getItem(KEPT.stored),
                });
            } catch {
                // the server is away
            }
            if (answer && answer.status < 500) {
                if (answer.status === 422 && sessionStorage.getItem(KEPT.stored) !== "{}") { // of another version
                    remember("{}");
                    continue;
                }
                if (!answer.ok) return;
                const told = await answer.json();
                if (call !== calls) return; // a later one knows more
                remember(JSON.stringify(told.stored));
                results = told.results;
                if (told.lost === 1) say("1 result is gone: the server no longer has it, and it was not saved.");
                if (told.lost > 1) say(`${told.lost} results are gone: the server no longer has them, nor were they saved.`);
                render();
                return;
            }
            await ip2pBack();
            if (call !== calls) return;
        }
    }

    async function keep(id, how) {
        const answer = await fetch(`strip/${session}/${id}?how=${how}`, { method: "PUT" }).catch(() => null);
        if (!answer?.ok) say((await answer?.json().catch(() => null))?.detail ?? "The server does not answer: try again.");
        await update();
        return answer?.ok;
    }

    // --- what is seen of it ---

    function say(text) {
        part(".ip2p-strip-says").textContent = text;
        part(".ip2p-strip-undo").hidden = true;
    }

    const items = () => [...document.querySelectorAll("#ip2p_strip li")];
    const itemOf = (id) => items().find((item) => item.dataset.id === id);

    function button(classes, action) {
        const element = document.createElement("button");
        element.type = "button";
        element.className = classes;
        element.addEventListener("click", action);
        return element;
    }

    function itemWith({ id, instruction, caption }) {
        const item = document.createElement("li");
        item.dataset.id = id;
        const thumb = button("ip2p-thumb", (event) => (event.shiftKey ? compareWith(id) : clicked(id)));
        const image = new Image();
        image.alt = "";
        image.draggable = false;
        image.loading = "lazy";
        image.src = address(id, "thumb");
        const told = document.createElement("span");
        told.textContent = caption;
        thumb.append(image, told);
        thumb.ariaLabel = `${caption}: ${instruction}`; // in the words that are seen, for who says them
        thumb.title = `${instruction}\n${caption}`;
        thumb.addEventListener("dblclick", () => compare([id]));
        const pin = button("ip2p-pin", () => pinned(id));
        pin.title = pin.ariaLabel = "Pin: it stays when older results go (P)";
        const away = button("ip2p-away", () => throwAway(id));
        away.title = away.ariaLabel = "Take it out of the strip (Delete): a saved file stays where it is";
        item.append(thumb, pin, away);
        return item;
    }

    function render() {
        const strip = byId("ip2p_strip");
        if (!strip) return;
        const known = new Map(items().map((item) => [item.dataset.id, item]));
        const list = results.map((result) => known.get(result.id) ?? itemWith(result));
        const now = items();
        if (list.length !== now.length || list.some((item, i) => item !== now[i])) {
            const [focused, scrolled] = [document.activeElement, part("ul").scrollLeft]; // both are lost otherwise
            part("ul").replaceChildren(...list);
            part("ul").scrollLeft = scrolled;
            if (strip.contains(focused)) focused.focus({ preventScroll: true });
        }
        strip.hidden = !results.length && !part(".ip2p-strip-says").textContent;
        part(".ip2p-large").hidden = !results.length;
        part(".ip2p-compare").hidden = results.length < 2;
        mark();
    }

    /** Mark what is shown, pinned and chosen, and the result to which Tab leads. */
    function mark() {
        if (!results.some(({ id }) => id === current)) {
            current = results.some(({ id }) => id === shown) ? shown : results[0]?.id ?? "";
        }
        for (const item of items()) {
            const { id } = item.dataset;
            const [thumb, pin] = [".ip2p-thumb", ".ip2p-pin"].map((kind) => item.querySelector(kind));
            if (id === shown) thumb.ariaCurrent = "true";
            else thumb.removeAttribute("aria-current");
            item.classList.toggle("ip2p-first", id === first);
            pin.ariaPressed = String(results.find((one) => one.id === id)?.pinned ?? false);
            for (const one of item.querySelectorAll("button")) one.tabIndex = id === current ? 0 : -1;
        }
        part(".ip2p-compare").ariaPressed = String(first !== null);
        markInGallery();
    }

    /** Mark the picture that is shown among the results of the last edit, too: its file is named after both numbers. */
    function markInGallery() {
        const [task, number] = shown.split("-");
        const name = shown && `/${task.slice(0, 6)}-${number.padStart(4, "0")}-`;
        for (const thumb of document.querySelectorAll("#img2img_gallery .thumbnail-item")) {
            if (name && thumb.querySelector("img")?.src.includes(name)) thumb.setAttribute("aria-current", "true");
            else thumb.removeAttribute("aria-current");
        }
    }

    // --- what can be done with a result ---

    async function show(id) {
        [wanted, current, awaited] = [id, id, true];
        mark();
        await update(); // a server that was started again has to be told first
        if (!itemOf(id)) return;
        byId("ip2p_strip_choose").click();
        if (id === shown) reveal();
    }

    /** Bring into sight what was clicked. */
    function reveal() {
        if (awaited) byId("ip2p_compare")?.scrollIntoView({ block: "nearest" });
        awaited = false;
    }

    function clicked(id) {
        if (first === null) show(id);
        else choose(id);
    }

    async function pinned(id) {
        const is = results.find((one) => one.id === id)?.pinned;
        await keep(id, is ? "kept" : "pinned");
    }

    async function throwAway(id) {
        const place = results.findIndex((one) => one.id === id);
        const focused = itemOf(id)?.contains(document.activeElement);
        if (!(await keep(id, "thrown"))) return;
        thrown = id;
        current = results[Math.min(place, results.length - 1)]?.id ?? "";
        say("Taken out; a saved file stays where it is.");
        part(".ip2p-strip-undo").hidden = false;
        render();
        if (focused) (itemOf(current)?.querySelector(".ip2p-thumb") ?? part(".ip2p-strip-undo")).focus();
    }

    async function undo() {
        const id = thrown;
        if (!(await keep(id, "kept"))) return;
        say("");
        current = id;
        render();
        itemOf(id)?.querySelector(".ip2p-thumb").focus();
    }

    // --- large, and side by side ---

    async function compare(ids) {
        first = null;
        mark();
        if (ids.length > 1) say("");
        await update();
        if (!ids.every(itemOf)) return;
        ip2pCompare(ids, { results: () => results, address, show });
    }

    /** Begin to choose two, or give it up. */
    function choosing(yes) {
        first = yes ? "" : null;
        say(yes ? "Choose the first of two." : "");
        mark();
    }

    function choose(id) {
        if (first && first !== id) return compare([first, id]);
        first = id;
        say("Choose the second.");
        mark();
    }

    /** Compare a result with the one that was chosen, or with the one that is shown. */
    function compareWith(id) {
        first ||= results.some((one) => one.id === shown) && shown !== id ? shown : "";
        choose(id);
    }

    // --- keys and clicks ---

    function pressed(event) {
        const item = event.target.closest("li");
        if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
        const { id } = item.dataset;
        const place = results.findIndex((one) => one.id === id);
        const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: results.length - 1 }[event.key];
        const acts = {
            Delete: () => throwAway(id), p: () => pinned(id), P: () => pinned(id),
            Enter: event.shiftKey && event.target.matches(".ip2p-thumb") ? () => compareWith(id) : null,
        }[event.key];
        if (to === undefined && !acts) return;
        event.preventDefault();
        if (acts) return void acts();
        const next = results[to];
        if (!next) return;
        current = next.id;
        mark();
        const thumb = itemOf(current).querySelector(".ip2p-thumb");
        thumb.focus({ preventScroll: true });
        thumb.scrollIntoView({ block: "nearest", inline: "nearest" });
    }

    // Before all others: Escape would end an edit.
    window.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || first === null) return;
        event.stopPropagation();
        choosing(false);
    }, true);

    /** The page changed: use the elements that are on it now. */
    window.ip2pStripLook = () => {
        const strip = byId("ip2p_strip");
        if (!strip) return;
        if (!("begun" in strip.dataset)) {
            strip.dataset.begun = "yes";
            strip.addEventListener("keydown", pressed);
            strip.addEventListener("focusin", ({ target }) => {
                current = target.closest("li")?.dataset.id ?? current;
                mark();
            });
            part(".ip2p-large").addEventListener("click", () => compare([itemOf(shown) ? shown : current]));
            part(".ip2p-compare").addEventListener("click", () => choosing(first === null));
            part(".ip2p-strip-undo").addEventListener("click", undo);
            update();
        }
        markInGallery();
    };

    /** Compare the shown result with its neighbour, from which the arrow keys lead to all others. */
    window.ip2pCompareShown = () => {
        const place = results.findIndex(({ id }) => id === shown);
        const other = results[place + 1] ?? results[place - 1];
        if (place >= 0) compare([shown, ...(other ? [other.id] : [])]);
    };

    window.ip2pStrip = update;
    window.ip2pSession = async () => {
        await begun;
        return session;
    };
    window.ip2pWantedResult = () => `${session} ${wanted}`;

    /** A result is shown beside what it was; '' while an edit has none yet. */
    window.ip2pShownResult = (id) => {
        shown = id ?? "";
        if (shown) document.body.dataset.ip2pResults = "yes"; // see progress.js
        if (shown === wanted) reveal();
        if (byId("ip2p_strip")) mark();
    };
})();
