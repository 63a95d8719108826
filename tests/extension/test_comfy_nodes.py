"""The nodes for ComfyUI, called by a stand-in for it around the demo model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.sampling.noise import ImageNoise
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import get_sigmas
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.guidance.cached import whole_steps
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs
from instruct_pix2pix.guidance.rows import Scales
from instruct_pix2pix.hosts.comfy import conditions
from instruct_pix2pix.hosts.comfy.edit_kind import EditKind, kind_of
from instruct_pix2pix.hosts.comfy.inputs import CONDITIONING, EDIT, GUIDER
from instruct_pix2pix.hosts.comfy.nodes import NODE_CLASS_MAPPINGS, ConditioningNode, EditNode, GuiderNode
from instruct_pix2pix.hosts.comfy.sampling import noise_of
from instruct_pix2pix.settings import EditSettings
from tests.helpers.comfy_stand_in import Clip, Model, Patcher, Vae, comfyui

ROOT = Path(__file__).parents[2]
SAID = "make it winter"
STEPS = 5


@pytest.fixture(autouse=True)
def steps(model: EditModel) -> Iterator[list[int]]:
    with comfyui(model) as reported:
        yield reported


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """[1, 64, 64, 3] in 0..1, as ComfyUI's LoadImage gives it."""
    image = Image.open(ROOT / "examples" / "house.png").convert("RGB").resize((64, 64))
    return to_tensor(image).movedim(1, -1) / 2 + 0.5


def box(model: EditModel, picture: Tensor, patcher: Patcher | None = None, **changes: Any) -> tuple[Tensor, Tensor]:
    """Run the one box: at 64 pixels, a few steps of Euler, unless `changes` say otherwise."""
    inputs: dict[str, Any] = {
        "instruction": SAID,
        "negative": "",
        "text_cfg": 7.5,
        "image_cfg": 1.5,
        "steps": STEPS,
        "sampler_name": "euler",
        "scheduler": "normal",
        "seed": 3,
        "keep_rest": "off",
        "size": 64,
    }
    patcher = patcher or Patcher(Model(model))
    return EditNode().edit(patcher, Clip(model), Vae(model), picture, **{**inputs, **changes})


def by_the_engine(model: EditModel, picture: Tensor, text: float, image: float, **options: Any) -> Tensor:
    """The same edit by the engine alone: [1, 64, 64, 3] in 0..1."""
    latent = model.encode_image(picture.movedim(-1, 1) * 2 - 1)
    prompts, negative = model.encode_text(SAID, "", STEPS)
    sigmas = get_sigmas("Uniform", STEPS, model.levels, SAMPLERS["Euler"])
    guidance = DualGuidance(model, GuidanceInputs(prompts, negative, latent), Scales(text, image), sigmas, **options)
    noise = ImageNoise((3,), latent.shape[1:], latent.device)
    x = noise.draw() * (1 + float(sigmas[0]) ** 2) ** 0.5  # as ComfyUI begins: with the deviation of picture and noise
    made = SAMPLERS["Euler"](guidance, x, sigmas, noise)
    return (model.decode(made).movedim(1, -1) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("text", "image", "rows"), [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.5, 1.5, 2), (1.0, 1.0, 1)])
def test_the_one_box_makes_the_engines_picture_with_the_rows_that_a_step_needs_in_one_batch(
    model: EditModel, picture: Tensor, steps: list[int], text: float, image: float, rows: int
) -> None:
    patcher = Patcher(Model(model))
    made, _ = box(model, picture, patcher, text_cfg=text, image_cfg=image)
    torch.testing.assert_close(made, by_the_engine(model, picture, text, image), atol=1e-3, rtol=0)
    assert [count for count, _ in patcher.model.calls] == [rows] * STEPS
    assert steps == [*range(STEPS)]  # ComfyUI's progress bar is told of each


def test_the_guider_makes_the_same_picture_in_comfyuis_own_sampler(model: EditModel, picture: Tensor) -> None:
    positive, negative, latent = ConditioningNode().encode(Clip(model), Vae(model), picture, SAID, "")
    assert latent["samples"].shape == (1, 4, 8, 8) and not latent["samples"].any()
    [guider] = GuiderNode().guide(Patcher(Model(model)), positive, negative, text_cfg=7.5, image_cfg=1.5)
    sigmas = get_sigmas("Uniform", STEPS, model.levels, SAMPLERS["Euler"])
    made = guider.sample(
        noise_of(3, latent["samples"]), latent["samples"], SAMPLERS["Euler"], sigmas, callback=lambda *_: None
    )
    torch.testing.assert_close(Vae(model).decode(made), box(model, picture)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"rescale": 0.7},
        {"formula": "instruct-diffusion"},
        {"speed": "balanced"},
    ],
)
def test_every_setting_acts_as_in_the_engine(model: EditModel, picture: Tensor, options: dict[str, Any]) -> None:
    named = {{"formula": "guidance"}.get(name, name): value for name, value in options.items()}
    patcher = Patcher(Model(model))
    made, _ = box(model, picture, patcher, **named)
    torch.testing.assert_close(made, by_the_engine(model, picture, 7.5, 1.5, **options), atol=1e-3, rtol=0)
    whole = whole_steps("balanced", STEPS) if "speed" in options else {*range(STEPS)}
    assert [count for count, _ in patcher.model.calls] == [3 if step in whole else 1 for step in range(STEPS)]


def test_other_nodes_patches_are_told_of_prompt_and_negative_prompt_alone(model: EditModel, picture: Tensor) -> None:
    """IP-Adapter's looks up one of two things by what it is told: a third place would end in an IndexError."""
    patcher = Patcher(Model(model))
    box(model, picture, patcher)
    assert {tuple(told) for _, told in patcher.model.calls} == {(0, 1, 1)}


def test_what_other_nodes_do_after_cfg_is_done(model: EditModel, picture: Tensor) -> None:
    seen = []

    def after(args: dict[str, Any]) -> Tensor:
        seen.append(args)
        return args["denoised"] * 0.5

    made, _ = box(model, picture, Patcher(Model(model), sampler_post_cfg_function=[after]))
    assert len(seen) == STEPS and seen[0]["cond_scale"] == 7.5
    pull = seen[0]["uncond_denoised"] + 7.5 * (seen[0]["cond_denoised"] - seen[0]["uncond_denoised"])
    torch.testing.assert_close(seen[0]["denoised"], pull, atol=1e-4, rtol=1e-4)
    assert (made - box(model, picture)[0]).abs().mean() > 0.02


def test_each_picture_of_a_batch_is_the_one_that_its_seed_gives_alone(model: EditModel, picture: Tensor) -> None:
    both, maps = box(model, torch.cat([picture, picture.flip(2)]))
    assert both.shape == (2, 64, 64, 3) and maps.shape == (2, 64, 64)
    torch.testing.assert_close(both[1:], box(model, picture.flip(2), seed=4)[0], atol=1e-3, rtol=0)


def test_a_picture_of_any_shape_comes_back_in_its_framing(model: EditModel, picture: Tensor) -> None:
    made, found = box(model, picture[:, :50, :, :], size=96)
    assert made.shape == (1, 75, 96, 3) and found.shape == (1, 75, 96)
    assert float(made.min()) >= 0.0 and float(made.max()) <= 1.0


def test_what_is_kept_is_the_pictures_own_to_the_bit(model: EditModel, picture: Tensor) -> None:
    made, found = box(model, picture, keep_rest="always", steps=10, instruction="paint the house red")
    levels = (picture * 255).round() / 255
    same = (made == levels).all(dim=-1)
    assert 0.1 < float(same.float().mean()) < 0.95
    assert float(found[same].mean()) < float(found[~same].mean())


def test_outside_a_mask_nothing_changes(model: EditModel, picture: Tensor) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    made, _ = box(model, picture, mask=mask)
    assert torch.equal(made[:, :, :32], (picture[:, :, :32] * 255).round() / 255)
    assert (made[:, :, 32:] - picture[:, :, 32:]).abs().mean() > 0.02


def test_a_focus_lets_the_instruction_act_in_the_mask(model: EditModel, picture: Tensor) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    plain, unsaid = box(model, picture)[0], by_the_engine(model, picture, 0.0, 1.5)
    made, _ = box(model, picture, mask=mask, focus="mask")
    left, right = ((made - other).abs().mean(dim=(0, 1, 3)) for other in (unsaid, plain))
    assert left[:24].mean() < left[40:].mean() and right[40:].mean() < right[:24].mean()


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"instruction": "  "}, "The instruction is empty"),
        ({"text_cfg": float("nan")}, "Text CFG is nan"),
        ({"image_cfg": 9.0}, "Image CFG is 9"),
        ({"steps": 0}, "Steps is 0"),
        ({"focus": "mask"}, "no mask is connected"),
        ({"speed": "faster"}, "Speed is 'faster'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(
    model: EditModel, picture: Tensor, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        box(model, picture, **changes)


def test_a_plain_checkpoint_is_refused_by_both_nodes(model: EditModel, picture: Tensor) -> None:
    plain = Patcher(Model(model, edits=False))
    positive, negative, _ = ConditioningNode().encode(Clip(model), Vae(model), picture, SAID, "")
    with pytest.raises(UserError, match=r"This checkpoint cannot edit \(its UNet takes 4 channels, not 8\): load"):
        box(model, picture, plain)
    with pytest.raises(UserError, match="This checkpoint cannot edit"):
        GuiderNode().guide(plain, positive, negative)


def test_a_missing_text_encoder_is_told(model: EditModel, picture: Tensor) -> None:
    with pytest.raises(UserError, match="There is no text encoder"):
        ConditioningNode().encode(None, Vae(model), picture, SAID, "")


def test_inputs_the_wrong_way_round_or_without_a_picture_are_refused(model: EditModel, picture: Tensor) -> None:
    patcher, clip = Patcher(Model(model)), Clip(model)
    positive, negative, _ = ConditioningNode().encode(clip, Vae(model), picture, SAID, "")
    with pytest.raises(UserError, match="the wrong way round"):
        GuiderNode().guide(patcher, negative, positive)
    with pytest.raises(UserError, match="carries no picture"):
        GuiderNode().guide(patcher, conditions.encode(clip, SAID), conditions.encode(clip, ""))


def test_a_negative_prompt_of_comfyuis_own_sees_the_picture_too(model: EditModel, picture: Tensor) -> None:
    """It need not come from Edit Conditioning: the row with the picture takes it from the positive input."""
    positive, _, _ = ConditioningNode().encode(Clip(model), Vae(model), picture, SAID, "")
    rows = conditions.row_conditions(positive, conditions.encode(Clip(model), "rain"), EditKind(False, False), "empty")
    assert torch.equal(rows["negative"][0][1]["concat_latent_image"], positive[0][1]["concat_latent_image"])
    assert "concat_latent_image" not in rows["null"][0][1] and "concat_latent_image" not in rows["text_only"][0][1]


# --- SDXL ---


@pytest.mark.parametrize(
    ("kind", "negative", "no_text", "pooled"),
    [
        (EditKind(True, False), "", "empty", 1.0),  # SDXL ip2p: the instruction's, as in training
        (EditKind(True, False), "rain", "empty", 2.0),
        (EditKind(True, True), "", "empty", 2.0),  # CosXL: its own
        (EditKind(True, False), "", "zeros", 0.0),
        (EditKind(True, True), "", "zeros", 0.0),
        (EditKind(True, False), "rain", "zeros", 2.0),
    ],
)
def test_a_blank_negative_prompt_of_sdxl_has_the_pooled_vector_that_training_gave_it(
    kind: EditKind, negative: str, no_text: str, pooled: float
) -> None:
    class Texts:
        def tokenize(self, text: str) -> str:
            return text

        def encode_from_tokens_scheduled(self, text: str) -> list[list[Any]]:
            return [[torch.ones(1, 7, 6), {"pooled_output": torch.full((1, 4), 2.0 - (text == SAID))}]]

    both = conditions.conditioned(Texts(), SAID, negative, torch.zeros(1, 4, 8, 8))
    rows = conditions.row_conditions(*both, kind, no_text)
    for name in ("negative", "null"):
        states, options = rows[name][0]
        assert options["pooled_output"].unique().tolist() == [pooled]
        assert bool(states.any()) == (pooled > 0)


@pytest.mark.parametrize(("traits", "size"), [({}, 512), ({"sdxl": True}, 768), ({"sdxl": True, "cosxl": True}, 1024)])
def test_the_size_is_what_suits_the_model(model: EditModel, traits: dict[str, bool], size: int) -> None:
    assert kind_of(Patcher(Model(model, **traits))).suited.size == size


# --- what ComfyUI shows ---


@pytest.mark.parametrize("name", [EDIT, CONDITIONING, GUIDER])
def test_a_node_says_what_it_takes_and_gives(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    asked = node.INPUT_TYPES()
    inputs = {**asked["required"], **asked["optional"]}
    assert all(told.get("tooltip") for _, told in inputs.values())
    assert node.DESCRIPTION.endswith(".") and "ip2p" in node.SEARCH_ALIASES
    assert callable(getattr(node, node.FUNCTION))
    for kind, told in inputs.values():
        if isinstance(kind, list) or kind == "samplers":
            assert told["default"] in kind
    assert len(node.RETURN_TYPES) == len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES))


def test_the_defaults_are_those_of_the_settings() -> None:
    asked = EditNode.INPUT_TYPES()
    for name, (_, told) in {**asked["required"], **asked["optional"]}.items():
        if hasattr(EditSettings, name) and name not in ("vae", "seed", "size"):
            assert told["default"] == getattr(EditSettings(), name)


def test_the_entry_names_the_nodes_in_comfyui_and_does_nothing_elsewhere(tmp_path: Path) -> None:
    """As ComfyUI imports a pack: by its folder, under a name that is a path."""
    code = (
        "import importlib.util, sys, types\n"
        "if {inside}: sys.modules['comfy'] = types.ModuleType('comfy'); sys.modules['comfy'].__spec__ = "
        "importlib.util.spec_from_loader('comfy', None)\n"
        "spec = importlib.util.spec_from_file_location('/packs/pack', {entry!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['/packs/pack'] = module\n"
        "before = list(sys.path)\n"
        "spec.loader.exec_module(module)\n"
        "named = sorted(getattr(module, 'NODE_CLASS_MAPPINGS', ()))\n"
        "print(named, sys.path == before, 'instruct_pix2pix' in sys.modules)"
    )
    for inside, expected in ((True, sorted(NODE_CLASS_MAPPINGS)), (False, [])):
        said = subprocess.run(
            [sys.executable, "-c", code.format(inside=inside, entry=str(ROOT / "__init__.py"))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == f"{expected} True False"
