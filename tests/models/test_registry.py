"""The list of models as a person sees it: what is found, what a name means, what is remembered."""

import hashlib
import json
import os
import struct
import sys
from pathlib import Path

import pytest

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models import registry
from instruct_pix2pix.models.catalog import Catalog
from instruct_pix2pix.models.registry import DEMO, find_models, model_dirs, model_hash, resolve

VAE = {"first_stage_model.encoder.conv_in.weight": [8, 3, 3, 3],
       "first_stage_model.decoder.conv_in.weight": [8, 4, 3, 3]}  # fmt: skip
TEXT = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": [8, 8]}
EDIT = {**VAE, **TEXT, "model.diffusion_model.input_blocks.0.0.weight": [320, 8, 3, 3],
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768]}  # fmt: skip
PLAIN = {**EDIT, "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]}
UNET = {"conv_in.weight": [320, 8, 3, 3],
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": [320, 768]}  # fmt: skip
LORA = {"unet.conv_in.lora_A.weight": [4, 8, 3, 3]}


def write(path: Path, shapes: dict[str, list[int]], fill: bytes = b"\0") -> Path:
    """A safetensors file of bytes, written by hand."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 1
        for side in shape:
            size *= side
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + fill * end)
    return path


def write_folder(path: Path) -> Path:
    write(path / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    write(path / "vae" / "diffusion_pytorch_model.safetensors", VAE)
    write(path / "text_encoder" / "model.safetensors", TEXT)
    (path / "model_index.json").write_text("{}")
    return path


def names(*dirs: Path) -> list[str]:
    return [entry.name for entry in find_models(dirs)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    return folder


# --- where models are looked for ---


def package_in(root: Path, launcher: bool = True) -> Path:
    package = root / "modules" / "instruct_pix2pix"
    package.mkdir(parents=True)
    if launcher:
        (root / "launch.py").touch()
    return package


def test_a_checkout_looks_beside_its_launcher_and_first_where_it_is_told(tmp_path):
    package = package_in(tmp_path / "here")
    assert model_dirs((), package) == [tmp_path / "here" / "models"]
    told = [Path("a"), Path("b")]
    assert model_dirs(told, package) == [*told, tmp_path / "here" / "models"]


def test_an_installed_package_looks_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_dirs((), package_in(tmp_path / "x", launcher=False)) == [Path.cwd() / "models"]
    assert model_dirs((), tmp_path / "site-packages" / "instruct_pix2pix") == [Path.cwd() / "models"]


def test_an_extension_sees_the_models_of_its_host(tmp_path):
    root = tmp_path / "webui" / "extensions" / "ip2p"
    assert model_dirs((), package_in(root)) == [
        root / "models",
        tmp_path / "webui" / "models" / "Stable-diffusion",
    ]


def test_this_checkout_looks_in_its_own_models_folder():
    assert model_dirs()[0] == Path(__file__).absolute().parents[2] / "models"


# --- what is found ---


def test_models_are_listed_by_name_with_what_they_are_and_the_demo_last(tmp_path):
    write(tmp_path / "Zoo.safetensors", EDIT)
    write(tmp_path / "sub" / "plain.v1.SAFETENSORS", PLAIN)
    write(tmp_path / "a-vae.safetensors", VAE)
    write(tmp_path / "lora" / "style.safetensors", LORA)
    write(tmp_path / "LyCORIS" / "beside.safetensors", LORA)  # which is no place for models
    write_folder(tmp_path / "folder.v2")
    (tmp_path / "broken.ckpt").write_bytes(b"<html>")
    (tmp_path / "readme.txt").write_text("no model")
    entries = find_models([tmp_path])
    kinds = {e.name: e.checkpoint.kind if e.checkpoint else e.problem for e in entries[:-1]}
    assert kinds == {
        "a-vae": "VAE",
        "broken": "'broken.ckpt' is a web page and not a model: download it again, signed in if the site asks.",
        "folder.v2": "instruct-pix2pix",
        "lora/style": "LoRA",
        "sub/plain.v1": "Stable Diffusion",
        "Zoo": "instruct-pix2pix",
    }
    assert [e.name for e in entries[:-1]] == list(kinds)
    assert (entries[-1].name, entries[-1].path) == ("demo", DEMO)
    assert all((e.checkpoint is None) != (e.problem is None) for e in entries)


def test_hidden_folders_and_files_are_not_listed(tmp_path):
    write(tmp_path / ".download" / "part.safetensors", EDIT)
    write(tmp_path / ".cache" / "huggingface" / "x.ckpt", EDIT)
    write(tmp_path / "._resource.safetensors", EDIT)
    assert names(tmp_path) == ["demo"]


def test_a_folder_that_is_missing_or_given_twice_does_no_harm(tmp_path):
    write(tmp_path / "m" / "x.safetensors", EDIT)
    assert names(tmp_path / "none", tmp_path / "m", tmp_path, tmp_path / "m") == ["x", "demo"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_that_go_in_circles_are_survived_and_links_to_models_followed(tmp_path):
    write(tmp_path / "elsewhere" / "x.safetensors", EDIT)
    models = tmp_path / "models"
    models.mkdir()
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    (models / "loop").symlink_to(models)
    (models / "self").symlink_to("self")
    (models / "gone.safetensors").symlink_to("nowhere")
    assert names(models) == ["gone.safetensors", "linked/x", "demo"]


def test_models_of_the_same_name_can_be_told_apart(tmp_path):
    write(tmp_path / "a" / "x.safetensors", EDIT)
    write(tmp_path / "a" / "x.ckpt", EDIT)
    write(tmp_path / "a" / "y.safetensors", EDIT)
    write(tmp_path / "b" / "y.safetensors", EDIT)
    write(tmp_path / "b" / "demo.safetensors", EDIT)
    dirs = [tmp_path / "a", tmp_path / "b"]
    found = names(*dirs)
    assert sorted(found) == sorted(
        [
            "x.safetensors",
            "x.ckpt",
            str(tmp_path / "a" / "y.safetensors"),
            str(tmp_path / "b" / "y.safetensors"),
            "demo.safetensors",
            "demo",
        ]
    )
    for entry in find_models(dirs):
        if entry.name != "demo":
            assert resolve(entry.name, dirs) == entry.path
    assert resolve("demo", dirs) == DEMO


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder this user cannot read")
def test_a_folder_that_may_not_be_read_does_not_end_the_list(tmp_path):
    write_folder(tmp_path / "locked")
    write(tmp_path / "x.safetensors", EDIT)
    (tmp_path / "locked" / "unet").chmod(0)
    try:
        assert names(tmp_path) == ["locked", "x", "demo"]
    finally:
        (tmp_path / "locked" / "unet").chmod(0o700)


# --- what a name means ---


def test_without_a_name_the_first_model_that_can_edit_is_taken(tmp_path):
    write(tmp_path / "a.safetensors", PLAIN)
    (tmp_path / "b.safetensors").write_bytes(b"broken")
    second = write(tmp_path / "c.safetensors", EDIT)
    write(tmp_path / "d.safetensors", EDIT)
    assert resolve(None, [tmp_path]) == second


def test_a_model_that_lacks_a_part_is_not_taken_by_itself(tmp_path):
    write(tmp_path / "a.safetensors", {name: shape for name, shape in EDIT.items() if name not in VAE})
    write(tmp_path / "b.safetensors", {name: shape for name, shape in EDIT.items() if name not in TEXT})
    write(tmp_path / "c" / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    (tmp_path / "c" / "model_index.json").write_text("{}")
    lacking = [e.checkpoint.label.rpartition(", ")[2] for e in find_models([tmp_path]) if e.checkpoint]
    assert lacking == ["without VAE", "without text encoder", "without VAE and text encoder", "8 channels"]
    assert resolve(None, [tmp_path]) == DEMO
    catalog = Catalog([tmp_path])
    assert catalog.default.path == DEMO
    with pytest.raises(UserError, match=r"'a' cannot edit: it is .*, without VAE\. "):
        catalog.find("a")
    with pytest.raises(UserError, match=r"'a' cannot edit: it is .*, without VAE\. "):
        Catalog([tmp_path], tmp_path / "a.safetensors")
    whole = write(tmp_path / "d.safetensors", EDIT)
    assert resolve(None, [tmp_path]) == whole


def test_without_a_name_and_without_an_edit_model_the_demo_is_taken(tmp_path):
    write(tmp_path / "a.safetensors", PLAIN)
    assert resolve(None, [tmp_path]) == DEMO
    assert resolve(None, []) == DEMO


@pytest.mark.parametrize(
    "name",
    ["sub/Magic-Brush", "SUB/magic-brush", "sub/Magic-Brush.safetensors", "magic-brush", "Magic-Brush.safetensors",
     "agic", " magic-brush ", "sub\\magic-brush"],
)  # fmt: skip
def test_a_model_is_found_by_name_part_or_other_case(name, tmp_path):
    wanted = write(tmp_path / "sub" / "Magic-Brush.safetensors", EDIT)
    write(tmp_path / "other.safetensors", EDIT)
    assert resolve(name, [tmp_path]) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "styles\\paint.safetensors [0123456789]",
        "styles/paint [0123456789]",
        "paint",
        "Paint.safetensors",
        " paint.safetensors [fbc31a67aa] ",
    ],
)
def test_a_model_in_a_folder_is_found_as_clients_of_the_web_ui_write_it(name, tmp_path):
    write(tmp_path / "other.safetensors", EDIT)
    wanted = write(tmp_path / "styles" / "paint.safetensors", EDIT)
    assert resolve(name, [tmp_path]) == wanted
    assert Catalog([tmp_path]).find(name).path == wanted


def test_a_catalog_asks_for_more_of_a_name_that_several_models_have(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "paint.safetensors", EDIT)
    with pytest.raises(UserError, match="may be a/paint, b/paint"):
        Catalog([tmp_path]).find("paint")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_a_model_whose_name_is_not_text_has_a_name_that_can_be_written(tmp_path):
    wanted = write(tmp_path / os.fsdecode(b"caf\xe9.safetensors"), EDIT)
    assert names(tmp_path) == ["caf?", "demo"]
    for name in ("caf?", wanted.name, wanted.stem):
        assert resolve(name, [tmp_path]) == wanted
    assert [entry.name for entry in Catalog([], wanted).entries] == ["caf?", "demo"]


def test_a_catalog_takes_no_part_of_a_name_for_another_model(tmp_path):
    write(tmp_path / "paint-v2.safetensors", EDIT)
    with pytest.raises(UserError, match="no model 'paint'"):
        Catalog([tmp_path]).find("paint")


def test_a_model_whose_name_ends_like_a_hash_is_found(tmp_path):
    wanted = write(tmp_path / "paint [2].safetensors", EDIT)
    write(tmp_path / "paint.safetensors", EDIT)
    assert resolve("paint [2]", [tmp_path]) == wanted


def test_a_whole_name_wins_over_a_longer_one_that_holds_it(tmp_path):
    short = write(tmp_path / "edit.safetensors", EDIT)
    write(tmp_path / "edit-2.safetensors", EDIT)
    write(tmp_path / "sub" / "edit.safetensors", EDIT)
    assert resolve("edit", [tmp_path]) == short


def test_a_path_outside_the_folders_is_taken_as_it_is(tmp_path, monkeypatch):
    file = write(tmp_path / "elsewhere" / "x.safetensors", EDIT)
    folder = write_folder(tmp_path / "elsewhere" / "diffusers")
    assert resolve(str(file), []) == file
    assert resolve(str(folder), []) == folder
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve("x.safetensors", []) == Path("x.safetensors")


def test_a_folder_that_is_no_model_does_not_hide_a_model_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    Path("unet-only").mkdir()
    assert resolve("demo", []) == DEMO
    assert resolve("unet-only", []) == Path("unet-only")  # the loader says what it lacks


def refusal(name: str, *dirs: Path) -> str:
    with pytest.raises(UserError) as told:
        resolve(name, dirs)
    return str(told.value)


def test_an_unknown_name_is_answered_by_the_nearest_ones_and_the_folders(tmp_path):
    for name in ("anything", "instruct-pix2pix-fp16", "zebra"):
        write(tmp_path / f"{name}.safetensors", EDIT)
    message = refusal("instrukt-pix", tmp_path)
    assert message.startswith("There is no model 'instrukt-pix': name a file, or one of these: instruct-pix2pix-fp16, ")
    assert str(tmp_path) in message and "zebra" in message and "demo" in message


def test_of_many_models_the_answer_names_ten(tmp_path):
    for number in range(20):
        write(tmp_path / f"m{number:02}.safetensors", EDIT)
    assert " and 11 more (" in refusal("xyz", tmp_path)  # 20 and the demo


def test_a_part_of_several_names_is_answered_by_those(tmp_path):
    for name in ("brush-1", "brush-2", "other"):
        write(tmp_path / f"{name}.safetensors", EDIT)
    message = refusal("brush", tmp_path)
    assert message.startswith("'brush' may be brush-1, brush-2: write more of the name")


def test_where_there_is_no_model_the_answer_says_how_to_get_one(tmp_path):
    message = refusal("anything", tmp_path / "models")
    assert "download instruct-pix2pix" in message and str(tmp_path / "models") in message


@pytest.mark.parametrize("name", ["", "  ", "\0", "x" * 5000, "~nobody-of-this-name/x", "../../no-such-model", "*"])
def test_a_name_that_makes_no_sense_is_answered_in_a_sentence(name, tmp_path):
    write(tmp_path / "x.safetensors", EDIT)
    assert "There is no model" in refusal(name, tmp_path)


# --- the hash ---


def hash_file(cache: Path) -> Path:
    return next(cache.rglob("hashes.json"))


def test_the_hash_is_the_beginning_of_the_sha256_and_is_remembered(tmp_path, cache, monkeypatch):
    file = write(tmp_path / "x.safetensors", EDIT)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    assert model_hash(file) == expected

    monkeypatch.setattr(registry, "short_hash", lambda path: pytest.fail("the file was read again"))
    assert model_hash(file) == expected
    monkeypatch.chdir(tmp_path)
    assert model_hash(Path("x.safetensors")) == expected  # another way to say the same file
    assert [path.name for path in hash_file(cache).parent.iterdir()] == ["hashes.json"]


def test_a_changed_file_is_hashed_again(tmp_path):
    file = write(tmp_path / "x.safetensors", EDIT)
    first = model_hash(file)
    before = file.stat()
    write(file, EDIT, fill=b"\1")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert model_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()[:10] != first


def test_the_hash_of_a_diffusers_folder_is_that_of_its_unet(tmp_path):
    folder = write_folder(tmp_path / "d")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert model_hash(folder) == hashlib.sha256(unet.read_bytes()).hexdigest()[:10]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1]}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_cache_is_no_error_and_is_replaced(content, tmp_path, cache):
    file = write(tmp_path / "x.safetensors", EDIT)
    expected = model_hash(file)
    hash_file(cache).write_bytes(content)
    assert model_hash(file) == expected
    assert expected in hash_file(cache).read_text()


def test_a_cache_that_lies_about_the_form_of_a_hash_is_not_believed(tmp_path, cache):
    file = write(tmp_path / "x.safetensors", EDIT)
    expected = model_hash(file)
    hash_file(cache).write_text(hash_file(cache).read_text().replace(expected, "../../evil"))
    assert model_hash(file) == expected


@pytest.mark.skipif(sys.platform == "darwin", reason="the folder cannot be chosen there")
def test_a_cache_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "file"))
    file = write(tmp_path / "x.safetensors", EDIT)
    assert model_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()[:10]


def test_the_hash_of_a_missing_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'gone\.ckpt' cannot be read"):
        model_hash(tmp_path / "gone.ckpt")
