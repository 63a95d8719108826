// The Batch tab: uploads dropped pictures one by one, and keeps the table of the folder up to date.
(() => {
    "use strict";

    const AT_ONCE = 3; // uploads
    const byId = (id) => document.getElementById(id);
    const zone = () => document.querySelector(".ip2p-dropzone");

    // --- the table ---

    let task = null; // the id of the one whose rows are shown
    let version = -1; // the table's, as it is shown
    let wanted = "-1"; // the table's, on the server
    let fetching = false;
    let rows = new Map(); // place of a picture in the folder -> <tr>

    /** Fetch what is new if the progress names a newer version of the table. */
    function look() {
        restore();
        const board = byId("ip2p_board");
        if (!board) return;
        if (board.dataset.job !== task || (rows.size && !rows.values().next().value.isConnected)) {
            task = board.dataset.job;
            version = -1;
            rows = new Map();
            board.querySelector("tbody").replaceChildren();
        }
        wanted = document.querySelector("#img2img_progress [data-version]")?.dataset.version ?? "-1";
        if (!fetching && Number(wanted) > version) update(board, task);
    }

    /** Fetch the rows of a task; meanwhile the page may have turned to another. */
    async function update(board, of) {
        fetching = true;
        try {
            const answer = await fetch(`folders/${of}?after=${version}`);
            if (answer.ok && of === task) fill(board, await answer.json());
            else wanted = "-1";
        } catch {
            wanted = "-1"; // the next change of the progress asks again
        }
        fetching = false;
        if (Number(wanted) > version) look();
    }

    function fill(board, news) {
        version = news.version;
        const places = new Set(news.places);
        for (const [place, row] of rows) {
            if (!places.has(place)) {
                row.remove();
                rows.delete(place);
            }
        }
        for (const told of news.rows) write(told);
        const body = board.querySelector("tbody");
        let next = body.firstElementChild;
        for (const place of news.places) {
            const row = rows.get(place);
            if (row === next) next = next.nextElementSibling;
            else body.insertBefore(row, next);
        }
        board.querySelector("caption").textContent = caption(news);
        const working = body.querySelector("[data-stage=working]");
        if (working && !board.matches(":hover, :focus-within")) {
            const middle = working.offsetTop - board.clientHeight / 2;
            board.scrollTo({ top: Math.max(0, middle) });
        }
    }

    function caption(news) {
        const counts = Object.entries(news.counts).map(([stage, count]) => `${count} ${stage}`).join(", ");
        const rest = news.pictures - news.places.length;
        const all = `${news.pictures} ${news.pictures === 1 ? "picture" : "pictures"}: ${counts}`;
        return rest > 0 ? `${all}. ${rest} of them are not shown.` : all;
    }

    function write(told) {
        let row = rows.get(told.place);
        if (!row) {
            row = document.createElement("tr");
            row.setAttribute("role", "row");
            for (let i = 0; i < 6; i++) row.insertCell().setAttribute("role", "cell");
            rows.set(told.place, row);
        }
        row.dataset.stage = told.stage;
        ["before", "after"].forEach((side, i) => {
            const cell = row.cells[i];
            if (!told[side] || cell.firstElementChild) return;
            const image = new Image(48, 48);
            image.loading = "lazy";
            image.alt = `${told.name}, ${side}`;
            image.addEventListener("error", () => image.remove());
            image.src = `folders/${task}/${told.place}/${side}`;
            cell.append(image);
        });
        const texts = [told.name, told.stage, told.seconds ? told.seconds.toFixed(1) : "", told.reason];
        texts.forEach((text, i) => {
            if (row.cells[i + 2].textContent !== text) row.cells[i + 2].textContent = text;
        });
    }

    // --- pictures from this computer ---

    let drop = ""; // the id under which the server keeps them
    let sent = 0; // pictures
    let refused = []; // sentences of the server
    let queue = []; // [name, File] each
    let sending = 0;

    const field = (id) => document.querySelector(`#${id} :is(textarea, input)`);

    function type(id, text) {
        const target = field(id);
        if (!target || target.value === text) return;
        target.value = text;
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function say() {
        const place = zone();
        if (!place) return;
        const left = queue.length + sending;
        const parts = [];
        if (sent) parts.push(`${sent} ${sent === 1 ? "picture" : "pictures"} ready`);
        if (left) parts.push(`${left} on the way …`);
        if (refused.length) parts.push(`${refused.length} refused: ${refused[refused.length - 1]}`);
        place.querySelector(".ip2p-dropped").textContent = parts.join(" · ");
        place.querySelector(".ip2p-undrop").hidden = !sent && !left;
    }

    /** Show the uploads that the page had before it was loaded again. */
    async function restore() {
        const known = field("ip2p_drop")?.value ?? "";
        if (known === drop || sending || queue.length) return;
        drop = known;
        sent = 0;
        refused = [];
        if (known) {
            const answer = await fetch(`drops/${known}`);
            if (answer.ok) sent = (await answer.json()).pictures;
            else type("ip2p_drop", "");
        }
        say();
    }

    function clear() {
        queue = [];
        refused = [];
        sent = 0;
        drop = "";
        type("ip2p_drop", "");
        say();
    }

    /** Upload files, each given as [name, File]. */
    function add(files) {
        if (!files.length) return;
        if (!drop) drop = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
        type("img2img_batch_input_dir", "");
        queue.push(...files);
        say();
        while (sending < AT_ONCE && queue.length) send();
    }

    async function send() {
        const [name, file] = queue.shift();
        const to = drop;
        sending += 1;
        let reason = "";
        try {
            const answer = await fetch(`drops/${to}?name=${encodeURIComponent(name)}`, { method: "POST", body: file });
            const told = await answer.json();
            if (answer.ok && to === drop) sent = Math.max(sent, told.pictures);
            else if (!answer.ok) reason = told.detail;
        } catch {
            reason = `${file.name} did not arrive: drop it again.`;
        }
        sending -= 1;
        if (reason && to === drop) refused.push(reason);
        if (queue.length) send();
        else if (!sending && to === drop) type("ip2p_drop", sent ? drop : "");
        say();
    }

    /** Return every file in a dropped file or folder, as [path from there, File]. */
    async function below(entry) {
        if (entry.isFile) {
            const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
            return [[entry.fullPath.replace(/^\//, ""), file]];
        }
        const reader = entry.createReader();
        const found = [];
        for (;;) {
            const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
            if (!some.length) break;
            for (const one of some) if (!one.name.startsWith(".")) found.push(...await below(one));
        }
        return found;
    }

    /** Take what was dropped or pasted if the Batch tab is open; return whether it was taken. */
    window.ip2pDropped = (data) => {
        if (!zone()?.offsetParent || !data?.files?.length) return false;
        const entries = [...(data.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
        if (entries.some((entry) => entry.isDirectory)) {
            Promise.all(entries.map(below)).then((found) => add(found.flat()));
        } else {
            add([...data.files].map((file) => [file.name, file]));
        }
        return true;
    };

    document.addEventListener("click", (event) => {
        const picks = event.target.closest?.("[data-picks]");
        if (picks) byId(picks.dataset.picks).click();
        else if (event.target.closest?.(".ip2p-undrop")) clear();
    });
    document.addEventListener("change", (event) => {
        if (!event.target.id?.startsWith("ip2p_pick_")) return;
        add([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file]));
        event.target.value = "";
    });
    document.addEventListener("input", (event) => {
        if (event.target.value && drop && event.target.closest?.("#img2img_batch_input_dir")) clear();
    });
    for (const kind of ["dragover", "dragleave", "drop"]) {
        document.addEventListener(kind, (event) => {
            const over = kind === "dragover" && event.target.closest?.(".ip2p-dropzone");
            zone()?.classList.toggle("over", Boolean(over));
        }, true);
    }

    window.ip2pBatch = look;
})();
