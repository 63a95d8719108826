"""Run by a host web GUI before it starts: installs the small packages that the extension uses and the host lacks.

The host's own packages stay as they are: it has PyTorch, NumPy, Pillow and gradio, and pip is told to keep every
version that is there. A failure prints one sentence and never keeps the host from starting.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDED = ["einops", "huggingface_hub", "omegaconf", "safetensors", "tokenizers"]  # names of packages and of modules


def missing() -> list[str]:
    """Return those of NEEDED that this Python cannot import."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def install(names: list[str]) -> bool:
    """Let pip install `names` and what they need, and change no package that is present; return success."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    listing = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        present = Path(folder) / "present.txt"
        present.write_bytes(listing.stdout)
        command = [*pip, "install", "--retries", "1", "--prefer-binary", "--constraint", str(present), *names]
        if os.environ.get("INDEX_URL"):  # the hosts' own way to name a mirror
            command += ["--index-url", os.environ["INDEX_URL"]]
        done = subprocess.run(command, capture_output=True, check=False)
    return listing.returncode == 0 and done.returncode == 0


def main() -> None:
    """Install what is missing; print nothing when nothing is."""
    if "--skip-install" in os.environ.get("COMMANDLINE_ARGS", "").split():
        return
    names = missing()
    if names and not install(names):
        print(
            f"instruct-pix2pix: could not install {', '.join(names)}; "
            f"when there is a network, run: {sys.executable} -m pip install {' '.join(names)}"
        )


if __name__ == "__main__":
    main()
