"""The command line as a person meets it: files written, one sentence on stderr, an exit status to rely on."""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import save_file

from instruct_pix2pix import images
from instruct_pix2pix.cli import batch, batch_report, bench, edit, grid, main, serve
from instruct_pix2pix.cli.arguments import suited_to
from instruct_pix2pix.cli.output import step_bar
from instruct_pix2pix.engine.candidates import Search
from instruct_pix2pix.engine.edit import Progress
from instruct_pix2pix.images import read_infotext
from instruct_pix2pix.infotext import parse, settings_from
from instruct_pix2pix.server.options import ServeOptions
from tests.helpers.merged import write_merged_demo

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "house.png"
QUICK = ["--steps", "4", "--seed", "3"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, with the demo model as the only model, and with a cache of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("instruct_pix2pix.cli.arguments.model_dirs", lambda extra=(): list(extra))
    return tmp_path


def fails(capsys, argv):
    """Run, expect one sentence on stderr and status 1, and return the sentence."""
    assert main.main([str(word) for word in argv]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Load")]
    assert len(lines) == 1 and "Traceback" not in lines[0]
    return lines[0]


def test_an_edit_writes_a_picture_that_carries_its_settings(elsewhere, capsys):
    assert main.main(["edit", str(EXAMPLE), "make it winter", "-o", "out.png", *QUICK]) == 0
    with Image.open("out.png") as picture:
        picture.load()
        assert picture.size == Image.open(EXAMPLE).size
        assert np.asarray(picture).std() > 10
    text = read_infotext(Path("out.png"))
    assert text is not None
    fields = parse(text).fields
    assert parse(text).instruction == "make it winter"
    assert fields["Steps"] == "4" and fields["Sampler"] == "Euler a" and fields["Seed"] == "3"
    assert fields["CFG scale"] == "7.5" and fields["Image CFG scale"] == "1.5"
    assert fields["Model"] == "demo" and len(fields["Model hash"]) == 10 and fields["Size"] == "96x96"
    assert "out.png" in capsys.readouterr().out


def test_the_settings_in_a_result_make_the_same_picture_again():
    main.main(["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--randomize-cfg", *QUICK])
    again, left_out = settings_from(read_infotext(Path("a.png")) or "")
    assert left_out == ()
    words = ["--text-cfg", str(again.text_cfg), "--image-cfg", str(again.image_cfg), "--steps", str(again.steps)]
    main.main(["edit", str(EXAMPLE), again.instruction, "-o", "b.png", "--seed", str(again.seed), *words])
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


def test_a_lora_and_a_vae_are_looked_up_beside_the_models(tmp_path, capsys):
    lora = {
        "lora_unet_conv_in.lora_up.weight": torch.full((96, 1, 1, 1), 0.1),
        "lora_unet_conv_in.lora_down.weight": torch.full((1, 8, 3, 3), 0.3),
        "emb.night": torch.ones(1),
    }
    (tmp_path / "models" / "Lora").mkdir(parents=True)
    save_file(lora, tmp_path / "models" / "Lora" / "night.safetensors")
    words = ["-o", "a.png", "--count", "2", "--models-dir", str(tmp_path / "models"), *QUICK]
    assert main.main(["edit", str(EXAMPLE), "make it winter <lora:night:0.5>", *words]) == 0
    told = capsys.readouterr().err
    assert told.count("Of the LoRA 'night' 1 of 3 tensors were left out") == 1
    assert told.count("LoRA put on: night at 0.5.") == 1
    read = parse(read_infotext(Path("a-1.png")) or "")
    assert read.instruction == "make it winter <lora:night:0.5>"
    assert re.fullmatch("night: [0-9a-f]{12}", read.fields["Lora hashes"])
    missing = {"There is no LoRA 'day'": ["<lora:day>"], "There is no VAE 'other'": ["x", "--vae", "other"]}
    for said, asked in missing.items():
        assert said in fails(capsys, ["edit", EXAMPLE, *asked, "-o", "b.png", *words[2:]])


def test_a_lora_that_is_not_there_is_told_before_a_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("instruct_pix2pix.cli.loading.load", None)
    for command, text in (("edit", "make it {a|b <lora:day:1>}"), ("grid", "make it red <lora:day:1>")):
        assert "There is no LoRA 'day'" in fails(capsys, [command, EXAMPLE, text])


class Terminal(io.StringIO):
    """What a terminal is sent."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("search", "steps"), [(Search(), 20), (Search(best_of=4), 4 * 8 + 12)], ids=["one", "race"])
def test_after_the_last_step_the_bar_says_finishing_and_no_time_that_is_left(monkeypatch, search, steps):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    at = Progress(0, 20, (7,), torch.zeros(1, 4, 1, 1), None)  # type: ignore[arg-type] - no bar looks at the plan
    last = ""
    with step_bar(20, 1, search.steps) as show:
        for step in range(1, 21):
            racing = search.candidates > 1 and step <= 8
            show(replace(at, step=step, seeds=(7,) * (search.candidates if racing else 1)))
            last = terminal.getvalue().rsplit("\r", 1)[-1]
            assert ("finishing" in last) == (step == 20)
        assert f"finishing after {steps} steps" in last and "<" not in last
        show(replace(at, step=20, enlarged=0.5))
        assert "full size 50%" in terminal.getvalue().rsplit("\r", 1)[-1]


def test_a_folder_tells_of_its_progress_and_never_of_no_time_left(capsys, monkeypatch):
    monkeypatch.setattr(batch_report, "LINE_SECONDS", -1)
    Path("in").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(EXAMPLE, Path("in", name))
    assert main.main(["batch", "in", "out", "make it winter", "--batch-size", "1", "--steps", "1", "--size", "64"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if " of 2 pictures" in line]
    assert re.fullmatch(r"1 of 2 pictures, about [1-9]\d* s left\.", told[0]) and told[1] == "2 of 2 pictures."


def test_several_results_get_numbers_and_seeds_of_their_own(capsys):
    assert main.main(["edit", str(EXAMPLE), "make it winter", "-o", "x.webp", "--count", "3", "--json", *QUICK]) == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(f["path"]).name for f in facts] == ["x-1.webp", "x-2.webp", "x-3.webp"]
    assert [f["seed"] for f in facts] == [3, 4, 5]
    assert all(f["rows"] == 12 and f["size"] == [96, 96] and f["seconds"] > 0 for f in facts)


def test_a_seed_of_64_bits_is_used_by_its_remainder_and_said_so(capsys):
    words = ["--steps", "2", "--seed", str(2**64 - 1)]
    assert main.main(["edit", str(EXAMPLE), "make it winter", "-o", "a.png", "--json", *words]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["seed"] == 2**32 - 1
    assert "18446744073709551615" in told.err and "4294967295 was used" in told.err
    assert "Seed: 4294967295," in (read_infotext(Path("a.png")) or "")


def test_image_cfg_of_one_saves_a_third_of_the_work(capsys):
    main.main(["edit", str(EXAMPLE), "make it winter", "--image-cfg", "1", "--json", *QUICK])
    assert json.loads(capsys.readouterr().out)["rows"] == 8


def test_without_a_name_the_result_never_replaces_another_file():
    for _ in range(2):
        main.main(["edit", str(EXAMPLE), "make it winter", *QUICK])
    assert Path("house-edited.png").exists() and Path("house-edited-2.png").exists()


def test_the_input_is_never_overwritten(capsys, tmp_path):
    copy = tmp_path / "mine.png"
    copy.write_bytes(EXAMPLE.read_bytes())
    assert "overwrite" in fails(capsys, ["edit", copy, "make it winter", "-o", copy, *QUICK])
    assert copy.read_bytes() == EXAMPLE.read_bytes()


@pytest.mark.parametrize("command", [["edit"], ["grid", "--text-cfg", "7.5", "--image-cfg", "1.5"]], ids=lambda c: c[0])
def test_of_a_transparent_mask_only_the_opaque_part_changes(command):
    mask = Image.new("RGBA", (96, 96), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 48, 96))
    mask.save("clear.png")
    mask.getchannel("A").save("grey.png")
    made = []
    for name in ("clear.png", "grey.png"):
        words = [command[0], str(EXAMPLE), "make it night", "-o", f"of-{name}", "--mask", name, *command[1:], *QUICK]
        assert main.main(words) == 0
        made.append(np.asarray(Image.open(f"of-{name}")))
    assert np.array_equal(*made)


def test_a_picture_with_the_longest_name_is_edited():
    name = "h" * 251 + ".png"
    Path(name).write_bytes(EXAMPLE.read_bytes())
    for ending in ("-edited.png", "-edited-2.png"):
        assert main.main(["edit", name, "make it night", *QUICK]) == 0
        assert Path("h" * (255 - len(ending)) + ending).is_file()


@pytest.mark.parametrize("place", ["picture", "mask", "output", "folder", "masks", "instructions"])
@pytest.mark.parametrize("name", ["turn the grass to snow and the sky to a starry night " * 6, "loop/x"])
def test_what_is_no_name_is_said_before_a_model_is_loaded(place, name, capsys):
    Path("in").mkdir()
    Image.new("RGB", (64, 64)).save("in/a.png")
    Path("loop").symlink_to("loop")
    words = {
        "picture": ["edit", name, "x"],
        "mask": ["edit", "in/a.png", "x", "--mask", name],
        "output": ["edit", "in/a.png", "x", "-o", f"{name}.png"],
        "folder": ["batch", name, "out", "x"],
        "masks": ["batch", "in", "out", "x", "--masks", name],
        "instructions": ["batch", "in", "out", "x", "--instructions", name],
    }[place]
    assert fails(capsys, words).endswith((" is no name that a file can have: check it.", ": check the name."))


def test_only_the_masked_part_changes():
    mask = Image.new("L", (96, 96))
    mask.paste(255, (0, 0, 48, 96))
    mask.save("mask.png")
    main.main(["edit", str(EXAMPLE), "make it night", "-o", "out.png", "--mask", "mask.png", *QUICK])
    before, after = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (EXAMPLE, "out.png"))
    assert np.abs(before - after)[:, 48:].max() == 0
    assert np.abs(before - after)[:, :40].mean() > 10


def test_a_transparent_picture_stays_transparent_where_it_was():
    picture = Image.open(EXAMPLE).convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 30, 30))
    picture.save("in.png")
    main.main(["edit", "in.png", "make it winter", "-o", "out.png", *QUICK])
    alpha = np.asarray(Image.open("out.png"))[..., 3]
    assert alpha[5:25, 5:25].max() < 20 and alpha[40:, 40:].min() == 255


def test_a_wide_picture_keeps_its_shape():
    Image.open(EXAMPLE).resize((300, 100)).save("wide.png")
    for asked, size in ([], (300, 100)), (["--result-size", "model"], (96, 32)), (["--result-size", "150"], (150, 50)):
        main.main(["edit", "wide.png", "make it winter", "-o", "out.png", *asked, *QUICK])
        assert Image.open("out.png").size == size


def test_the_rest_is_kept_and_the_map_is_saved(capsys):
    """The amount may stand for the word, and the map is a picture beside the result."""
    Image.open(EXAMPLE).resize((192, 192)).save("in.png")
    words = ["edit", "in.png", "paint the house blue", "-o", "out.png", "--seed", "3", "--json"]
    assert main.main([*words, "--keep-rest", "0.6", "--save-map", "map.png", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0.1 < told["kept"] < 1 and Image.open(told["map"]).mode == "L"
    text = Image.open("out.png").info["parameters"]
    assert "Keep the rest: always" in text and "Keep amount: 0.6" in text
    same = (np.asarray(Image.open("in.png").convert("RGB")) == np.asarray(Image.open("out.png"))).all(axis=2)
    assert same.mean() > 0.1
    assert main.main([*words, "--map-only", "before.png", *QUICK]) == 0
    before, after = (np.asarray(Image.open(name), float) for name in ("before.png", "map.png"))
    assert before.shape == after.shape == (96, 96) and np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5
    capsys.readouterr()
    assert main.main([*words, "--save-map", "map.png", *QUICK]) == 1
    assert "add --keep-rest" in capsys.readouterr().err


def test_a_camera_s_picture_comes_back_at_its_own_size_with_its_metadata():
    exif = Image.Exif()
    exif[0x010F] = "Camera Works"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.open(EXAMPLE).convert("RGB").resize((900, 600)).save("photo.jpg", exif=exif, icc_profile=profile)
    assert main.main(["edit", "photo.jpg", "make it winter", "-o", "out.jpg", *QUICK]) == 0
    with Image.open("out.jpg") as made:
        assert made.size == (900, 600) and made.getexif()[0x010F] == "Camera Works"
        assert made.info["icc_profile"] == profile


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.png", "x"], "missing.png"),
        ([EXAMPLE, "   "], "instruction is empty"),
        ([EXAMPLE, "x", "--sampler", "Oiler a"], "Euler a"),
        ([EXAMPLE, "x", "--schedule", "Karas"], "Karras"),
        ([EXAMPLE, "x", "--model", "no-such-model"], "no-such-model"),
        ([EXAMPLE, "x", "--device", "cuda:77"], "cuda:77"),
        ([EXAMPLE, "x", "--mask", "missing-mask.png"], "missing-mask.png"),
        ([EXAMPLE, "x", "-o", "out.xyz", *QUICK], "out.xyz"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(capsys, words, said):
    assert said in fails(capsys, ["edit", *words])


def test_broken_pictures_are_refused_with_their_name(capsys, tmp_path):
    (tmp_path / "cut.png").write_bytes(EXAMPLE.read_bytes()[:900])
    (tmp_path / "text.png").write_text("not a picture")
    assert "cut.png" in fails(capsys, ["edit", "cut.png", "make it winter"])
    assert "text.png" in fails(capsys, ["edit", "text.png", "make it winter"])
    assert not list(tmp_path.glob("*edited*"))


@pytest.mark.parametrize("size", [(1, 1), (700, 50)])
def test_tiny_and_long_pictures_are_edited(size):
    Image.new("RGB", size, "red").save("odd.png")
    assert main.main(["edit", "odd.png", "make it winter", "-o", "out.png", *QUICK]) == 0
    assert max(Image.open("out.png").size) == max(96, *size)


@pytest.mark.parametrize("value", ["nan", "99", "-1", "much"])
def test_a_scale_out_of_range_is_bad_usage(capsys, value):
    with pytest.raises(SystemExit) as exit_:
        main.main(["edit", str(EXAMPLE), "x", "--text-cfg", value])
    assert exit_.value.code == 2
    assert "Text CFG" in capsys.readouterr().err


def test_a_plain_checkpoint_is_refused_with_what_to_pick(capsys, tmp_path):
    import torch

    unet = "model.diffusion_model.input_blocks"
    tensors = {
        f"{unet}.0.0.weight": torch.zeros(320, 4, 3, 3),
        f"{unet}.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768),
    }
    save_file(tensors, tmp_path / "instruct-pix2pix.safetensors")
    said = fails(capsys, ["edit", EXAMPLE, "x", "--model", tmp_path / "instruct-pix2pix.safetensors"])
    assert "4 channels" in said and "timbrooks/instruct-pix2pix" in said


def test_inspect_names_a_file_and_gives_the_reason(capsys):
    from instruct_pix2pix.models.registry import DEMO

    assert main.main(["inspect", str(DEMO)]) == 0
    said = capsys.readouterr().out
    assert "instruct-pix2pix" in said and "8 channels" in said and "because" in said
    assert "not a checkpoint" in fails(capsys, ["inspect", ROOT / "README.md"])


def test_models_lists_what_is_there_and_marks_what_can_edit(capsys, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    assert main.main(["models", "--models-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("* demo") for line in lines)
    assert any(line.startswith("  broken") for line in lines)


def test_a_model_without_a_part_is_listed_with_what_it_lacks_and_not_chosen(capsys, tmp_path):
    from safetensors.torch import load_file

    from instruct_pix2pix.models.registry import DEMO

    state = {name: value for name, value in load_file(DEMO).items() if not name.startswith("first_stage_model.")}
    save_file(state, tmp_path / "a.safetensors")
    assert main.main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    assert "It has no VAE." in capsys.readouterr().out
    assert main.main(["models", "--models-dir", str(tmp_path), "--json"]) == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert told["a"]["missing"] == ["VAE"] and not told["a"]["editable"]
    assert told["demo"]["missing"] == [] and told["demo"]["editable"]
    assert main.main(["edit", str(EXAMPLE), "x", "--models-dir", str(tmp_path), "-o", "out.png", *QUICK]) == 0
    assert "Loading demo" in capsys.readouterr().err
    assert "without VAE" in fails(capsys, ["edit", EXAMPLE, "x", "--model", tmp_path / "a.safetensors"])


def test_averages_that_are_not_used_are_told_by_every_command(capsys, tmp_path):
    merged = write_merged_demo(tmp_path / "models" / "merged.safetensors")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "house.png").write_bytes(EXAMPLE.read_bytes())
    model = ["--model", str(merged), "--steps", "1", "--size", "64", "--seed", "3"]
    for words in (
        ["edit", str(EXAMPLE), "make it winter", "-o", "merged.png"],
        ["grid", str(EXAMPLE), "make it winter", "-o", "grid.png", "--text-cfg", "7"],
        ["batch", "in", "out", "make it winter"],
    ):
        assert main.main([*words, *model]) == 0
        said = capsys.readouterr().err
        assert said.count("The moving average (EMA) in 'merged.safetensors' is not that of its weights") == 1, words
    # and they are the weights that made the picture
    assert main.main(["edit", str(EXAMPLE), "make it winter", "-o", "demo.png", *model[2:]]) == 0
    assert Image.open("merged.png").tobytes() == Image.open("demo.png").tobytes()


def test_bench_measures_the_rows_that_the_scales_need(capsys):
    words = ["bench", "--model", "demo", "--steps", "2", "--repeat", "1", "--json"]
    assert main.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert [e["rows_evaluated"] for e in report["edits"]] == [6, 4, 2]
    assert report["load_seconds"] > 0 and report["peak_mb"] > report["weights_mb"] > 20
    assert all(e["seconds_per_row"] > 0 for e in report["edits"])
    assert report["cpu_kind"] in report["expect"]


def test_bench_hands_the_words_for_the_comparison_over(monkeypatch):
    called = []
    monkeypatch.setattr(bench.subprocess, "call", lambda command, **_: called.append(command[3:]) or 0)
    assert main.main(["bench", "--peers", "--quick", "--ways", "openvino,sdcpp-f16", "--rows", "1,3"]) == 0
    assert main.main(["bench", "--peers", "--size", "512", "--steps", "4", "--rounds", "5", "--json"]) == 0
    quick, whole = (" ".join(words) for words in called)
    assert "--ways openvino,sdcpp-f16 --rows 1,3 --quick" in quick and "--steps" not in quick
    assert "--size 512 --steps 4 --rounds 5 --json" in whole and "--quick" not in whole


def test_help_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["--help"])
    assert exit_.value.code == 0 and "edit" in capsys.readouterr().out


def test_what_is_not_asked_for_suits_the_model(tmp_path, capsys):
    unet = "model.diffusion_model."
    shapes = {
        f"{unet}input_blocks.0.0.weight": (320, 8, 3, 3),
        f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        f"{unet}label_emb.0.0.weight": (1280, 2816),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (8, 768),
        "conditioner.embedders.1.model.token_embedding.weight": (8, 1280),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    }
    file = tmp_path / "large.safetensors"
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, file)
    assert main.main(["inspect", str(file)]) == 0
    assert "Text CFG 3, Image CFG 1.5, 30 steps, 768 px suit it" in capsys.readouterr().out

    def chosen(*words):
        parser = argparse.ArgumentParser()
        edit.add_arguments(parser)
        options = edit.options_of(parser.parse_args(["a.png", "make it winter", *words]))
        settings = suited_to(file, options.settings, options.asked)
        return settings.text_cfg, settings.image_cfg, settings.steps

    assert chosen() == (3.0, 1.5, 30)
    assert "As suits large: Text CFG 3, Steps 30." in capsys.readouterr().err
    assert chosen("--text-cfg", "7.5", "--steps", "20") == (7.5, 1.5, 20)
    assert "As suits" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (edit, ["a.png", "make it winter"]),
        (grid, ["a.png", "make it winter"]),
        (batch, ["in", "out", "make it winter"]),
        (bench, []),
        (serve, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_command_that_loads_a_model_takes_a_limit_on_the_cards_memory(command, words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.set_defaults(debug=False)
    for more, limit in (([], None), (["--memory", "4"], 4.0)):
        options = command.options_of(parser.parse_args([*words, *more]))
        assert (options if isinstance(options, ServeOptions) else options.model).memory == limit


def test_a_limit_that_cannot_be_is_told_in_a_sentence(capsys):
    assert main.main(["edit", str(EXAMPLE), "make it winter", "--memory", "0.2"]) == 1
    assert "give 1 GB or more" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"], ["inspect", str(EXAMPLE)], ["edit", "a.png"]])
def test_what_needs_no_model_does_not_wait_for_torch(words):
    code = "import sys, instruct_pix2pix.cli.main as m\n"
    code += f"try: m.main({words!r})\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'gradio', 'ray', 'PIL', 'numpy'} & set(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules")}
    assert subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=False).returncode == 0


NOT_THERE = {
    "missing.png does not exist": ["edit", "missing.png", "x"],
    "holiday is a folder": ["edit", "holiday", "x"],
    "text.png is not a picture": ["edit", "text.png", "x"],
    "mask.png does not exist": ["edit", "a.png", "x", "--mask", "mask.png"],
    "no model 'gone'": ["edit", "a.png", "x", "--model", "gone"],
    "out.xyz does not name a format": ["edit", "a.png", "x", "-o", "out.xyz"],
    "b.png may not be written there": ["edit", "a.png", "x", "-o", "a.png/b.png"],
    "no sampler 'Oiler a' (did you mean 'Euler a'?)": ["edit", "a.png", "x", "--sampler", "Oiler a"],
    "no schedule 'Karas' (did you mean 'Karras'?)": ["edit", "a.png", "x", "--schedule", "Karas"],
    "grid.png does not exist": ["grid", "grid.png", "x"],
    "The input folder gone does not exist": ["batch", "gone", "out", "x"],
    "The masks folder gone does not exist": ["batch", "holiday", "out", "x", "--masks", "gone"],
    "instructions gone.csv does not exist": ["batch", "holiday", "out", "--instructions", "gone.csv"],
    "no model 'lost'": ["batch", "holiday", "out", "x", "--model", "lost"],
    "no model 'served'": ["serve", "--model", "served"],
    "no model 'one'": ["merge", "one", "two", "-o", "out.safetensors"],
    "no model 'old'": ["convert", "old", "new.safetensors"],
    "no model 'slow'": ["bench", "--model", "slow"],
}


def test_what_is_not_there_is_told_before_torch_is_imported(elsewhere):
    Image.open(EXAMPLE).save("a.png")
    Path("holiday").mkdir()
    Path("text.png").write_text("not a picture")
    code = "import sys, instruct_pix2pix.cli.main as m\n"
    code += f"for words in {list(NOT_THERE.values())!r}: assert m.main(words) == 1\n"
    code += "sys.exit(bool({'torch', 'gradio', 'ray'} & set(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules"), "HOME": str(elsewhere)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and len(lines) == len(NOT_THERE), done.stderr
    for said, line, words in zip(NOT_THERE, lines, NOT_THERE.values(), strict=True):
        assert said in line, line
        assert all(line.count(word) <= 1 for word in words[1:] if len(word) > 3), line  # no name twice


def usage_error(capsys, *words):
    """Expect bad usage: a sentence, where to read more, and status 2; return the sentence."""
    with pytest.raises(SystemExit) as exit_:
        main.main(list(words))
    assert exit_.value.code == 2
    sentence, hint = capsys.readouterr().err.splitlines()
    assert sentence.endswith(".") and "--help" in hint
    return sentence


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edti", "a.png"], "There is no command 'edti' (did you mean edit?)"),
        (["edit", "a.png", "x", "--sampeler", "Euler"], "There is no option --sampeler here (did you mean --sampler?)"),
        (["edit", "a.png", "make", "it", "winter"], "'it winter' is too much"),
        (["edit", "a.png"], "INSTRUCTION"),
        (["edit", "a.png", "x", "--text-cfg", "99"], "Text CFG is 99, but must lie between 1 and 30"),
        (["edit", "a.png", "x", "--speed", "quick"], "Speed is 'quick', but must be one of exact, balanced, fast"),
        (["serve", "--port", "0"], "'0' is not a port: choose one from 1 to 65535"),
        (["--prot", "1"], "There is no option --prot here (did you mean --port?)"),
    ],
)
def test_what_is_mistyped_is_told_in_a_sentence_with_what_may_be_meant(capsys, words, said):
    sentence = usage_error(capsys, *words)
    assert said in sentence
    assert not sentence.startswith("Argument")  # which the sentence itself names


def test_the_help_lists_what_can_be_chosen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main.main(["edit", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "One of Euler a, Euler, Heun, DPM2, DPM++ 2M," in shown
    assert "One of Automatic, Uniform, Karras," in shown
    assert "--speed {exact,balanced,fast}" in shown


def test_the_help_of_a_checkout_lists_its_tests(capsys, monkeypatch):
    for program, there in (("launch.py", True), ("ip2p", False)):
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit):
            main.main(["--help"])
        assert (re.search(r"^ +test +Check this checkout", capsys.readouterr().out, re.MULTILINE) is not None) == there


def seen_in_a_terminal(words, **environ):
    """Run a command whose stderr is a terminal; return what that is sent."""
    import pty

    own, theirs = pty.openpty()
    code = f"import sys, instruct_pix2pix.cli.main as m; m.main({words!r})"
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    environ = {**clean, "PYTHONPATH": str(ROOT / "modules"), "TERM": "xterm-256color", **environ}
    subprocess.run([sys.executable, "-c", code], env=environ, stderr=theirs, check=False)
    os.close(theirs)
    return os.read(own, 10_000).decode()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
def test_an_error_is_red_in_a_terminal_that_may_show_it():
    red = "\x1b[31mmissing.png does not exist: check the name.\x1b[0m"
    assert red in seen_in_a_terminal(["edit", "missing.png", "x"])
    usage = seen_in_a_terminal(["edit"])
    assert re.search("\x1b\\[31m[^\x1b]+\x1b\\[0m\\s+\x1b\\[2m[^\x1b]+--help[^\x1b]+\x1b\\[0m", usage), repr(usage)
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in seen_in_a_terminal(["edit", "missing.png", "x"], **plain)


def test_a_shell_completes_commands_options_and_choices(capsys):
    pytest.importorskip("shtab")
    assert main.main(["completion", "bash"]) == 0
    Path("ip2p.bash").write_text(capsys.readouterr().out)
    Path("holiday.jpg").touch()

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        code = f"source ip2p.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; {function}; "
        code += "printf '%s\\n' ${COMPREPLY[@]}"
        told = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return {word.strip() for word in told.stdout.split()}

    (function,) = re.findall(r"complete .*-F (\w+) ip2p$", Path("ip2p.bash").read_text(), re.MULTILINE)
    assert completed("ip2p", "ed") == {"edit"}
    assert completed("ip2p", "edit", "--samp") == {"--sampler"}
    assert completed("ip2p", "edit", "--speed", "b") == {"balanced"}
    assert completed("ip2p", "edit", "hol") == {"holiday.jpg"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_scripts(capsys, shell):
    pytest.importorskip("shtab")
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--sampler" in script or "-l sampler" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_completion_says_what_it_needs(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install shtab" in fails(capsys, ["completion", "bash"])


def test_a_traceback_is_shown_only_on_request(monkeypatch, capsys):
    def broken(folders):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("instruct_pix2pix.cli.models.find_models", broken)
    assert "oops" in fails(capsys, ["models"])
    with pytest.raises(ZeroDivisionError):
        main.main(["models", "--debug"])


def test_stopping_in_the_middle_keeps_what_is_finished(monkeypatch, capsys):
    save, saved = images.save_picture, []

    def save_two(image, path, text, **more):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(save(image, path, text, **more))
        return saved[-1]

    monkeypatch.setattr(images, "save_picture", save_two)
    assert main.main(["edit", str(EXAMPLE), "make it winter", "-o", "o.png", "--count", "4", *QUICK]) == 130
    assert sorted(p.name for p in Path().glob("o*")) == ["o-1.png", "o-2.png"]


def test_the_command_runs_as_a_program_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "instruct_pix2pix.cli.main", "edit", EXAMPLE, "make it winter", "-o", "p.png", *QUICK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").exists()


def test_a_batch_that_goes_on_says_how_many_lines_of_its_journal_it_passed_over(capsys):
    Path("in").mkdir()
    (Path("in") / "a.png").write_bytes(EXAMPLE.read_bytes())
    words = ["batch", "in", "out", "make it winter", "--steps", "2"]
    assert main.main(words) == 0
    with Path("out", "batch.jsonl").open("a") as journal:
        journal.write('{"name": "a.png", "state": "done", "seeds": [1e999]}\n[]\n')
    capsys.readouterr()
    assert main.main(words) == 0
    told = capsys.readouterr().err
    assert "2 lines of batch.jsonl could not be read" in told and "1 done before" in told


# --- where what is told cannot be shown ---


def batch_of_odd_names(**streams) -> subprocess.Popen:
    """Begin a batch of three pictures whose names few terminals can show, in a process of its own."""
    folder = Path("odd")
    folder.mkdir()
    for name in ("\U0001f3e0.png", os.fsdecode(b"caf\xe9.png"), "plain.png"):
        (folder / name).write_bytes(EXAMPLE.read_bytes())
    words = ["batch", "odd", "out", "make it winter", "--steps", "2", "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "modules"), "PYTHONIOENCODING": "cp1252"}
    return subprocess.Popen([sys.executable, "-m", "instruct_pix2pix.cli.main", *words], env=env, **streams)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_names_that_a_terminal_cannot_show_end_no_batch():
    with batch_of_odd_names(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and b"3 done" in err and b"Traceback" not in err
    assert len(out.splitlines()) == 3 and b"\\U0001f3e0.png" in out
    assert {os.fsencode(path.name) for path in Path("out").glob("*.png")} == {
        "\U0001f3e0.png".encode(),
        b"caf\xe9.png",
        b"plain.png",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_readers_that_have_gone_end_no_batch():
    with batch_of_odd_names(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        assert process.wait(300) == 0
    assert len(list(Path("out").glob("*.png"))) == 3
