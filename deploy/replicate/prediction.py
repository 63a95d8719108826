"""What a prediction does: the model once, then up to four edits of a picture at a time, written as files."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if (HERE.parents[1] / "modules").is_dir():  # in a checkout; in the image the library is installed
    sys.path.insert(0, str(HERE.parents[1] / "modules"))

from instruct_pix2pix import EditModel, UserError, choose_machine, inspect, open_picture, save_picture  # noqa: E402
from instruct_pix2pix.engine.candidates import Search  # noqa: E402
from instruct_pix2pix.engine.edit import fitted, resolved  # noqa: E402
from instruct_pix2pix.engine.result_size import framed, to_write  # noqa: E402
from instruct_pix2pix.engine.search import find_each  # noqa: E402
from instruct_pix2pix.images import format_of  # noqa: E402
from instruct_pix2pix.models.add_ons import AddOnFolders  # noqa: E402
from instruct_pix2pix.models.registry import model_hash, resolve  # noqa: E402
from instruct_pix2pix.settings import BEST_OF, STRENGTH, EditSettings  # noqa: E402

MOST_PICTURES = 4
MODELS = HERE / "models"
"""What lies here goes into the image; the first model that can edit is taken, the demo model where there is none."""


@dataclass(frozen=True)
class Editor:
    """A model in memory."""

    path: Path
    model: EditModel
    hash: str
    results: Path
    """The folder of the last prediction's results: by the next one they have been sent."""

    @classmethod
    def load(cls, models: Path = MODELS) -> Editor:
        """Load the model of a folder. Raises UserError."""
        path = resolve(None, [models])
        return cls(path, EditModel.load(path, choose_machine(), [models]), model_hash(path), Path(tempfile.mkdtemp()))

    def edit(self, image: Path, mask: Path | None, ending: str, values: Mapping[str, Any]) -> list[Path]:
        """Edit a picture with the values of all settings, None for what suits the model; return the files written.

        Raises UserError, whose sentence the client is told.
        """
        values, asked = dict(values), frozenset(name for name, value in values.items() if value is not None)
        search = _search(values)
        settings = EditSettings.from_mapping(values).require_instruction()
        if settings.results > MOST_PICTURES:
            raise UserError(f"{settings.results} pictures are too many: ask for {MOST_PICTURES} at most.")
        folders = AddOnFolders.near(self.path, [MODELS])
        folders.require_loras(settings.instruction)
        # Every setting has a value here: of those that are left out elsewhere, none was asked for.
        named = asked & {"text_cfg", "image_cfg", "steps"} | ({"keep_rest"} if settings.keep_rest != "off" else set())
        settings = inspect(self.path).suited.fill(resolved(search.settled(settings, named)), asked)
        picture = open_picture(image, deep=settings.result_size in ("auto", "own"))
        where = open_picture(mask).mask if mask is not None else None
        fit = fitted(self.model, picture.image, settings, where, picture.deep)
        alpha = picture.alpha and framed(picture.alpha, fit.plan, settings)
        shutil.rmtree(self.results, ignore_errors=True)
        written: list[Path] = []
        together = settings.batch_size if settings.batch_size > 1 else None
        for number, found in enumerate(find_each(self.model, fit, settings, search, None, together), 1):
            result, file = found.edited, self.results / f"{number}.{ending}"
            text = result.infotext(self.model.name, self.hash)
            written.append(save_picture(to_write(result, alpha, format_of(file)), file, text, icc=picture.icc))
            print(text)
        return written


def _search(values: dict[str, Any]) -> Search:
    """Take what says how results are found out of the values. Raises UserError."""
    best_of, strength = values.pop("best_of"), values.pop("strength")
    return Search(BEST_OF.check(best_of), STRENGTH.check(strength) if strength else None)
