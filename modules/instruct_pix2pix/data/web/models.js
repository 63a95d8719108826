// The tab Models: fetches what is here when it is opened, follows downloads, writes LoRAs into the instruction.
(() => {
    "use strict";

    const BETWEEN_LOOKS = 1000; // milliseconds, while something is downloaded
    const byId = (id) => document.getElementById(id);
    const wait = () => new Promise((resolve) => setTimeout(resolve, BETWEEN_LOOKS));

    async function asked(address, method = "GET") {
        try {
            const answer = await fetch(address, { method });
            return answer.ok ? await answer.json() : { problem: (await answer.json()).detail };
        } catch {
            return { problem: "The server does not answer: it may have been stopped." };
        }
    }

    // --- what is here ---

    /** The tab was opened, or, if `again`, what it shows may have changed. */
    window.ip2pModels = async (again) => {
        const place = byId("ip2p_models_here");
        if (!place) return; // the tab was never opened
        if (again || !place.dataset.loaded) {
            place.dataset.loaded = "yes";
            const told = await asked("models");
            if (told.html) place.innerHTML = told.html;
            else delete place.dataset.loaded;
            follow();
        }
        markWritten();
    };

    let wanted = ""; // the name of the model to use
    window.ip2pWanted = () => wanted;

    async function showHash(button) {
        button.disabled = true;
        button.textContent = "…";
        const told = await asked(`models/hash?name=${encodeURIComponent(button.dataset.hash)}`);
        const shown = document.createElement(told.hash ? "code" : "small");
        shown.textContent = told.hash ?? told.problem;
        button.replaceWith(shown);
    }

    // --- downloads ---

    let going = []; // names
    let following = false;

    const focusIn = (place, name) => place.querySelector(`[data-name="${CSS.escape(name)}"] button`)?.focus();

    /** Show offers in a place; the focus stays at the one where it was, whose button may be another now. */
    window.ip2pShowOffers = (place, html) => {
        const held = place.contains(document.activeElement) && document.activeElement.closest("[data-name]")?.dataset.name;
        ip2pShow(place, html);
        if (held && !place.contains(document.activeElement)) focusIn(place, held);
    };

    function showDownloads(told) {
        if (!told.html) return;
        const place = byId("ip2p_models_more");
        if (place) ip2pShowOffers(place, told.html);
        const landed = going.filter((name) => told.finished.includes(name));
        going = told.going;
        const chooses = ip2pPhotoTold(told.photo, landed);
        if (chooses) {
            chooses.click();
            ip2pModels(true);
        } else if (landed.length) {
            byId("refresh_sd_model_checkpoint").click();
        }
    }

    /** Look at the downloads until none is going. */
    const follow = window.ip2pFollowDownloads = async () => {
        if (following) return;
        following = true;
        do {
            if (!document.hidden || !going.length) showDownloads(await asked("models/downloads"));
            if (going.length) await wait();
        } while (going.length);
        following = false;
    };

    /** Ask the server for something, by a button; what is wrong is told at the end of `place`. */
    async function act(button, place, action, name) {
        const around = document.activeElement === button && button.closest("#ip2p_models_more, #ip2p_photo_offer");
        button.disabled = true;
        place.querySelector(".ip2p-refused")?.remove();
        const told = await asked(`models/downloads/${action}?name=${encodeURIComponent(name)}`, "POST");
        button.disabled = false;
        if (told.problem) {
            const line = document.createElement("p");
            line.className = "ip2p-line problem ip2p-refused";
            line.role = "alert";
            line.textContent = told.problem;
            place.append(line);
            return;
        }
        showDownloads(told);
        if (around && !around.contains(document.activeElement)) focusIn(around, name);
        follow();
        if (told.found) document.querySelector(`[data-name="${CSS.escape(told.found)}"] button`)?.focus();
    }

    document.addEventListener("submit", (event) => {
        const form = event.target;
        if (form.id !== "ip2p_look_up") return;
        event.preventDefault();
        const name = form.elements.name.value.trim();
        if (name) act(form.querySelector("button"), form, "look-up", name);
    });

    // --- into the instruction ---

    const instruction = () => document.querySelector("#img2img_prompt textarea");
    const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    /** What finds a text of a card in an instruction: of a LoRA, with whatever weight. */
    function finder(text) {
        const name = /^<lora:(.*):1>$/.exec(text)?.[1];
        return name === undefined ? new RegExp(`(?<!\\w)${quoted(text)}(?!\\w)`) : new RegExp(`<lora:${quoted(name)}:[^>]*>`);
    }

    function write(text) {
        const area = instruction();
        const found = finder(text);
        area.value = found.test(area.value)
            ? area.value.replace(found, "").replace(/ {2,}/g, " ").trim()
            : `${area.value.trimEnd()} ${text}`.trimStart();
        area.dispatchEvent(new Event("input", { bubbles: true }));
        markWritten();
    }

    function markWritten() {
        const text = instruction()?.value ?? "";
        for (const button of document.querySelectorAll("#ip2p_models [data-write]")) {
            button.setAttribute("aria-pressed", String(finder(button.dataset.write).test(text)));
        }
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("#ip2p_models button, #ip2p_photo_offer button");
        if (!button) return;
        const { action, hash, use, write: text } = button.dataset;
        const item = button.closest("[data-name]");
        if (action) act(button, item, action, item.dataset.name);
        else if (hash) showHash(button);
        else if (text) write(text);
        else if (use) {
            wanted = use;
            byId("ip2p_use_model").click();
        }
    });
})();
