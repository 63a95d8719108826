"""What the tab Models shows, and the banner over a photograph: pieces of HTML, everything escaped.

models.js acts on their `data-` attributes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ....errors import UserError
from ....models.add_on_cards import AddOnCard
from ....models.hub import size_text
from ....models.known import KNOWN, PHOTO_MODEL, Offer
from ....models.photographs import model_for_photographs
from ....models.registry import ModelEntry
from ....text import escape
from ...downloads import Downloads, DownloadState, DownloadStatus
from .. import html

SILENT_SECONDS = 5.0
"""Without a piece, after which the page says that it waits for one."""

NOT_ALLOWED = (
    "Downloads begin only where the server knows who asks: start it without --listen, or with --auth-file; or use the "
    "command 'download'."
)
NO_FOLDER = "This server has no models folder: start it with --models-dir."


# --- what is here ---


def here(entries: Iterable[ModelEntry], dirs: Iterable[Path], cards: Mapping[str, list[AddOnCard]]) -> str:
    """Return the models that are here, and what goes beside them; of `dirs` only the last part is shown."""
    folders = ", ".join(f"<code>{escape(folder.name)}</code>" for folder in dirs)
    rows = "".join(map(_model_row, entries))
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Name", "What it is", "Size", "Hash", ""))
    return (
        f'<div class="ip2p-scroll" tabindex="0" role="region" aria-label="Models"><table class="ip2p-models"><thead>'
        f"<tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="ip2p-hint">These are the models in the folders {folders}, and those in folders inside them. Put '
        f"another one there, then look again.</p>{_add_ons(cards)}"
    )


def _model_row(entry: ModelEntry) -> str:
    found = entry.checkpoint
    edits = found is not None and found.editable
    size = code = use = ""
    if found is None:
        what, notes = "cannot be read", [entry.problem or ""]
    else:
        what, notes = found.label, [f"because {found.reason}", found.verdict]
        if edits:
            use = _button("Use", f'data-use="{escape(entry.name)}"', f"Use {entry.name}")
        ema = ", with EMA" if found.has_ema else ""
        size = f"{size_text(found.size_bytes)}<small>{escape(found.dtype)}{ema}</small>"
        code = _button("Show", f'data-hash="{escape(entry.name)}"', f"Show the hash of {entry.name}")
    said = "".join(f"<small>{escape(note)}</small>" for note in notes if note)
    name = f"{escape(entry.name)}<small>in {escape(entry.path.parent.name)}</small>"
    cells = (name, f"{escape(what)}{said}", size, code, use)
    return f'<tr class="{"edits" if edits else "other"}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _add_ons(kinds: Mapping[str, list[AddOnCard]]) -> str:
    """Return the cards of LoRAs and embeddings; a click writes one into the instruction."""
    hint = (
        "Put them into models/Lora and embeddings, then look again. A click writes one into the instruction, another "
        "takes it out."
    )
    found = "".join(_card(kind, card) for kind, cards in kinds.items() for card in cards)
    cards = f'<ul class="ip2p-cards">{found}</ul>' if found else '<p class="ip2p-hint">There are none yet.</p>'
    return f'<h3>LoRAs and embeddings</h3>{cards}<p class="ip2p-hint">{hint}</p>'


def _card(kind: str, card: AddOnCard) -> str:
    words = ""
    if card.words:
        words = _button(card.words, f'data-write="{escape(card.words)}"', f"Write “{card.words}” into the instruction")
    return (
        f'<li><button type="button" class="ip2p-card" data-write="{escape(card.text)}" aria-pressed="false" '
        f'title="{escape(card.text)}"><b>{escape(card.name)}</b>'
        f"<small>{escape(kind)} · {size_text(card.size)}</small></button>{words}</li>"
    )


# --- what can be had ---


def offers(
    downloads: Downloads, entries: Iterable[ModelEntry], said: Callable[[UserError], str], *, may: bool
) -> str:
    """Return what can be downloaded and how each download stands; `may` is whether this visitor may begin one.

    `said` puts an error into the words of the page.
    """
    names = {entry.path: entry.name for entry in entries if entry.checkpoint and entry.checkpoint.editable}
    items = "".join(_offer(name, offer, downloads, names, said, may) for name, offer in downloads.offers.items())
    refused = "" if may else html.line(NOT_ALLOWED)
    if downloads.folder is None:
        refused = html.line(NO_FOLDER)
    return (
        '<h3>Get more</h3><p class="ip2p-hint">From huggingface.co, which is asked for nothing until a button is '
        f'pressed.</p>{refused}<ul class="ip2p-offers">{items}</ul>'
    )


def _offer(
    name: str,
    offer: Offer,
    downloads: Downloads,
    names: Mapping[Path, str],
    said: Callable[[UserError], str],
    may: bool,
) -> str:
    status = downloads.status(name)
    place = offer.found_in(downloads.folder) if downloads.folder else None
    if place is None and status is not None and status.path is not None and status.path.exists():
        place = status.path  # a repository may have renamed its file
    if status is None or status.state is DownloadState.FINISHED:
        going, buttons = "", _here_buttons(place, names) if place else _offer_buttons(may and downloads.folder)
        state = "here" if place else "offered"
    else:
        going, buttons = _going(status, offer, said), _going_buttons(status) if may else ""
        state = status.state.value
    notes = "".join(f"<p>{escape(note)}</p>" for note in offer.notes[1:])
    return (
        f'<li data-name="{escape(name)}" data-state="{state}"><div><b>{escape(name)}</b> {escape(offer.about)}'
        f"<small>{size_text(offer.size)} · {_page_of(offer)} · Licence: {escape(offer.licence)}</small>{notes}</div>"
        f'<div class="ip2p-offer-buttons">{buttons}</div>{going}</li>'
    )


def _going(status: DownloadStatus, offer: Offer, said: Callable[[UserError], str]) -> str:
    shown = _bar(status, offer) if status.problem is None else html.line(said(status.problem), "problem")
    return f'<div class="ip2p-offer-going">{shown}</div>'


def _page_of(offer: Offer) -> str:
    return f'<a href="{escape(offer.page)}" target="_blank" rel="noreferrer">{escape(offer.repo)}</a>'


def photo_offer(
    downloads: Downloads, entries: Iterable[ModelEntry], said: Callable[[UserError], str], *, may: bool
) -> dict[str, str]:
    """Return the model for photographs as the banner shows it: its name, its state and the banner's HTML.

    The state is that of a download, 'here' where such a model is, or 'offered'. Arguments as for `offers`.
    """
    offer, status = KNOWN[PHOTO_MODEL], downloads.status(PHOTO_MODEL)
    here = model_for_photographs(entry for entry in entries if entry.path.exists())
    size, going = f"{offer.size / 1e9:.1f} GB", ""
    says = "This looks like a photograph: the demo knows only drawn landscapes, such as the examples."
    hint = f"{_page_of(offer)} · Licence: {escape(offer.licence)}"
    under_way = status is not None and status.state is not DownloadState.FINISHED
    if status is not None and under_way and (status.state.going or here is None):
        state, buttons = status.state.value, _going_buttons(status) if may else ""
        says = f"The photo model ({size}) is chosen here as soon as all of it has come."
        going = _going(status, offer, said)
    elif here is not None:
        state, hint = "here", f"{escape(here.name)} is here, which was made for photographs."
        buttons = _button("Choose it", f'data-use="{escape(here.name)}"', f"Choose it: {here.name}")
    else:
        allowed = may and downloads.folder is not None
        state, buttons = "offered", _button(f"Get the photo model ({size})", 'data-action="start"') if allowed else ""
        hint = hint if allowed else escape(NOT_ALLOWED if downloads.folder else NO_FOLDER)
    shown = (
        f'<div data-name="{PHOTO_MODEL}" data-state="{state}"><p role="status">{says}</p><small>{hint}</small>'
        f'<div class="ip2p-offer-buttons">{buttons}</div>{going}</div>'
    )
    return {"name": PHOTO_MODEL, "state": state, "html": shown}


def _offer_buttons(may: object) -> str:
    return _button("Download", 'data-action="start"' + ("" if may else " disabled"))


def _here_buttons(place: Path, names: Mapping[Path, str]) -> str:
    use = _button("Use", f'data-use="{escape(names[place])}"', f"Use {names[place]}") if place in names else ""
    return f'<span class="ip2p-here">Here</span>{use}'


def _going_buttons(status: DownloadStatus) -> str:
    cancel = _button("Cancel", 'data-action="cancel"', f"Cancel {status.name} and throw away what came")
    if status.state.going:
        return _button("Pause", 'data-action="pause"', f"Pause {status.name}") + cancel
    again = "Download again" if status.state is DownloadState.FAILED else "Resume"
    return _button(again, 'data-action="start"', f"{again}: {status.name}") + cancel


def _bar(status: DownloadStatus, offer: Offer) -> str:
    total = status.total or offer.size
    came = f"{size_text(status.done)} of {size_text(total)}"
    share: float | None = min(status.done / total, 1.0)
    says, left = came, ""
    if status.state is DownloadState.WAITING:
        share, says = None, "Waiting for the one before it"
    elif status.state is DownloadState.PAUSED:
        says = f"Paused at {came}"
    elif status.stopping:
        says = f"Stopping … {came}"
    elif not status.total:
        share, says = None, "Asking the hub …"
    elif status.done >= status.total:
        says = "Checking the hash …"
    elif time.monotonic() - status.heard_at > SILENT_SECONDS:
        says = f"{came} · waiting for the hub …"
    elif status.speed:
        says = f"{came} · {size_text(round(status.speed))}/s"
        left = "" if status.left is None else html.seconds_left(status.left)
    return html.bar(share, says, left)


def _button(text: str, attributes: str, label: str = "") -> str:
    named = f' aria-label="{escape(label)}" title="{escape(label)}"' if label else ""
    return f'<button type="button" class="ip2p-small" {attributes}{named}>{escape(text)}</button>'
