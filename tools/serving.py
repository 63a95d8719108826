"""A real server on loopback, in a thread of this process, with the demo model: for tests and pictures of the page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp

from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.models.catalog import Catalog
from instruct_pix2pix.server.limits import Limits
from instruct_pix2pix.server.serve import bound_socket, make_server
from instruct_pix2pix.server.worker.worker import Worker

STOP_SECONDS = 60.0


@contextmanager
def serving(
    make_app: Callable[[Worker, Catalog], ASGIApp], models: Path | None = None, limits: Limits | None = None
) -> Iterator[tuple[int, Worker]]:
    """Serve an app that has the demo model, and the models of a folder; gives its port and the worker.

    `limits` are those of strangers, where it is for such.
    """
    machine, folders = choose_machine("cpu", "fp32"), [models] if models else []
    with Worker(machine, models=folders, limits=limits) as worker, bound_socket("127.0.0.1", 0) as listener:
        server = make_server(make_app(worker, Catalog(folders)), worker)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1], worker
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)
    assert not thread.is_alive()
