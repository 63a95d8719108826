"""Start from a fresh checkout: make an environment, install what is pinned, run the command line.

    python launch.py [words of the command line]
    python launch.py test [words for pytest]       ruff, pyright and pytest, until one fails
    python launch.py test --quick [words for pytest]       the same for the package and its core alone: for every save
    python launch.py test --help                           says so, and installs nothing

Only the standard library is used, and no syntax newer than Python 3.7, so that an old Python can be told
in one sentence that it is too old. What this file says goes to stderr: stdout belongs to the program.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = {"run": ["requirements-run.txt"], "test": ["requirements-dev.txt", "requirements-reference.txt"]}
QUICK_TESTS = ["tests/core", "tests/guidance", "tests/models", "tests/test_architecture.py"]
SLOW_AMONG_THEM = ["tests/core/test_panel.py", "tests/core/test_grid.py", "tests/guidance/test_cached.py"]
TOGETHER = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
"""Words for pytest-xdist: several files of tests at a time, each with one core."""
APT = "(on Debian and Ubuntu: apt install python3-venv), then run the same command again."


TEST_HELP = """usage: python launch.py test [--quick] [words for pytest]

Check this checkout: ruff, pyright and pytest, one after the other, until one fails.

  --quick   the types of the package and the tests of core, guidance and models alone: a minute
  others    go to pytest: python launch.py test tests/engine -k winograd

Without words all tests run, several files at a time.

The first run makes the environment .venv and installs what the checks need, some gigabytes.
"""


class SetupError(Exception):
    """One sentence: what is wrong and what to do."""


def say(text: str) -> None:
    """Print one line on stderr, where somebody reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def python_problem(version: tuple[int, ...], is_64bit: bool = True) -> str | None:
    """Return why this Python cannot run the program, in one sentence, or None when it can."""
    if (3, 10) <= version[:2] <= (3, 13) and is_64bit:
        return None
    found = ".".join(map(str, version[:3])) + ("" if is_64bit else " (32-bit)")
    return (
        f"This is Python {found}, but the program runs on 64-bit Python 3.10 to 3.13: install one of those "
        "(https://www.python.org/downloads/) and start launch.py with it, e.g. 'python3.12 launch.py'."
    )


# --- the environment ---


def in_environment() -> bool:
    """Whether this Python runs in a virtual or conda environment; conda's shared 'base' does not count."""
    here, environments = Path(sys.prefix).resolve(), [ROOT / ".venv"]
    if os.environ.get("CONDA_DEFAULT_ENV", "base") != "base":
        environments.append(Path(os.environ.get("CONDA_PREFIX", "")))
    return sys.prefix != sys.base_prefix or any(here == home.resolve() for home in environments)


def own_environment() -> Path:
    """Return the Python of the .venv beside this file; a missing one is made, without pip."""
    home = ROOT / ".venv"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists():
        return python
    with locked(ROOT / ".venv.lock"):
        if not python.exists():
            say(f"Making a Python environment in {home}")
            if _python("venv", "--without-pip", "--clear", str(home)) != 0:
                raise SetupError(f"Python could not make {home}: install its venv module {APT}")
    return python


def run_inside(python: Path, argv: list[str]) -> int:
    """Start this file again with `python` and return its exit status (POSIX: this process becomes it)."""
    command = [str(python), str(ROOT / "launch.py"), *argv]
    with contextlib.suppress(OSError, ValueError, AttributeError):  # pythonw has no stdout
        sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C reached the child as well, and it is the child that decides
            continue


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock `path`, so that only one of several starts installs; the lock ends with the process at the latest."""
    with path.open("a") as file:
        if not _try_lock(file.fileno()):
            say("Another start of this program is installing; waiting for it.")
            while not _try_lock(file.fileno()):
                time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error means that the file system has no locks: go on without one.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


# --- the requirements ---


def stamp_of(stage: str) -> Path:
    """Return the file in the environment that records what was installed for 'run' or 'test'."""
    return Path(sys.prefix) / f"instruct-pix2pix-{stage}.stamp"


def digest_of(stage: str) -> str:
    """Return the content of the stamp after a whole installation: a hash of the files and the Python version."""
    content = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for name in REQUIREMENTS[stage]:
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()


def is_installed(stage: str) -> bool:
    """Whether the environment holds what the requirements files ask for now; looks at the stamp alone."""
    try:
        return stamp_of(stage).read_text() == digest_of(stage)
    except FileNotFoundError:
        return False


def install(stage: str) -> None:
    """Install what 'run' or 'test' needs, unless it was done before. Only a whole installation is stamped."""
    if is_installed(stage):
        return
    with locked(Path(sys.prefix) / "instruct-pix2pix.lock"):
        if is_installed(stage):  # by the start that this one waited for
            return
        with contextlib.suppress(FileNotFoundError):
            stamp_of(stage).unlink()
        say(f"Installing what is needed to {stage} (once; the first time takes some minutes)")
        try:
            _pip_install(stage)
        except KeyboardInterrupt:
            say("Stopped before everything was installed; run the same command again to finish.")
            raise
        part = stamp_of(stage).with_suffix(".part")
        part.write_text(digest_of(stage))
        part.replace(stamp_of(stage))
    importlib.invalidate_caches()


def _pip_install(stage: str) -> None:
    if importlib.util.find_spec("pip") is None and _python("ensurepip", "--default-pip") != 0:
        raise SetupError(f"This Python comes without pip: install its ensurepip module {APT}")
    for name in REQUIREMENTS[stage]:
        torch = [word for word in (ROOT / name).read_text().split() if word.startswith("torch==")]
        index = _torch_index() if torch else None
        if index and _python("pip", "install", "--retries", "1", "--index-url", index, *torch) != 0:
            say(f"PyTorch could not be downloaded from {index}; taking the general build.")
        only = ["--no-deps"] if name == "requirements-reference.txt" else []
        if _python("pip", "install", "--disable-pip-version-check", *only, "-r", name) != 0:
            raise SetupError(
                f"Installing {name} failed: read pip's message above, check the network and the free disk "
                "space, then run the same command again."
            )


def _torch_index() -> str | None:
    """Return where to get PyTorch when PyPI's build does not fit this machine and pip may look elsewhere.

    The variable TORCH_INDEX_URL, which is AUTOMATIC1111's, names another place.
    """
    asked = os.environ.get("TORCH_INDEX_URL")
    if asked:
        return asked
    build = torch_build()
    if build is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    config = subprocess.run([sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE).stdout
    if any(word in config for word in (b"index-url", b"find-links", b"no-index")):
        return None  # the person has named a source of packages: use that one
    return f"https://download.pytorch.org/whl/{build}"


# --- which build of PyTorch ---

OLD_CUDA = "cu126"
"""The last build for CUDA 12, for cards from Maxwell (GTX 9xx) to Hopper; from PyTorch 2.15 on there is none."""
OLDEST_OF_CUDA_13, NEWEST_OF_OLD_CUDA = 7.5, 10.0
"""Compute capabilities: Turing's (GTX 16xx, RTX 20xx), where CUDA 13 begins; Blackwell's, which 12.6 is without."""
DRIVER_OF_CUDA_13 = 580.0
"""The version of the driver that CUDA 13 begins with."""
WSL_NVIDIA_SMI = "/usr/lib/wsl/lib/nvidia-smi"
UNKNOWN_QUESTION = 2
"""The exit status of nvidia-smi for what it does not know."""
AMD_BUILD = "rocm7.2"
AMD_CARDS = {"gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151"}
AMD_CARDS |= {"gfx1200", "gfx1201"}
"""Those that the build has kernels for."""
INTEL_CARDS = ("0x56", "0xe2", "0x0b")
"""How the PCI ids of Intel's own cards begin: Arc A, Arc B, Data Center Max."""


def torch_build() -> str | None:
    """Return the build of PyTorch for this machine's graphics cards, by its name; None for PyPI's.

    PyPI's Linux build is for CUDA 13 and brings gigabytes of it, wasted without an NVIDIA card; its Windows build uses
    no card at all.
    """
    program = shutil.which("nvidia-smi") or shutil.which(WSL_NVIDIA_SMI)
    if program is not None or Path("/proc/driver/nvidia").exists():
        newest = {"linux": None, "win32": "cu130"}.get(sys.platform)
        return OLD_CUDA if program is not None and needs_old_cuda(nvidia_cards(program)) else newest
    if sys.platform != "linux":
        return None
    if AMD_CARDS & set(amd_cards()):
        return AMD_BUILD
    return "xpu" if has_intel_card() else "cpu"


def nvidia_cards(program: str) -> list[tuple[float, float]]:
    """Return the compute capability of each card and the version of its driver; 0 where the driver is too old to say.

    An empty list where there is no card that works.
    """
    command = [program, "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = said.stdout.decode("utf-8", "replace").splitlines()
    cards = [re.match(r"\s*(\d+\.\d+),\s*(\d+\.\d+)", line) for line in lines]
    known = [(float(card.group(1)), float(card.group(2))) for card in cards if card is not None]
    return [(0.0, 0.0)] if said.returncode == UNKNOWN_QUESTION else known


def needs_old_cuda(cards: list[tuple[float, float]]) -> bool:
    """Whether a card or its driver is too old for CUDA 13, and none is too new for CUDA 12.6."""
    old = any(capability < OLDEST_OF_CUDA_13 or driver < DRIVER_OF_CUDA_13 for capability, driver in cards)
    return old and all(capability < NEWEST_OF_OLD_CUDA for capability, _ in cards)


def amd_cards(topology: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> Iterator[str]:
    """Yield what the driver calls this machine's AMD cards, such as 'gfx1100'."""
    for file in sorted(topology.glob("*/properties")):
        with contextlib.suppress(OSError):
            found = re.search(r"^gfx_target_version (\d+)$", file.read_text(), re.MULTILINE)
            version = int(found.group(1)) if found is not None else 0
            yield f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def has_intel_card(cards: Path = Path("/sys/class/drm")) -> bool:
    """Whether there is an Intel Arc or Data Center card: those built into older processors are of no use to PyTorch."""
    for device in cards.glob("card*/device"):
        with contextlib.suppress(OSError):
            is_intel = (device / "vendor").read_text().strip() == "0x8086"
            if is_intel and (device / "device").read_text().strip()[:4] in INTEL_CARDS:
                return True
    return False


def _python(*words: str) -> int:
    """Run `python -m words` in the repository, its stdout shown on stderr; return the exit status."""
    return subprocess.call([sys.executable, "-m", *words], cwd=str(ROOT), stdout=2)


# --- what is started ---


def run_program(argv: list[str]) -> int:
    """Run the command line in this process and return its exit status."""
    sys.path.insert(0, str(ROOT / "modules"))
    try:
        from instruct_pix2pix.cli.main import main as program
    except ModuleNotFoundError as error:
        if (error.name or "instruct_pix2pix").startswith("instruct_pix2pix"):
            raise
        stamp_of("run").unlink()
        raise SetupError(f"'{error.name}' is missing: run the same command again to install it.") from None
    return program(argv)


def run_checks(words: list[str]) -> int:
    """Run the linter, the type checker and the tests; return the first exit status that is not 0, or 0.

    After --quick, only the package is type-checked and only the tests of its core run, those apart that take long.
    The other words go to pytest. Without any, all tests run, several files at a time.
    """
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # or it asks for a newer pyright
    pyright, pytest = ["pyright", "--pythonpath", sys.executable], ["pytest", *words]
    if not words:
        pytest += TOGETHER
        environment.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")  # busy threads slow each other down
    if words[:1] == ["--quick"]:
        pyright += ["modules"]
        pytest = ["pytest", *QUICK_TESTS, *("--ignore=" + path for path in SLOW_AMONG_THEM), *words[1:]]
    for check in [["ruff", "check", "."], pyright, pytest]:
        say("== " + " ".join(check))
        status = subprocess.call([sys.executable, "-m", *check], cwd=str(ROOT), env=environment)
        if status != 0:
            return status
    return 0


def main(argv: list[str]) -> int:
    """Set up what is missing, then start what `argv` asks for; return the exit status."""
    problem = python_problem(sys.version_info[:3], sys.maxsize > 2**32)
    if problem:
        say(problem)
        return 2
    testing = argv[:1] == ["test"]
    if testing and argv[1:2] in (["-h"], ["--help"]):
        print(TEST_HELP, end="")
        return 0
    try:
        if not in_environment():
            return run_inside(own_environment(), argv)
        for stage in ["run", "test"] if testing else ["run"]:
            install(stage)
    except OSError as error:
        say(f"Setting up failed: {error}; check the folder's permissions and the disk, then run this again.")
        return 1
    return run_checks(argv[1:]) if testing else run_program(argv)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as problem:
        say(str(problem))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
