"""Starting from a fresh checkout and inside a host: environments, requirements, stamps, interruptions.

Real environments and the real pip, kept from any network: the packages are wheels that the tests write.
"""

import ast
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import launch

ROOT = Path(launch.__file__).parent
CLI = """\
import importlib.util, sys

def main(argv):
    import tiny
    print("words", argv, "extra", importlib.util.find_spec("extra") is not None)
    return 7
"""


def make_wheel(folder: Path, name: str, version: str = "1.0", code: str = "", requires: str = "") -> Path:
    """Write a wheel of one module, which can also be run with -m."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{name}/__main__.py", code)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def environ() -> dict[str, str]:
    """The process environment without a word about Python, pip or a host, and with the network ruled out."""
    mine = ("PYTHON", "PIP_", "CONDA", "VIRTUAL_ENV", "INDEX_URL", "COMMANDLINE_ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return {**kept, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def pip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds pip and nothing else."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        pytest.skip("this environment has no pip to lend")
    folder = tmp_path_factory.mktemp("pip")
    shutil.copytree(Path(found.origin).parent, folder / "pip")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout in small: the real launch.py and install.py, a one-module program, one local requirement."""
    folder = tmp_path / "project"
    cli = folder / "modules" / "instruct_pix2pix" / "cli"
    cli.mkdir(parents=True)
    for name in ("launch.py", "install.py"):
        shutil.copy(ROOT / name, folder / name)
    (cli.parent / "__init__.py").write_text("")
    (cli / "__init__.py").write_text("")
    (cli / "main.py").write_text(CLI)
    make_wheel(folder, "tiny")
    (folder / "requirements-run.txt").write_text("./tiny-1.0-py3-none-any.whl\n")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an empty virtual environment, without pip."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def start(
    python: Path | str, project: Path, environ: dict[str, str], *words: str, script: str = "launch.py"
) -> subprocess.CompletedProcess[str]:
    command = [str(python), script, *words]
    return subprocess.run(
        command, cwd=project, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


def stamps(python: Path) -> list[str]:
    return sorted(path.name for path in python.parent.parent.glob("*.stamp"))


def fake_pip(folder: Path, code: str) -> str:
    """Return a PYTHONPATH under which `python -m pip` runs `code`."""
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").write_text("")
    (folder / "pip" / "__main__.py").write_text(code)
    return str(folder)


# --- which Python ---


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18), (3, 14, 0), (4, 0, 0)])
def test_an_unsupported_python_is_named_together_with_the_supported_ones(version: tuple[int, ...]) -> None:
    sentence = launch.python_problem(version)
    assert sentence is not None
    assert ".".join(map(str, version)) in sentence
    assert "3.10 to 3.13" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 13, 9)])
def test_a_supported_python_has_no_problem_unless_it_is_a_32_bit_one(version: tuple[int, ...]) -> None:
    assert launch.python_problem(version) is None
    assert "32-bit" in (launch.python_problem(version, is_64bit=False) or "")


def test_an_unsupported_python_ends_with_status_2_and_touches_nothing(
    project: Path, environ: dict[str, str]
) -> None:
    code = "import sys, launch; sys.version_info = (3, 9, 1); sys.exit(launch.main(['edit']))"
    done = start(sys.executable, project, environ, code, script="-c")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "3.9.1" in done.stderr
    assert not (project / ".venv").exists()


def test_an_old_python_can_read_launch_py_far_enough_to_refuse() -> None:
    ast.parse((ROOT / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# --- a start ---


def test_the_help_of_the_tests_installs_nothing(project: Path, python: Path, environ: dict[str, str]) -> None:
    for program in (getattr(sys, "_base_executable", sys.executable), python):
        told = start(program, project, environ, "test", "--help")
        assert (told.returncode, told.stderr) == (0, "") and "--quick" in told.stdout
    assert not (project / ".venv").exists() and stamps(python) == []


def test_the_first_start_makes_an_environment_installs_and_runs_the_program(
    project: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    done = start(base, project, {**environ, "PYTHONPATH": str(pip_folder)}, "edit", "a b")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "words ['edit', 'a b'] extra False\n"  # what pip says is not on stdout
    assert (project / ".venv" / "pyvenv.cfg").exists()


def test_a_python_without_pip_and_ensurepip_is_told_which_package_to_install(
    project: Path, python: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ensurepip.py").write_text("raise SystemExit('there is no ensurepip')")
    done = start(python, project, {**environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr.splitlines()[-1]
    assert stamps(python) == []


def test_a_later_start_needs_no_pip_and_no_package_files(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    first = start(python, project, {**environ, "PYTHONPATH": str(pip_folder)}, "models")
    assert first.returncode == 7, first.stderr
    assert not (project / ".venv").exists()  # the active environment was used
    (project / "tiny-1.0-py3-none-any.whl").unlink()
    second = start(python, project, environ, "models")
    assert (second.returncode, second.stdout) == (7, first.stdout)
    assert second.stderr == ""


def test_changed_requirements_are_installed_at_the_next_start(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    with_pip = {**environ, "PYTHONPATH": str(pip_folder)}
    assert "extra False" in start(python, project, with_pip).stdout
    make_wheel(project, "extra")
    with (project / "requirements-run.txt").open("a") as file:
        file.write("./extra-1.0-py3-none-any.whl\n")
    assert "extra True" in start(python, project, with_pip).stdout


def test_a_failed_installation_says_so_in_a_sentence_and_is_tried_again(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    with_pip = {**environ, "PYTHONPATH": str(pip_folder)}
    (project / "tiny-1.0-py3-none-any.whl").rename(project / "elsewhere.whl")
    failed = start(python, project, with_pip)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[-1].startswith("Installing requirements-run.txt failed")
    assert "Traceback" not in failed.stderr
    assert stamps(python) == []
    (project / "elsewhere.whl").rename(project / "tiny-1.0-py3-none-any.whl")
    assert start(python, project, with_pip).returncode == 7
    assert stamps(python) == ["instruct-pix2pix-run.stamp"]
    (project / "requirements-run.txt").write_text("./missing-1.0-py3-none-any.whl\n")
    assert start(python, project, with_pip).returncode == 1
    assert stamps(python) == []  # what was installed before may be half replaced now


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_during_the_installation_ends_with_130_and_leaves_no_stamp(
    project: Path, python: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    code = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(60)"
    slow = fake_pip(tmp_path / "slow", code)
    process = subprocess.Popen(
        [python, "launch.py"],
        cwd=project,
        env={**environ, "PYTHONPATH": slow},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 300
    while not begun.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert "launch.py" not in said  # no traceback of ours; the interrupted pip may print its own
    assert stamps(python) == []


def test_of_two_starts_at_once_one_installs_and_both_run(
    project: Path, python: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    site = next(iter((python.parent.parent).rglob("site-packages")))
    code = f"""
import pathlib, time
with open({str(log)!r}, "a") as log: log.write("called\\n")
time.sleep(0.7)
pathlib.Path({str(site)!r}, "tiny.py").touch()
"""
    slow = {**environ, "PYTHONPATH": fake_pip(tmp_path / "slow", code)}
    both = [subprocess.Popen([python, "launch.py"], cwd=project, env=slow) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [7, 7]
    assert log.read_text() == "called\n"


def test_a_package_that_has_gone_is_named_and_comes_back_at_the_next_start(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    with_pip = {**environ, "PYTHONPATH": str(pip_folder)}
    cli = project / "modules" / "instruct_pix2pix" / "cli" / "main.py"
    cli.write_text("import tiny\n" + cli.read_text())
    assert start(python, project, with_pip).returncode == 7
    for part in python.parent.parent.rglob("tiny*"):
        shutil.rmtree(part)
    broken = start(python, project, with_pip)
    assert (broken.returncode, broken.stderr.count("\n")) == (1, 1)
    assert "'tiny'" in broken.stderr
    assert start(python, project, with_pip).returncode == 7


@pytest.fixture
def with_tools(project: Path) -> Path:
    """The checkout in small, whose ruff, pyright and pytest print their words; FAILING names one that fails."""
    for name in ("ruff", "pyright", "pytest"):
        code = "import os, sys; print('NAME', sys.argv[1:]); sys.exit(3 * (os.getenv('FAILING') == 'NAME'))"
        make_wheel(project, name, code=code.replace("NAME", name))
    wheels = "./ruff-1.0-py3-none-any.whl\n./pyright-1.0-py3-none-any.whl\n"
    (project / "requirements-dev.txt").write_text("-r requirements-run.txt\n" + wheels)
    (project / "requirements-reference.txt").write_text("./pytest-1.0-py3-none-any.whl\n")
    return project


def test_the_checks_run_in_turn_until_one_fails(
    with_tools: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    with_pip = {**environ, "PYTHONPATH": str(pip_folder)}
    done = start(python, with_tools, with_pip, "test", "-k", "one")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ruff", "pyright", "pytest"]
    assert "pytest ['-k', 'one']" in done.stdout
    all_of_it = start(python, with_tools, environ, "test")
    assert "pytest ['-n', 'auto', " in all_of_it.stdout
    failing = start(python, with_tools, {**environ, "FAILING": "pyright"}, "test")
    assert failing.returncode == 3
    assert [line.split()[0] for line in failing.stdout.splitlines()] == ["ruff", "pyright"]
    assert stamps(python) == ["instruct-pix2pix-run.stamp", "instruct-pix2pix-test.stamp"]


def test_the_quick_checks_are_those_of_the_package_and_its_core(
    with_tools: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    done = start(python, with_tools, {**environ, "PYTHONPATH": str(pip_folder)}, "test", "--quick", "-k", "one")
    assert done.returncode == 0, done.stderr
    ruff, pyright, tests = done.stdout.splitlines()
    assert ruff == "ruff ['check', '.']" and pyright.endswith("'modules']")
    assert tests.startswith("pytest ['tests/core', 'tests/guidance', ") and tests.endswith(", '-k', 'one']")
    assert "--quick" not in tests


def test_the_quick_checks_name_tests_that_are_there() -> None:
    named = [*launch.QUICK_TESTS, *launch.SLOW_AMONG_THEM]
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- which build of PyTorch ---


def nvidia_smi(folder: Path, says: str, status: int = 0) -> str:
    """Write a program that answers as nvidia-smi, and return a PATH with it."""
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(sys.platform != "linux", reason="the builds are Linux's")
@pytest.mark.parametrize(
    ("says", "status", "build"),
    [
        ("8.9, 580.65.06", 0, None),  # PyPI's, for CUDA 13
        ("7.5, 580.82", 0, None),
        ("6.1, 580.65.06", 0, "cu126"),  # GTX 10xx
        ("7.0, 570.86.10", 0, "cu126"),  # Tesla V100
        ("5.2, 535.183.01", 0, "cu126"),
        ("8.6, 550.54.14", 0, "cu126"),  # a driver from before CUDA 13
        ("6.1, 580.82\n8.6, 580.82", 0, "cu126"),
        ("12.0, 570.86.10", 0, None),  # CUDA 12.6 has no kernels for it
        ("6.1, 580.82\n12.0, 580.82", 0, None),
        ('Field "compute_cap" is not a valid field to query.', 2, "cu126"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, None),
    ],
)
def test_an_old_nvidia_card_or_driver_gets_pytorch_for_cuda_12(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int, build: str | None
) -> None:
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path / "bin", says, status))
    assert launch.torch_build() == build


@pytest.mark.skipif(sys.platform != "linux", reason="the builds are Linux's")
@pytest.mark.parametrize(
    ("amd", "intel", "build"),
    [
        (["gfx000", "gfx1100"], False, "rocm7.2"),  # a processor's own node, and an RX 7900
        (["gfx000"], True, "xpu"),
        (["gfx1201"], True, "rocm7.2"),
        (["gfx906"], False, "cpu"),  # a card that the build has no kernels for
        ([], False, "cpu"),
    ],
)
def test_without_an_nvidia_card_pytorch_is_for_the_card_that_is_there(
    monkeypatch: pytest.MonkeyPatch, amd: list[str], intel: bool, build: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(launch.Path, "exists", lambda path: False)
    monkeypatch.setattr(launch, "amd_cards", lambda: iter(amd))
    monkeypatch.setattr(launch, "has_intel_card", lambda: intel)
    assert launch.torch_build() == build


@pytest.mark.parametrize(
    ("versions", "cards"),
    [([0, 110000], ["gfx000", "gfx1100"]), ([90010], ["gfx90a"]), ([100300, 120001], ["gfx1030", "gfx1201"])],
)
def test_amd_cards_are_known_as_the_builds_name_them(tmp_path: Path, versions: list[int], cards: list[str]) -> None:
    for number, version in enumerate(versions):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(f"simd_count 64\ngfx_target_version {version}\nx 1\n")
    assert list(launch.amd_cards(tmp_path)) == cards
    assert (launch.AMD_CARDS & set(cards) == set()) == (cards == ["gfx000"])


def test_a_processors_own_graphics_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "properties").write_text("gfx_target_version 100306\n")  # Ryzen's, for which there is no build
    assert not launch.AMD_CARDS & set(launch.amd_cards(tmp_path))
    assert list(launch.amd_cards(tmp_path / "no such folder")) == []


@pytest.mark.parametrize(
    ("vendor", "device", "is_card"),
    [
        ("0x8086", "0x56a0", True),  # Arc A770
        ("0x8086", "0xe20b", True),  # Arc B580
        ("0x8086", "0x3e92", False),  # UHD 630
        ("0x1002", "0x5600", False),  # AMD's
    ],
)
def test_intels_own_cards_are_told_from_what_is_in_its_processors(
    tmp_path: Path, vendor: str, device: str, is_card: bool
) -> None:
    (tmp_path / "card0-HDMI-A-1" / "device").mkdir(parents=True)  # a plug of the card
    folder = tmp_path / "card0" / "device"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "device").write_text(device + "\n")
    assert launch.has_intel_card(tmp_path) is is_card


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="the builds are Linux's")
def test_pytorch_is_fetched_as_it_fits_the_card_or_from_where_a_person_says(
    project: Path, python: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    (project / "requirements-run.txt").write_text("torch==2.13.0\n")
    log = tmp_path / "log"
    code = f"import sys\nwith open({str(log)!r}, 'a') as log: log.write(' '.join(sys.argv[1:]) + '\\n')\n"
    paths = {"PYTHONPATH": fake_pip(tmp_path / "pip", code), "PATH": nvidia_smi(tmp_path / "bin", "6.1, 580.82")}
    start(python, project, {**environ, **paths})
    assert "--index-url https://download.pytorch.org/whl/cu126 torch==2.13.0" in log.read_text()
    stamp = python.parent.parent / stamps(python)[0]
    stamp.unlink()
    start(python, project, {**environ, **paths, "TORCH_INDEX_URL": "https://example.org/whl"})
    assert "--index-url https://example.org/whl torch==2.13.0" in log.read_text()


# --- inside a host ---


def test_install_py_is_silent_where_the_host_lacks_nothing(project: Path, environ: dict[str, str]) -> None:
    done = start(sys.executable, project, environ, script="install.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_py_without_a_network_says_one_sentence_and_lets_the_host_start(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str]
) -> None:
    with_pip = {**environ, "PYTHONPATH": str(pip_folder)}
    done = start(python, project, with_pip, script="install.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "einops" in done.stdout and "pip install" in done.stdout


def test_install_py_does_nothing_under_the_hosts_skip_install(
    project: Path, python: Path, environ: dict[str, str]
) -> None:
    skipping = {**environ, "COMMANDLINE_ARGS": "--api --skip-install"}
    done = start(python, project, skipping, script="install.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_py_adds_what_is_missing_and_keeps_the_version_that_is_there(
    project: Path, python: Path, pip_folder: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("einops", "omegaconf", "safetensors"):
        make_wheel(shelf, name)
    make_wheel(shelf, "tokenizers", "1.0", requires="huggingface_hub>=1")
    make_wheel(shelf, "tokenizers", "2.0", requires="huggingface_hub>=2")
    hosts_own = make_wheel(tmp_path, "huggingface_hub", "1.0")
    make_wheel(shelf, "huggingface_hub", "2.0")
    with_pip = {**environ, "PYTHONPATH": str(pip_folder), "PIP_FIND_LINKS": str(shelf)}
    subprocess.run([python, "-m", "pip", "install", "-q", hosts_own], env=with_pip, check=True)
    done = start(python, project, with_pip, script="install.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    present = {path.name for path in python.parent.parent.rglob("*.dist-info")}
    assert {"einops-1.0.dist-info", "tokenizers-1.0.dist-info", "huggingface_hub-1.0.dist-info"} <= present
    assert "huggingface_hub-2.0.dist-info" not in present
