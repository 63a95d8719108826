"""Trains the demo model from nothing: the autoencoder, then the UNet and the text encoder together.

    python -m tools.demo_model.train              all stages, each going on where it was
    python -m tools.demo_model.train --stage unet --steps 20000

The recipe is that of the paper (Brooks et al., arXiv 2211.09800) in small: predict the noise in the after-picture,
given the instruction and the before-picture, with 10% of the samples without text, 5% without picture and 5%
without both; some kinds of edit have another answer without text (see PUSHED). Loss weights are Min-SNR-5 (Hang
et al., arXiv 2303.09556). State is saved every few minutes, and what a step sees depends on its number only, so
that a stopped run goes on as if it had not been stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from instruct_pix2pix.engine.clip import TextEncoder
from instruct_pix2pix.engine.config import CONFIGS, load_config
from instruct_pix2pix.engine.precision import Machine, choose_machine
from instruct_pix2pix.engine.schedules import NoiseSchedule
from instruct_pix2pix.engine.tokenizer import Tokenizer
from instruct_pix2pix.engine.unet import UNet
from instruct_pix2pix.engine.vae import VAE

from . import world

HERE = Path(__file__).parent
DEMO = CONFIGS.parent / "demo" / "demo.safetensors"
CONFIG = load_config(DEMO.with_suffix(".yaml"))

FIRST_TRAINING_SEED = 10_000_000
"""Scenes with smaller seeds are never trained on: they are for evaluation."""

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

PUSHED_FROM = 0
"""Timestep (0..1000) from which on that holds; below, where there is less noise, the answer is always the edit."""


# ------------------------------------------------------------------------------------------------ the loop


def fit(
    name: str,
    parts: dict[str, nn.Module],
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    runs: Path,
    more: int | None = None,
    save_every: int = 200,
) -> dict[str, Tensor]:
    """Train `parts` with `loss_of(step)` and return the averaged weights, named 'part.key'.

    AdamW, gradients clipped to norm 1, an exponential average of the weights. Training comes in sittings, each with a
    warm-up and a cosine to zero: the first has `steps` steps, and when one is over, `more` asks for another, which
    begins with the averaged weights. The state file keeps module, optimizer, average, step, and the sitting as
    (first, last, peak rate): one that was stopped goes on as it was planned, whatever is asked for.
    """
    module = nn.ModuleDict(parts)
    learnt = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    state_file, curve_file = runs / f"{name}.pt", runs / f"{name}-loss.json"
    start, first, last, curve = 0, 0, steps, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
        first, last, peak = state.get("sitting", (0, start, lr))
        if start < last:
            lr = peak
        elif more:
            first, last = start, start + more
            module.load_state_dict(average)
            average = {key: value.clone() for key, value in average.items()}
        curve = [row for row in json.loads(curve_file.read_text()) if row["step"] <= start]
        print(f"{name}: going on at step {start}, in a sitting from {first} to {last}", flush=True)

    warmup = max(1, min(300, (last - first) // 10))
    began, losses = time.perf_counter(), []
    for step in range(start, last):
        done = step - first
        rate = min(1.0, (done + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * done / (last - first)))
        for group in optimizer.param_groups:
            group["lr"] = lr * float(rate)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        decay = min(0.999, (done + 1) / (done + 10), 1 - 10 / (last - first))
        with torch.no_grad():
            current = module.state_dict()
            for key, value in average.items():
                value.lerp_(current[key], 1 - decay)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            each = (time.perf_counter() - began) / (step + 1 - start)
            left = each * (last - step - 1) / 60
            mean = float(np.mean(losses))
            curve.append({"step": step + 1, "loss": mean})
            print(f"{name} {step + 1}/{last} loss {mean:.4f} {each:.2f} s/step, {left:.0f} min left", flush=True)
            losses = []
        if (step + 1) % save_every == 0 or step + 1 == last:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            _save(state_file, {**state, "average": average, "step": step + 1, "sitting": (first, last, lr)})
            curve_file.write_text(json.dumps(curve))
    return average


def _save(path: Path, state: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


# ------------------------------------------------------------------------------------------------ the autoencoder


def pictures(seeds: Iterable[int], styled: float = 0.0, doodled: float = 0.0) -> Tensor:
    """Draw one picture a seed, after a random edit half of the time -> float [N, 3, 96, 96] in -1..1.

    A part `styled` of them is in black and white or a sketch, and another part `doodled` shows nothing in particular.
    """
    drawn = []
    for seed in seeds:
        rng = random.Random(seed)
        scene = world.scene(seed)
        if rng.random() < 0.5:
            scene = rng.choice(world.edits(scene, rng)).after
        lot = rng.random()
        if lot < styled:
            scene = world.style_edit(scene, rng).after
        elif lot > 1 - doodled:
            drawn.append(doodle(rng))
            continue
        drawn.append(world.draw(scene))
    return to_tensor(np.stack(drawn))


def doodle(rng: random.Random) -> np.ndarray:
    """Draw discs, boxes and triangles of any colour on any ground -> uint8 [96, 96, 3]."""
    side = 4 * world.SIZE
    picture = Image.new("RGB", (side, side), _any_colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(2, 9)):
        x, y, reach = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.06, 0.25) * side
        points = [(x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach)) for _ in range(3)]
        box, colour = (x - reach, y - reach, x + reach, y + reach), _any_colour(rng)
        draw = rng.choice(("disc", "box", "triangle"))
        if draw == "disc":
            pen.ellipse(box, fill=colour)
        elif draw == "box":
            pen.rectangle(box, fill=colour)
        else:
            pen.polygon(points, fill=colour)
    return np.asarray(picture.reduce(4))


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Bytes [N, H, W, 3] -> float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train_vae(machine: Machine, runs: Path, steps: int) -> None:
    """Train the autoencoder on 64-pixel crops, the last tenth on whole pictures, and save it with its scale."""
    torch.manual_seed(0)
    vae = VAE(CONFIG.vae)
    with torch.no_grad():  # start almost without noise: the posterior's log-variance at about -9
        vae.quant_conv.weight[CONFIG.vae.z_channels :] *= 0.1
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[CONFIG.vae.z_channels :] = -9.0
    vae.to(machine.device)

    def loss_of(step: int) -> Tensor:
        whole = step >= steps * 0.9
        count = 8 if whole else 16
        x = pictures(range(FIRST_TRAINING_SEED + step * 16, FIRST_TRAINING_SEED + step * 16 + count))
        generator = torch.Generator().manual_seed(step)
        if not whole:
            corners = (torch.randint(0, 5, (count, 2), generator=generator) * 8).tolist()
            x = torch.stack([p[:, i : i + 64, j : j + 64] for p, (i, j) in zip(x, corners, strict=True)])
        x = x.to(machine.device)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            mean, logvar = vae.moments(x)
            noise = torch.randn(mean.shape, generator=generator).to(machine.device)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).float()
        mean, logvar = mean.float(), logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return _difference(y, x) + 1e-5 * kl

    weights = fit("vae", {"vae": vae}, loss_of, steps=steps, lr=1e-3, runs=runs)
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in weights.items()})
    _save_vae(vae, machine, runs / "vae.safetensors")


def train_styles(machine: Machine, runs: Path, steps: int) -> None:
    """Go on with the autoencoder on pictures of every style and on doodles, and save it with its new scale.

    Latents of plain scenes are held near what they were, so that a UNet trained on those goes on from where it is.
    """
    vae, scale = load_vae(runs)
    vae.to(machine.device)
    known = deepcopy(vae)
    vae.train().requires_grad_(True)
    plain, styled, doodled = 5, 2, 1
    count = plain + styled + doodled

    def loss_of(step: int) -> Tensor:
        first = 2 * FIRST_TRAINING_SEED + step * count
        seeds = range(first, first + count)
        drawn = [
            pictures(seeds[:plain]),
            pictures(seeds[plain : plain + styled], styled=1),
            pictures(seeds[-doodled:], doodled=1),
        ]
        x = torch.cat(drawn).to(machine.device)
        generator = torch.Generator().manual_seed(step)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            with torch.no_grad():
                before = known.moments(x[:plain])[0].float()
            mean, logvar = vae.moments(x)
            noise = torch.randn(mean.shape, generator=generator).to(machine.device)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).float()
        return _difference(y, x) + 0.03 * ((mean[:plain].float() - before) * scale).square().mean()

    weights = fit("styles", {"vae": vae}, loss_of, steps=steps, lr=6e-4, runs=runs)
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in weights.items()})
    _save_vae(vae, machine, runs / "vae-styles.safetensors")


def _difference(y: Tensor, x: Tensor) -> Tensor:
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True))
    # the square makes a wrong colour count more than many slightly wrong pixels of sky
    return F.l1_loss(y, x) + 5 * F.mse_loss(y, x) + edges


def _save_vae(vae: VAE, machine: Machine, path: Path) -> None:
    with torch.no_grad():
        x = pictures(range(64)).to(machine.device)
        latents = vae.moments(x)[0]
        psnr = -10 * torch.log10(((vae.decode(latents).clamp(-1, 1) - x) / 2).square().mean())
    scale = 1 / latents.std().item()
    print(f"vae: {psnr:.2f} dB on held-out pictures, scale factor {scale:.5f}", flush=True)
    save_file(vae.state_dict(), path, metadata={"scale_factor": f"{scale:.5f}"})


def load_vae(runs: Path) -> tuple[VAE, float]:
    """Return the trained autoencoder and one over the deviation of its latents."""
    from safetensors import safe_open

    vae = VAE(CONFIG.vae).eval().requires_grad_(False)
    found = runs / "vae-styles.safetensors"
    if not found.exists():
        found = runs / "vae.safetensors"
    vae.load_state_dict(load_file(found))
    with safe_open(found, "pt") as file:
        return vae, float(file.metadata()["scale_factor"])


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
    pairs: list[tuple[int, int, int, str, str]] = []
    count = 0

    def flush() -> None:
        if pending:
            x = to_tensor(np.stack(pending)).to(machine.device)
            with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
                latents.append(vae.moments(x)[0].half().cpu())
            pending.clear()

    began = time.perf_counter()
    with torch.inference_mode():
        for i in range(scenes):
            seed = FIRST_TRAINING_SEED + i
            rng = random.Random(seed)
            scene = world.scene(seed)
            if rng.random() < 0.1:  # pictures with nothing in them, to add things to
                scene = world.Scene(scene.time, scene.season, scene.sky, (), scene.look)
            pending.append(world.draw(scene))
            before = count
            count += 1
            made = [e for _ in range(rounds) for e in world.edits(scene, rng)]
            if scene.things:
                made.append(world.absent_edit(scene, rng))
            for edit in [*made, *more_edits(scene, seed, rounds)]:
                known = {scene: before}
                for wanted in (edit.after, untold(scene, edit)):
                    if wanted not in known:
                        pending.append(world.draw(wanted))
                        known[wanted] = count
                        count += 1
                pairs.append((before, known[edit.after], known[untold(scene, edit)], edit.kind, edit.instruction))
            if len(pending) >= 64:
                flush()
            if (i + 1) % 500 == 0:
                print(f"pairs: {i + 1}/{scenes} scenes, {time.perf_counter() - began:.0f} s", flush=True)
        flush()
    before_, after_, untold_, kinds, texts = zip(*pairs, strict=True)
    kept = {"before": torch.tensor(before_), "after": torch.tensor(after_), "untold": torch.tensor(untold_)}
    _save(runs / "pairs.pt", {**kept, "latents": torch.cat(latents), "kinds": list(kinds), "texts": list(texts)})


def more_edits(scene: world.Scene, seed: int, rounds: int) -> list[world.Edit]:
    """Return what a scene is trained on beside `world.edits`, from a random stream of its own."""
    rng = random.Random(f"more {seed}")
    twos = [world.two_edit(scene, rng) for _ in range(rounds)]
    return [*twos, world.style_edit(scene, rng)]


def untold(scene: world.Scene, edit: world.Edit) -> world.Scene:
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
    pushed_from: int = PUSHED_FROM,
    batch: int = 64,
    begin_with: Path | None = None,
) -> None:
    """Train the UNet and the text encoder together on the encoded pairs, from nothing or from a checkpoint's."""
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

    data = torch.load(runs / "pairs.pt", weights_only=True)
    latents, before, after, without = data["latents"], data["before"], data["after"], data["untold"]
    tokens = tokenize(data["texts"])
    empty = tokenize([""])[0]
    weights = torch.tensor([KIND_WEIGHTS[kind] for kind in data["kinds"]])
    for kind in KIND_WEIGHTS:
        chosen = torch.tensor([k == kind for k in data["kinds"]])
        weights[chosen] /= max(1, int(chosen.sum()))
    schedule = NoiseSchedule(CONFIG.linear_start, CONFIG.linear_end, CONFIG.timesteps)
    alphas = 1 / (schedule.sigmas**2 + 1)
    print(f"unet: {len(before)} pairs, {len(latents)} pictures, scale {scale:.5f}", flush=True)

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        index = torch.multinomial(weights, batch, replacement=True, generator=generator)
        image = latents[before[index]].float()
        words = tokens[index].clone()
        drop = torch.rand(batch, generator=generator)
        silent, unseen = (drop < 0.10) | (drop >= 0.95), (drop >= 0.90)
        words[silent] = empty
        image[unseen] = 0
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * CONFIG.timesteps
        t = t.long()[torch.randperm(batch, generator=generator)]  # stratified: every batch sees all noise levels
        answer = torch.where(silent & ~unseen & (t >= pushed_from), without[index], after[index])
        target = latents[answer].float() * scale
        alpha = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn(target.shape, generator=generator)
        x = torch.cat([alpha.sqrt() * target + (1 - alpha).sqrt() * noise, image], dim=1)
        x, t, words, noise = (value.to(machine.device) for value in (x, t, words, noise))
        # on CPUs the backward pass of plain attention is faster than that of the fused kernel
        kernel = sdpa_kernel(SDPBackend.MATH) if machine.device.type == "cpu" else nullcontext()
        with kernel, torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            predicted = unet(x, t, text(words)).float()
        snr = (alpha / (1 - alpha)).flatten().to(machine.device)
        loss = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (loss * snr.clamp(max=5.0) / snr).mean()

    average = fit("unet", {"unet": unet, "text": text}, loss_of, steps=steps, lr=lr, runs=runs, more=more)
    save_file({key: value.contiguous() for key, value in average.items()}, runs / "unet.safetensors")


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
    parser.add_argument("--stage", choices=["vae", "styles", "pairs", "unet", "export"], help="only this stage")
    parser.add_argument("--runs", type=Path, default=HERE / "runs", help="where states and curves are kept")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=4360, help="steps of the UNet, 64 samples each")
    parser.add_argument("--more", type=int, help="when the UNet's last sitting is over, another of so many steps")
    parser.add_argument("--lr", type=float, default=8e-4, help="the UNet's highest rate in a new sitting")
    parser.add_argument("--pushed-from", type=int, default=PUSHED_FROM, help="see PUSHED_FROM, to compare short runs")
    parser.add_argument("--style-steps", type=int, default=1500)
    parser.add_argument("--begin-with", type=Path, help="a checkpoint of these shapes to go on from, not from nothing")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--out", type=Path, default=DEMO)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    machine = choose_machine(args.device, args.precision)
    stages = [args.stage] if args.stage else ["vae", "styles", "pairs", "unet", "export"]
    if "vae" in stages and not (args.runs / "vae.safetensors").exists():
        if args.begin_with:
            vae = VAE(CONFIG.vae).requires_grad_(False)
            vae.load_state_dict(_part(load_file(args.begin_with), "first_stage_model."))
            _save_vae(vae.to(machine.device), machine, args.runs / "vae.safetensors")
        else:
            train_vae(machine, args.runs, args.vae_steps)
    if "styles" in stages and not (args.runs / "vae-styles.safetensors").exists():
        train_styles(machine, args.runs, args.style_steps)
    if "pairs" in stages and not (args.runs / "pairs.pt").exists():
        encode_pairs(machine, args.runs, args.scenes)
    if "unet" in stages:
        train_unet(
            machine,
            args.runs,
            args.steps,
            more=args.more,
            lr=args.lr,
            pushed_from=args.pushed_from,
            begin_with=args.begin_with,
        )
    if "export" in stages:
        export(args.runs, args.out)


if __name__ == "__main__":
    main()
