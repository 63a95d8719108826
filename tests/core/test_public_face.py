"""What a program may import from the package, used as a reader of the README would use it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import instruct_pix2pix

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "examples" / "house.png"


def test_a_picture_is_edited_in_a_few_lines(tmp_path: Path) -> None:
    from instruct_pix2pix import (
        DEMO,
        EditModel,
        EditSettings,
        Interrupted,
        choose_machine,
        edit,
        model_hash,
        open_picture,
        read_infotext,
        save_picture,
    )

    picture = open_picture(HOUSE)
    model = EditModel.load(DEMO, choose_machine("cpu", "fp32"))
    seen: list[int] = []
    settings = EditSettings("make it winter", steps=3, seed=1)
    (result,) = edit(model, picture.image, settings, on_step=lambda progress: seen.append(progress.step))
    path = save_picture(result.image, tmp_path / "winter.png", result.infotext(model.name, model_hash(DEMO)))

    assert seen == [1, 2, 3] and result.settings.seed == 1
    assert (read_infotext(path) or "").startswith("make it winter\nSteps: 3, Sampler: Euler a")
    assert open_picture(path).image.size == picture.image.size

    def stop(_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        list(edit(model, picture.image, settings, on_step=stop))


def test_a_model_file_is_told_and_errors_are_sentences() -> None:
    found = instruct_pix2pix.inspect(instruct_pix2pix.DEMO)
    assert isinstance(found, instruct_pix2pix.Checkpoint) and found.editable
    with pytest.raises(instruct_pix2pix.UserError, match="does not exist"):
        instruct_pix2pix.open_picture("missing.png")


def test_every_public_name_is_there_and_typed() -> None:
    names = instruct_pix2pix.__all__
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(instruct_pix2pix))
    assert all(getattr(instruct_pix2pix, name) is not None for name in names)
    tree = ast.parse(Path(instruct_pix2pix.__file__ or "").read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(names) - {"__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'instruct_pix2pix' has no attribute 'editor'"):
        instruct_pix2pix.editor  # noqa: B018
    with pytest.raises(ImportError):
        exec("from instruct_pix2pix import editor")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import instruct_pix2pix", {"torch", "numpy", "PIL", "instruct_pix2pix.settings"}),
        ("from instruct_pix2pix import EditSettings, inspect, open_picture", {"torch"}),
    ],
)
def test_what_is_not_asked_for_is_not_imported(code: str, absent: set[str]) -> None:
    code = f"import sys\n{code}\nprint(sorted({absent!r} & set(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
