"""A Hugging Face Space: the page for strangers, with a queue and limits; on ZeroGPU each edit borrows a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

try:
    import spaces  # before torch: it has to know what asks for a GPU
except ImportError:
    spaces = None

HERE = Path(__file__).resolve().parent
for folder in (HERE / "modules", HERE.parents[1] / "modules"):  # beside a copy of the library, or in a checkout
    if folder.is_dir():
        sys.path.insert(0, str(folder))
        break

from starlette.datastructures import Headers  # noqa: E402

from instruct_pix2pix import UserError, download  # noqa: E402
from instruct_pix2pix.models.registry import model_dirs  # noqa: E402
from instruct_pix2pix.server.limits import Limits  # noqa: E402
from instruct_pix2pix.server.options import ServeOptions  # noqa: E402
from instruct_pix2pix.server.serve import run  # noqa: E402
from instruct_pix2pix.server.visitors import Visitor  # noqa: E402
from instruct_pix2pix.server.worker.borrowed_gpu import BorrowedGpu  # noqa: E402

MODEL = "instruct-pix2pix-fp16"
"""What a Space edits with, unless its variable IP2P_MODEL names another; 'demo' is the small one that is included."""
FRAMES = ("https://huggingface.co", "https://*.huggingface.co")
"""The sites that show a Space."""
TOKEN = "x-ip-token"
"""The header by which ZeroGPU knows whose quota an edit is charged to."""
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Where the proxies in front of a Space have their addresses."""


class _Caller:
    """A request as ZeroGPU reads it."""

    def __init__(self, token: str) -> None:
        self.headers = Headers({TOKEN: token} if token else {})


def charge(visitor: Visitor) -> None:
    """Let the next GPU that this thread borrows be charged to a visitor."""
    from gradio.context import LocalContext

    LocalContext.request.set(_Caller(visitor.token))  # pyright: ignore[reportArgumentType]


def limits_of(text: str) -> Limits:
    """Return the limits, those in a text such as 'steps=30 seconds=90' in place of the usual. Raises UserError."""
    words = [word.partition("=") for word in text.replace(",", " ").split()]
    if wrong := [name for name, _, number in words if not (number.isascii() and number.isdigit())]:
        raise UserError(f"IP2P_LIMITS has {wrong[0]!r} without a number: write steps=30 seconds=90.")
    return Limits().changed((name, int(number)) for name, _, number in words)


def options_of(environment: dict[str, str]) -> ServeOptions:
    """Return how the page is served in a Space. Raises UserError."""
    wanted, folders = environment.get("IP2P_MODEL", MODEL), tuple(model_dirs())
    if wanted != "demo":
        wanted = str(download(wanted, folders[0], report=print))
    return ServeOptions(
        port=int(environment.get("GRADIO_SERVER_PORT") or 7860),
        listen=True,
        users=(),
        host_names=tuple(filter(None, (environment.get("SPACE_HOST"),))),
        root_path="",
        edit_folders=(),
        model=wanted,
        model_folders=folders,
        device="cpu" if lends(environment) else "auto",
        precision="fp32" if lends(environment) else "auto",
        memory=None,
        debug=False,
        limits=limits_of(environment.get("IP2P_LIMITS", "")),
        proxies=PRIVATE,
        frames=FRAMES,
        token_header=TOKEN,
    )


def lends(environment: dict[str, str]) -> bool:
    """Whether this Space borrows a GPU for each edit."""
    return spaces is not None and environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def main(environment: dict[str, str]) -> int:
    """Serve until stopped."""
    options, borrowed = options_of(environment), None
    if spaces is not None and lends(environment):
        assert options.limits is not None
        borrowed = BorrowedGpu(
            spaces.GPU(duration=options.limits.seconds),
            options.model_folders,
            device=environment.get("IP2P_DEVICE", "cuda"),
            charge=charge,
        )
        from spaces import zero

        zero.startup()  # what `Blocks.launch` does there: this page is mounted, not launched
    return run(options, borrowed)


if __name__ == "__main__":
    try:
        sys.exit(main(dict(os.environ)))
    except UserError as error:
        sys.exit(str(error))
