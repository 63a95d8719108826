// A number that was emptied goes back to its default.
(() => {
    "use strict";

    // What each control had when the page came, by its id.
    const defaults = new Map(
        (window.gradio_config?.components ?? []).map(({ props }) => [props?.elem_id, props?.value]),
    );

    // Before gradio's own listener of the field, which would make it the least that the slider has.
    document.addEventListener("blur", ({ target }) => {
        if (target.type !== "number" || target.value !== "") return;
        const value = defaults.get(target.closest(".block[id]")?.id);
        if (typeof value !== "number") return;
        target.value = value;
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }, true);
})();
