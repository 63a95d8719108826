// The progress of this page's task. A script asks for it, because gradio's own events cost the browser far more.
(() => {
    "use strict";

    const AFTER_A_LOSS = 2000; // milliseconds before a server that did not answer is asked again
    const BETWEEN_RESULTS = 5000; // milliseconds between two changes of the gallery: each takes time from the edit
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

    /** Show HTML in a place. If the elements are the same, change only what differs: a new layout takes time too. */
    function show(place, html) {
        const wanted = document.createElement("template");
        wanted.innerHTML = html;
        const olds = [...place.querySelectorAll("*")];
        const news = [...wanted.content.querySelectorAll("*")];
        if (olds.length !== news.length || olds.some((old, i) => old.tagName !== news[i].tagName)) {
            place.replaceChildren(wanted.content);
            return;
        }
        olds.forEach((old, i) => {
            for (const { name, value } of news[i].attributes) {
                if (old.getAttribute(name) !== value) old.setAttribute(name, value);
            }
            for (const { name } of [...old.attributes]) if (!news[i].hasAttribute(name)) old.removeAttribute(name);
            const text = old.childElementCount ? null : news[i].textContent;
            if (text !== null && old.textContent !== text) old.textContent = text;
        });
    }

    window.ip2pShow = show;

    let title = ""; // the window's when nothing is under way; unknown when this script is read
    let calls = 0; // of ip2pFollow: a later one takes over from the one before
    let followed = ""; // the id of the task
    let news = ""; // what the server last said is new about it
    let results = []; // images of the results, fetched before gradio shows them
    let over = false; // whether it has ended

    /** Fetch a file of the server's cache from the address at which gradio will show it. */
    function fetched(file) {
        const image = new Image();
        image.src = `gradio_api/file=${file}`;
        return image;
    }

    // page.css shows and hides by these marks on <body>: gradio would make each part anew.
    const mark = (name, value) => {
        if (value) document.body.dataset[name] = value;
        else delete document.body.dataset[name];
    };

    /** Return which tasks, the last one and the last matrix, this tab had before it was loaded again: other tabs of
        the browser have their own. `task` is the last one of any. */
    window.ip2pSeen = (task, matrix) =>
        [sessionStorage.getItem("ip2p_task") ?? task, sessionStorage.getItem("ip2p_matrix") ?? matrix];

    /** Show the progress of a task until it has ended, and click News when there is something new to show.
        `begun`: whether the task is new; otherwise the page was opened again, and it may have ended long ago. */
    window.ip2pFollow = async (task, live, begun) => {
        if (!task || task === followed) return; // nothing was begun
        const call = ++calls;
        [followed, news, results, over] = [task, "", [], false];
        sessionStorage.setItem("ip2p_task", task);
        title ||= document.title;
        const place = document.getElementById("ip2p_going");
        place.replaceChildren();
        mark("ip2pGoing", begun ? "yes" : "");
        mark("ip2pResults", "");
        let shown = Date.now();
        for (let again = false; call === calls; again = true) {
            let answer;
            try {
                answer = await fetch(`jobs/${task}?live=${live && !document.hidden}&again=${again}`);
            } catch {
                await pause(AFTER_A_LOSS);
                continue;
            }
            if (call !== calls) return;
            const told = answer.ok ? await answer.json() : { html: "", news: "lost", ended: true };
            const more = told.results?.length > results.length && Date.now() - shown >= BETWEEN_RESULTS;
            if (told.news !== news || more) {
                ({ news, ended: over } = told);
                shown = Date.now();
                results = told.results?.map(fetched) ?? results;
                document.getElementById("ip2p_news").click();
            }
            show(place, told.html);
            if (told.kind) mark("ip2pJob", told.kind);
            if (!told.ended) mark("ip2pGoing", "yes");
            const share = place.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow");
            document.title = told.ended ? title : `[${share ? `${share}%` : "…"}] ${title}`;
            if (told.ended) {
                if (told.kind && !told.stopped && (begun || again)) ip2pDone(place);
                return;
            }
        }
    };

    /** The page shows what was new. */
    window.ip2pShown = () => {
        mark("ip2pResults", results.length ? "yes" : "");
        if (over) mark("ip2pGoing", "");
    };
})();
