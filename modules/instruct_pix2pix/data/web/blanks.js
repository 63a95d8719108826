// The blanks of an instruction template: Tab walks them, and one that is left is asked about before an edit is made.
(() => {
    "use strict";

    const MAKES = "#img2img_generate, #ip2p_matrix_make";
    const prompt = () => document.querySelector("#img2img_prompt textarea");

    let blanks = []; // the texts of those of the template that was chosen last, in order
    let asked = ""; // the instruction about which a person was asked last

    const use = window.ip2pUseTemplate;
    window.ip2pUseTemplate = (text) => {
        if (text) [blanks, asked] = [[...text.matchAll(/\{([^}]*)\}/g)].map((found) => found[1]), ""];
        return use(text);
    };

    /** Return [start, end] of each blank that is left in a text. */
    function left(text) {
        const found = [];
        for (const blank of blanks) {
            const words = blank.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
            const finder = new RegExp(`(?<!\\w)${words}(?!\\w)`, "g");
            finder.lastIndex = found.at(-1)?.[1] ?? 0;
            const one = finder.exec(text);
            if (one) found.push([one.index, one.index + blank.length]);
        }
        return found;
    }

    function say(sentence) {
        let place = document.getElementById("ip2p_blank");
        if (!place) {
            if (!sentence) return;
            place = document.createElement("p");
            place.id = "ip2p_blank";
            place.className = "ip2p-line";
            place.role = "alert";
            document.getElementById("img2img_prompt").after(place);
        }
        place.textContent = sentence;
    }

    document.addEventListener("keydown", (event) => {
        const area = prompt();
        if (event.key !== "Tab" || event.target !== area || event.isComposing) return;
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const all = left(area.value);
        const next = event.shiftKey
            ? all.findLast(([, end]) => end <= area.selectionStart)
            : all.find(([start]) => start >= area.selectionEnd);
        if (!next) return; // as ever, Tab leaves the field
        event.preventDefault();
        area.setSelectionRange(...next);
    });

    document.addEventListener("input", (event) => {
        if (event.target === prompt() && !left(event.target.value).length) say("");
    });

    document.addEventListener("click", (event) => {
        if (!event.target.closest?.(MAKES)) return;
        const area = prompt();
        const [first] = left(area.value);
        if (!first || asked === area.value) {
            say("");
            return;
        }
        event.preventDefault();
        event.stopImmediatePropagation();
        asked = area.value;
        say(`“${area.value.slice(...first)}” is a blank of the template: type over it, or press Generate once more.`);
        area.focus();
        area.setSelectionRange(...first);
    }, true);
})();
