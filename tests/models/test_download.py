"""Downloads against a server on this machine that answers as the hub does; nothing here leaves it."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from instruct_pix2pix.cli.main import WORDS
from instruct_pix2pix.errors import Interrupted, Remedy, UserError
from instruct_pix2pix.models import download as module
from instruct_pix2pix.models.checkpoints import weight_files
from instruct_pix2pix.models.download import discard, download, left_over, look_up
from instruct_pix2pix.models.known import KNOWN
from instruct_pix2pix.models.registry import find_models
from tests.helpers.hub import CONV, UNET, standing_in, weights

NOBODY = "http://127.0.0.1:9"  # a port where nothing listens


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")


@pytest.fixture
def hub(monkeypatch):
    with standing_in() as (found, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found


def get(name: str, folder: Path) -> tuple[Path, str]:
    lines: list[str] = []
    path = download(name, folder, report=lines.append)
    return path, "\n".join(lines)


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(UserError) as told:
        get(name, folder)
    message = str(told.value)
    assert message.endswith(".") and message.isprintable() and "Error" not in message
    return message


def files_in(folder: Path) -> list[str]:
    """All files below a folder, but for the locks that stay in .download."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files if path.suffix != ".lock")


# --- a file ---


def test_a_model_arrives_whole_under_its_own_name_and_nothing_else_is_left(hub, tmp_path):
    content = weights()
    hub.repos["timbrooks/instruct-pix2pix"] = {
        "instruct-pix2pix-00-22000.safetensors": content,
        "instruct-pix2pix-00-22000.ckpt": b"x",
        "README.md": b"x",
    }
    path, said = get("Instruct-Pix2Pix", tmp_path / "new" / "models")
    assert path == tmp_path / "new" / "models" / "instruct-pix2pix-00-22000.safetensors"
    assert path.read_bytes() == content
    assert files_in(tmp_path) == ["new/models/instruct-pix2pix-00-22000.safetensors"]
    assert hashlib.sha256(content).hexdigest() in said and "0.3 MB" in said
    assert "instruct-pix2pix, SD1, 8 channels" in said
    assert hub.asked == ["instruct-pix2pix-00-22000.safetensors"]


def test_a_complete_file_is_not_downloaded_again(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    get("a/b", tmp_path)
    path, said = get("a/b", tmp_path)
    assert "is here already, complete" in said and path == tmp_path / "x.safetensors"
    assert len(hub.gets) == 1


def test_another_file_of_that_name_is_left_alone(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    (tmp_path / "x.safetensors").write_bytes(b"precious")
    assert "is here already, but" in refusal("a/b", tmp_path)
    assert (tmp_path / "x.safetensors").read_bytes() == b"precious"
    assert hub.gets == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, tmp_path):
    content = weights(extra=14_000_000)
    hub.repos["a/b"] = {"x.safetensors": content}
    hub.cut_at = 13_000_000
    path, _ = get("a/b", tmp_path)
    assert path.read_bytes() == content
    first, second = hub.gets
    assert first[1] is None and int(second[1].removeprefix("bytes=").removesuffix("-")) > 5_000_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_place_of_what_an_earlier_download_left_is_removed(hub, tmp_path):
    content = weights()
    hub.repos["a/b"] = {"x.safetensors": content}
    stage = tmp_path / ".download" / "a--b--x.safetensors"
    stage.mkdir(parents=True)
    pipe = stage / f"x.safetensors.{hashlib.sha256(content).hexdigest()[:12]}.part"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that whoever opens it for writing does not wait for ever
    try:
        path, _ = get("a/b", tmp_path)
    finally:
        os.close(reader)
    assert path.read_bytes() == content and path.is_file()


@pytest.mark.parametrize("no_ranges", [False, True])
def test_a_download_that_ended_goes_on_with_the_next_command(no_ranges, hub, tmp_path):
    content = weights(extra=14_000_000)
    hub.repos["a/b"] = {"x.safetensors": content}
    hub.cut_at, hub.refuse_after_cut = 13_000_000, True
    message = refusal("a/b", tmp_path)
    assert "503" in message and "run the same command again to go on where it stopped" in message
    assert not (tmp_path / "x.safetensors").exists()
    assert [entry.name for entry in find_models([tmp_path])] == ["demo"]  # what is there of it is no model

    hub.refuse_file, hub.no_ranges = None, no_ranges
    path, said = get("a/b", tmp_path)
    assert path.read_bytes() == content
    assert "Going on with x.safetensors after" in said
    assert int(str(hub.gets[-1][1]).removeprefix("bytes=").removesuffix("-")) > 5_000_000
    assert files_in(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("lie", ["same size", "longer"])
def test_a_file_with_the_wrong_hash_is_refused_and_removed(lie, hub, tmp_path):
    content = weights()
    hub.repos["a/b"] = {"x.safetensors": content}
    hub.lies["x.safetensors"] = content[:-1] + b"!" if lie == "same size" else content + b"!"
    assert "it was removed" in refusal("a/b", tmp_path)
    assert files_in(tmp_path) == []
    del hub.lies["x.safetensors"]
    assert get("a/b", tmp_path)[0].read_bytes() == content


def test_a_file_that_is_cut_short_for_good_never_appears(hub, tmp_path):
    content = weights()
    hub.repos["a/b"] = {"x.safetensors": content}
    hub.lies["x.safetensors"] = content[:1000]
    assert "go on where it stopped" in refusal("a/b", tmp_path)
    assert not (tmp_path / "x.safetensors").exists()


def test_two_downloads_of_the_same_at_once_bring_it_once(hub, tmp_path):
    content = weights(extra=2_000_000)
    hub.repos["a/b"] = {"x.safetensors": content}
    with ThreadPoolExecutor() as pool:
        paths = [path for path, _ in pool.map(lambda _: get("a/b", tmp_path), range(3))]
    assert {path.read_bytes() for path in paths} == {content}
    assert len(hub.gets) == 1 and files_in(tmp_path) == ["x.safetensors"]


def test_the_token_goes_to_the_hub_and_not_to_where_it_keeps_its_files(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    hub.cdn = os.environ["HF_ENDPOINT"].replace("127.0.0.1", "localhost")
    get("a/b", tmp_path)
    assert [(path.split("/")[1], token) for path, token in hub.tokens] == [
        ("api", "Bearer hf_of_the_tests"),
        ("a", "Bearer hf_of_the_tests"),
        ("cdn", None),
    ]


def test_a_model_that_cannot_edit_is_kept_and_named(hub, tmp_path):
    shapes = {**CONV, "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]}
    hub.repos["a/b"] = {"x.safetensors": weights(shapes)}
    path, said = get("a/b", tmp_path)
    assert path.exists() and "Stable Diffusion" in said and "takes no picture to edit" in said


def test_a_full_disk_is_told_before_anything_is_downloaded(hub, tmp_path, monkeypatch):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "has 1,000 bytes free" in refusal("a/b", tmp_path)
    assert hub.gets == []


def test_a_folder_that_cannot_be_made_is_told(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal("a/b", tmp_path / "file")


# --- which file of a repository ---


def test_of_a_known_repository_the_small_file_is_found_by_the_listing(hub, tmp_path):
    small = weights()
    hub.repos["webui/instruct-pix2pix"] = {
        "full.safetensors": weights(extra=10),
        "name-we-do-not-know-fp16.safetensors": small,
    }
    path, _ = get("instruct-pix2pix-fp16", tmp_path)
    assert path.name == "name-we-do-not-know-fp16.safetensors" and path.read_bytes() == small


def test_of_two_magicbrush_checkpoints_the_one_its_authors_name_is_taken(hub, tmp_path):
    hub.repos["osunlp/InstructPix2Pix-MagicBrush"] = {
        "MagicBrush-epoch-000168.ckpt": weights(),
        "MagicBrush-epoch-52-step-4999.ckpt": weights(seed=1),
    }
    assert get("magicbrush", tmp_path)[0].name == "MagicBrush-epoch-52-step-4999.ckpt"


def test_where_a_known_file_has_gone_the_only_other_one_is_taken(hub, tmp_path):
    hub.repos["timbrooks/instruct-pix2pix"] = {"renamed.safetensors": weights()}
    assert get("instruct-pix2pix", tmp_path)[0].name == "renamed.safetensors"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["x.ckpt", "x.safetensors"], "x.safetensors"),
        (["x-fp16.safetensors", "x.safetensors"], "x.safetensors"),
        (["x-nonema.ckpt", "x.ckpt"], "x.ckpt"),
        (["x-fp16.safetensors", "x.ckpt", "sub/y.safetensors", "README.md"], "x-fp16.safetensors"),
        (["model_index.json", "unet/diffusion_pytorch_model.safetensors", "x.safetensors"], "x.safetensors"),
    ],
)
def test_the_one_checkpoint_of_a_repository_is_picked(files, wanted, hub, tmp_path):
    hub.repos["a/b"] = dict.fromkeys(files, weights())
    assert get("a/b", tmp_path)[0] == tmp_path / wanted
    assert hub.asked == [wanted]


def test_between_several_checkpoints_the_person_chooses(hub, tmp_path):
    hub.repos["a/b"] = {"one.safetensors": weights(), "two.safetensors": weights(extra=9)}
    message = refusal("a/b", tmp_path)
    assert "several models" in message and "'download a/b/one.safetensors'" in message and "two.saf" in message
    assert get("a/b/two.safetensors", tmp_path)[0].name == "two.safetensors"


@pytest.mark.parametrize(
    "name",
    ["a/b/sub/x [1].safetensors", "https://huggingface.co/a/b/blob/main/sub/x [1].safetensors",
     "https://huggingface.co/a/b/resolve/main/sub/x [1].safetensors?download=true"],
)  # fmt: skip
def test_a_file_is_found_by_its_path_or_its_address(name, hub, tmp_path):
    hub.repos["a/b"] = {"sub/x [1].safetensors": weights(), "x.safetensors": b"x"}
    assert get(name, tmp_path)[0] == tmp_path / "x [1].safetensors"


@pytest.mark.parametrize("name", ["a/b", "a/b/", "https://huggingface.co/a/b", "https://huggingface.co/a/b/tree/main"])
def test_a_repository_is_found_by_its_name_or_its_address(name, hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    assert get(name, tmp_path)[0].name == "x.safetensors"


def test_a_file_that_is_not_there_is_answered_with_those_that_are(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights(), "README.md": b"x"}
    assert "has no file 'y.ckpt': it has x.safetensors (" in refusal("a/b/y.ckpt", tmp_path)
    assert "not a model file" in refusal("a/b/README.md", tmp_path)


def test_a_repository_without_a_model_is_refused(hub, tmp_path):
    hub.repos["a/b"] = {"README.md": b"x", "tf_model.h5": b"x"}
    assert "holds no .safetensors or .ckpt file" in refusal("a/b", tmp_path)


def test_a_repository_cannot_write_outside_the_folder(hub, tmp_path):
    hub.repos["a/b"] = {
        "model_index.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights(UNET),
        "unet/../../../evil.json": b"{}",
        "unet/..\\evil.json": b"{}",
        "unet/C:evil.json": b"{}",
        "/evil.safetensors": b"x",
        "../evil.safetensors": b"x",
    }
    get("a/b", tmp_path / "models")
    assert not any("evil" in name for name in files_in(tmp_path))
    assert not any("evil" in name for name in hub.asked)


# --- a diffusers folder ---

FOLDER = {
    "model_index.json": b"{}",
    "README.md": b"x",
    "unet/config.json": b'{"in_channels": 8}',
    "unet/diffusion_pytorch_model.safetensors": weights(UNET),
    "unet/diffusion_pytorch_model.fp16.safetensors": b"x",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"x",
    "unet/diffusion_pytorch_model.bin": b"x",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.bin": b"vae",
    "text_encoder/config.json": b"{}",
    "text_encoder/model.fp16.safetensors": b"text",
    "text_encoder/pytorch_model.bin": b"x",
    "text_encoder/flax_model.msgpack": b"x",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"m",
    "scheduler/scheduler_config.json": b"{}",
    "safety_checker/model.safetensors": b"x",
    "feature_extractor/preprocessor_config.json": b"{}",
}
NEEDED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
]


def test_of_a_diffusers_folder_only_what_is_needed_comes(hub, tmp_path):
    hub.repos["UCSC-VLAA/HQ-Edit-ckpt"] = FOLDER
    path, said = get("hq-edit", tmp_path)
    assert path == tmp_path / "HQ-Edit"
    assert files_in(tmp_path) == [f"HQ-Edit/{name}" for name in NEEDED]
    assert all((path / name).read_bytes() == FOLDER[name] for name in NEEDED)
    assert sorted(hub.asked) == NEEDED
    assert "10 files" in said and hashlib.sha256(b"vae").hexdigest() in said
    entries = find_models([tmp_path])
    assert next((e.name, e.checkpoint and e.checkpoint.kind) for e in entries) == ("HQ-Edit", "instruct-pix2pix")

    assert "is here already, complete" in get("hq-edit", tmp_path)[1]
    assert len(hub.gets) == len(NEEDED)


def test_a_diffusers_folder_appears_only_when_all_of_it_is_there(hub, tmp_path):
    hub.repos["a/b"] = FOLDER
    unet = "unet/diffusion_pytorch_model.safetensors"
    hub.lies[unet] = b"?" * len(FOLDER[unet])
    assert "it was removed" in refusal("a/b", tmp_path)
    assert not (tmp_path / "b").exists() and len(find_models([tmp_path])) == 1

    hub.lies, before = {}, len(hub.gets)
    assert files_in(get("a/b", tmp_path)[0]) == NEEDED
    again = hub.asked[before:]
    assert unet in again and "model_index.json" not in again


def test_a_small_file_that_is_not_what_the_hub_lists_is_refused(hub, tmp_path):
    hub.repos["a/b"] = FOLDER
    hub.lies["unet/config.json"] = b'{"in_channels": 4}'
    assert "unet/config.json" in refusal("a/b", tmp_path)


def test_a_folder_that_is_there_but_damaged_is_left_alone(hub, tmp_path):
    hub.repos["a/b"] = FOLDER
    path, _ = get("a/b", tmp_path)
    (path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"mine")
    assert "damaged" in refusal("a/b", tmp_path)
    assert (path / "vae" / "diffusion_pytorch_model.bin").read_bytes() == b"mine"


def test_a_diffusers_folder_in_shards_and_in_a_subfolder_comes_with_its_index(hub, tmp_path):
    name = "diffusion_pytorch_model"
    index = {"weight_map": dict.fromkeys(UNET, f"{name}-00001-of-00001.safetensors")}
    hub.repos["a/b"] = {
        "v2/model_index.json": b"{}",
        f"v2/unet/{name}-00001-of-00001.safetensors": weights(UNET),
        f"v2/unet/{name}.safetensors.index.json": json.dumps(index).encode(),
        f"v2/unet/{name}.fp16-00001-of-00001.safetensors": b"x",
        f"v2/unet/{name}.safetensors.index.fp16.json": b"{}",
        "x.safetensors": b"x",
    }
    path, said = get("a/b/v2/model_index.json", tmp_path)
    assert path == tmp_path / "v2" and "instruct-pix2pix" in said
    assert files_in(path) == [
        "model_index.json",
        f"unet/{name}-00001-of-00001.safetensors",
        f"unet/{name}.safetensors.index.json",
    ]


def test_the_weights_that_come_are_those_that_will_be_loaded(hub, tmp_path):
    loaded = "diffusion_pytorch_model.a_long_variant.safetensors"
    hub.repos["a/b"] = {
        "model_index.json": b"{}",
        "unet/diffusion_pytorch_model.non_ema.safetensors": b"x",
        f"unet/{loaded}": weights(UNET),
    }
    unet = get("a/b", tmp_path)[0] / "unet"
    assert weight_files(unet) == (unet / loaded,) and files_in(unet) == [loaded]


def test_a_diffusers_folder_without_a_unet_is_refused(hub, tmp_path):
    hub.repos["a/b"] = {"model_index.json": b"{}", "transformer/diffusion_pytorch_model.safetensors": b"x"}
    assert "has no unet/" in refusal("a/b", tmp_path)


# --- what goes beside a model, and on which terms ---


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        ("lcm-lora", "pytorch_lora_weights.safetensors", "Lora/lcm-lora-sdv1-5.safetensors"),
        ("taesd", "taesd_decoder.safetensors", "VAE-approx/taesd_decoder.safetensors"),
        ("taesdxl", "taesdxl_decoder.safetensors", "VAE-approx/taesdxl_decoder.safetensors"),
    ],
)
def test_what_goes_beside_a_model_lands_where_automatic1111_has_it(name, file, place, hub, tmp_path):
    content = weights({"1.weight": [4, 4]})
    hub.repos[KNOWN[name].repo] = {file: content, "taesd_encoder.safetensors": b"x", "README.md": b"x"}
    host, ours = tmp_path / "host" / "models" / "Stable-diffusion", tmp_path / "models"
    for folder, root in ((host, host.parent), (ours, ours)):
        path, said = get(name, folder)
        assert path == root / place and path.read_bytes() == content
        assert KNOWN[name].use in said and "cannot edit" not in said and "pick an" not in said
        assert KNOWN[name].found_in(folder) == path
    assert [entry.name for entry in find_models([ours])] == ["demo"]  # it is no model to choose


def test_a_known_model_is_found_by_its_name_in_the_folder(hub, tmp_path):
    known = KNOWN["instruct-pix2pix-fp16"]
    assert known.found_in(tmp_path) is None
    hub.repos[known.repo] = {"instruct-pix2pix-00-22000-pruned-fp16.safetensors": weights()}
    path, _ = get("instruct-pix2pix-fp16", tmp_path)
    assert known.found_in(tmp_path) == path


@pytest.mark.parametrize("name", KNOWN)
def test_the_licence_is_told_before_anything_is_asked_of_the_hub(name, tmp_path):
    lines: list[str] = []
    with pytest.raises(UserError, match="cannot be reached"):
        download(name, tmp_path, report=lines.append)
    assert lines[0] == f"Licence: {KNOWN[name].licence} (https://huggingface.co/{KNOWN[name].repo})."


@pytest.mark.parametrize("token", ["hf_of_the_tests", ""])
def test_of_cosxl_edit_it_is_told_what_it_may_be_used_for_and_how_to_be_let_in(token, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.repos["stabilityai/cosxl"] = {"cosxl.safetensors": b"x", "cosxl_edit.safetensors": weights()}
    path, said = get("cosxl-edit", tmp_path)
    assert path.name == "cosxl_edit.safetensors"
    assert "Stability AI Non-Commercial Research Community License" in said
    assert "non-commercial purposes only" in said
    assert "accepted its terms on https://huggingface.co/stabilityai/cosxl" in said and "HF_TOKEN" in said
    assert ("A token is set here." if token else "No token is set here yet.") in said


@pytest.mark.parametrize(("licence", "told"), [("cc-by-4.0", "cc-by-4.0"), ("", "none named")])
def test_of_any_other_repository_the_licence_is_what_the_hub_says(licence, told, hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    hub.licence = licence
    assert f"Licence: {told} (https://huggingface.co/a/b)." in get("a/b", tmp_path)[1]


# --- who follows it, and stops it ---


def test_whoever_follows_is_told_of_each_piece_and_of_all_bytes(hub, tmp_path):
    content = {"unet/diffusion_pytorch_model.safetensors": weights(UNET, extra=3_000_000), "model_index.json": b"{}",
               "vae/diffusion_pytorch_model.bin": b"vae" * 700_000}  # fmt: skip
    hub.repos["a/b"] = content
    told: list[tuple[int, int]] = []
    download("a/b", tmp_path, report=lambda _: None, follow=lambda done, total: told.append((done, total)))
    whole = sum(map(len, content.values()))
    assert {total for _, total in told} == {whole}
    done = [one for one, _ in told]
    assert done == sorted(done) and done[-1] == whole
    assert len([one for one in set(done) if one < whole]) >= 4  # pieces of a megabyte


def stop_after(most: int):
    def follow(done: int, total: int) -> None:
        if done > most:
            raise Interrupted

    return follow


def test_a_download_that_is_stopped_keeps_what_came_and_the_next_goes_on(hub, tmp_path):
    content = weights(extra=6_000_000)
    hub.repos["a/b"] = {"x.safetensors": content}
    with pytest.raises(Interrupted):
        download("a/b", tmp_path, report=lambda _: None, follow=stop_after(3_000_000))
    kept = left_over(look_up("a/b", tmp_path), tmp_path)
    assert 3_000_000 < kept < 4_200_000
    assert not (tmp_path / "x.safetensors").exists()
    path, _ = get("a/b", tmp_path)
    assert path.read_bytes() == content and hub.gets[-1] == ("x.safetensors", f"bytes={kept}-")
    assert left_over(look_up("a/b", tmp_path), tmp_path) == 0


def test_a_check_of_what_came_can_be_stopped_too(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights(extra=3_000_000)}
    calls: list[int] = []

    def follow(done: int, total: int) -> None:
        calls.append(done)
        if calls.count(total) == 3:  # it is whole, and its hash is under way
            raise Interrupted

    with pytest.raises(Interrupted):
        download("a/b", tmp_path, report=lambda _: None, follow=follow)
    assert not (tmp_path / "x.safetensors").exists()
    get("a/b", tmp_path)
    assert len(hub.gets) == 1  # nothing had to come again


def test_what_a_stopped_download_left_can_be_thrown_away_and_nothing_else_goes(hub, tmp_path):
    hub.repos["a/b"] = hub.repos["a/other"] = {"x.safetensors": weights(extra=6_000_000)}
    for name in ("a/b", "a/other"):
        with pytest.raises(Interrupted):
            download(name, tmp_path, report=lambda _: None, follow=stop_after(3_000_000))
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    discard(look_up("a/b", tmp_path), tmp_path)
    assert left_over(look_up("a/b", tmp_path), tmp_path) == 0
    assert left_over(look_up("a/other", tmp_path), tmp_path) > 0 and (tmp_path / "mine.safetensors").exists()


# --- names ---


def test_an_unknown_name_lists_the_known_ones(hub, tmp_path):
    message = refusal("instruct-pix3pix", tmp_path)
    assert all(name in message and model.about in message for name, model in KNOWN.items())
    assert "OWNER/REPO/FILE" in message


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../a/b", "a/../b", "a/b/../c.ckpt", "a/b//c.ckpt", "a/b/..\\c.ckpt", "a/b/C:x.ckpt",
     "a/b/x./c.ckpt", ".a/b", "a/b/.hidden/x.ckpt", "a b/c", "http://evil.example/a/b", "a/b/x\n.ckpt", "~/x",
     "a--b/c", "ä/b"],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused_without_asking(name, tmp_path):
    message = refusal(name, tmp_path)
    assert "to download" in message or "cannot be a file" in message
    assert files_in(tmp_path) == []


# --- the hub refuses or is not there ---


def test_an_unknown_repository_is_told(hub, tmp_path):
    message = refusal("a/b", tmp_path)
    assert "shows no a/b: check the name on https://huggingface.co/a/b" in message


def test_a_private_repository_is_told(hub, tmp_path):
    hub.refuse_api = (401, "")
    assert "'hf auth login'" in refusal("a/b", tmp_path)


@pytest.mark.parametrize("refused", [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")])
def test_a_gated_repository_is_told(refused, hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    hub.refuse_file = refused
    message = refusal("a/b", tmp_path)
    assert "accept them on https://huggingface.co/a/b" in message and "'hf auth login'" in message
    assert not (tmp_path / "x.safetensors").exists()


def test_a_hub_that_fails_is_told(hub, tmp_path):
    hub.refuse_api = (500, "")
    message = refusal("a/b", tmp_path)
    assert "error 500" in message and "https://huggingface.co/a/b" in message


def test_a_login_page_in_place_of_the_hub_is_told(hub, tmp_path):
    hub.page = b"<html>Welcome to our hotel</html>"
    assert "login page" in refusal("a/b", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "page"),
    [
        ("instruct-pix2pix", "instruct-pix2pix-00-22000.safetensors", "timbrooks/instruct-pix2pix"),
        ("a/b/c.ckpt", "c.ckpt", "a/b"),
        ("a/b", "the model's files", "a/b"),
    ],
)
def test_without_a_network_the_way_by_hand_is_told(name, file, page, tmp_path):
    message = refusal(name, tmp_path)
    assert "127.0.0.1:9 cannot be reached" in message
    assert f"download {file} from https://huggingface.co/{page} in a browser" in message
    assert str(tmp_path) in message
    assert files_in(tmp_path) == []


def test_offline_by_choice_is_told(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal("a/b", tmp_path)


def test_each_door_words_what_helps_against_a_failed_download(hub, tmp_path):
    hub.repos["a/b"] = {"x.safetensors": weights()}
    (tmp_path / "x.safetensors").write_bytes(b"precious")
    with pytest.raises(UserError) as caught:
        download("a/b", tmp_path, report=print)
    assert caught.value.told(WORDS).endswith(
        "move it away, or choose another folder with --models-dir, and run the same command again."
    )
    page = {Remedy.DOWNLOAD_AGAIN: "press Download again", Remedy.MODELS_FOLDER: " under Folder"}
    assert caught.value.told(page).endswith("choose another folder under Folder, and press Download again.")
