"""The server: the guard, the API and the page on one port of this machine."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from ..engine.precision import choose_machine
from ..engine.process_memory import tune_memory
from ..errors import Remedy, UserError
from ..models.catalog import Catalog
from ..models.registry import resolve
from ..paths import PACKAGE, home_of
from ..text import say
from .app import build
from .connections import PLACES, BoundedConnection
from .folder_access import FolderAccess
from .options import ServeOptions
from .security import Credentials
from .temp_folder import temporary_folder
from .visitors import LOOPBACK, Proxies
from .worker.borrowed_gpu import BorrowedGpu
from .worker.worker import Worker

PORT, PORTS_TRIED = 7860, 20
ENDING = [number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number is not None]


def run(options: ServeOptions, borrowed: BorrowedGpu | None = None) -> int:
    """Serve until stopped; `borrowed` does the work where GPUs are lent.

    Raises UserError for a model that cannot be used and for a port that is taken.
    """
    from .page.mount import page  # gradio takes a second to import, and only a server needs it

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("instruct_pix2pix").setLevel(logging.DEBUG if options.debug else logging.INFO)
    tune_memory()
    machine = choose_machine(options.device, options.precision, options.memory)
    folders, outputs = options.model_folders, outputs_folder()
    catalog = Catalog(folders, resolve(options.model, folders) if options.model else None)
    limits, private = options.limits, not options.listen
    places = FolderAccess.beside(outputs, options.edit_folders, private=private)
    proxies = Proxies((*LOOPBACK, *options.proxies))
    address = "0.0.0.0" if options.listen else "127.0.0.1"
    chosen = os.environ.get("GRADIO_TEMP_DIR")
    with (
        unwound_by_signals(),
        bound_socket(address, options.port) as listener,
        temporary_folder(Path(chosen) if chosen else None) as cache,
        Worker(machine, models=folders, limits=limits, borrowed=borrowed) as worker,
    ):
        port = listener.getsockname()[1]
        if options.port is None and port != PORT:
            say(f"Port {PORT} is taken; this is {port}.")
        own = socket.gethostname().lower()
        app = build(
            worker,
            catalog,
            outputs=outputs,
            page=page(worker, catalog, outputs, cache, places if limits is None else None, options.root_path),
            users=[Credentials(*user) for user in options.users],
            host_names=[own, own.partition(".")[0] + ".local", *options.host_names],
            listen=options.listen,
            proxies=proxies,
            frames=options.frames,
            token_header=options.token_header,
        )
        others = f" and, from other machines, http://{own}:{port}" if options.listen else ""
        say(f"Open http://127.0.0.1:{port}{others} in a browser. Ctrl+C stops the program.")
        try:
            make_server(app, worker).run(sockets=[listener])
        except KeyboardInterrupt:
            say("Stopped.")
    return 0


def make_server(app: ASGIApp, worker: Worker) -> uvicorn.Server:
    """Return what serves: `run(sockets=[listener])` until SIGINT or SIGTERM, or until `should_exit` is set.

    What runs then is interrupted, and its requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever sends such headers here is no proxy of ours
        http=BoundedConnection,
        ws="none",  # nothing here talks through a websocket
        limit_concurrency=PLACES,
        timeout_graceful_shutdown=10,
    )
    return _Server(config, worker)


class _Signalled(BaseException):
    """A signal asked the program to end."""


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, by which the program then dies as ever, end the block first, so that it cleans up.

    For the main thread. A signal that whoever started the program wants ignored, as nohup does, stays ignored.
    """
    asked: list[int] = []

    def end(number: int, _: object) -> None:
        asked.append(number)
        raise _Signalled

    try:
        with _handled(ENDING, end):
            yield
    except _Signalled:
        signal.raise_signal(asked[0])


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals in the block, but for those that are ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in [number for number, handled in before.items() if handled != signal.SIG_IGN]:
            signal.signal(number, handler)
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


class _Server(uvicorn.Server):
    """Ends the edits first when it stops, since requests wait for them."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGHUP, the end of a terminal, as uvicorn takes SIGTERM: requests are answered, then it is raised."""
        in_main = threading.current_thread() is threading.main_thread()  # others get no signals
        with super().capture_signals(), _handled(ENDING if in_main else [], self.handle_exit):
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._worker.close(timeout=0)
        await super().shutdown(sockets)


def bound_socket(host: str, port: int | None) -> socket.socket:
    """Return a listening socket on this port, or, with None, on the first free one from 7860. Raises UserError."""
    for attempt in [port] if port is not None else range(PORT, PORT + PORTS_TRIED):
        try:
            listener = socket.create_server((host, attempt), backlog=512)
            # asyncio sets this itself only on sockets that say they are TCP: without it the body of an answer, which is
            # sent after its head, waits 40 ms for the other side's acknowledgement
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return listener
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"Port {attempt} cannot be used ({error.strerror})", remedy=Remedy.OTHER_PORT
                ) from error
    last = port if port is not None else f"{PORT} to {PORT + PORTS_TRIED - 1}"
    raise UserError(f"Port {last} is taken by another program", remedy=Remedy.OTHER_PORT)


def outputs_folder(package: Path = PACKAGE) -> Path:
    """Return where results are saved: outputs/ beside launch.py in a checkout, else in the current folder."""
    return home_of(package) / "outputs"
