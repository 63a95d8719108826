"""Where an edit would change a picture, as a task of the worker: two rows of the model in place of an edit."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ...engine.edit import fitted, map_of
from ...errors import Interrupted
from .edit_task import EditRequest
from .task import LoadedModel, Order, OwnQueue, Task, TaskStatus


@dataclass(frozen=True)
class MapStatus(TaskStatus):
    """How it stands. It has one step."""

    relevance: Image.Image | None = None
    """White (L, the framing of the edit) is where the instruction means to change the picture."""


class MapTask(Task[MapStatus]):
    """The relevance map of an edit that is not made."""

    kind = "relevance-map"

    def __init__(self, queue: OwnQueue, request: EditRequest, id_: str | None = None) -> None:
        """`Worker.submit_map` makes it, with settings that have been checked."""
        super().__init__(queue, request.checkpoint, MapStatus(steps=1), id_, request.visitor)
        self._request: EditRequest | None = request

    @property
    def pixels(self) -> int:
        """See `Task`: the map is small."""
        return 0 if self._request is None else self._request.pixels

    @property
    def parts(self) -> tuple[int, int]:
        """The one map."""
        return self._status.step, 1

    def order(self) -> Order:
        """See `Task`."""
        return Order(MapTask, self._request, self.id, self.checkpoint)

    def carry_out(self, loaded: LoadedModel) -> None:
        """Make the map. Raises UserError, Interrupted, or whatever went wrong."""
        request = self._request
        assert request is not None  # only a task that has ended has none
        self._begin(loaded)
        picture = fitted(loaded.model, request.picture.image, request.settings, request.mask)
        found = map_of(loaded.model, picture, request.settings.pictures()[0])
        if self._status.interrupted:
            raise Interrupted
        self._change(step=1, relevance=found)

    def _forget(self) -> None:
        self._request = None
