// What the browser does for instruct-pix2pix, in a host's tab and on the stand-alone page.
// Functions of an event get the values of its inputs, and return those of its outputs.

/** Write an instruction template into the prompt and select its first blank. */
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

/** Show a button with this text, or hide it. */
function ip2pButton(text) {
    return { __type__: "update", visible: Boolean(text), ...(text ? { value: text } : {}) };
}

/** Offer the scales and steps that suit the model where others stand, until a person answers the offer. */
function ip2pOfferDefaults(suited, textCfg, imageCfg, steps) {
    if (!suited || document.querySelector("#ip2p_panel").dataset.answered === suited) return [ip2pButton("")];
    const wanted = JSON.parse(suited);
    const stands = textCfg === wanted.text_cfg && imageCfg === wanted.image_cfg && steps === wanted.steps;
    const values = `Text CFG ${wanted.text_cfg}, Image CFG ${wanted.image_cfg}, ${wanted.steps} steps`;
    return [ip2pButton(stands ? "" : `Use the model's defaults: ${values}`)];
}

/** Take back the offer: a person set one of the values. */
function ip2pAnswer(suited) {
    if (suited) document.querySelector("#ip2p_panel").dataset.answered = suited;
    return [ip2pButton("")];
}

/** Text CFG, Image CFG and steps that suit the model; the offer is answered. */
function ip2pDefaults(suited) {
    const wanted = JSON.parse(suited);
    return [wanted.text_cfg, wanted.image_cfg, wanted.steps, ...ip2pAnswer(suited)];
}

/** Offer the model's size while the longest side is more than a quarter away from it. */
function ip2pOfferSize(suited, width, height) {
    const size = suited ? JSON.parse(suited).size : 0;
    const far = size && Math.abs(Math.max(width, height) / size - 1) > 0.25;
    return [ip2pButton(far ? `Use the model's size: ${size} px` : "")];
}

/** Width and height with the model's longest side, in the shape of the picture in the tab, or else of what stands. */
function ip2pSize(suited, width, height) {
    const size = JSON.parse(suited).size;
    const [across, down] = currentImg2imgSourceResolution(0, 0, 1); // the host's; 0 where there is no picture
    const [w, h] = across && down ? [across, down] : [width, height];
    return ["img2img_width", "img2img_height"].map((id, place) => {
        const { min, max, step } = document.querySelector(`#${id} input[type=range]`);
        const side = (size * [w, h][place]) / Math.max(w, h);
        return Math.min(Math.max(Math.round(side / step) * step, min), max);
    });
}
