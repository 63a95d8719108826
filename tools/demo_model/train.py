"""Trains the demo model from nothing: the autoencoder, then the UNet and the text encoder together.

    python -m tools.demo_model.train              all stages, each going on where it was
    python -m tools.demo_model.train --stage unet --steps 20000

The recipe is that of the paper (Brooks et al., arXiv 2211.09800) in small: predict the noise in the after-picture,
given the instruction and the before-picture, with 10% of the samples without text, 5% without picture and 5%
without both. Some kinds of edit have another answer without text (see PUSHED), and all have another one without a
picture (see FURTHER). Loss weights are Min-SNR-5 (Hang et al., arXiv 2303.09556). State is saved every few minutes,
and what a step sees depends on its number only, so that a stopped run goes on as if it had not been stopped.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from instruct_pix2pix.engine.networks.clip import TextEncoder
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.engine.networks.vae import VAE
from instruct_pix2pix.engine.precision import Machine, choose_machine
from instruct_pix2pix.engine.sampling.schedules import NoiseSchedule
from instruct_pix2pix.engine.tokenizer import Tokenizer
from tools.demo_model import scenes
from tools.demo_model.autoencoder import (
    CONFIG,
    DEMO,
    FIRST_TRAINING_SEED,
    load_vae,
    save_vae,
    to_tensor,
    train_decoder,
    train_styles,
    train_vae,
)
from tools.demo_model.prefetch import Prefetcher
from tools.demo_model.training_loop import fit, save

HERE = Path(__file__).parent
KIND_WEIGHTS = {
    "time": 1.0,
    "season": 1.0,
    "colour": 2.0,
    "add": 2.5,
    "remove": 1.5,
    "replace": 2.5,
    "style": 1.0,
    "two": 2.5,
    "absent": 0.5,
}
"""How often each kind of edit is seen: the hard ones more often."""

PUSHED = ("colour", "add", "replace", "absent")
"""Kinds whose answer without an instruction is the picture as it was. Guidance then pushes from there to the edit in
every step, where it would stop as soon as the edit can be guessed; other kinds would be pushed too far. Of two
instructions in one, the answer without them has the halves that are not pushed."""

PUSHED_FROM = 300
"""Timestep (0..1000) from which on that holds. Below there is too little noise left for later steps to mend what
guidance adds: the answer is always the edit."""

BATCH = 64
GUIDED = 34
"""Samples in a batch whose latents are results of the model's own guidance; their answer is the edit. A model that
never saw the errors of guidance answers them somewhat differently with the text and without, and guidance makes that
difference seven times as large. Every other one of these samples has no text, and below `PUSHED_FROM` its answer is the
model's own with the text; every fourth has no picture either, so that Image CFG does not exaggerate mere guesses."""
GUIDED_FROM, GUIDED_TO = 50, 850
"""Timesteps of these samples."""

FURTHER = 0.2
"""Without a picture the answer is the edit and this share of it beyond, as far as it can be guessed. Image CFG moves
away from that answer, and so back to the picture as it was, also where all rows see the same edit in the noise."""


# ------------------------------------------------------------------------------------------------ the pairs


def encode_pairs(machine: Machine, runs: Path, scenes: int, rounds: int = 2) -> None:
    """Draw and encode `scenes` scenes with `rounds` edits of each kind, once, into pairs.pt.

    Keeps latents [N, 4, 12, 12] float16 (unscaled modes), the indices of before, after and of the answer without an
    instruction, kinds and instructions.
    """
    vae, _ = load_vae(runs)
    vae.to(machine.device)
    latents: list[Tensor] = []
    pending: list[np.ndarray] = []
    before, after, without = [], [], []
    kinds: list[str] = []
    texts: list[str] = []
    count = 0

    def flush() -> None:
        x = to_tensor(np.concatenate(pending)).to(machine.device)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            latents.append(vae.moments(x)[0].half().cpu())
        pending.clear()

    began = time.perf_counter()
    with torch.inference_mode(), Prefetcher(partial(_pairs_of, rounds=rounds)) as drawn:
        for i, (pictures, found) in enumerate(drawn.each(range(scenes))):
            pending.append(pictures)
            before += [count] * len(found)
            after += [count + pair.after for pair in found]
            without += [count + pair.without_instruction for pair in found]
            kinds += [pair.kind for pair in found]
            texts += [pair.instruction for pair in found]
            count += len(pictures)
            if sum(map(len, pending)) >= 64 or i + 1 == scenes:
                flush()
            if (i + 1) % 500 == 0:
                print(f"pairs: {i + 1}/{scenes} scenes, {time.perf_counter() - began:.0f} s", flush=True)
    kept = {"before": torch.tensor(before), "after": torch.tensor(after), "without": torch.tensor(without)}
    save(runs / "pairs.pt", {**kept, "latents": torch.cat(latents), "kinds": kinds, "texts": texts})


class _Pair(NamedTuple):
    """An edit of a scene, by the places of its answers among the scene's pictures: with the instruction and without."""

    after: int
    without_instruction: int
    kind: str
    instruction: str


def _pairs_of(number: int, rounds: int) -> tuple[np.ndarray, list[_Pair]]:
    """Draw a scene, first, and all that edits make of it -> uint8 [N, 96, 96, 3]; and its pairs."""
    seed = FIRST_TRAINING_SEED + number
    rng = random.Random(seed)
    scene = scenes.scene(seed)
    if rng.random() < 0.1:  # pictures with nothing in them, to add things to
        scene = scenes.Scene(scene.time, scene.season, scene.sky, (), scene.look)
    made = [edit for _ in range(rounds) for edit in scenes.edits(scene, rng)]
    if scene.things:
        made.append(scenes.absent_edit(scene, rng))
    known: dict[scenes.Scene, int] = {scene: 0}
    pairs = []
    for edit in [*made, *more_edits(scene, seed, rounds)]:
        answers = (edit.after, without_instruction(scene, edit))
        after, without = (known.setdefault(wanted, len(known)) for wanted in answers)
        pairs.append(_Pair(after, without, edit.kind, edit.instruction))
    return np.stack([scenes.draw(wanted) for wanted in known]), pairs


def more_edits(scene: scenes.Scene, seed: int, rounds: int) -> list[scenes.Edit]:
    """Return what a scene is trained on beside `scenes.edits`, from a random stream of its own."""
    rng = random.Random(f"more {seed}")
    twos = [scenes.two_edit(scene, rng) for _ in range(rounds)]
    return [*twos, scenes.style_edit(scene, rng)]


def without_instruction(scene: scenes.Scene, edit: scenes.Edit) -> scenes.Scene:
    """Return the answer without the instruction: the scene with those parts of the edit that are not `PUSHED`."""
    if not edit.halves:
        return scene if edit.kind in PUSHED else edit.after
    plain = [half.after for half in edit.halves if half.kind not in PUSHED]
    return edit.after if len(plain) == 2 else plain[0] if plain else scene


# ------------------------------------------------------------------------------------------------ the UNet


def train_unet(
    machine: Machine,
    runs: Path,
    steps: int,
    *,
    more: int | None = None,
    lr: float = 8e-4,
    times: int = 1,
    begin_with: Path | None = None,
) -> None:
    """Train the UNet and the text encoder together on the encoded pairs, from nothing or from a checkpoint's.

    `BATCH` samples a step, or `times` so many.
    """
    batch = BATCH * times
    torch.manual_seed(1)
    _, scale = load_vae(runs)
    unet, text = UNet(CONFIG.unet), TextEncoder(CONFIG.text)
    with torch.no_grad():
        # residual branches and the output start small, as in LDM
        for key, value in unet.named_parameters():
            if key.endswith(("out_layers.3.weight", "proj_out.weight")) or key == "out.2.weight":
                value *= 0.1
        text.text_model.embeddings.token_embedding.weight.normal_(0, 0.3)
        text.text_model.embeddings.position_embedding.weight.normal_(0, 0.1)
    if begin_with:
        known = load_file(begin_with)
        unet.load_state_dict(_part(known, "model.diffusion_model."))
        text.load_state_dict(_part(known, "cond_stage_model.transformer."))
    unet.to(machine.device)
    text.to(machine.device)

    where = machine.device
    data = torch.load(runs / "pairs.pt", weights_only=True)
    latents = data["latents"].to(where)
    before, after, without = data["before"], data["after"], data["without"]
    rng = random.Random(0)
    # each sentence as it is, and as people also type it
    ways = [data["texts"], *([scenes.casual(text, rng) for text in data["texts"]] for _ in range(3))]
    tokens = torch.stack([tokenize(texts) for texts in ways])
    empty = tokenize([""])[0]
    weights = torch.tensor([KIND_WEIGHTS[kind] for kind in data["kinds"]])
    for kind in KIND_WEIGHTS:
        chosen = torch.tensor([k == kind for k in data["kinds"]])
        weights[chosen] /= max(1, int(chosen.sum()))
    schedule = NoiseSchedule(CONFIG.linear_start, CONFIG.linear_end, CONFIG.timesteps)
    alphas = 1 / (schedule.sigmas**2 + 1)
    print(f"unet: {len(before)} pairs, {len(latents)} pictures, scale {scale:.5f}", flush=True)

    def predict(x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        # on CPUs the backward pass of plain attention is faster than that of the fused kernel
        kernel = sdpa_kernel(SDPBackend.MATH) if where.type == "cpu" else nullcontext()
        with kernel, torch.autocast(where.type, machine.dtype, enabled=machine.dtype != torch.float32):
            return unet(x, t.to(where), text(words.to(where))).float()

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        index = torch.multinomial(weights, batch, replacement=True, generator=generator)
        was = latents[before[index].to(where)].float()
        told = tokens[torch.randint(len(tokens), (batch,), generator=generator), index]
        drop = torch.rand(batch, generator=generator)
        silent, unseen = (drop < 0.25) | (drop >= 0.95), (drop >= 0.90)
        image = was.clone()
        image[unseen.to(where)] = 0
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * CONFIG.timesteps
        t = t.long().clamp(max=CONFIG.timesteps - 1)  # a sum may round up to the end
        t = t[torch.randperm(batch, generator=generator)]  # stratified: every batch sees all noise levels
        guided = torch.nonzero(~unseen & (t >= GUIDED_FROM) & (t < GUIDED_TO)).flatten()[: GUIDED * times]
        textless, pictureless = guided[::2], guided[::4]
        pushed = silent & ~unseen & (t >= PUSHED_FROM)
        pushed[guided] = False
        silent[textless] = True
        words = torch.where(silent[:, None], empty, told)
        target = latents[torch.where(pushed, without[index], after[index]).to(where)].float() * scale
        alpha = alphas[t].to(where).view(-1, 1, 1, 1)
        snr = alpha / (1 - alpha)
        noise = torch.randn(target.shape, generator=generator).to(where)
        with torch.no_grad():
            there = guided.to(where)
            given = (target[there], t[guided], told[guided], empty, image[there])
            drifted = _guided_latents(predict, *given, alphas, generator)
            noise[there] += snr.sqrt()[there] * (drifted - target[there])  # the answer leads back to the target
            x = torch.cat([alpha.sqrt() * target + (1 - alpha).sqrt() * noise, image], dim=1)
            taught = predict(x[textless.to(where)], t[textless], told[textless])
            low = t[textless] < PUSHED_FROM
            noise[textless[low].to(where)] = taught[low.to(where)]
            x[pictureless.to(where), target.shape[1] :] = 0
            unseen[pictureless] = True
            further = FURTHER * unseen.to(where).view(-1, 1, 1, 1)
            noise -= further * snr.sqrt() * (target - was * scale)
        snr = snr.flatten()
        loss = (predict(x, t, words) - noise).square().mean(dim=(1, 2, 3))
        return (loss * snr.clamp(max=5.0) / snr).mean()

    average = fit("unet", {"unet": unet, "text": text}, loss_of, steps=steps, lr=lr, runs=runs, more=more)
    save_file({key: value.contiguous() for key, value in average.items()}, runs / "unet.safetensors")


def _guided_latents(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    target: Tensor,
    t: Tensor,
    words: Tensor,
    empty: Tensor,
    image: Tensor,
    alphas: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the latents [N, 4, h, w] that guidance makes of noisy `target` a step before t, at any scales."""
    t = t + 30 + (torch.rand(len(t), generator=generator) * 120).long()
    alpha = alphas[t].to(target.device).view(-1, 1, 1, 1)
    x = alpha.sqrt() * target + (1 - alpha).sqrt() * torch.randn(target.shape, generator=generator).to(target.device)
    rows = torch.cat([torch.cat([x, seen], dim=1) for seen in (image, image, torch.zeros_like(image))])
    nothing = empty.expand_as(words)
    full, only, null = predict(rows, t.repeat(3), torch.cat([words, nothing, nothing])).chunk(3)
    text_cfg, image_cfg = torch.rand(2, len(t), 1, 1, 1, generator=generator).to(target.device)
    noise = null + (1 + 1.5 * image_cfg) * (only - null) + (2 + 8 * text_cfg) * (full - only)
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def tokenize(texts: list[str]) -> Tensor:
    """Sentences -> int64 [N, 77]: BOS, tokens, and EOS to the end, as SD1 pads."""
    tokenizer = Tokenizer(CONFIG.text.vocab_size)
    known: dict[str, list[int]] = {}
    rows = []
    for sentence in texts:
        if sentence not in known:
            ids = [tokenizer.bos, *tokenizer.encode(sentence)[: CONFIG.text.context_length - 2]]
            known[sentence] = ids + [tokenizer.eos] * (CONFIG.text.context_length - len(ids))
        rows.append(known[sentence])
    return torch.tensor(rows)


# ------------------------------------------------------------------------------------------------ the file


def export(runs: Path, out: Path) -> None:
    """Write the averaged weights as one LDM checkpoint in float16, with the scale factor of its latents."""
    vae, scale = load_vae(runs)
    snapshot = runs / "unet.safetensors"
    # before the end of training, what was averaged so far
    trained = load_file(snapshot) if snapshot.exists() else torch.load(runs / "unet.pt", weights_only=True)["average"]
    names = {"unet.": "model.diffusion_model.", "text.": "cond_stage_model.transformer."}
    tensors = {f"first_stage_model.{key}": value for key, value in vae.state_dict().items()}
    for old, new in names.items():
        tensors.update({new + key.removeprefix(old): v for key, v in trained.items() if key.startswith(old)})
    part = out.with_suffix(".part")
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, part)
    part.replace(out)
    print(f"wrote {out.name}, {out.stat().st_size / 1e6:.1f} MB; its yaml needs scale_factor: {scale:.5f}", flush=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}


def main() -> None:
    """Run the stages asked for."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.train", description=about)
    stages = ("vae", "styles", "decoder", "pairs", "unet", "export")
    parser.add_argument("--stage", choices=stages, help="only this stage; without it all but 'decoder'")
    parser.add_argument("--runs", type=Path, default=HERE / "runs", help="where states and curves are kept")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=4360, help="steps of the UNet, 64 samples each")
    parser.add_argument("--more", type=int, help="when the last sitting of the stage is over, another of so many steps")
    parser.add_argument("--lr", type=float, default=8e-4, help="the UNet's highest rate in a new sitting")
    parser.add_argument("--style-steps", type=int, default=1500)
    parser.add_argument("--style-lr", type=float, default=6e-4, help="the autoencoder's highest rate in that stage")
    parser.add_argument("--times", type=int, default=1, help="so many times the samples in a step: for a GPU")
    parser.add_argument("--begin-with", type=Path, help="a checkpoint of these shapes to go on from, not from nothing")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--out", type=Path, default=DEMO)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    machine = choose_machine(args.device, args.precision)
    if machine.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    chosen = [args.stage] if args.stage else [stage for stage in stages if stage != "decoder"]
    if "vae" in chosen and not (args.runs / "vae.safetensors").exists():
        if args.begin_with:
            vae = VAE(CONFIG.vae).requires_grad_(False)
            vae.load_state_dict(_part(load_file(args.begin_with), "first_stage_model."))
            save_vae(vae.to(machine.device), machine, args.runs / "vae.safetensors")
        else:
            train_vae(machine, args.runs, args.vae_steps)
    again = args.stage == "styles" and args.more
    if "styles" in chosen and (again or not (args.runs / "vae-styles.safetensors").exists()):
        more = args.more if again else None
        train_styles(machine, args.runs, args.style_steps, more=more, lr=args.style_lr, times=args.times)
    if "decoder" in chosen:
        train_decoder(machine, args.runs, args.style_steps, more=args.more, lr=args.style_lr, times=args.times)
    if "pairs" in chosen and not (args.runs / "pairs.pt").exists():
        encode_pairs(machine, args.runs, args.scenes)
    if "unet" in chosen:
        train_unet(
            machine,
            args.runs,
            args.steps,
            more=args.more,
            lr=args.lr,
            times=args.times,
            begin_with=args.begin_with,
        )
    if "export" in chosen:
        export(args.runs, args.out)


if __name__ == "__main__":
    main()
