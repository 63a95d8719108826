"""Textual inversion: whole edits against diffusers, every format of file, and where its words stand in a prompt."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from instruct_pix2pix.engine.beside.words import vectors_in
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.add_ons import AddOnFolders
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tests.helpers.diffusers_edit import pipeline

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

SETTINGS = EditSettings(
    instruction="make it Snow-style, a house", sampler="Euler", schedule="Uniform", steps=4, seed=42,
    result_size="model",
)  # fmt: skip
QUICK = replace(SETTINGS, steps=1, size="64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of embeddings, beside `models`."""
    folder = tmp_path_factory.mktemp("home") / "embeddings"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def model(folder: Path) -> EditModel:
    """The demo model, with a folder of embeddings of its own."""
    machine = choose_machine("cpu", "fp32")
    return EditModel(load_networks(DEMO, machine)[1], machine, "demo", AddOnFolders([folder.parent / "models"]))


@pytest.fixture
def vectors(model: EditModel) -> Tensor:
    """Three vectors of the size that the model's own have."""
    own = model.text.text_model.embeddings.token_embedding.weight
    return torch.randn(3, own.shape[1], generator=torch.Generator().manual_seed(5)) * own.std() * 2


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((96, 96), Image.Resampling.BICUBIC)


def embedded(model: EditModel, text: str) -> Tensor:
    model.add_ons.put_on(replace(QUICK, instruction=text))
    return model.prompts.encode(text)


def tokens(model: EditModel, text: str) -> list[list[int]]:
    """The ids of each chunk, without BOS, EOS and padding."""
    model.add_ons.put_on(replace(QUICK, instruction=text))
    eos = model.prompts.tokenizer.eos
    return [[t for t in chunk.tokens[1:] if t != eos] for chunk in model.prompts.chunks(text)]


def test_an_edit_is_that_of_diffusers_with_the_same_embedding(model, folder, picture, vectors, tmp_path, monkeypatch):
    save_file({"emb_params": vectors}, folder / "snow-style.safetensors")
    pipe = pipeline(model, tmp_path)
    pipe.load_textual_inversion(vectors, token="snow-style")  # CLIP's words have no capitals
    theirs = pipe(
        prompt=SETTINGS.instruction.lower(),
        image=picture,
        num_inference_steps=4,
        guidance_scale=SETTINGS.text_cfg,
        image_guidance_scale=SETTINGS.image_cfg,
        generator=torch.Generator().manual_seed(42),
        output_type="pt",
    ).images
    decoded: list[Tensor] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent: decoded.append(decode(latent)) or decoded[-1])
    before = {key: value.clone() for key, value in model.text.state_dict().items()}
    (edited,) = edit(model, picture, SETTINGS)
    assert float(((decoded[0] / 2 + 0.5).clamp(0, 1) - theirs).abs().max()) < 1e-3
    (folder / "snow-style.safetensors").unlink()
    (without,) = edit(model, picture, SETTINGS)
    assert np.abs(np.asarray(edited.image).astype(int) - np.asarray(without.image)).max() > 3
    assert all(torch.equal(before[key], value) for key, value in model.text.state_dict().items())


def files_of(vectors: Tensor, folder: Path) -> list[Path]:
    """The same vectors in each format."""
    old = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    rest = {"string_to_token": {"*": 265}, "name": "x", "step": 100, "sd_checkpoint": None, "sd_checkpoint_name": None}
    torch.save({"string_to_param": {"*": vectors}, **rest}, folder / "a.pt")
    torch.save({"string_to_param": {"*": vectors.clone().requires_grad_()}, **rest}, folder / "b.pt")
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": old}, folder / "c.pt")
    torch.save({"<snow>": vectors}, folder / "d.bin")
    save_file({"emb_params": vectors}, folder / "e.safetensors")
    save_file({"<snow>": vectors}, folder / "f.safetensors")
    return sorted(folder.iterdir())


def test_every_format_holds_the_same_vectors(folder, vectors):
    for file in files_of(vectors, folder):
        assert torch.equal(vectors_in(file, [vectors.shape[1]])[0], vectors), file.name
    torch.save({"<snow>": vectors[0]}, folder / "one.bin")
    assert torch.equal(vectors_in(folder / "one.bin", [vectors.shape[1]])[0], vectors[:1])


def test_sdxls_embeddings_have_vectors_for_both_text_encoders(folder, vectors):
    file = folder / "xl.safetensors"
    save_file({"clip_l": vectors[:, :8].contiguous(), "clip_g": vectors[:, :20].contiguous()}, file)
    first, second = vectors_in(file, [8, 20])
    assert torch.equal(first, vectors[:, :8]) and torch.equal(second, vectors[:, :20])
    with pytest.raises(UserError, match="width 8 and 20, but this model takes 160"):
        vectors_in(file, [160])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a": torch.ones(2, 160), "b": torch.ones(2, 160)}, "not an embedding of one word"),
        ({"emb_params": torch.ones(2, 3, 160)}, "holds no vectors"),
        ({"emb_params": torch.ones(2, 768)}, "width 768, but this model takes 160"),
        ({"emb_params": torch.ones(76, 160)}, "has 76 vectors"),
        ({"emb_params": torch.full((2, 160), torch.inf)}, "numbers that are none"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_its_word_a_word_and_is_told(model, folder, picture, tensors, said):
    plain = embedded(model, "make it winter")
    save_file(tensors, folder / "winter.safetensors")
    assert torch.equal(embedded(model, "make it winter"), plain)
    (edited,) = edit(model, picture, replace(QUICK, instruction="make it winter"))
    (note,) = edited.beside.notes
    assert said in note and "'winter' was read as text" in note
    (edited,) = edit(model, picture, replace(QUICK, instruction="make it night"))
    assert edited.beside.notes == ()


def test_words_are_found_whatever_their_case_and_the_longest_first(model, folder, vectors):
    save_file({"emb_params": vectors[:1]}, folder / "Snow.safetensors")
    save_file({"emb_params": vectors[:2].contiguous()}, folder / "snow house.safetensors")
    vocabulary = model.prompts.tokenizer.vocab_size
    (plain,) = tokens(model, "a house")

    def own(text: str) -> list[list[int]]:
        return [[t for t in chunk if t >= vocabulary] for chunk in tokens(model, text)]

    (short,), (long,) = own("a SNOW house")[0:1], own("snow")
    assert len(short) == 2 and len(long) == 1 and not set(short) & set(long)
    assert tokens(model, "a snow house")[0][:1] == plain[:1]
    assert own("(snow:1.2) [snow] a snowhouse")[0].count(long[0]) >= 2
    weights = model.prompts.chunks("(Snow House:1.5) winter")[0].weights
    assert weights[1:3] == (1.5, 1.5) and weights[3] == 1.0


def test_the_vectors_of_a_word_stay_together(model, folder, vectors):
    save_file({"emb_params": vectors}, folder / "snowy.safetensors")
    (row,) = {len(chunk) for chunk in tokens(model, "a " * 72 + "snowy")}
    assert row == 75
    first, second = tokens(model, "a " * 73 + "snowy a")
    assert len(first) == 73 and len(second) == 4
    assert embedded(model, "a " * 73 + "snowy a").shape[1] == 2 * 77


def test_the_infotext_tells_its_hash_as_the_web_ui_writes_it(model, folder, picture, vectors):
    file = folder / "snowy.safetensors"
    save_file({"emb_params": vectors}, file)
    settings = replace(QUICK, instruction="make it winter", negative="(snowy:1.2), blurry")
    (edited,) = edit(model, picture, settings)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert f'TI hashes: "snowy: {expected}"' in edited.infotext("demo", None)
