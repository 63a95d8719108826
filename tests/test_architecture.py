"""The shape of the house: its layers, its arrows, its names, read from every import and definition."""

import ast
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "modules"
LIBRARY = MODULES / "instruct_pix2pix"
HOST = "modules"  # how the host web GUIs call their own code
REFERENCES = ["torchvision", "transformers", "diffusers", "accelerate", "k_diffusion"]  # for tests alone

CORE = {file.stem for file in LIBRARY.glob("*.py")} - {"__init__", "panel"}
LAYERS = {
    "guidance": {"core"},
    "models": {"core"},
    "engine": {"models", "guidance", "core"},
    "batch": {"engine", "models", "guidance", "core"},
    "panel": {"models", "core"},
    "server": {"panel", "batch", "engine", "models", "guidance", "core"},
    "cli": {"server", "hosts", "batch", "engine", "models", "guidance", "core"},
    "hosts": {"guidance", "models", "core"},
    "core": set(),
    # the public face: what it names is imported when it is asked for
    "instruct_pix2pix": {"core", "guidance", "models", "engine", "batch"},
}
"""What each part of the package may import, besides itself."""

FRAMEWORKS = {"gradio": {"panel", "server"}, "fastapi": {"server"}, "starlette": {"server"}, "argparse": {"cli"}}
"""Who may use the libraries that make a door."""


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


@cache
def imports_in(file: Path) -> frozenset[str]:
    package = ".".join(file.parent.relative_to(MODULES).parts) if MODULES in file.parents else ""
    return frozenset(imports_of(file.read_text(encoding="utf-8"), package))


def forbidden(file: Path, *names: str) -> list[str]:
    """Return the imports of `file` that are one of `names` or lie inside it."""
    inside = tuple(f"{name}." for name in names)
    return sorted(name for name in imports_in(file) if f"{name}.".startswith(inside))


def module_of(file: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = file.relative_to(MODULES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """Return the part of the package that a module, or a name in one, belongs to."""
    name = [*module.split("."), ""][1]
    if not name or name.startswith("__"):
        return "instruct_pix2pix"
    return "core" if name in CORE else name


def named(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


LIBRARY_FILES = sorted(LIBRARY.rglob("*.py"))
HOSTS = sorted((LIBRARY / "hosts").rglob("*.py"))
STANDING_ALONE = [ROOT / "launch.py", ROOT / "install.py"]
EVERY_FILE = sorted(
    file
    for file in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in ("runs", "build") for part in file.relative_to(ROOT).parts)
)


# --- layers ---


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch.nn as nn", "torch.nn"),
        ("from ..engine import unet", "a.engine.unet"),
        ("from .main import run", "a.cli.main.run"),
        ("from . import main", "a.cli.main"),
        ("def f():\n    from gradio import Blocks", "gradio.Blocks"),
        ("importlib.import_module('gradio')", "gradio"),
    ],
)
def test_every_way_to_import_is_seen(source: str, name: str) -> None:
    assert imports_of(source, "a.cli") == {name}


def test_every_folder_of_the_package_has_its_place_among_the_layers() -> None:
    assert {layer_of(module_of(file)) for file in LIBRARY_FILES} == set(LAYERS)


@named(LIBRARY_FILES)
def test_arrows_point_down_only(file: Path) -> None:
    layer = layer_of(module_of(file))
    ours = [name for name in imports_in(file) if name.split(".")[0] == "instruct_pix2pix"]
    others = {layer_of(name) for name in ours} - {layer}
    if "instruct_pix2pix.__version__" in ours:
        others -= {"instruct_pix2pix"}
    assert others <= LAYERS[layer]


@named(LIBRARY_FILES)
def test_only_a_door_uses_the_libraries_that_make_it(file: Path) -> None:
    layer = layer_of(module_of(file))
    for library, users in FRAMEWORKS.items():
        if layer not in users:
            assert forbidden(file, library) == []


@named(LIBRARY_FILES)
def test_the_library_knows_no_host_but_where_it_runs_in_one(file: Path) -> None:
    if file not in HOSTS:
        assert forbidden(file, HOST) == []


@named(LIBRARY_FILES)
def test_the_library_runs_without_the_programs_its_tests_compare_with(file: Path) -> None:
    assert forbidden(file, *REFERENCES) == []


@named([*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "tools").rglob("*.py")), *LIBRARY_FILES])
def test_nothing_but_tests_imports_tests(file: Path) -> None:
    assert forbidden(file, "tests") == []


@named(STANDING_ALONE)
def test_what_runs_before_anything_is_installed_needs_only_the_standard_library(file: Path) -> None:
    others = {name for name in imports_in(file) if name.split(".")[0] not in sys.stdlib_module_names}
    assert others == ({"instruct_pix2pix.cli.main.main"} if file.name == "launch.py" else set())


# --- circles ---


def test_no_two_files_import_each_other_however_long_the_way() -> None:
    """Wherever in a file the import stands: what can only be imported late is a circle as well."""
    modules = {module_of(file): file for file in LIBRARY_FILES}

    def target(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    arrows = {
        module: {found for name in imports_in(file) if (found := target(name)) and found != module}
        for module, file in modules.items()
    }
    arrows["instruct_pix2pix"] = set()  # its version alone is imported, and what it names is imported when asked for
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(arrows[module]):
                walk(other, (*way, module))
            done.add(module)

    for module in modules:
        walk(module, ())


# --- names ---


@named([file for file in EVERY_FILE if "probe" not in file.parts])
def test_no_file_reaches_for_the_private_names_of_another(file: Path) -> None:
    ours = ("instruct_pix2pix", "tests", "tools", "benchmarks")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    from_ours = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    from_ours = [n for n in from_ours if n.level or (n.module or "").split(".")[0] in ours]
    names = [alias.name for node in from_ours for alias in node.names]
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []
    # and not by way of the module either
    imported = {alias.asname or alias.name for node in from_ours for alias in node.names}
    reached = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
        if node.attr.startswith("_") and not node.attr.startswith("__")
    ]
    assert reached == []


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for file in LIBRARY_FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(module_of(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@named(EVERY_FILE)
def test_every_file_begins_by_saying_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


# --- sizes and places ---


def test_the_extensions_script_stays_a_list_of_hooks() -> None:
    assert len((ROOT / "scripts" / "instruct_pix2pix.py").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("folder", sorted({file.parent for file in LIBRARY_FILES}), ids=lambda folder: folder.name)
def test_no_room_is_crowded(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 21


def test_modules_holds_one_package_and_is_not_a_package_itself() -> None:
    """Hosts have a package of that name: ours must not take its place, nor put a second name on its path."""
    entries = {path.name for path in MODULES.iterdir() if path.suffix != ".egg-info"}
    assert entries - {"__pycache__"} == {"instruct_pix2pix"}
