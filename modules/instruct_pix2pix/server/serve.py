"""The server: the guard, the API and the page on one port of this machine."""

from __future__ import annotations

import argparse
import errno
import logging
import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from ..engine.precision import choose_machine
from ..engine.process_memory import tune_memory
from ..errors import UserError
from ..models.catalog import Catalog
from ..models.registry import model_dirs, resolve
from ..paths import PACKAGE, home_of
from ..text import say
from .app import build
from .folder_access import FolderAccess
from .security import Credentials
from .worker.worker import Worker

PORT, PORTS_TRIED = 7860, 20


def run(args: argparse.Namespace) -> int:
    """Serve until stopped. Raises UserError for words that do not go together and for a port that is taken."""
    from .page.mount import page  # gradio takes a second to import, and only a server needs it

    if args.listen and args.auth is None and not args.insecure:
        raise UserError(
            "--listen lets everyone on the network use this program: add --auth USER:PASSWORD, or --insecure if that "
            "is what you want."
        )
    credentials = _credentials(args.auth) if args.auth is not None else None
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("instruct_pix2pix").setLevel(logging.DEBUG if args.debug else logging.INFO)
    tune_memory()
    machine = choose_machine(args.device, args.precision)
    dirs, outputs = model_dirs(args.models_dir), outputs_folder()
    catalog = Catalog(dirs, resolve(args.model, dirs) if args.model else None)
    places = FolderAccess.beside(outputs, tuple(args.allow_dir), private=not args.listen)
    with bound_socket("0.0.0.0" if args.listen else "127.0.0.1", args.port) as listener, Worker(machine) as worker:
        port = listener.getsockname()[1]
        if args.port is None and port != PORT:
            say(f"Port {PORT} is taken; this is {port}.")
        own = socket.gethostname().lower()
        app = build(
            worker,
            catalog,
            outputs=outputs,
            page=page(worker, catalog, outputs, places),
            credentials=credentials,
            host_names=[own, own.partition(".")[0] + ".local", *args.allow_host],
            listen=args.listen,
        )
        others = f" and, from other machines, http://{own}:{port}" if args.listen else ""
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
        limit_concurrency=256,
        timeout_graceful_shutdown=10,
    )
    return _Server(config, worker)


class _Server(uvicorn.Server):
    """Ends the edits first when it stops, since requests wait for them."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

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
                raise UserError(f"Port {attempt} cannot be used ({error.strerror}): choose another --port.") from error
    last = port if port is not None else f"{PORT} to {PORT + PORTS_TRIED - 1}"
    raise UserError(f"Port {last} is taken by another program: choose another --port.")


def outputs_folder(package: Path = PACKAGE) -> Path:
    """Return where results are saved: outputs/ beside launch.py in a checkout, else in the current folder."""
    return home_of(package) / "outputs"


def _credentials(text: str) -> Credentials:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UserError("--auth takes a name and a password: write them as USER:PASSWORD.")
    return Credentials(user, password)
