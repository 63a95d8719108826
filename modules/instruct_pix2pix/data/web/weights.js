// Ctrl+Up and Ctrl+Down weigh the selected words of a prompt as in the AUTOMATIC1111 web UI: (word:1.1).
(() => {
    "use strict";

    const PROMPTS = ":is(#img2img_prompt, #img2img_neg_prompt) textarea";
    const BRACKET = 1.1; // the weight of brackets without a number
    const STEP = 0.1;
    const STEP_OF_LORA = 0.05;
    const WORD = /[^\s.,\\/!?%^*;:{}=`~()<>[\]|]/;
    const WEIGHT = /:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$/;

    /** Return [start, end] of what stands between the innermost pair of brackets around a range; null if none does. */
    function within(text, [start, end], open, close) {
        const find = (from, step, wanted, other) => {
            for (let i = from, depth = 0; i >= 0 && i < text.length; i += step) {
                if (text[i - 1] === "\\") continue;
                if (text[i] === other) depth++;
                else if (text[i] === wanted && depth-- === 0) return i;
            }
            return -1;
        };
        const [from, to] = [find(start - 1, -1, open, close), find(end, 1, close, open)];
        return from < 0 || to < 0 ? null : [from + 1, to];
    }

    /** Return the range of the word around a place, or of none. */
    function wordAt(text, place) {
        let [start, end] = [place, place];
        while (start > 0 && WORD.test(text[start - 1])) start--;
        while (end < text.length && WORD.test(text[end])) end++;
        return [start, end];
    }

    function trimmed(text, [start, end]) {
        const words = text.slice(start, end);
        return [start + words.length - words.trimStart().length, end - words.length + words.trimEnd().length];
    }

    const changed = (weight, by) => Math.max(0, Number((weight + by).toFixed(2)));

    /** Write text over a range, so that the browser can undo it, and select a range of what then stands there. */
    function write(area, [from, to], text, selected) {
        area.setSelectionRange(from, to);
        if (!document.execCommand("insertText", false, text)) {
            area.setRangeText(text);
            area.dispatchEvent(new Event("input", { bubbles: true }));
        }
        area.setSelectionRange(...selected);
    }

    /** Change the weight of what is selected, or of the word or the brackets around the caret. */
    function weigh(area, direction) {
        const text = area.value;
        const range = [area.selectionStart, area.selectionEnd];
        const lora = within(text, range, "<", ">");
        const number = lora && WEIGHT.exec(text.slice(...lora));
        if (number) {
            const from = lora[0] + number.index + 1;
            const weight = String(changed(Number(number[1]), direction * STEP_OF_LORA));
            return write(area, [from, lora[1]], weight, [from, from + weight.length]);
        }
        const words = range[0] === range[1] ? wordAt(text, range[0]) : trimmed(text, range);
        const group = within(text, range, "(", ")");
        if (group) {
            const found = WEIGHT.exec(text.slice(...group));
            const inner = [group[0], found ? group[0] + found.index : group[1]];
            const all = range[0] === range[1] || (words[0] <= inner[0] && words[1] >= inner[1]);
            if (all) {
                const weight = changed(found ? Number(found[1]) : BRACKET, direction * STEP);
                const content = text.slice(...inner);
                const start = inner[0] - (weight === 1);
                const wanted = weight === 1 ? content : `(${content}:${weight})`;
                return write(area, [group[0] - 1, group[1] + 1], wanted, [start, start + content.length]);
            }
        }
        if (words[0] >= words[1]) return;
        const content = text.slice(...words);
        const wanted = `(${content}:${changed(1, direction * STEP)})`;
        write(area, words, wanted, [words[0] + 1, words[0] + 1 + content.length]);
    }

    document.addEventListener("keydown", (event) => {
        const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
        if (!direction || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
        if (event.isComposing || !event.target.matches?.(PROMPTS)) return;
        event.preventDefault();
        weigh(event.target, direction);
    });
})();
