// Instructions that a person keeps, in this browser: at the top of the list of templates, where a star puts them.
(() => {
    "use strict";

    const KEY = "ip2p_instructions";
    const MARK = "★ "; // before those that are kept: unlike a template's, their braces are no blanks
    const MOST = 100;
    const LONGEST = 2000; // letters
    const instruction = () => document.querySelector("#img2img_prompt textarea");
    const star = () => document.getElementById("ip2p_keep_instruction");

    let templates = []; // the program's own

    function kept() {
        try {
            const texts = JSON.parse(localStorage.getItem(KEY));
            return texts.filter((text) => typeof text === "string" && text && text.length <= LONGEST).slice(0, MOST);
        } catch {
            return [];
        }
    }

    /** The list as an update of gradio's, with nothing chosen. */
    function list() {
        const texts = [...kept().map((text) => MARK + text), ...templates];
        return { __type__: "update", choices: texts.map((text) => [text, text]), value: null };
    }

    const line = (text) => `<p class="ip2p-line" role="status">${text}</p>`;

    /** Change what is kept; return what to say. */
    function change(text) {
        const before = kept();
        if (!text) return "The instruction is empty: write what is to be kept.";
        if (before.includes(text)) {
            localStorage.setItem(KEY, JSON.stringify(before.filter((one) => one !== text)));
            return "The instruction is no longer in the list of templates.";
        }
        if (text.length > LONGEST) return `An instruction of more than ${LONGEST} letters is not kept: shorten it.`;
        if (before.length >= MOST) return `${MOST} instructions are kept already: take one out of the list first.`;
        localStorage.setItem(KEY, JSON.stringify([text, ...before]));
        return "The instruction is kept, at the top of the list of templates.";
    }

    /** The page was opened: return the list. */
    window.ip2pTemplates = (own) => {
        templates = own;
        return [list()];
    };

    /** The star was pressed: keep the instruction, or no longer if it is kept; return the list and what to say. */
    window.ip2pKeepInstruction = () => {
        const text = instruction().value.trim();
        const said = change(text);
        ip2pMarkKept(text);
        return [list(), line(said)];
    };

    /** The instruction is now another: show whether it is kept. */
    window.ip2pMarkKept = (text) => {
        star()?.setAttribute("aria-pressed", String(kept().includes((text ?? "").trim())));
    };

    const useTemplate = window.ip2pUseTemplate;
    window.ip2pUseTemplate = (text) => {
        if (!text?.startsWith(MARK)) return useTemplate(text);
        const area = instruction();
        area.value = text.slice(MARK.length);
        area.dispatchEvent(new Event("input", { bubbles: true }));
        area.focus();
        return [];
    };
})();
