// The progress of this page's task. A script asks for it, because gradio's own events cost the browser far more.
(() => {
    "use strict";

    const BETWEEN_RESULTS = 5000; // milliseconds between two changes of the gallery: each takes time from the edit
    const OTHER_TABS = 200; // milliseconds in which they must have answered
    const UNKNOWN = '<p class="ip2p-line">How this stands cannot be told while the server does not answer.</p>';

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

    // Tabs of this page tell each other which tasks they show.
    const tabs = new BroadcastChannel(`ip2p ${location.pathname}`);
    tabs.addEventListener("message", ({ data }) => {
        if (data.asked && data.asked === followed) tabs.postMessage({ shown: followed });
    });

    /** Whether another tab shows a task. */
    const isShownElsewhere = (task) => new Promise((resolve) => {
        const hear = ({ data }) => { if (data.shown === task) end(true); };
        const end = (found) => {
            tabs.removeEventListener("message", hear);
            resolve(found);
        };
        tabs.addEventListener("message", hear);
        tabs.postMessage({ asked: task });
        setTimeout(end, OTHER_TABS, false);
    });

    /** Return the tasks of this tab, the last one and the last matrix, '' for none. `task` is the last one of any tab:
        one that is opened goes on with it, unless another tab has it. */
    window.ip2pSeen = async (task, matrix) => {
        if (sessionStorage.getItem("ip2p_task") === null) {
            const free = task && !(await isShownElsewhere(task));
            sessionStorage.setItem("ip2p_task", free ? task : "");
        }
        return [sessionStorage.getItem("ip2p_task"), sessionStorage.getItem("ip2p_matrix") ?? matrix];
    };

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
            const answer = await ip2pAsk(`jobs/${task}?live=${live && !document.hidden}&again=${again}`);
            if (call !== calls) return;
            if (!answer) {
                show(place, UNKNOWN);
                document.title = `[?] ${title}`;
                await ip2pBack();
                continue;
            }
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
        ip2pStrip();
        mark("ip2pResults", results.length || document.querySelector("#ip2p_selected textarea")?.value ? "yes" : "");
        if (over) mark("ip2pGoing", "");
    };
})();
