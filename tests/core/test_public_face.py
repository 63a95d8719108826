"""What a program may import from the package, used as a reader of the README would use it."""

import ast
import base64
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import instruct_pix2pix
from instruct_pix2pix import EditModel

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


# --- in a notebook ---


class _Pictures(HTMLParser):
    """The pictures of a piece of HTML, by their titles, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pictures: dict[str, Image.Image] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            found = {name: value or "" for name, value in attrs}
            head, _, data = found["src"].partition(",")
            assert head == "data:image/webp;base64"
            self.pictures[found["title"]] = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def handle_data(self, data: str) -> None:
        self.text += data


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size, of 255."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_a_result_shows_itself_before_and_after(model: EditModel) -> None:
    house = instruct_pix2pix.open_picture(HOUSE)
    settings = instruct_pix2pix.EditSettings('<b>"make it winter"', steps=4, seed=3, text_cfg=6)
    [result] = instruct_pix2pix.edit(model, house, settings)
    page = _Pictures(result._repr_html_())
    assert list(page.pictures) == ["before", "after"]
    assert difference(page.pictures["before"], house.image) < 3  # WebP is not exact
    assert difference(page.pictures["after"], result.image) < 3 < difference(result.image, house.image)
    assert page.text.startswith('<b>"make it winter" (seed 3, Text CFG 6, Image CFG 1.5, 96 x 96, ')
    assert Image.open(io.BytesIO(result._repr_png_())).tobytes() == result.image.tobytes()
    assert Image.open(io.BytesIO(house._repr_png_())).tobytes() == house.image.tobytes()
    assert len(repr(result)) < 200 and "seed 3" in repr(result)


def test_what_a_notebook_keeps_of_a_large_picture_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 4000, 3), np.uint8)
    picture = instruct_pix2pix.Picture(Image.fromarray(noise), "noise.png")
    assert Image.open(io.BytesIO(picture._repr_png_())).size == (1024, 77)


# --- what may be given ---


def test_an_edit_takes_pictures_and_words_as_they_come(model: EditModel, tmp_path: Path) -> None:
    house = Image.open(HOUSE).convert("RGB")
    settings = instruct_pix2pix.EditSettings("make it winter", steps=2, seed=1)

    def made(image: Image.Image | instruct_pix2pix.Picture, **more: Any) -> Image.Image:
        [result] = instruct_pix2pix.edit(model, image, settings, **more)
        return result.image

    plain = made(house)
    assert made(instruct_pix2pix.open_picture(HOUSE)).tobytes() == plain.tobytes()
    clear = house.copy()
    clear.putalpha(Image.new("L", house.size, 0))
    clear.paste(house, (0, 0), Image.new("L", house.size, 255))  # opaque again
    assert made(clear).tobytes() == plain.tobytes()
    half = house.convert("RGBA")
    half.paste((0, 0, 0, 0), (0, 0, 96, 48))
    white = house.copy()
    white.paste("white", (0, 0, 96, 48))
    assert made(half).tobytes() == made(white).tobytes()
    assert made(house.convert("L")).tobytes() == made(house.convert("L").convert("RGB")).tobytes()

    below = Image.new("L", house.size, 0)
    below.paste(255, (0, 48, 96, 96))
    below.save(tmp_path / "mask.png")
    masked = made(house, mask=instruct_pix2pix.open_picture(tmp_path / "mask.png"))
    assert masked.tobytes() == made(house, mask=below).tobytes()
    assert masked.crop((0, 0, 96, 40)).tobytes() == house.crop((0, 0, 96, 40)).tobytes()


def test_sixteen_bits_a_channel_stay(model: EditModel, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (192, 192, 3), np.uint16)
    instruct_pix2pix.save_picture(deep, tmp_path / "deep.png")
    settings = instruct_pix2pix.EditSettings("make it winter", steps=1, seed=1, size="96")
    [result] = instruct_pix2pix.edit(model, instruct_pix2pix.open_picture(tmp_path / "deep.png", deep=True), settings)
    assert result.deep is not None and result.deep.dtype == np.uint16 and result.deep.shape == (192, 192, 3)


def test_the_instruction_alone_is_an_edit_with_the_defaults(model: EditModel) -> None:
    [result] = instruct_pix2pix.edit(model, Image.open(HOUSE), "make it winter")
    default = instruct_pix2pix.EditSettings("make it winter")
    assert result.settings == replace(default, seed=result.settings.seed)
    with pytest.raises(instruct_pix2pix.UserError, match="instruction is empty"):
        next(instruct_pix2pix.edit(model, Image.open(HOUSE), " "))


def test_a_model_is_loaded_by_its_name(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(instruct_pix2pix.DEMO.with_suffix(suffix), tmp_path / f"other{suffix}")
    machine = instruct_pix2pix.choose_machine("cpu", "fp32")
    assert instruct_pix2pix.EditModel.load("oth", machine, [tmp_path]).name == "other"
    assert instruct_pix2pix.EditModel.load("demo", machine).name == "demo"
    with pytest.raises(instruct_pix2pix.UserError, match="There is no model 'dreamshaper'"):
        instruct_pix2pix.EditModel.load("dreamshaper", machine, [tmp_path])


# --- the page about it ---


PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_run_and_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of Python, in order and in one namespace; a block of text after one is what it prints."""
    monkeypatch.chdir(tmp_path)
    Image.open(HOUSE).save("photo.jpg", quality=95)
    Path("photos").mkdir()
    for name in ("car", "ball"):
        shutil.copy(ROOT / "examples" / f"{name}.png", "photos")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert sum(kind == "python" for kind, _ in blocks) >= 6
    namespace: dict[str, object] = {}
    for (kind, block), (next_kind, said) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            exec(compile(block, "docs/library.md", "exec"), namespace)
            printed = capsys.readouterr().out
            if next_kind == "text":
                assert printed == said
    assert sorted(path.name for path in Path("results").iterdir()) == ["ball.png", "car.png"]
    assert (instruct_pix2pix.read_infotext("winter.jpg") or "").startswith("make it winter\nSteps: 20")


def test_the_page_has_every_public_name() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert sorted(table) == sorted(instruct_pix2pix.__all__)


def test_every_public_name_says_what_it_is() -> None:
    for name in set(instruct_pix2pix.__all__) - {"DEMO", "OnStep", "__version__"}:
        assert getattr(instruct_pix2pix, name).__doc__, name


def test_type_checkers_are_told_that_the_package_has_types() -> None:
    assert Path(instruct_pix2pix.__file__ or "").with_name("py.typed").is_file()
    # whether a wheel has it, pyproject.toml says
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


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
