// The matrix: opens its controls, fills its table from coarse to fine, shows before and after, and tells what is chosen.
(() => {
    "use strict";

    const SMALL = "?small=true";
    const byId = (id) => document.getElementById(id);

    // --- the controls ---

    /** Show or hide all that belongs to the matrix: page.css goes by the mark on <body>. */
    function open(yes) {
        if (yes) document.body.dataset.ip2pMatrix = "yes";
        else delete document.body.dataset.ip2pMatrix;
        byId("ip2p_matrix_open")?.setAttribute("aria-expanded", String(yes));
    }

    // --- the table; a place is counted from the first cell of the first layer ---

    let board = null; // the element with the table
    let told = {}; // what the server last said of it
    let layer = 0;
    let current = 0; // the cell that is shown large, in its layer
    let chosen = -1; // the place of the cell whose edit was made last
    let asked = ""; // the task and the place of the cell that was clicked last

    const number = (name) => Number(board.dataset[name]);
    const cells = () => [...board.querySelectorAll(".ip2p-cell")];
    const placeOf = (cell) => layer * number("columns") * number("rows") + cell;
    const address = (rest) => `matrices/${board.dataset.job}${rest}`;

    /** The page changed: follow a table that is new. */
    function look() {
        const button = byId("ip2p_matrix_open");
        if (button && !button.hasAttribute("aria-expanded")) {
            button.setAttribute("aria-controls", "ip2p_matrix_form");
            open("ip2pMatrix" in document.body.dataset);
        }
        const found = byId("ip2p_matrix");
        if (!found || found === board) return;
        if (found.dataset.job !== board?.dataset.job) {
            const middle = (count) => Math.floor(Number(count) / 2);
            current = middle(found.dataset.rows) * Number(found.dataset.columns) + middle(found.dataset.columns);
            [layer, chosen] = [0, -1];
        }
        [board, told] = [found, {}];
        sessionStorage.setItem("ip2p_matrix", board.dataset.job);
        open(true);
        follow(board);
    }

    /** Ask how a matrix stands until it has ended, or another one has taken its place. */
    async function follow(element) {
        for (let again = false; element === board; again = true) {
            const live = Boolean(element.dataset.live) && !document.hidden;
            const answer = await ip2pAsk(`matrices/${element.dataset.job}?live=${live}&again=${again}`);
            if (!answer) {
                await ip2pBack();
                continue;
            }
            if (!answer.ok || element !== board) return;
            const before = told.coarse;
            told = await answer.json();
            told.coarse ||= before; // while nobody looked, what was seen stays
            if (told.coarse && told.coarse !== before) await loaded(`/coarse/${told.coarse}`); // or cells would blink
            if (element !== board) return;
            fill();
            if (told.ended) return;
        }
    }

    function fill() {
        board.style.setProperty("--ip2p-ratio", told.size.join(" / "));
        cells().forEach((cell, i) => paint(cell, placeOf(i), SMALL));
        const corner = board.querySelector(".ip2p-corner");
        if (told.before && !corner.querySelector("img")) corner.append(picture("before", "/before", "The input"));
        const link = board.querySelector("a[download]");
        link.hidden = told.done < placeOf(cells().length);
        link.href = address(`/matrix.png?layer=${layer}`);
        mark();
        show();
    }

    function picture(side, rest, alt = "") {
        const image = new Image();
        image.className = `ip2p-${side}`;
        image.alt = alt;
        image.draggable = false;
        image.src = address(rest);
        return image;
    }

    /** Wait until the browser has a picture, or knows that it cannot. */
    function loaded(rest) {
        const image = new Image();
        image.src = address(rest);
        return image.decode().catch(() => {});
    }

    function lay(where, rest, size, position) {
        where.style.backgroundImage = `url("${address(rest)}")`;
        where.style.backgroundSize = size;
        where.style.backgroundPosition = position;
    }

    /** Show what there is of a place: its part of the coarse picture, or itself, for which the small one stands in. */
    function paint(where, place, which) {
        const done = place < told.done;
        const shows = `${place} ${done ? "done" : told.coarse ?? 0}`;
        if (where.dataset.shows === shows) return;
        const other = !where.dataset.shows?.startsWith(`${place} `);
        where.dataset.shows = shows;
        if (other) where.style.backgroundImage = "";
        if (other || !done) where.querySelector(".ip2p-after")?.remove();
        if (done) {
            if (!which) lay(where, `/cells/${place}${SMALL}`, "100% 100%", "0 0");
            where.prepend(picture("after", `/cells/${place}${which}`));
        } else if (told.coarse) {
            const [columns, rows] = [number("columns"), number("rows") * number("layers")];
            const along = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
            const [x, y] = [along(place % columns, columns), along(Math.floor(place / columns), rows)];
            lay(where, `/coarse/${told.coarse}`, `${100 * columns}% ${100 * rows}%`, `${x}% ${y}%`);
        }
    }

    // --- one cell, large: before and after ---

    const stage = () => board.querySelector(".ip2p-stage");

    function show() {
        const [place, wide] = [placeOf(current), stage().querySelector(".ip2p-wipe")];
        paint(wide, place, "");
        if (told.before && !wide.querySelector(".ip2p-before")) wide.append(picture("before", "/before"));
        const seeds = [...board.querySelectorAll(".ip2p-layers label")];
        const seed = seeds.length ? `, seed ${seeds[layer].textContent.trim()}` : "";
        stage().querySelector("figcaption").textContent = cells()[current].getAttribute("aria-label") + seed;
        stage().classList.toggle("at-chosen", place === chosen);
    }

    function turnTo(cell) {
        if (cell === current) return;
        current = cell;
        mark();
        show();
    }

    /** Mark the cell to which Tab leads, and the chosen one. */
    function mark() {
        cells().forEach((cell, i) => {
            cell.tabIndex = i === current ? 0 : -1;
            cell.parentElement.setAttribute("aria-selected", String(placeOf(i) === chosen));
        });
    }

    /** Show so much, in percent, of what was before. */
    function wipe(share, ...places) {
        const shown = Math.min(100, Math.max(0, share));
        stage().querySelector("input").value = shown;
        for (const place of places) place.style.setProperty("--ip2p-wipe", `${shown}%`);
    }

    const inBoard = (event, selector) => {
        const found = board && event.target.closest?.(selector);
        return found && board.contains(found) ? found : null;
    };

    document.addEventListener("pointermove", (event) => {
        const where = inBoard(event, ".ip2p-wipe");
        const cell = where?.dataset.place;
        if (!where || (cell && event.pointerType === "touch")) return;
        if (cell) turnTo(Number(cell));
        if (cell && told.before && !where.querySelector(".ip2p-before")) where.append(picture("before", "/before"));
        const box = where.getBoundingClientRect();
        wipe(100 * (event.clientX - box.left) / box.width, where, stage().querySelector(".ip2p-wipe"));
    });
    document.addEventListener("pointerout", (event) => {
        const cell = inBoard(event, ".ip2p-cell");
        if (cell && !cell.contains(event.relatedTarget)) cell.querySelector(".ip2p-before")?.remove();
    });
    document.addEventListener("input", (event) => {
        const range = inBoard(event, ".ip2p-stage input");
        if (range) wipe(Number(range.value), stage().querySelector(".ip2p-wipe"));
    });
    document.addEventListener("change", (event) => {
        const choice = inBoard(event, ".ip2p-layers input");
        if (!choice) return;
        layer = Number(choice.value);
        fill();
    });
    document.addEventListener("focusin", (event) => {
        const cell = inBoard(event, ".ip2p-cell");
        if (cell) turnTo(Number(cell.dataset.place));
    });

    // --- keys and clicks ---

    document.addEventListener("keydown", (event) => {
        const cell = inBoard(event, ".ip2p-cell");
        if (!cell) return;
        const [place, columns, count] = [Number(cell.dataset.place), number("columns"), cells().length];
        const [column, row] = [place % columns, Math.floor(place / columns)];
        const far = event.ctrlKey || event.metaKey;
        const next = {
            ArrowLeft: column ? place - 1 : place,
            ArrowRight: column < columns - 1 ? place + 1 : place,
            ArrowUp: row ? place - columns : place,
            ArrowDown: place + columns < count ? place + columns : place,
            Home: far ? 0 : row * columns,
            End: far ? count - 1 : row * columns + columns - 1,
        }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        cells()[next].focus({ preventScroll: true }); // which would leave it half under the edge
        cells()[next].scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#ip2p_matrix_open")) open(!("ip2pMatrix" in document.body.dataset));
        const cell = inBoard(event, ".ip2p-cell");
        if (!cell) return;
        turnTo(Number(cell.dataset.place));
        asked = `${board.dataset.job} ${placeOf(current)}`;
        byId("ip2p_matrix_choose").click();
    });

    window.ip2pMatrix = look;
    window.ip2pWantedCell = () => asked;

    /** The edit of a cell was begun; '' where it could not be. */
    window.ip2pChosenCell = (cell) => {
        const [job, place] = cell.split(" ");
        if (job !== board?.dataset.job) return;
        chosen = Number(place);
        mark();
        show();
        stage().scrollIntoView({ block: "nearest" });
    };
})();
