"""The arrows between the folders, read from every import statement, and the shape of the repository."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "modules"
LIBRARY = MODULES / "instruct_pix2pix"
HOST = "modules"  # how the host web GUIs call their own code
REFERENCES = ["torchvision", "transformers", "diffusers", "accelerate", "k_diffusion"]  # for tests alone


def imports_of(source: str, package: str = "") -> set[str]:
    """Return the dotted name of all that `source`, a module of `package`, imports, wherever it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            found.update(str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant))
    return found


def imports_in(file: Path) -> set[str]:
    package = ".".join(file.parent.relative_to(MODULES).parts) if MODULES in file.parents else ""
    return imports_of(file.read_text(encoding="utf-8"), package)


def forbidden(file: Path, *names: str) -> list[str]:
    """Return the imports of `file` that are one of `names` or lie inside it."""
    inside = tuple(f"{name}." for name in names)
    return sorted(name for name in imports_in(file) if f"{name}.".startswith(inside))


def named(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


CORE = sorted(LIBRARY.glob("*.py"))
ENGINE = sorted((LIBRARY / "engine").rglob("*.py"))
APP = sorted((LIBRARY / "app").rglob("*.py"))
HOSTS = sorted((LIBRARY / "hosts").rglob("*.py"))
STANDING_ALONE = [ROOT / "launch.py", ROOT / "install.py"]
EVERY_FILE = sorted(
    file
    for file in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in ("runs", "build") for part in file.relative_to(ROOT).parts)
)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch.nn as nn", "torch.nn"),
        ("from ..engine import unet", "a.engine.unet"),
        ("from .cli import main", "a.app.cli.main"),
        ("from . import cli", "a.app.cli"),
        ("def f():\n    from gradio import Blocks", "gradio.Blocks"),
        ("importlib.import_module('gradio')", "gradio"),
    ],
)
def test_every_way_to_import_is_seen(source: str, name: str) -> None:
    assert imports_of(source, "a.app") == {name}


def test_there_is_a_core_an_engine_an_app_and_a_side_for_hosts() -> None:
    assert CORE and ENGINE and APP and HOSTS


@named(CORE)
def test_the_core_knows_no_door_no_host_and_no_engine(file: Path) -> None:
    up = ("engine", "app", "hosts")
    assert forbidden(file, "gradio", HOST, *(f"instruct_pix2pix.{name}" for name in up)) == []


@named(ENGINE)
def test_the_engine_knows_no_door_and_no_host(file: Path) -> None:
    assert forbidden(file, "gradio", HOST, "instruct_pix2pix.app", "instruct_pix2pix.hosts") == []


@named(APP)
def test_the_doors_that_stand_alone_know_no_host(file: Path) -> None:
    assert forbidden(file, HOST, "instruct_pix2pix.hosts") == []


@named(HOSTS)
def test_what_runs_inside_a_host_needs_neither_our_engine_nor_our_doors(file: Path) -> None:
    assert forbidden(file, "gradio", "instruct_pix2pix.app", "instruct_pix2pix.engine") == []


def test_the_extensions_script_stays_a_list_of_hooks() -> None:
    assert len((ROOT / "scripts" / "instruct_pix2pix.py").read_text(encoding="utf-8").splitlines()) < 150


@named([*CORE, *ENGINE, *APP, *HOSTS])
def test_the_library_runs_without_the_programs_its_tests_compare_with(file: Path) -> None:
    assert forbidden(file, *REFERENCES) == []


@named(STANDING_ALONE)
def test_what_runs_before_anything_is_installed_needs_only_the_standard_library(file: Path) -> None:
    others = {name for name in imports_in(file) if name.split(".")[0] not in sys.stdlib_module_names}
    assert others == ({"instruct_pix2pix.cli.main.main"} if file.name == "launch.py" else set())


def test_modules_holds_one_package_and_is_none_itself() -> None:
    """Hosts have a package of that name: ours must not take its place, nor put a second name on its path."""
    entries = {path.name for path in MODULES.iterdir() if path.suffix != ".egg-info"}
    assert entries - {"__pycache__"} == {"instruct_pix2pix"}


@named(EVERY_FILE)
def test_every_file_begins_by_saying_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
