// Runs before gradio's own scripts (see server/page/gradio_compat.py).
(() => {
    "use strict";

    // The clock of gradio 6.31's loader goes on at every frame after the loader is gone, which takes a tenth of a core
    // where there is no graphics card. No event of this page shows a clock, so such a frame is never asked for.
    const nextFrame = window.requestAnimationFrame.bind(window);
    const isClock = /performance\.now\(\)-[^;]{1,20}\/1e3/;
    window.requestAnimationFrame = (callback) => (isClock.test(callback) ? 0 : nextFrame(callback));
})();
