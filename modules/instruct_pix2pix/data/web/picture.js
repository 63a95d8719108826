// Keeps the picture to edit, and hands it to a server that was started again, which has lost it.
(() => {
    "use strict";

    const BETWEEN_LOOKS = 100; // milliseconds
    const MOST_LOOKS = 300; // until the server must have taken the picture
    const LOST = "The server was started again without the picture: please choose it once more.";
    const shown = () => document.querySelector("#img2img_image .image-frame img")?.getAttribute("src") ?? "";
    const isFile = (source) => source.includes("/file=");

    let kept = { source: "", file: null }; // the address of the picture that is shown, and a promise of its file
    let takeBack = () => {}; // what was said about it

    /** Return the file at an address, null if it cannot be had. */
    async function fetched(source) {
        try {
            const answer = await fetch(source, { cache: "force-cache" }); // it was fetched to be shown
            if (!answer.ok) return null;
            const blob = await answer.blob();
            return new File([blob], decodeURIComponent(source.split("/").pop()), { type: blob.type });
        } catch {
            return null;
        }
    }

    /** The page changed: keep the picture that is shown now. */
    window.ip2pKeepPicture = () => {
        const source = shown();
        if (source === kept.source) return;
        kept = { source, file: isFile(source) ? fetched(source) : null };
        takeBack();
        takeBack = () => {};
    };

    /** Whether two addresses are of one picture: the server's folder differs from start to start, what follows does not. */
    window.ip2pSamePicture = (one, other) => {
        const [a, b] = [one, other].map((source) => source?.split("/").slice(-2).join("/"));
        return a === b;
    };

    /** Hand the picture to the server; `say` tells a person what is wrong. */
    window.ip2pPictureAgain = async (say) => {
        const { source, file } = kept;
        if (!isFile(source)) return;
        const picture = await file;
        const handed = picture && ip2pArrive(picture, "ip2p_arrival");
        for (let looks = 0; handed && looks < MOST_LOOKS; looks++) {
            if (shown() !== source) return;
            await new Promise((resolve) => setTimeout(resolve, BETWEEN_LOOKS));
        }
        say(LOST);
        takeBack = () => say("");
    };
})();
