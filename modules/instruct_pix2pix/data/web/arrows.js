// Arrow keys go from tab to tab, and from picture to picture of a gallery; gradio leaves both to the Tab key.
(() => {
    "use strict";

    const TAB = "[role=tab]";
    const PICTURE = ".grid-container .thumbnail-item";
    const isThere = (element) => element.checkVisibility({ visibilityProperty: true });

    /** Return how many pictures stand beside each other. */
    function columnsOf(all) {
        const top = (one) => Math.round(one.getBoundingClientRect().top);
        return all.filter((one) => top(one) === top(all[0])).length;
    }

    function neighbour(key, one) {
        const isTab = one.matches(TAB);
        const box = one.closest(isTab ? "[role=tablist]" : ".grid-container");
        const all = [...box.querySelectorAll(isTab ? `${TAB}:not(:disabled)` : PICTURE)].filter(isThere);
        const [place, last] = [all.indexOf(one), all.length - 1];
        if (isTab) {
            const next = { ArrowLeft: place ? place - 1 : last, ArrowRight: place < last ? place + 1 : 0, Home: 0, End: last };
            return all[next[key]];
        }
        const across = columnsOf(all);
        const next = {
            ArrowLeft: place - 1, ArrowRight: place + 1, ArrowUp: place - across, ArrowDown: place + across,
            Home: 0, End: last,
        };
        return all[next[key]];
    }

    document.addEventListener("keydown", (event) => {
        const one = event.target.closest?.(`${TAB}, ${PICTURE}`);
        if (!one || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
        const next = neighbour(event.key, one);
        if (!next) return;
        event.preventDefault();
        next.focus();
        if (next.matches(TAB) || next.closest("#img2img_gallery")) next.click(); // a click on others changes settings
    });
})();
