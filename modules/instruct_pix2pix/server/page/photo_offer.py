"""The banner that offers a model for photographs: its place on the page, and when it is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from ...batch.planning import find_pictures
from ...errors import UserError
from ...models.catalog import Catalog
from ...models.photographs import a_few, is_photograph
from ...models.registry import DEMO
from ..folder_access import FolderAccess
from ..pictures import SentPicture, decoded
from ..uploads import Uploads
from ..worker.worker import Worker
from .results import sent_path

BANNER = """
<section id="ip2p_photo" aria-label="A model for photographs">
    <div id="ip2p_photo_offer"></div>
    <button type="button" id="ip2p_photo_hide" aria-label="Not now" title="Not now">×</button>
</section>
"""
"""What photo_offer.js fills and shows."""


@dataclass(frozen=True)
class PhotoOffer:
    """The banner, and what its script is told."""

    found: gr.Textbox
    """Hidden: what `PhotoOfferHandlers.look` found."""


def build_photo_offer() -> PhotoOffer:
    """Make the banner inside the block that is open; it is hidden."""
    gr.HTML(BANNER, elem_id="ip2p_photo_banner")
    return PhotoOffer(found=gr.Textbox("", visible="hidden", label="What is edited"))


class PhotoOfferHandlers:
    """The handler of what is to be edited."""

    def __init__(self, worker: Worker, catalog: Catalog, uploads: Uploads, folder_access: FolderAccess) -> None:
        self.worker, self.catalog, self.uploads, self.folder_access = worker, catalog, uploads, folder_access

    def look(self, chosen: str, picture: object, drop: str, folder: str, request: gr.Request) -> str:
        """Return 'photograph' where the demo is chosen and is given one, 'drawn' where it is not; '' for other models.

        `picture` is what a picture component sends unread, `drop` the id of pictures that were dropped, `folder` a name
        of one that was typed.
        """
        if not any(entry.name == chosen and entry.path == DEMO for entry in self.catalog.entries):
            return ""
        files = [sent_path(picture), *self._some_of(drop or "", folder or "", request)]
        return "photograph" if any(self._is_photograph(file) for file in files if file) else "drawn"

    def _some_of(self, drop: str, folder: str, request: gr.Request) -> Iterator[str]:
        """Yield paths of a few pictures of a folder, if there is one."""
        try:
            if folder.strip():
                found = self.folder_access.find(folder, here=self.folder_access.is_here(request))
            elif drop:
                found = self.uploads.find(drop)
            else:
                return
            names = find_pictures(found, recursive=not folder.strip()).names
        except UserError:
            return  # whatever is wrong with it is told when it is edited
        yield from (str(found / name) for name in a_few(names))

    def _is_photograph(self, file: str) -> bool:
        try:
            with decoded(self.worker.decoding, SentPicture.in_file(file)) as (picture,):
                return is_photograph(picture.image)
        except UserError:
            return False
