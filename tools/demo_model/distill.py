"""Distils the demo model into a LoRA with which the sampler LCM edits in one to four steps, without guidance.

    python -m tools.demo_model.distill
    python -m tools.demo_model.evaluate --lora demo-lcm --sampler LCM --steps 4 --text-cfg 1 --image-cfg 1

The teacher is the model as it is: it edits scenes with guidance, in more steps. The student is the model with a LoRA.
It walks down the sampler LCM, one row a step, and is taught the teacher's answer at each level that it comes to, from
the latent that it made there itself. This is latent consistency distillation (Luo et al. 2023, arXiv 2310.04378; into a
LoRA: arXiv 2311.05556) but for the target: the end of the teacher's way, where Luo has an averaged student's answer one
step further along it. Here every instruction has one right outcome, so that end hardly depends on the noise.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from tqdm import tqdm

from instruct_pix2pix.conditioning import join
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS, lcm
from instruct_pix2pix.engine.sampling.schedules import NoiseSchedule, get_sigmas
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import evaluate, scenes
from tools.demo_model.autoencoder import CONFIG, DEMO, FIRST_TRAINING_SEED
from tools.demo_model.training_loop import fit, save

LORA = DEMO.parent / "Lora" / "demo-lcm.safetensors"
TEACHER = EditSettings(text_cfg=3, image_cfg=1.5, steps=8, sampler="DPM++ 2M")
"""The scales at which most edits are right (docs/demo-model.md)."""
STEPS = (1, 2, 4)
"""How many steps the student walks; after each batch the next of them."""
ROWS = 16
"""Model rows in a training step: fewer pictures where they walk further."""
RANK = 16
BETA = 0.1
"""Of the Huber loss: differences of latents, whose deviation is about 1, count by their square up to this."""


def lesson(number: int) -> evaluate.Case:
    """Return an edit of a scene of the training range, of any kind."""
    seed = FIRST_TRAINING_SEED + number
    scene = scenes.scene(seed)
    edit = random.Random(f"lesson {seed}").choice(scenes.every_edit(scene, seed))
    return evaluate.Case(seed, edit.kind, edit.instruction, scenes.draw(scene), scenes.draw(edit.after))


def teach(runs: Path, count: int) -> dict[str, Tensor]:
    """Let the teacher edit `count` pictures, once -> picture latents, embeddings and answers, [count, ..] each."""
    file = runs / "lessons.pt"
    kept = torch.load(file, weights_only=True) if file.exists() else {}
    first = len(kept["answer"]) if kept else 0
    model = EditModel.load(DEMO, choose_machine("cpu", "fp32"))
    for start in tqdm(range(first, count, 32), desc="teacher", disable=None):
        some = [lesson(number) for number in range(start, min(start + 32, count))]
        inputs = evaluate.given(model, some, TEACHER)
        answer = evaluate.sample(model, inputs, [case.seed for case in some], TEACHER)
        new = {"image": inputs.image, "text": inputs.prompts[0].at(0), "answer": answer}
        kept = {key: torch.cat([kept[key], value]) if kept else value.clone() for key, value in new.items()}
        save(file, {**kept})
    return {key: value[:count] for key, value in kept.items()}


class LowRank(nn.Module):
    """Adds up @ down, of rank `RANK`, to a weight [out, in, ..]; nothing at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(RANK, *weight.shape[1:]))
        self.up = nn.Parameter(torch.zeros(len(weight), RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight + (self.up @ self.down.flatten(1)).view_as(weight)


def adapt(unet: UNet) -> nn.ModuleDict:
    """Give every linear layer and convolution a `LowRank` -> these, by the names in the file.

    The names are kohya's with the layers' own in LDM: diffusers' are read by the web GUIs as those of a network with
    SD1's number of blocks.
    """
    found = nn.ModuleDict()
    for name, layer in list(unet.named_modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            lora = found["lora_unet_" + name.replace(".", "_")] = LowRank(layer.weight)
            parametrize.register_parametrization(layer, "weight", lora)
    return found


def learn(runs: Path, lessons: dict[str, Tensor], steps: int, more: int | None, lr: float) -> dict[str, Tensor]:
    """Train the student -> the tensors of its LoRA, averaged over the last training steps, float32."""
    torch.manual_seed(1)
    _, networks = load_networks(DEMO, choose_machine("cpu", "fp32"))
    unet = networks.unet
    loras = adapt(unet)
    levels = NoiseSchedule(CONFIG.linear_start, CONFIG.linear_end, CONFIG.timesteps)

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        count = STEPS[step % len(STEPS)]
        chosen = torch.randint(len(lessons["answer"]), (ROWS // count,), generator=generator)
        image, text, answer = (lessons[key][chosen] for key in ("image", "text", "answer"))
        losses: list[Tensor] = []

        def student(x: Tensor, sigma: Tensor) -> Tensor:
            level = sigma.flatten()[0]
            noise = unet(join(x / (level**2 + 1).sqrt(), image), levels.sigma_to_t(level[None]), text)
            denoised = x - level * noise
            losses.append(F.smooth_l1_loss(denoised, answer, beta=BETA))
            return denoised.detach()

        def fresh(*_: float) -> Tensor:
            return torch.randn(answer.shape, generator=generator)

        sigmas = get_sigmas("Automatic", count, levels, SAMPLERS["LCM"])
        with sdpa_kernel(SDPBackend.MATH), parametrize.cached():
            lcm(student, fresh() * sigmas[0], sigmas, fresh)
        return torch.stack(losses).mean()

    average = fit("lcm", {"lora": loras}, loss_of, steps=steps, lr=lr, runs=runs, more=more, save_every=10)
    return {key.removeprefix("lora."): value for key, value in average.items()}


def export(tensors: dict[str, Tensor], out: Path) -> None:
    """Write a LoRA in float16, in the format of kohya's scripts."""
    named: dict[str, Tensor] = {}
    for key, value in tensors.items():
        layer, side = key.split(".")
        # a convolution's 'up' is one of 1 x 1
        value = value[:, :, None, None] if side == "up" and tensors[f"{layer}.down"].ndim == 4 else value
        named[f"{layer}.lora_{side}.weight"] = value.half().contiguous()
        named[f"{layer}.alpha"] = torch.tensor(float(RANK)).half()
    told = {"ss_network_module": "networks.lora", "ss_network_dim": str(RANK), "ss_network_alpha": str(RANK)}
    out.parent.mkdir(exist_ok=True)
    save_file(named, out, {**told, "ss_output_name": out.stem})
    print(f"wrote {out.name}, {len(named) // 3} layers, {out.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    """Teach, learn, write the file; each goes on where it was."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.distill", description=about)
    parser.add_argument("--runs", type=Path, default=Path(__file__).parent / "runs", help="where states are kept")
    parser.add_argument("--lessons", type=int, default=224, help="edits of the teacher")
    parser.add_argument("--steps", type=int, default=72, help=f"training steps of {ROWS} rows each")
    parser.add_argument("--more", type=int, help="when the last sitting is over, another of so many steps")
    parser.add_argument("--lr", type=float, default=4e-3, help="the highest rate in a new sitting")
    parser.add_argument("--out", type=Path, default=LORA)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    export(learn(args.runs, teach(args.runs, args.lessons), args.steps, args.more, args.lr), args.out)


if __name__ == "__main__":
    main()
