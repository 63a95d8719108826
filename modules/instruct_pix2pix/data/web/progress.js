// How the job of this page stands: asked for by this script, since gradio's own events cost the browser far more.
(() => {
    "use strict";

    const AFTER_A_LOSS = 2000; // milliseconds until a server that did not answer is asked again
    const BETWEEN_RESULTS = 5000; // milliseconds from one change of the gallery to the next: each costs the edit time
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

    /** Put HTML there; where there is a bar already, only its parts that differ: a new layout takes time too. */
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

    let title = ""; // of the window when nothing is under way; not there yet when this script is read
    let turns = 0; // a later call takes over from the one before
    let followed = ""; // the job
    let news = ""; // of it
    let results = []; // images of those that gradio was told of, fetched while it makes up its mind to show them
    let over = false;

    /** A file of the server's cache, by the address that gradio will give it. */
    function fetched(file) {
        const image = new Image();
        image.src = `gradio_api/file=${file}`;
        return image;
    }

    // What page.css shows goes by these: where gradio shows and hides parts of a page, it makes them anew each time.
    const mark = (name, value) => {
        if (value) document.body.dataset[name] = value;
        else delete document.body.dataset[name];
    };

    /** Show how a job stands until it has ended, and tell the server's page when there is something to show.
        `begun`: it is new; else it is that of a page which was opened again, and may have ended long ago. */
    window.ip2pFollow = async (job, live, begun) => {
        if (!job || job === followed) return; // nothing was begun
        const turn = ++turns;
        [followed, news, results, over] = [job, "", [], false];
        title ||= document.title;
        const place = document.getElementById("ip2p_going");
        place.replaceChildren();
        mark("ip2pGoing", begun ? "yes" : "");
        mark("ip2pResults", "");
        let shown = Date.now();
        for (let again = false; turn === turns; again = true) {
            let answer;
            try {
                answer = await fetch(`jobs/${job}?live=${live && !document.hidden}&again=${again}`);
            } catch {
                await pause(AFTER_A_LOSS);
                continue;
            }
            if (turn !== turns) return;
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
            if (told.ended) return;
        }
    };

    /** What was told of the job is on the page now. */
    window.ip2pShown = () => {
        mark("ip2pResults", results.length ? "yes" : "");
        if (over) mark("ip2pGoing", "");
    };
})();
