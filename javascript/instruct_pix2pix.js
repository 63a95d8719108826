// What the browser does for instruct-pix2pix, in a host's tab and on the stand-alone page.

/** Write an instruction template into the prompt and select its first blank. Returns no outputs, as gradio expects. */
function ip2pUseTemplate(text) {
    const prompt = document.querySelector("#img2img_prompt textarea");
    if (!prompt || !text) return [];
    prompt.value = text.replace(/[{}]/g, "");
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
    const start = text.indexOf("{");
    const end = text.indexOf("}") - 1;
    prompt.focus();
    if (start >= 0) prompt.setSelectionRange(start, end);
    return [];
}
