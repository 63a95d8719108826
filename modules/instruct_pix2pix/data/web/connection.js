// Whether the server answers. While it does not, the page says so, what the page asks waits, and all goes on by itself.
(() => {
    "use strict";

    const BETWEEN_TRIES = 2000; // milliseconds
    const MOST_SILENCE = 30000; // milliseconds; the server answers every question of this page within a few seconds
    const MOST_TRIES = 3; // of one call, each after the server has answered a question
    const KNOWN_EVENTS = 32; // of gradio, the newest ones
    const CALLS = /\/gradio_api\/(run\/predict|queue\/join|upload)(\?|$)/;
    const JOINS = /\/gradio_api\/queue\/join/;
    const EVENTS = /\/gradio_api\/queue\/data\?/;
    const HEARTBEAT = /\/gradio_api\/heartbeat\//;

    const SILENT = "The server does not answer; trying again …";
    const BACK = "The server answers again.";
    const OTHER = "The server was started again as another version of this program:";
    const PRESS_AGAIN = "The server was started again meanwhile: please do this once more.";
    const CUT = "The server stopped answering: please do this once more.";

    const plainFetch = window.fetch.bind(window);
    /** Whether an answer is that of a proxy, in place of a server. */
    const isOfProxy = (answer) => [502, 504].includes(answer.status) || answer.status >= 520;

    /** Wait; not so long if the network comes back or somebody looks at the page again. */
    const pause = () => new Promise((resolve) => {
        const over = new AbortController();
        const end = () => {
            over.abort();
            resolve();
        };
        setTimeout(end, BETWEEN_TRIES);
        window.addEventListener("online", end, { signal: over.signal });
        document.addEventListener("visibilitychange", end, { signal: over.signal });
    });

    // --- what the page says ---

    let bar = null;

    function begin() {
        bar = document.createElement("p");
        bar.id = "ip2p_connection";
        bar.role = "status";
        document.body.append(bar);
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();

    function say(text, ...more) {
        bar.replaceChildren(text, ...more);
    }

    // --- whether it answers ---

    const config = () => window.gradio_config;
    let known = null; // the start of the server that has what this page sent; each start has another number
    const startOfPage = () => known ??= config()?.app_id ?? null; // unknown when this script is read
    let reachable = null; // while the server does not answer: a promise of when it does
    let whole = null; // the same until the page has also given it what a new start lacks

    /** Return the number of the server's start, null if nothing answers. */
    async function startOf() {
        try {
            const signal = AbortSignal.timeout(MOST_SILENCE);
            const answer = await plainFetch("gradio_api/app_id", { cache: "no-store", signal });
            return answer.ok ? (await answer.json()).app_id : null;
        } catch {
            return null;
        }
    }

    /** Whether the server's page is the one that is shown here: calls name their handlers by numbers. */
    async function isSamePage() {
        const shape = ({ version, dependencies }) => JSON.stringify(
            [version, dependencies.map(({ id, inputs, outputs, targets }) => [id, inputs, outputs, targets])],
        );
        const answer = await plainFetch("config", { cache: "no-store" });
        return shape(await answer.json()) === shape(config());
    }

    function askToLoad() {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = "Load the page again";
        button.addEventListener("click", () => location.reload());
        say(OTHER, " ", button);
        return new Promise(() => {}); // nothing here can go on
    }

    /** Wait until the server answers; return whether it is another start of it. */
    async function answering() {
        const before = startOfPage();
        for (let tries = 0; ; tries++) {
            const start = await startOf(); // at once: what got lost may have been one answer
            const same = start === null ? null : start === before || await isSamePage().catch(() => null);
            if (same === null) { // nothing answers, or no longer
                if (!tries) say(SILENT);
                await pause();
                continue;
            }
            if (!same) await askToLoad();
            known = start;
            if (tries) {
                say(BACK);
                setTimeout(() => { if (bar.textContent === BACK) say(""); }, 4000);
            }
            return start !== before;
        }
    }

    /** Something got no answer. Returns a promise of when the server answers and has the picture again. */
    function lost() {
        reachable ??= answering().finally(() => { reachable = null; });
        whole ??= reachable.then((other) => other && ip2pPictureAgain(say)).finally(() => { whole = null; });
        return whole;
    }

    window.ip2pBack = lost;

    /** Ask the server for something; null if it does not answer. */
    window.ip2pAsk = async (address) => {
        try {
            const answer = await plainFetch(address, { signal: AbortSignal.timeout(MOST_SILENCE) });
            return isOfProxy(answer) ? null : answer;
        } catch {
            return null;
        }
    };

    // --- gradio's own requests: one that fails, and no event of gradio's works again until the page is loaded anew ---

    const refused = (sentence) => new Response(JSON.stringify({ error: sentence, detail: sentence }), {
        status: 409, headers: { "Content-Type": "application/json" },
    });
    let joined = []; // ids of the newest events

    /** Make a call, and make it again once the server answers; what names a file of another start is refused. */
    async function call(address, options) {
        const namesFile = typeof options?.body === "string" && /"path":\s*"/.test(options.body);
        const start = startOfPage();
        for (let tries = 1; ; tries++) {
            await reachable;
            if (namesFile && start !== known) return refused(PRESS_AGAIN);
            try {
                const answer = await plainFetch(address, options);
                if (!isOfProxy(answer) || tries === MOST_TRIES) {
                    if (answer.ok && JOINS.test(address)) {
                        const { event_id: id } = await answer.clone().json();
                        joined = [...joined, id].slice(-KNOWN_EVENTS);
                    }
                    return answer;
                }
            } catch (error) {
                if (options?.signal?.aborted || tries === MOST_TRIES) throw error;
            }
            lost();
        }
    }

    /** Pass on what becomes of gradio's events; where that breaks off, they end with a sentence. */
    async function events(request) {
        let source = null;
        try {
            const answer = await plainFetch(request);
            if (answer.ok) source = answer.body.getReader();
        } catch (error) {
            if (request.signal.aborted) throw error;
        }
        const endings = () => [
            ...joined.map((id) => ({ msg: "process_completed", event_id: id, success: false, output: { error: CUT } })),
            { msg: "close_stream" },
        ].map((message) => `data: ${JSON.stringify(message)}\n\n`).join("");
        const body = new ReadableStream({
            async pull(controller) {
                const read = await source?.read().catch(() => null);
                if (read && !read.done) {
                    controller.enqueue(read.value);
                    return;
                }
                if (!request.signal.aborted) { // which gradio does itself after the last event
                    controller.enqueue(new TextEncoder().encode(endings()));
                    joined = [];
                    lost();
                }
                controller.close();
            },
            cancel: (reason) => source?.cancel(reason),
        });
        return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    }

    /** Listen to what says nothing as long as the server is there, and learn from its end that it has gone. */
    async function listen(address, answer) {
        while (answer?.ok) {
            const reader = answer.body.getReader();
            try {
                while (!(await reader.read()).done);
            } catch {
                // it broke off
            }
            await lost();
            await pause();
            answer = await plainFetch(address).catch(() => null);
        }
    }

    window.fetch = async (asked, options) => {
        const address = String(asked.url ?? asked);
        if (CALLS.test(address)) return call(address, options);
        if (EVENTS.test(address)) return events(asked instanceof Request ? asked : new Request(asked, options));
        const answer = await plainFetch(asked, options);
        if (HEARTBEAT.test(address)) listen(address, answer.clone());
        return answer;
    };
})();
