"""Starts each host that the command line names, once, and stops it: `pytest tests/hosts --host a1111=PATH`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import checkpoints
from tests.hosts.comfy import Comfy
from tests.hosts.running import FLAGS, Host

Record = Callable[[str, object], None]
SEEN = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hosts")
    group.addoption(
        "--host",
        action="append",
        metavar="NAME=PATH[,PYTHON]",
        help=f"a host to test in: {', '.join(FLAGS)}; PYTHON is PATH/venv/bin/python unless given",
    )
    group.addoption("--comfy", metavar="PATH[,PYTHON]", help="a ComfyUI to test in, as --comfy=PATH")
    group.addoption("--host-pictures", metavar="FOLDER", help="a folder for screenshots of ComfyUI's page")
    group.addoption("--host-xl", action="store_true", help="test with SDXL checkpoints too, of 2.4 GB each")
    group.addoption("--host-summary", type=Path, metavar="FILE", help="a JSON file for the numbers that were seen")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = metafunc.config.getoption("--host", default=None) or []
    none = pytest.mark.skip(reason="no host is given: --host NAME=PATH")
    for fixture in {"host", "own"}.intersection(metafunc.fixturenames):
        metafunc.parametrize(
            fixture,
            given or [pytest.param("", marks=none)],
            ids=[one.split("=")[0] for one in given] or ["none"],
            indirect=True,
            scope="session",
        )


def parsed(given: str) -> tuple[str, Path, Path]:
    """NAME=PATH[,PYTHON] -> name, folder, interpreter."""
    name, _, rest = given.partition("=")
    path, _, python = rest.partition(",")
    folder = Path(path).resolve()
    interpreter = Path(python).absolute() if python else folder / "venv" / "bin" / "python"
    if name not in FLAGS or not (folder / "launch.py").is_file() or not interpreter.is_file():
        known = ", ".join(FLAGS)
        raise pytest.UsageError(f"--host {given}: want NAME=PATH[,PYTHON], NAME one of {known}, PATH a host's folder")
    return name, folder, interpreter


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running host with our folder and the probe among its extensions."""
    checkpoints.make(checkpoints.folder())
    name, folder, python = parsed(request.param)
    xl = bool(request.config.getoption("--host-xl"))
    if xl:
        checkpoints.make_xl(checkpoints.folder())
    running = Host(name, folder, python, tmp_path_factory.mktemp(name), xl=xl)
    running.start()
    request.config.stash.setdefault(SEEN, {}).setdefault(name, {})["commit"] = running.commit
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def comfy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A running ComfyUI with our folder and the probe among its packs."""
    given = request.config.getoption("--comfy", default=None)
    if not given:
        pytest.skip("no ComfyUI is given: --comfy=PATH")
    path, _, python = given.partition(",")
    xl = bool(request.config.getoption("--host-xl"))
    checkpoints.make(checkpoints.folder())
    if xl:
        checkpoints.make_xl(checkpoints.folder())
    folder = Path(path).resolve()
    interpreter = Path(python).absolute() if python else folder / "venv" / "bin" / "python"
    running = Comfy(folder, interpreter, tmp_path_factory.mktemp("comfy"), xl=xl)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running host for the tests of one file, with a copy of our folder that they may change."""
    checkpoints.make(checkpoints.folder())
    name, folder, python = parsed(request.param)
    running = Host(name, folder, python, tmp_path_factory.mktemp(name), copied=True)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def bare(host: Host, tmp_path: Path) -> Iterator[Host]:
    """The same host beside it, without our extension."""
    running = Host(host.name, host.folder, host.python, tmp_path, extension=False)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def editor(host: Host) -> Host:
    """The host with the checkpoint that edits selected, and nothing left over in the probe's file."""
    host.select(checkpoints.EDITS)
    host.records()
    return host


@pytest.fixture
def record(host: Host, request: pytest.FixtureRequest) -> Record:
    """Note a number for the summary."""

    def note(name: str, value: object) -> None:
        request.config.stash.setdefault(SEEN, {}).setdefault(host.name, {})[name] = value
        write_summary(request.config)

    return note


def write_summary(config: pytest.Config) -> None:
    """Bring the summary's file up to date, which keeps the numbers of a run that is cut short."""
    seen = config.stash.get(SEEN, {})
    file = config.getoption("--host-summary", default=None)
    if file and seen:
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        merged = {name: before.get(name, {}) | seen.get(name, {}) for name in {**before, **seen}}
        file.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, values in config.stash.get(SEEN, {}).items():
        terminalreporter.write_line(f"{name}: {json.dumps(values)}")
