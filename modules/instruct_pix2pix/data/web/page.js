// What the browser does on the stand-alone page only: theme, keys, drops, tooltips.
(() => {
    "use strict";

    const byId = (id) => document.getElementById(id);
    const shown = (element) => element && element.offsetParent !== null;

    // --- light and dark ---

    const dark = matchMedia("(prefers-color-scheme: dark)");

    /** Store a choice if one is given; apply the stored one and return it. */
    window.ip2pTheme = (choice) => {
        if (choice) localStorage.setItem("ip2p_theme", choice);
        const chosen = localStorage.getItem("ip2p_theme") || "System";
        document.body.classList.toggle("dark", chosen === "Dark" || (chosen === "System" && dark.matches));
        return chosen;
    };
    dark.addEventListener("change", () => ip2pTheme());

    // --- keys ---

    document.addEventListener("keydown", (event) => {
        if (event.isComposing) return;
        const generate = byId("img2img_generate");
        const interrupt = byId("img2img_interrupt");
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && shown(generate)) {
            event.preventDefault();
            generate.click();
        } else if (event.key === "Escape" && shown(interrupt) && !document.querySelector("ul[role=listbox]")) {
            interrupt.click();
        }
    }, true);

    // --- the words below the slider of how much to change ---

    document.addEventListener("click", (event) => {
        const word = event.target.closest?.("[data-strength]");
        if (!word) return;
        const number = document.querySelector("#ip2p_strength input[type=number]");
        number.value = word.dataset.strength;
        number.dispatchEvent(new Event("input", { bubbles: true }));
        number.dispatchEvent(new Event("blur"));
    });

    // --- where the results are out of sight, go to them ---

    document.addEventListener("click", (event) => {
        const results = byId("img2img_results");
        const makes = event.target.closest?.("#ip2p_matrix_make");
        if (!makes && !event.target.closest?.("#img2img_generate")) return;
        const { top, bottom } = results.getBoundingClientRect();
        if (top > innerHeight * 0.8 || bottom < innerHeight * 0.2 || makes && top < 0) {
            results.scrollIntoView({ behavior: "smooth" });
        }
    });

    // --- a picture that is dropped or pasted anywhere, even over another picture, which gr.Image would ignore ---

    // not every system knows what HEIC is
    const isPicture = (file) => file.type.startsWith("image/") || /\.(heic|heif|hif)$/i.test(file.name);
    const pictureIn = (data) => [...(data?.files ?? [])].find(isPicture);

    /** Hand a file to an upload field that the server listens to; return whether there is one. */
    window.ip2pArrive = (file, id) => {
        const input = byId(id)?.querySelector("input[type=file]");
        if (!input) return false;
        const files = new DataTransfer();
        files.items.add(file);
        input.files = files.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
        return true;
    };

    const arrive = (file) => ip2pArrive(file, shown(byId("pnginfo_image")) ? "pnginfo_image" : "ip2p_arrival");

    document.addEventListener("paste", (event) => {
        if (ip2pDropped(event.clipboardData)) return event.preventDefault();
        const file = pictureIn(event.clipboardData);
        if (file && arrive(file)) event.preventDefault();
    }, true);
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
        if (ip2pDropped(event.dataTransfer)) {
            event.preventDefault();
            event.stopPropagation();
            return;
        }
        const file = pictureIn(event.dataTransfer);
        if (file && arrive(file)) {
            event.preventDefault();
            event.stopPropagation();
        }
    }, true);

    // --- whenever the page changes: names, the mask, the tables, and all else that gradio makes anew ---

    /** gr.Button has no tooltip, and gr.Gallery calls a picture "Thumbnail 1 of 4" whatever its caption says. */
    function name() {
        for (const button of document.querySelectorAll(".ip2p-tool:not([title])")) {
            button.title = button.textContent.trim();
        }
        // gr.Image: what is around a picture has no name, and around none another name than it shows
        for (const button of document.querySelectorAll(".image-container > button")) {
            const label = button.closest(".block")?.querySelector("[data-testid=block-label]")?.innerText.trim();
            if (button.querySelector("img") && label) button.setAttribute("aria-label", label);
        }
        for (const button of document.querySelectorAll(".upload-container button[aria-label], button.upload-container")) {
            if (button.textContent.trim()) button.removeAttribute("aria-label");
        }
        for (const gallery of document.querySelectorAll(".grid-container")) {
            const pictures = [...gallery.querySelectorAll(".thumbnail-item")];
            pictures.forEach((picture, i) => {
                const caption = picture.querySelector(".caption-label")?.innerText.trim();
                if (caption) picture.setAttribute("aria-label", `${caption}, ${i + 1} of ${pictures.length}`);
            });
        }
    }

    function look() {
        name();
        ip2pKeepPicture();
        ip2pBeforeAfter();
        ip2pPaint();
        ip2pBatch();
        ip2pMatrix();
        ip2pStripLook();
    }

    let asked = false;
    function lookSoon() {
        if (asked) return;
        asked = true;
        setTimeout(() => { asked = false; look(); }, 100);
    }

    function begin() {
        ip2pTheme();
        look();
        new MutationObserver(lookSoon).observe(document.body, {
            childList: true, subtree: true, attributes: true, attributeFilter: ["src"],
        });
    }

    // gradio may run this script before or after the document has been read.
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();
})();
