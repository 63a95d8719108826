"""A folder of pictures through the command line, with the demo model: what comes out, what is told, what stays."""

import io
import json
import os
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageSequence
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from instruct_pix2pix.batch.animation import Timing, encode_animation
from instruct_pix2pix.batch.driver import Begun, Ended, Event, Summary, Wrote, facts_of, run_batch
from instruct_pix2pix.batch.journal import PictureState
from instruct_pix2pix.batch.local_executor import EditedUnit, PreparedPicture, UnitRunner, local_executor, paths_of
from instruct_pix2pix.batch.planning import BatchRequest, make_plan
from instruct_pix2pix.batch.units import Control, Item, ResultRequest, Unit, make_units
from instruct_pix2pix.cli import main
from instruct_pix2pix.engine.candidates import Search
from instruct_pix2pix.engine.edit import edit, resolved
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.search import Winner
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import encode_picture, open_picture, read_infotext
from instruct_pix2pix.infotext import parse, settings_from
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tests.helpers.batches import QUICK, contents, ends, lines, picture
from tools.demo_model import scenes

BROKEN = {
    "cut.png": "cut short",
    "empty.webp": "empty",
    "half.gif": "",
    "phone.heic": "",
    "sub/text.jpg": "not a picture",
    "gone.png": "does not exist",
}
ANIMATED = {"moving.gif": [70, 200, 130], "moving.webp": [90, 30, 400]}
STILL = {  # name: format, size
    "cmyk.jpg": ("JPEG", (96, 96)),
    "clear.png": ("PNG", (96, 96)),
    "deep.png": ("PNG", (96, 96)),
    "grey.bmp": ("PNG", (96, 48)),
    "photo.jpg": ("JPEG", (100, 150)),  # larger than the model's size: its own
    "plain.png": ("PNG", (96, 96)),
    "profile.png": ("PNG", (96, 96)),
    "still.gif": ("PNG", (96, 96)),
    "sub/ünï 日本.png": ("PNG", (96, 96)),
    "sub/deep/tiff.tif": ("TIFF", (96, 96)),
    "web.webp": ("WEBP", (400, 200)),
}


def batch(*words: object) -> int:
    return main.main(["batch", *map(str, words), *QUICK])


def mixed(folder: Path) -> Path:
    """A folder of what people have: formats, depths and orientations, broken and odd files, links in circles."""
    (folder / "sub" / "deep").mkdir(parents=True)
    picture(1).save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera Works"
    picture(2, (150, 100)).save(folder / "photo.jpg", exif=exif)
    picture(3, (400, 200)).save(folder / "web.webp")
    picture(4).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(picture(5).convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    clear = picture(6)
    clear.putalpha(Image.new("L", clear.size, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 32, 32))
    clear.save(folder / "clear.png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(7).save(folder / "profile.png", icc_profile=profile)
    picture(8, (96, 48)).convert("L").save(folder / "grey.bmp")
    picture(9).save(folder / "still.gif")
    picture(10).save(folder / "sub" / "ünï 日本.png")
    picture(11).save(folder / "sub" / "deep" / "tiff.tif")
    for name, durations in ANIMATED.items():
        first, *rest = [picture(seed, (64, 48)) for seed in (12, 13, 14)]
        first.save(folder / name, save_all=True, append_images=rest, duration=durations, loop=0)
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:900])
    (folder / "half.gif").write_bytes((folder / "moving.gif").read_bytes()[:2500])
    (folder / "empty.webp").write_bytes(b"")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "sub" / "text.jpg").write_text("not a picture")
    (folder / "notes.md").write_text("no picture, and none is meant")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "sub" / "round").symlink_to(folder, target_is_directory=True)
    return folder


class Run:
    """One run over the mixed folder, looked at by many tests."""

    def __init__(self, base: Path) -> None:
        self.folder = mixed(base / "in")
        self.out = self.folder / "out"
        self.before = contents(self.folder)
        words = [self.folder, self.out, "make it winter", "--recursive", "--contact-sheet", "--json"]
        streams = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", streams[0])
            patch.setattr("sys.stderr", streams[1])
            self.status = batch(*words)
        self.stdout, self.stderr = (stream.getvalue() for stream in streams)
        self.after = contents(self.folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("mixed"))


def test_every_good_picture_is_there_in_its_own_format_and_framing(done: Run) -> None:
    made = {Path(name).with_suffix("") for name in contents(done.out)} - {Path("contact-sheet")}
    assert made == {Path(name).with_suffix("") for name in (*STILL, *ANIMATED)}
    for name, (fmt, size) in STILL.items():
        path = done.out / name
        with Image.open(path if path.exists() else path.with_suffix(".png")) as image:
            assert (image.format, image.size) == (fmt, size), name


def test_the_inputs_are_byte_for_byte_what_they_were(done: Run) -> None:
    assert {name: data for name, data in done.after.items() if not name.startswith("out/")} == done.before


def test_every_picture_ends_in_the_journal_and_the_status_tells_of_failures(done: Run) -> None:
    found = ends(done.out)
    assert set(found) == {*STILL, *ANIMATED, *BROKEN}
    assert {name for name, line in found.items() if line["state"] == "failed"} == set(BROKEN)
    assert {line["state"] for line in found.values()} == {"done", "failed"}
    assert all(said in found[name]["reason"] for name, said in BROKEN.items())
    assert done.status == 1 and "13 done, 6 failed" in done.stderr
    assert all(Path(name).name in done.stderr for name in BROKEN) and "Traceback" not in done.stderr


def test_json_has_an_object_for_each_file_and_each_failure(done: Run) -> None:
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    good = [fact for fact in facts if fact["state"] == "done"]
    assert {Path(fact["path"]) for fact in good} == {p for p in done.out.rglob("*.*") if "sheet" not in p.name} - {
        done.out / "batch.jsonl"
    }
    assert all(fact["rows"] == 3 * (3 if "moving" in fact["path"] else 1) for fact in good)
    assert {fact["name"]: bool(fact["reason"]) for fact in facts if fact["state"] == "failed"} == dict.fromkeys(
        BROKEN, True
    )


def test_pictures_carry_their_settings_and_seeds_of_their_own(done: Run) -> None:
    seeds = set()
    for name in ("plain.png", "photo.jpg", "web.webp", "sub/deep/tiff.tif", "moving.gif", "moving.webp"):
        settings, left_out = settings_from(read_infotext(done.out / name) or "")
        assert settings.instruction == "make it winter" and not left_out
        seeds.add(settings.seed)
        assert ends(done.out)[name]["seeds"] == [settings.seed]
    assert len(seeds) == 6


def test_camera_colour_profile_and_transparency_are_kept(done: Run) -> None:
    with Image.open(done.out / "photo.jpg") as image:
        assert image.getexif()[0x010F] == "Camera Works" and image.getexif().get(0x0112, 1) == 1
    with Image.open(done.out / "profile.png") as image, Image.open(done.folder / "profile.png") as source:
        assert image.info["icc_profile"] == source.info["icc_profile"]
    alpha = np.asarray(Image.open(done.out / "clear.png"))[..., 3]
    assert alpha[4:28, 4:28].max() < 20 and alpha[40:, 40:].min() == 255


@pytest.mark.parametrize("name", ANIMATED)
def test_animations_are_edited_frame_by_frame_with_one_seed_and_keep_their_timing(
    done: Run, model: EditModel, name: str
) -> None:
    settings = EditSettings("make it winter", steps=1, seed=ends(done.out)[name]["seeds"][0])
    with Image.open(done.folder / name) as source:
        made = (edit(model, frame.convert("RGB"), settings) for frame in ImageSequence.Iterator(source))
        frames = [one.image for (one,) in made]
    written = encode_animation(frames, name.rpartition(".")[2].upper(), Timing((100,) * len(frames), 0))
    with Image.open(io.BytesIO(written)) as image:
        alone = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(image)]
    times, nearest = [], []
    with Image.open(done.out / name) as image:
        assert image.size == (96, 72) and image.info["loop"] == 0
        for frame in ImageSequence.Iterator(image):
            got = np.asarray(frame.convert("RGB"), int)
            times.append(round(frame.info["duration"]))
            distances = [np.abs(got - one).mean() for one in alone]
            assert min(distances) < 2
            nearest.append(int(np.argmin(distances)))
    assert (times, nearest) == (ANIMATED[name], [0, 1, 2])


def test_the_contact_sheet_shows_what_was_done(done: Run) -> None:
    with Image.open(done.out / "contact-sheet.jpg") as sheet:
        assert sheet.width > 4 * 300 and np.asarray(sheet.convert("L")).std() > 20


def test_the_same_command_again_makes_nothing_anew_and_says_the_same(done: Run, capsys) -> None:
    journal = (done.out / "batch.jsonl").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in done.out.rglob("*.*")}
    assert batch(done.folder, done.out, "make it winter", "--recursive") == 1
    assert "13 done before, 6 failed" in capsys.readouterr().err
    assert (done.out / "batch.jsonl").read_bytes() == journal
    assert {path: path.stat().st_mtime_ns for path in done.out.rglob("*.*")} == times


def test_a_result_is_that_of_a_single_edit(done: Run, model: EditModel) -> None:
    for name in ("plain.png", "photo.jpg", "grey.bmp", "clear.png", "sub/ünï 日本.png"):
        source = open_picture(done.folder / name)
        seed = ends(done.out)[name]["seeds"][0]
        settings = EditSettings("make it winter", steps=1, seed=seed)
        (alone,) = edit(model, source.image, settings)
        result = done.out / ends(done.out)[name]["outputs"][0]
        got = np.asarray(Image.open(result).convert("RGB"), int)
        if result.suffix == ".jpg":
            written = Image.open(io.BytesIO(encode_picture(alone.image, "JPEG")))
            assert np.abs(got - np.asarray(written, int)).mean() < 1, name
        else:
            assert np.abs(got - np.asarray(alone.image, int)).max() <= 1, name


# --- options ---


def small(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for seed, name in enumerate(names):
        picture(seed + 20).save(folder / name)
    return folder


def test_a_count_gives_numbered_results_with_the_seeds_that_follow(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", "a.png", "b.jpg")
    words = [folder, tmp_path / "out", "make it night", "--count", 3, "--seed", 7, "--format", "webp"]
    assert batch(*words, "--quality", 80) == 0
    assert set(contents(tmp_path / "out")) == {f"{name}-{n}.webp" for name in "ab" for n in (1, 2, 3)}
    assert ends(tmp_path / "out")["a.png"]["seeds"] == [7, 8, 9]
    texts = [parse(read_infotext(tmp_path / "out" / f"b-{n}.webp") or "").fields["Seed"] for n in (1, 2, 3)]
    assert texts == ["7", "8", "9"]
    smaller = sum(map(len, contents(tmp_path / "out").values()))
    assert batch(*words, "--quality", 20, "--overwrite") == 0
    assert sum(map(len, contents(tmp_path / "out").values())) < smaller


def test_a_table_gives_each_picture_its_own_words_and_settings(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    rows = [
        {"name": "a.png", "instruction": "make it night"},
        {"name": "b.png", "instruction": "make it " + "very " * 90 + "cold", "negative": "green"},
        {"name": "c.png", "instruction": "make it winter AND make it night :0.5", "image_cfg": 1.2},
        {"name": "d.png", "instruction": "turn it into autumn", "text_cfg": 4, "count": 2, "randomize_cfg": "both"},
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    assert batch(folder, tmp_path / "out", "--instructions", table, "--seed", 3) == 0
    assert set(contents(tmp_path / "out")) == {"a.png", "b.png", "c.png", "d-1.png", "d-2.png"}
    for row in rows:
        values = {"steps": 1, "seed": 3, **{key: value for key, value in row.items() if key != "name"}}
        alone = list(edit(model, open_picture(folder / row["name"]).image, EditSettings(**values)))
        for name, one in zip(ends(tmp_path / "out")[row["name"]]["outputs"], alone, strict=True):
            got = np.asarray(Image.open(tmp_path / "out" / name), int)
            assert np.abs(got - np.asarray(one.image, int)).max() <= 1, name


@pytest.mark.parametrize(
    "words", [["--best-of", "3"], ["--strength", "strong", "--keep-rest", "0.3"], ["--zoom", "--best-of", "2"]]
)
def test_what_is_found_for_a_folder_is_what_edit_finds_and_is_told_the_same(
    tmp_path: Path, model: EditModel, capsys, words: list[str]
) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png")
    asked = ["make it night", "--steps", "5", "--size", "64", "--count", "2", "--seed", "7", *words]
    few = ["--model", "demo", "--precision", "fp32", "--json"]
    assert main.main(["batch", str(folder), str(tmp_path / "out"), *asked, *few]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name in ("a", "b"):
        assert main.main(["edit", str(folder / f"{name}.png"), *asked, *few, "-o", str(tmp_path / f"{name}.png")]) == 0
        alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        mine = [each for each in told if each["name"] == f"{name}.png"]
        for key in ("seed", "text_cfg", "image_cfg", "cost", "rows"):
            assert [each[key] for each in mine] == [each[key] for each in alone], key
        entry = ends(tmp_path / "out")[f"{name}.png"]
        assert entry["seeds"] == [each["seed"] for each in alone]
        assert entry["scales"] == [[each["text_cfg"], each["image_cfg"]] for each in alone]
        assert entry["cost"] == pytest.approx(sum(each["cost"] for each in alone), abs=0.02)
        for number in (1, 2):
            paths = (tmp_path / "out" / f"{name}-{number}.png", tmp_path / f"{name}-{number}.png")
            got, wanted = (np.asarray(Image.open(path).convert("RGB"), int) for path in paths)
            assert np.abs(got - wanted).max() <= 1
            assert read_infotext(paths[0]) == read_infotext(paths[1])


def test_variations_are_numbered_and_each_is_told_as_what_it_is(tmp_path: Path, model: EditModel, capsys) -> None:
    folder = small(tmp_path / "in", "a.png")
    asked = [folder, tmp_path / "out", "make it {night|winter}", "--count", 2, "--seed", 5, "--contact-sheet"]
    assert batch(*asked) == 0
    said = capsys.readouterr().out.splitlines()
    for line, what, seed in zip(said, ("night", "night", "winter", "winter"), (5, 6, 5, 6), strict=True):
        assert f"('make it {what}', seed {seed}, " in line
    for n, one in enumerate(EditSettings("make it {night|winter}", steps=1, count=2, seed=5).pictures(), 1):
        (alone,) = edit(model, open_picture(folder / "a.png").image, replace(one, count=1))
        path = tmp_path / "out" / f"a-{n}.png"
        assert parse(read_infotext(path) or "").instruction == one.instruction
        assert np.abs(np.asarray(Image.open(path), int) - np.asarray(alone.image, int)).max() <= 1
    assert batch(*asked[:-1], "--json", "--overwrite", "--quality", 94) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["instruction"] for each in told] == ["make it night"] * 2 + ["make it winter"] * 2


def test_how_much_to_change_and_scales_are_not_both_asked_for(tmp_path: Path, capsys) -> None:
    folder = small(tmp_path / "in", "a.png")
    for more in (["--text-cfg", "5"], ["--best-of", "2"], ["--randomize-cfg", "image"]):
        assert batch(folder, tmp_path / "out", "x", "--strength", "normal", *more) == 1
        assert "How much to change" in (said := capsys.readouterr().err) or "cannot be combined" in said
    assert not (tmp_path / "out").exists()


def test_texts_of_searches_are_encoded_once_too(tmp_path: Path, model: EditModel) -> None:
    small(tmp_path / "in", "a.png", "b.png", "c.png")
    calls = []
    hook = model.text.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert go(request(tmp_path, search=Search(best_of=2)), model).done == 3
    finally:
        hook.remove()
    assert len(calls) == 2  # the instruction and the empty text


def test_sidecars_and_earlier_edits_give_instructions_and_it_is_told(tmp_path: Path, capsys) -> None:
    folder = small(tmp_path / "in", "side.png", "plain.png")
    (folder / "side.txt").write_text("make it night\nNegative prompt: green\n")
    assert batch(folder, tmp_path / "first", "make it winter") == 0
    assert "Instructions: 1 from text files beside the pictures, 1 from the command." in capsys.readouterr().err
    read = parse(read_infotext(tmp_path / "first" / "side.png") or "")
    assert (read.instruction, read.negative) == ("make it night", "green")
    assert batch(tmp_path / "first", tmp_path / "second", "make it sunset") == 0
    assert "--ignore-infotext" in capsys.readouterr().err
    assert parse(read_infotext(tmp_path / "second" / "plain.png") or "").instruction == "make it winter"


def test_the_frames_of_an_animation_keep_the_same_rest(tmp_path: Path, model: EditModel) -> None:
    """In batches of two of three frames; the region does not flicker, and outside it each frame is its own."""
    scene = scenes.scene(400003)
    first, *rest = [Image.fromarray(scenes.draw(scene, 192)).rotate(0, translate=(shift, 0)) for shift in (0, 3, 6)]
    path = tmp_path / "moving.webp"
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
    settings = resolved(EditSettings("paint the ball pink", seed=5, steps=6, keep_rest="always"))
    item = Item("moving.webp", path, settings, ("moving.webp",), "WEBP", 95, (192, 192), 3, "")
    runner = UnitRunner(model, None)
    prepared = runner.prepare(Unit((ResultRequest(item, 0),), 2))
    [frames] = runner.edit(prepared).edits
    assert not isinstance(frames, (UserError, Winner)) and len(frames) == 3
    insides = [np.asarray(frame.made.inside) for frame in frames]
    assert 0.1 < (insides[0] > 0).mean() < 0.9 and all((one == insides[0]).all() for one in insides)
    assert frames[0].rows == frames[1].rows  # a shared region costs no row in the steps
    outside = insides[0] == 0
    for frame in frames:
        assert (np.asarray(frame.image)[outside] == np.asarray(frame.made.before)[outside]).all()
    [result] = runner.encode(EditedUnit(prepared, (frames,)))
    with Image.open(io.BytesIO(result.data or b"")) as made:
        assert made.size == (192, 192) and len([*ImageSequence.Iterator(made)]) == 3
    assert result.notes == ()
    zoomed = replace(item, settings=replace(settings, zoom=True))
    [moving] = runner.prepare(Unit((ResultRequest(zoomed, 0),), 2)).pictures
    assert isinstance(moving, PreparedPicture) and moving.notes == ("Only the region has no effect on an animation.",)


def test_of_a_transparent_mask_the_opaque_part_is_edited_in_stills_and_animations(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "in" / "still.png")
    frames = [picture(2), picture(3)]
    frames[0].save(tmp_path / "in" / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    mask = Image.new("RGBA", (96, 96), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 48, 96))
    made = []
    for kind, one in (("clear", mask), ("grey", mask.getchannel("A"))):
        (tmp_path / kind).mkdir()
        for name in ("still", "moving"):
            one.save(tmp_path / kind / f"{name}.png")
        output = tmp_path / "out" / kind
        assert batch(tmp_path / "in", output, "make it night", "--masks", tmp_path / kind, "--seed", 1) == 0
        made.append(contents(output))
    assert sorted(made[0]) == ["moving.webp", "still.png"] and made[0] == made[1]


def test_how_a_picture_was_read_and_what_was_passed_over_is_told(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.jpg").write_bytes((tmp_path / "in" / "a.jpg").read_bytes()[:-2])
    (tmp_path / "in" / "a.nef").write_bytes(b"")
    assert batch(tmp_path / "in", tmp_path / "out", "make it night") == 0
    told = capsys.readouterr().err
    assert "a.jpg is cut short: next to nothing is missing." in told and "Passed over: 1 .nef," in told


def test_masks_confine_the_edit(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 20, 40))
    for name in ("a.png", "b.webp"):
        mask.save(tmp_path / "masks" / name, lossless=True)
    assert batch(folder, tmp_path / "out", "make it night", "--masks", tmp_path / "masks") == 0
    for name in ("a.png", "b.png"):
        was, now = (np.asarray(Image.open(where / name), int) for where in (folder, tmp_path / "out"))
        assert np.abs(was - now)[:, 49:].max() == 0 and np.abs(was - now)[:, :40].mean() > 5


def test_files_of_others_are_left_alone_until_told_otherwise(tmp_path: Path, capsys) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert batch(folder, tmp_path / "out", "make it night") == 1
    assert "a.png is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    assert ends(tmp_path / "out")["a.png"]["state"] == "skipped"
    night = (tmp_path / "out" / "b.png").read_bytes()
    assert batch(folder, tmp_path / "out", "make it winter") == 1  # b.png is there from another request
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "out" / "b.png").read_bytes() == night
    assert batch(folder, tmp_path / "out", "make it night") == 1  # which did not make it forget
    assert "1 done before, 1 skipped" in capsys.readouterr().err
    assert batch(folder, tmp_path / "out", "make it night", "--overwrite") == 0
    assert (tmp_path / "out" / "b.png").read_bytes() == night
    assert Image.open(tmp_path / "out" / "a.png").size == (96, 96)
    assert batch(folder, tmp_path / "out", "make it winter", "--overwrite") == 0
    assert (tmp_path / "out" / "b.png").read_bytes() != night


def test_what_failed_is_tried_again_on_request_and_what_has_gone_is_made_again(tmp_path: Path, capsys) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png", "c.png")
    good = (folder / "b.png").read_bytes()
    state = (folder / "b.png").stat()
    (folder / "b.png").write_bytes(good[:700] + b"\0" * (len(good) - 700))
    os.utime(folder / "b.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    words = [folder, tmp_path / "out", "make it night"]
    assert batch(*words) == 1
    first = contents(tmp_path / "out")
    assert set(first) == {"a.png", "c.png"} and "2 done, 1 failed" in capsys.readouterr().err
    (folder / "b.png").write_bytes(good)
    os.utime(folder / "b.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert batch(*words) == 1 and "2 done before, 1 failed" in capsys.readouterr().err
    assert batch(*words, "--retry-failed") == 0 and "1 done, 2 done before" in capsys.readouterr().err
    (tmp_path / "out" / "c.png").unlink()
    assert batch(*words) == 0
    assert contents(tmp_path / "out")["c.png"] == first["c.png"]
    assert contents(tmp_path / "out")["a.png"] == first["a.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in", "in", "x"], "another folder"),
        (["nowhere", "out", "x"], "nowhere"),
        (["in", "in/a.png", "x"], "is a file"),
        (["in", "out"], "instruction is empty"),
        (["in", "out", "x", "--instructions", "none.csv"], "none.csv"),
        (["in", "out", "x", "--sampler", "Oiler a"], "Euler a"),
        (["in", "out", "x", "--masks", "nomasks"], "nomasks"),
        (["in", "out", "x", "--format", "gif"], "gif"),
        (["in", "out", "x", "--quality", "101"], "Quality"),
        (["empty", "out", "x"], "no pictures"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_left(
    tmp_path: Path, monkeypatch, capsys, words: list[str], said: str
) -> None:
    small(tmp_path / "in", "a.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert batch(*words) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and said in told[0]
    assert not (tmp_path / "out").exists() and not (tmp_path / "in" / "batch.jsonl").exists()


# --- how it is made ---


def request(folder: Path, **more) -> BatchRequest:
    return BatchRequest(folder / "in", folder / "out", EditSettings("make it night", steps=2, seed=1), **more)


def go(request: BatchRequest, model: EditModel, control: Control | None = None, report=lambda _: None) -> Summary:
    control = control or Control()
    executor = local_executor(UnitRunner(model, "0123456789"), control)
    return run_batch(request, facts_of(DEMO, "fp32"), executor, report=report, control=control)


def test_each_text_is_encoded_once(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", *(f"{n}.png" for n in range(6)))
    for n in range(0, 6, 2):
        (folder / f"{n}.txt").write_text("make it winter")
    calls = []
    hook = model.text.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert go(request(tmp_path, batch_size=2), model).done == 6
    finally:
        hook.remove()
    assert len(calls) == 3  # two instructions and the empty text


def test_a_picture_that_the_model_fails_on_fails_alone(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    (folder / "c.txt").write_text("(" * 45 + "snow" + ":10)" * 45)
    summary = go(request(tmp_path, batch_size=4), model)
    assert (summary.done, summary.failed, set(summary.reasons)) == (3, 1, {"c.png"})
    assert "too extreme" in summary.reasons["c.png"]
    assert set(contents(tmp_path / "out")) == {"a.png", "b.png", "d.png"}


def test_a_lora_is_on_for_those_pictures_alone_that_ask_for_it(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "models" / "Lora").mkdir(parents=True)
    conv = {"up": torch.full((96, 1, 1, 1), 0.1), "down": torch.full((1, 8, 3, 3), 0.3)}
    night = {f"lora_unet_conv_in.lora_{side}.weight": value for side, value in conv.items()}
    save_file({**night, "emb.night": torch.ones(1)}, tmp_path / "models" / "Lora" / "night.safetensors")
    model = EditModel.load(DEMO, choose_machine("cpu", "fp32"), [tmp_path / "models"])
    for name in ("b", "d"):
        (folder / f"{name}.txt").write_text("make it winter <lora:night>")
    (folder / "c.txt").write_text("make it winter <lora:day>")
    summary = go(request(tmp_path, batch_size=4), model)
    assert (summary.done, summary.failed) == (3, 1) and "no LoRA 'day'" in summary.reasons["c.png"]
    together = {name: open_picture(tmp_path / "out" / name).image for name in ("a.png", "b.png", "d.png")}
    notes = [note for line in lines(tmp_path / "out") for note in line.get("notes", [])]
    assert len([note for note in notes if "'night' 1 of 3 tensors" in note]) <= 1
    shutil.rmtree(tmp_path / "out")
    (folder / "b.txt").write_text("make it winter")
    go(request(tmp_path, batch_size=1), model)
    alone = {name: open_picture(tmp_path / "out" / name).image for name in together}

    def distance(name: str) -> float:
        pair = (np.asarray(each[name]).astype(int) for each in (together, alone))
        return float(np.abs(next(pair) - next(pair)).max())

    assert max(distance("a.png"), distance("d.png")) <= 1 < distance("b.png")


def test_files_that_only_the_driver_has_can_be_sent_to_a_worker(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png")
    plan = make_plan(request(tmp_path), 1, (None,), resolved)
    (unit,) = make_units(plan.items, {("a.png", 0), ("b.png", 0)}, [], size=96, factor=8)
    maker = UnitRunner(model, None)
    here = maker(unit)
    files = {path: path.read_bytes() for path in paths_of(unit)}
    shutil.rmtree(folder)
    there = maker(pickle.loads(pickle.dumps(unit)), files)
    assert [one.data for one in pickle.loads(pickle.dumps(there))] == [one.data for one in here]
    gone = maker(unit)
    assert all(one.data is None and "does not exist" in str(one.problem) for one in gone)


def test_a_run_pauses_goes_on_and_stops_when_told(tmp_path: Path, model: EditModel) -> None:
    small(tmp_path / "in", *(f"{n}.png" for n in range(9)))
    control, paused = Control(), threading.Event()
    begun, ended = [], []

    def report(event: Event) -> None:
        if isinstance(event, Begun):
            begun.append(event.unit)
            if len(begun) == 3:
                control.pause()
                paused.set()
        elif isinstance(event, Ended):
            ended.append(event.entry.name)
            if len(ended) == 6:
                control.stop()

    def watch() -> None:
        paused.wait(300)
        for _ in range(6000):  # what is on its way is handed over while the run is paused
            if len(ended) == 3:
                break
            threading.Event().wait(0.05)
        seen.append((len(begun), len(ended)))
        control.resume()

    seen: list[tuple[int, int]] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    summary = go(request(tmp_path, batch_size=1), model, control, report)
    watcher.join()
    assert seen == [(3, 3)]
    assert 6 <= summary.done <= 8 and summary.left == 9 - summary.done and not summary.ok
    assert go(request(tmp_path, batch_size=1), model).before == summary.done
    assert len(contents(tmp_path / "out")) == 9


def test_a_run_tells_of_each_file_and_each_picture_as_they_come(tmp_path: Path, model: EditModel) -> None:
    small(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "c.png").write_text("")
    events: list[Event] = []
    request = BatchRequest(tmp_path / "in", tmp_path / "out", EditSettings("x", steps=1, count=2))
    go(request, model, report=events.append)
    wrote = [event.path.name for event in events if isinstance(event, Wrote)]
    assert wrote == ["a-1.png", "a-2.png", "b-1.png", "b-2.png"]
    assert [(e.entry.name, e.entry.state) for e in events if isinstance(e, Ended)] == [
        ("c.png", PictureState.FAILED),
        ("a.png", PictureState.DONE),
        ("b.png", PictureState.DONE),
    ]
    assert all((tmp_path / "out" / name).exists() for name in wrote)


def test_settings_at_which_pictures_cannot_share_are_kept_apart(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png", "c.png")
    table = tmp_path / "t.csv"
    table.write_text("name,denoise,rescale,sampler\na.png,0.6,0,Euler\nb.png,1,0.7,DPM++ 2M\nc.png,0.6,0,Euler\n")
    assert go(request(tmp_path, instructions=table), model).done == 3
    begun = [line["started"] for line in lines(tmp_path / "out") if "started" in line]
    assert sorted([one[0] for one in unit] for unit in begun) == [["a.png", "c.png"], ["b.png"]]
    settings = EditSettings("make it night", steps=2, seed=1, denoise=0.6, sampler="Euler")
    (alone,) = edit(model, open_picture(folder / "c.png").image, settings)
    got = np.asarray(Image.open(tmp_path / "out" / "c.png"), int)
    assert np.abs(got - np.asarray(alone.image, int)).max() <= 1


def test_a_picture_whose_header_and_pixels_disagree_is_still_made(tmp_path: Path, model: EditModel) -> None:
    folder = small(tmp_path / "in", "a.png", "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    picture(3, (96, 48)).save(data, "PNG", exif=exif)
    whole = data.getvalue()
    start = whole.index(b"eXIf") - 4  # the orientation behind the pixels, where only a full read finds it
    length = 12 + int.from_bytes(whole[start : start + 4], "big")
    chunk = whole[start : start + length]
    (folder / "b.png").write_bytes(whole[:start] + whole[start + length : -12] + chunk + whole[-12:])
    picture(4, (96, 48)).save(folder / "c.png", pnginfo=PngInfo())
    assert go(request(tmp_path), model).done == 3
    assert Image.open(tmp_path / "out" / "b.png").size == (48, 96)
    assert Image.open(tmp_path / "out" / "c.png").size == (96, 48)
