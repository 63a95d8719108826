// The banner of a photograph that the chosen model does not know: another is had from here, as in the tab Models.
(() => {
    "use strict";

    // Kept until the browser's tab is closed: for which model the banner was last shown, and whether nobody wants it.
    const SHOWN_FOR = "ip2p_photo";
    const UNWANTED = "ip2p_photo_unwanted";
    const place = () => document.getElementById("ip2p_photo_offer");

    let need = ""; // see ip2pPhotoOffer

    function hide() {
        sessionStorage.removeItem(SHOWN_FOR);
        delete document.body.dataset.ip2pPhoto; // page.css shows the banner by this mark
        place()?.replaceChildren();
    }

    /** The model of this name is chosen. `found`: "photograph" where it does not know what it is given, "drawn" where it
        does, "" where another model would know no more. */
    window.ip2pPhotoOffer = (found, name) => {
        if (sessionStorage.getItem(UNWANTED)) return;
        need = found;
        if (need === "photograph") sessionStorage.setItem(SHOWN_FOR, name);
        if (need && sessionStorage.getItem(SHOWN_FOR)) ip2pFollowDownloads();
        else hide();
    };

    /** The page was loaded, with this model, and looks at what it is given later: a download may be under way. */
    window.ip2pPhotoAgain = (name) => {
        if (!need && sessionStorage.getItem(SHOWN_FOR) === name) ip2pPhotoOffer("drawn", name);
    };

    /** The server tells how the offer stands; `landed` are the names of downloads that have just come. Return the button
        that chooses the model, if that is one of them. */
    window.ip2pPhotoTold = ({ html, name, state }, landed) => {
        if (!need || !place() || sessionStorage.getItem(UNWANTED)) return null;
        const shown = document.body.dataset.ip2pPhoto;
        if (need === "drawn" && (state === "offered" || state === "here" && !shown)) {
            hide();
            return null;
        }
        ip2pShowOffers(place(), html);
        document.body.dataset.ip2pPhoto = "yes";
        return shown && landed.includes(name) ? place().querySelector("[data-use]") : null;
    };

    document.addEventListener("click", (event) => {
        if (event.target.id !== "ip2p_photo_hide") return;
        sessionStorage.setItem(UNWANTED, "yes");
        hide();
        document.getElementById("img2img_generate").focus();
    });
})();
