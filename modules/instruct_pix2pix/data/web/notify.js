// Tells of work that is done, if a person wants that: by a sound, and by a notification when nobody looks at the page.
(() => {
    "use strict";

    const KEY = "ip2p_when_done";
    const [SOUND, NOTIFICATION] = ["Play a sound", "Show a notification"]; // the choices in server/page/layout.py
    const REFUSED = "This browser shows no notifications of this page: allow them in its settings for the page, then "
        + "switch this on again. From another machine it allows them over HTTPS alone.";
    const TONES = [[0, 660], [0.15, 880]]; // seconds from the beginning, hertz
    const LOUD = 0.15;
    const PATIENCE = 1000; // milliseconds that the browser may take to begin with a sound

    /** What is switched on; a permission may have been taken back. */
    function chosen() {
        const known = [SOUND, ...(window.Notification?.permission === "granted" ? [NOTIFICATION] : [])];
        try {
            const kept = JSON.parse(localStorage.getItem(KEY));
            return known.filter((one) => kept.includes(one));
        } catch {
            return [];
        }
    }

    async function allowed() {
        if (!("Notification" in window)) return false;
        if (Notification.permission === "default") await Notification.requestPermission();
        return Notification.permission === "granted";
    }

    async function ring() {
        const audio = new AudioContext();
        // Before the first click on a page a browser plays nothing, and would play this at that click.
        await Promise.race([audio.resume(), new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
        if (audio.state !== "running") {
            audio.close();
            return;
        }
        const tones = TONES.map(([at, pitch]) => {
            const [tone, loudness, from] = [audio.createOscillator(), audio.createGain(), audio.currentTime + at];
            tone.frequency.value = pitch;
            loudness.gain.setValueAtTime(0, from);
            loudness.gain.linearRampToValueAtTime(LOUD, from + 0.02);
            loudness.gain.exponentialRampToValueAtTime(0.001, from + 0.4);
            tone.connect(loudness).connect(audio.destination);
            tone.start(from);
            tone.stop(from + 0.4);
            return tone;
        });
        tones.at(-1).onended = () => audio.close();
    }

    function show(text) {
        try {
            const shown = new Notification(document.title, { body: text, tag: "ip2p" });
            shown.onclick = () => { window.focus(); shown.close(); };
        } catch {
            // a telephone's browser shows those of a service worker alone
        }
    }

    /** Switch on what is `wanted`, or leave it as it was; return the value of the switches. A new one shows itself. */
    window.ip2pWhenDone = async (wanted) => {
        if (!wanted) return [chosen()];
        const refused = wanted.includes(NOTIFICATION) && !(await allowed());
        if (wanted.includes(SOUND) && !chosen().includes(SOUND)) ring();
        localStorage.setItem(KEY, JSON.stringify(wanted.filter((one) => one !== NOTIFICATION || !refused)));
        document.getElementById("ip2p_when_done_said").textContent = refused ? REFUSED : "";
        return [chosen()];
    };

    /** Work that this page followed has ended by itself; in this place the page says how. */
    window.ip2pDone = (place) => {
        const on = chosen();
        if (on.includes(SOUND)) ring();
        if (on.includes(NOTIFICATION) && (document.hidden || !document.hasFocus())) {
            show([...place.querySelectorAll("p")].map((line) => line.textContent).join("\n"));
        }
    };
})();
