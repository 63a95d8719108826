"""What a folder of pictures comes to before anything is made: which pictures, which words, which names."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from instruct_pix2pix.batch.instruction_table import InstructionTable, read_instructions
from instruct_pix2pix.batch.planning import BatchPlan, BatchRequest, find_pictures, make_plan, output_names
from instruct_pix2pix.batch.units import StartedResult, make_units
from instruct_pix2pix.engine.edit import resolved
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.infotext import build
from instruct_pix2pix.settings import EditSettings

EDITED = build(EditSettings("make it night"), seed=5, size=(8, 8), model_name="m", model_hash=None)
GENERATED = "a castle, best quality\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8"


def add(path: Path, size: tuple[int, int] = (8, 8), infotext: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if infotext:
        info.add_text("parameters", infotext)
    Image.new("RGB", size, "red").save(path, pnginfo=info)
    return path


def plan(folder: Path, instruction: str = "make it winter", **more) -> BatchPlan:
    output = more.pop("output", folder / "out")
    settings = more.pop("settings", EditSettings(instruction))
    return make_plan(BatchRequest(folder, output, settings, **more), more.pop("run_seed", 1), ("abc", "fp32"), resolved)


def asked(folder: Path, **more) -> dict[str, str]:
    return {item.name: item.settings.instruction for item in plan(folder, **more).items}


# --- which pictures ---


def test_folders_are_looked_into_on_request_and_links_in_circles_end(tmp_path: Path) -> None:
    for name in ("a.png", "süß/日本.jpg", "süß/deep/c.webp", ".hidden.png", ".git/x.png", "readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "süß" / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "again").symlink_to(tmp_path / "süß", target_is_directory=True)
    assert find_pictures(tmp_path).names == ("a.png",)
    found = find_pictures(tmp_path, recursive=True)
    assert (found.names, found.refused) == (("a.png", "süß/deep/c.webp", "süß/日本.jpg"), ())


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert find_pictures(tmp_path / "in", recursive=True).names == ("link/b.png",)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="whoever runs this may read everything")
def test_a_folder_that_may_not_be_read_is_told_of(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    found = find_pictures(tmp_path, recursive=True)
    assert found.names == ("a.png",) and "closed" in str(found.refused[0].problem)


def test_every_ending_of_a_jpeg_and_a_png_is_taken(tmp_path: Path) -> None:
    for name in ("a.JPE", "b.mpo", "c.jfif", "d.apng", "e.dib"):
        fmt = {"apng": "PNG", "dib": "BMP"}.get(name[2:], "JPEG")
        Image.new("RGB", (8, 8)).save(tmp_path / name, fmt)
    made = plan(tmp_path)
    assert [(item.name, *item.outputs, item.fmt) for item in made.items] == [
        ("a.JPE", "a.jpg", "JPEG"),
        ("b.mpo", "b.jpg", "JPEG"),
        ("c.jfif", "c.jpg", "JPEG"),
        ("d.apng", "d.png", "PNG"),
        ("e.dib", "e.png", "PNG"),
    ]
    assert made.notes == ()


def test_what_is_passed_over_is_counted_by_its_ending(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    for name in ("a.dng", "b.DNG", "sub/c.dng", "c.nef", "d.svg", "a.txt", "notes.md", ".hidden.dng", "out/x.dng"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    advice = "which cannot be read here. To edit one, save it as JPEG, PNG or TIFF."
    assert plan(tmp_path).notes == (f"Passed over: 2 .dng, 1 .nef, 1 .svg, {advice}",)
    assert plan(tmp_path, recursive=True).notes == (f"Passed over: 3 .dng, 1 .nef, 1 .svg, {advice}",)


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a.cr2", "b.cr2"):
        (tmp_path / "raw" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"no pictures in raw that can be read\. Passed over: 2 \.cr2"):
        plan(tmp_path / "raw")


@pytest.mark.parametrize("letter", ["a", "ü"])
@pytest.mark.parametrize("count", [1, 12])
def test_the_longest_names_have_results_and_text_files(letter: str, count: int, tmp_path: Path) -> None:
    stem = (letter * 255)[: 251 // len(letter.encode())]
    add(tmp_path / f"{stem}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / f"{stem[:-1]}b.gif")
    Image.new("RGB", (8, 8)).save(tmp_path / f"{stem}.gif")
    (tmp_path / f"{stem}.txt").write_text("make it night")
    made = plan(tmp_path, settings=EditSettings("make it winter", count=count))
    assert [item.settings.instruction for item in made.items if item.name.startswith(stem)] == ["make it night"] * 2
    names = [name for item in made.items for name in item.outputs]
    assert len(set(names)) == 3 * count and max(len(os.fsencode(name)) for name in names) <= 255


def test_results_and_masks_inside_the_input_are_no_input(tmp_path: Path) -> None:
    for name in ("a.png", "out/a.png", "masks/a.png"):
        add(tmp_path / name)
    made = plan(tmp_path, recursive=True, masks=tmp_path / "masks")
    assert [item.name for item in made.items] == ["a.png"]
    assert made.items[0].mask == tmp_path / "masks" / "a.png"


def test_pictures_of_kinds_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert [(one.name, one.state.value) for one in plan(tmp_path).refused] == [("phone.HEIC", "failed")]


def test_results_of_a_phone_s_heic_are_jpegs(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 48))).save(tmp_path / "IMG_1.HEIC")
    (item,) = plan(tmp_path).items
    assert (item.outputs, item.fmt, item.size) == (("IMG_1.jpg",), "JPEG", (64, 48))


# --- which folders ---


def test_the_output_may_not_be_the_input_by_any_name(tmp_path: Path) -> None:
    add(tmp_path / "in" / "a.png")
    add(tmp_path / "in" / "sub" / "b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "in" / "sub", target_is_directory=True)
    for output in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / "." / "sub" / "..", tmp_path / "out"):
        with pytest.raises(UserError, match="another"):
            plan(tmp_path / "in", output=output, recursive=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"masks": Path("nowhere")}, "nowhere"),
        ({"fmt": "gif"}, "gif"),
        ({"quality": 0}, "Quality"),
        ({"instruction": "  "}, "instruction is empty"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused_in_a_sentence(tmp_path: Path, more: dict, said: str) -> None:
    add(tmp_path / "a.png")
    with pytest.raises(UserError, match=said):
        plan(tmp_path, **more)


def test_a_folder_without_pictures_says_where_they_may_be(tmp_path: Path) -> None:
    add(tmp_path / "sub" / "a.png")
    with pytest.raises(UserError, match="--recursive"):
        plan(tmp_path)


# --- which words ---


def test_the_nearest_instruction_is_taken(tmp_path: Path) -> None:
    for name in ("command.png", "table.png", "sidecar.png"):
        add(tmp_path / name)
    for name in ("own.png", "own-and-sidecar.png", "own-and-table.png"):
        add(tmp_path / name, infotext=EDITED)
    add(tmp_path / "generated.png", infotext=GENERATED)
    for name in ("sidecar.txt", "own-and-sidecar.txt", "table.txt"):
        (tmp_path / name).write_text("\ufeffturn it into autumn\r\n", "utf-8")
    table = tmp_path / "t.csv"
    table.write_text("name,instruction\ntable.png,make it sunset\nown-and-table.png,make it sunset\n")
    wanted = {
        "command.png": "make it winter",
        "generated.png": "make it winter",
        "own-and-sidecar.png": "turn it into autumn",
        "own-and-table.png": "make it sunset",
        "own.png": "make it night",
        "sidecar.png": "turn it into autumn",
        "table.png": "make it sunset",
    }
    assert asked(tmp_path, instructions=table) == wanted
    assert asked(tmp_path, use_infotext=False)["own.png"] == "make it winter"
    assert plan(tmp_path).origins == {"command": 2, "infotext": 2, "sidecar": 3}


def test_a_text_behind_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    whole = add(tmp_path / "a.png", infotext=EDITED).read_bytes()
    start = whole.index(b"tEXt") - 4
    length = 12 + int.from_bytes(whole[start : start + 4], "big")
    text, end = whole[start : start + length], whole[-12:]
    (tmp_path / "a.png").write_bytes(whole[:start] + whole[start + length : -12] + text + end)
    assert asked(tmp_path) == {"a.png": "make it night"}


@pytest.mark.parametrize(
    "text",
    [
        'name,instruction,Text CFG,steps\na.png,"first, then second",9,3\n',
        "Name;instruction;text-cfg;steps\r\na.png;first, then second;9;3\r\n\r\n",
        "file_name\tinstruction\ttext_cfg\tsteps\na.png\tfirst, then second\t9\t3",
        '{"name": "a.png", "instruction": "first, then second", "text_cfg": 9, "steps": 3, "seed": null}\n',
    ],
)
def test_tables_are_read_as_people_write_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text("\ufeff" + text, "utf-8")
    row = {"instruction": "first, then second", "text_cfg": 9.0, "steps": 3}
    assert read_instructions(tmp_path / "t") == InstructionTable({"a.png": row})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,instruction\na.png,x\nb.png,one, two\n", "Line 3 .*quotation marks"),
        ("name,instruction,text_cfg\na.png,x,99\n", "Line 2 .*Text CFG is 99"),
        ("name,instruction,colour\na.png,x,red\n", "no setting 'colour'"),
        ("instruction\nx\n", "names no picture"),
        ("name,instruction\na.png,x\na.png,y\n", "Line 3 .*before"),
        ('{"name": "a.png"}\n{"name": \n', "Line 2"),
        ('{"name": "a.png", "steps": "many"}\n', "Line 1 .*Steps"),
        ("name,instruction\n", "no instructions"),
        ("", "no instructions"),
    ],
)
def test_a_mistake_in_a_table_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_instructions(tmp_path / "t.csv")


def test_a_sampler_that_a_table_names_is_resolved_for_its_picture_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        add(tmp_path / name)
    (tmp_path / "t.csv").write_text("name,sampler,schedule\na.png,k_dpmpp_2m_ka,\nb.png,Oiler,\n")
    made = plan(tmp_path, instructions=tmp_path / "t.csv")
    assert [(item.name, item.settings.sampler, item.settings.schedule) for item in made.items] == [
        ("a.png", "DPM++ 2M", "Karras"),
        ("c.png", "Euler a", EditSettings().schedule),
    ]
    (refused,) = made.refused
    assert refused.name == "b.png" and "Euler" in str(refused.problem)


ROW = {"instruction": "first, then second", "text_cfg": 7.5}
SAVED = {
    "with a line for Excel": 'sep=;\r\nName;Instruction;Text CFG\r\na.png;"first, then second";7,5\r\n',
    "with that line quoted": '"sep=\t"\nname\tinstruction\ttext_cfg\na.png\tfirst, then second\t7.5\n',
    "with empty columns and rows": (
        ',,,,\r\nname,instruction,text_cfg,,\r\n\r\na.png,"first, then second",7.5,,\r\n,,,,\r\n,,,,\r\n'
    ),
    "with quoted titles": '"name";"text_cfg";"instruction"\n"a.png";7,5;"first, then second"\n',
    "with cells kept from Excel": 'name;instruction;text_cfg\n="a.png";"=""first, then second""";"=""7,5"""\n',
    "by an old Mac": 'name,instruction,text_cfg\ra.png,"first, then second",7.5\r',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("how", SAVED)
def test_tables_are_read_as_spreadsheets_save_them(tmp_path: Path, how: str, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes(SAVED[how].encode(encoding))
    assert read_instructions(tmp_path / "t.csv") == InstructionTable({"a.png": ROW})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 and so on", "spreadsheet.*CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "spreadsheet.*CSV UTF-8"),
        ("name,instruction\na.png,n\u00e4her".encode("cp1252"), "not UTF-8 text.*CSV UTF-8"),
        ("name,instruction\na.png,x".encode("utf-16-le"), "not UTF-8 text.*CSV UTF-8"),
        (b"name,instruction,\na.png,x,a note\n", "Line 2 .*form of the others"),
        (b"name,instruction,seed\na.png,x,3.34736E+09\n", "Line 2 .*rounded by a spreadsheet"),
    ],
)
def test_what_a_spreadsheet_saves_that_is_no_table_is_told_with_what_to_do(
    tmp_path: Path, data: bytes, said: str
) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(UserError, match=said):
        read_instructions(tmp_path / "t.csv")


def test_the_seeds_of_a_table_may_be_those_of_other_programs(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        add(tmp_path / name)
    table = tmp_path / "t.csv"
    table.write_text("name,seed\na.png,18446744073709551615\nb.png,4294967296\n")
    made = plan(tmp_path, instructions=table)
    assert [item.settings.seed for item in made.items] == [2**32 - 1, 0]
    assert len(made.notes) == 2 and "18446744073709551615" in made.notes[0] and "1 more" in made.notes[1]


def test_a_text_beside_a_picture_is_read_as_windows_writes_it(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("n\u00e4her\r\n".encode("utf-16"))
    assert asked(tmp_path) == {"a.png": "n\u00e4her"}


def test_a_hypernetwork_in_an_instruction_is_told_of_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        add(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("night <hypernet:x:1>")
    (note,) = plan(tmp_path).notes
    assert note.startswith("<hypernet:x:1> had no effect")


def test_an_instruction_with_weights_beyond_reason_fails_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        add(tmp_path / name)
    (tmp_path / "a.txt").write_text("night AND winter :99")
    made = plan(tmp_path)
    assert [item.name for item in made.items] == ["b.png"]
    assert [one.name for one in made.refused] == ["a.png"] and "weight" in str(made.refused[0].problem)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"name,instruction\n\xff\xfe,x")
    with pytest.raises(UserError, match="UTF-8"):
        read_instructions(tmp_path / "t.csv")


def test_a_table_names_pictures_with_or_without_their_folder(tmp_path: Path) -> None:
    for name in ("a.png", "sub/a.png", "sub/b.png", "sub/u\u0308.png"):
        add(tmp_path / name)
    table = tmp_path / "t.csv"
    table.write_text("name,instruction\na.png,1\nsub\\a.png,2\nb.png,3\n\u00fc.png,4\nmissing.png,5\n", "utf-8")
    made = plan(tmp_path, recursive=True, instructions=table, instruction="")
    assert [item.settings.instruction for item in made.items] == ["1", "2", "3", "4"]
    assert [(one.name, one.state.value) for one in made.refused] == [("missing.png", "failed")]
    table.write_text("name,instruction\nx.png,1\n")
    add(tmp_path / "1" / "x.png")
    add(tmp_path / "2" / "x.png")
    with pytest.raises(UserError, match="write the folder too"):
        plan(tmp_path, recursive=True, instructions=table)


def test_pictures_that_nothing_is_said_of_are_skipped(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    add(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("make it night")
    made = plan(tmp_path, instruction="")
    assert [item.name for item in made.items] == ["a.png"]
    assert [(one.name, one.state.value) for one in made.refused] == [("b.png", "skipped")]


def test_a_picture_without_its_mask_is_told_of(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "c.png", "masks/a.jpg", "masks/b.png"):
        add(tmp_path / name)
    made = plan(tmp_path, recursive=True, masks=tmp_path / "masks")
    assert {item.name: item.mask and item.mask.name for item in made.items} == {"a.png": "a.jpg", "sub/b.png": "b.png"}
    assert [one.name for one in made.refused] == ["c.png"] and "no mask" in str(made.refused[0].problem)


def test_seeds_differ_from_picture_to_picture_and_stay_when_others_come(tmp_path: Path) -> None:
    add(tmp_path / "b.png")
    add(tmp_path / "c.png")
    before = {item.name: item.settings.seed for item in plan(tmp_path).items}
    add(tmp_path / "a.png")
    after = {item.name: item.settings.seed for item in plan(tmp_path).items}
    assert len(set(after.values())) == 3 and after.items() >= before.items() and -1 not in after.values()
    assert {item.settings.seed for item in plan(tmp_path, settings=EditSettings("x", seed=7)).items} == {7}


def test_another_wish_or_another_picture_is_another_request(tmp_path: Path) -> None:
    def fingerprint(**more) -> str:
        return plan(tmp_path, **more).items[0].fingerprint

    add(tmp_path / "a.png")
    first = fingerprint()
    assert fingerprint() == first
    others = [fingerprint(instruction="x"), fingerprint(fmt="jpg"), fingerprint(quality=90)]
    others.append(fingerprint(settings=EditSettings("make it winter", text_cfg=8)))
    add(tmp_path / "a.png", (9, 8))
    assert len({first, fingerprint(), *others}) == 6


# --- which names ---


def test_results_are_called_after_their_pictures(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.jpeg", "c.bmp", "d.gif", "sub/e.webp", "f.jfif"):
        path = add(tmp_path / (name if name != "f.jfif" else "f.jpg"))
        if name == "f.jfif":
            path.rename(tmp_path / name)
    names = [item.outputs[0] for item in plan(tmp_path, recursive=True).items]
    assert names == ["a.PNG", "b.jpeg", "c.png", "d.png", "f.jpg", "sub/e.webp"]
    as_webp = plan(tmp_path, recursive=True, fmt="webp", settings=EditSettings("x", count=2)).items
    assert as_webp[0].outputs == ("a-1.webp", "a-2.webp") and {item.fmt for item in as_webp} == {"WEBP"}


def test_no_two_results_share_a_name() -> None:
    wishes = [("a.png", ".webp", 1), ("a.jpg", ".webp", 1), ("A.gif", ".webp", 1), ("b.png", ".png", 2)]
    wishes += [("b-1.png", ".png", 1), ("a.png.webp", ".webp", 1), ("c/a.png", ".webp", 1)]
    names = [name.casefold() for names in output_names(wishes) for name in names]
    assert len(set(names)) == len(names) == 8
    assert output_names(wishes)[-1] == ("c/a.webp",)
    assert output_names(wishes)[0] == ("a.png~2.webp",) and output_names(wishes)[1] == ("a.jpg.webp",)


# --- what is made together ---


def units(folder: Path, begun: list = [], done: tuple = (), **more) -> list[list[str]]:  # noqa: B006 - not changed
    items = plan(folder, **more).items
    pending = {(item.name, i) for item in items for i in range(len(item.outputs))} - set(done)
    made = make_units(items, pending, begun, size=96, factor=8, batch_size=2)
    return [[f"{s.item.name}{'' if s.wanted else '*'}" for s in unit.requests] for unit in made]


def test_pictures_of_one_size_share_a_batch_and_only_those_of_one_kind(tmp_path: Path) -> None:
    for name, size in (("a", (96, 96)), ("b", (50, 25)), ("c", (10, 10)), ("d", (9, 9)), ("e", (200, 100))):
        add(tmp_path / f"{name}.png", size)
    assert units(tmp_path) == [["a.png", "c.png"], ["b.png", "e.png"], ["d.png"]]
    table = tmp_path / "t.jsonl"
    table.write_text('{"name": "c.png", "text_cfg": 3}\n{"name": "d.png", "instruction": "x AND y :2"}\n')
    assert units(tmp_path, instructions=table) == [["b.png", "e.png"], ["a.png"], ["c.png"], ["d.png"]]


def test_instructions_with_other_loras_do_not_share_a_batch(tmp_path: Path) -> None:
    asked = {"a": "x <lora:n:1>", "b": "x", "c": "y<lora:n:1.0>", "d": "y", "e": "x <lora:n:0.5>"}
    for name, instruction in asked.items():
        add(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(instruction)
    assert units(tmp_path) == [["a.png", "c.png"], ["b.png", "d.png"], ["e.png"]]


def test_what_was_begun_together_is_finished_together_and_the_rest_as_it_would_have_been(tmp_path: Path) -> None:
    for letter in "abcdefg":
        add(tmp_path / f"{letter}.png")
    items = {item.name: item for item in plan(tmp_path).items}

    def members(*names: str) -> list[StartedResult]:
        return [StartedResult(name, 0, items[name].fingerprint, True) for name in names]

    whole = units(tmp_path)
    begun = [members("a.png", "b.png"), members("c.png", "d.png")]
    done = (("a.png", 0), ("b.png", 0), ("c.png", 0))
    assert units(tmp_path, begun, done) == [["c.png*", "d.png"], *whole[2:]]
    add(tmp_path / "0.png")  # a picture that is new disturbs nothing that is done
    assert units(tmp_path, begun, done)[0] == ["c.png*", "d.png"]
    add(tmp_path / "c.png", (20, 20))  # one that has changed cannot keep company
    assert units(tmp_path, begun, done[:2]) == [["0.png", "c.png"], ["d.png", "e.png"], ["f.png", "g.png"]]
