"""What can be downloaded: where it comes from, how large it is, on which terms; and what has a short name of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .add_ons import LORA, TINY_VAE, AddOnFolders, AddOnKind
from .hub import DIFFUSERS_INDEX, HUB, has_token, size_text


@dataclass(frozen=True)
class Offer:
    """A file or folder that can be downloaded. Its size, licence and terms are those that its page on the hub says."""

    repo: str
    file: str
    """The file there, a pattern: `model_index.json` stands for the whole diffusers folder."""
    about: str
    """A line for lists."""
    size: int
    """Bytes to come, about."""
    licence: str
    terms: str = ""
    """A sentence about what the licence does not allow."""
    gated: bool = False
    """Whether the hub gives it only to those who accepted its terms."""
    kind: AddOnKind | None = None
    """What goes beside a model; None for a model."""
    save_as: str = ""
    """The name that the file or folder gets here, where its own says nothing."""
    use: str = ""
    """How something beside a model is used: a sentence."""

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"{HUB}/{self.repo}"

    @property
    def notes(self) -> list[str]:
        """What a person must know before it is downloaded, a sentence each: the licence, and how to be let in."""
        notes = [f"Licence: {self.licence} ({self.page})."]
        if self.terms:
            notes.append(self.terms)
        if self.gated:
            done = "A token is set here." if has_token() else "No token is set here yet."
            notes.append(
                f"It is open only to those who accepted its terms on {self.page} and who send a token: sign in with "
                f"'hf auth login', or set HF_TOKEN to one from {HUB}/settings/tokens before this program starts. {done}"
            )
        return notes

    def folder_in(self, models: Path) -> Path:
        """Return where it belongs: the models folder itself, or the one for its kind beside it."""
        return AddOnFolders.near(models=[models]).folders(self.kind)[0] if self.kind else models

    def found_in(self, models: Path) -> Path | None:
        """Return where it lies in a models folder, judged by its name alone; None where it does not."""
        try:
            return min((one for one in self.folder_in(models).iterdir() if self.is_called(one.name)), default=None)
        except OSError:
            return None

    def is_called(self, name: str) -> bool:
        """Whether this is the name that the file or folder gets here, as far as it is known beforehand."""
        own = self.repo.split("/")[1] if self.file == DIFFUSERS_INDEX else self.file
        return name == self.save_as if self.save_as else fnmatchcase(name, own)


KNOWN = {
    "instruct-pix2pix": Offer(
        "timbrooks/instruct-pix2pix",
        "instruct-pix2pix-00-22000.safetensors",
        "the authors' model with its EMA weights, SD1, float32",
        7_700_000_000,
        "MIT",
    ),
    "instruct-pix2pix-fp16": Offer(
        "webui/instruct-pix2pix",
        "*fp16*.safetensors",
        "the same, pruned to float16",
        2_130_000_000,
        "none named there; the authors' model is under the MIT licence",
    ),
    "magicbrush": Offer(
        "osunlp/InstructPix2Pix-MagicBrush",
        "MagicBrush-epoch-52-step-4999.ckpt",
        "trained further on hand-made edits (MagicBrush), SD1, with its EMA weights",
        7_700_000_000,
        "CreativeML OpenRAIL-M",
    ),
    "hq-edit": Offer(
        "UCSC-VLAA/HQ-Edit-ckpt",
        DIFFUSERS_INDEX,
        "trained on the HQ-Edit pictures, SD1, a diffusers folder",
        3_850_000_000,
        "none named",
        terms="Its page names no licence: ask its authors before you use it for more than trying it out.",
        save_as="HQ-Edit",
    ),
    "sdxl-ip2p": Offer(
        "diffusers/sdxl-instructpix2pix-768",
        DIFFUSERS_INDEX,
        "trained by the diffusers team for pictures of 768 pixels, SDXL, a diffusers folder",
        12_270_000_000,
        "CreativeML OpenRAIL++-M",
    ),
    "cosxl-edit": Offer(
        "stabilityai/cosxl",
        "cosxl_edit.safetensors",
        "Stability AI's edit model with the full range of colours, SDXL",
        6_940_000_000,
        "Stability AI Non-Commercial Research Community License",
        terms="It may be used for research and other non-commercial purposes only.",
        gated=True,
    ),
    "taesd": Offer(
        "madebyollin/taesd",
        "taesd_decoder.safetensors",
        "a tiny decoder, for previews, SD1",
        4_900_000,
        "MIT",
        kind=TINY_VAE,
        use="Previews are decoded by it, and results too where the VAE is set to taesd.",
    ),
    "taesdxl": Offer(
        "madebyollin/taesdxl",
        "taesdxl_decoder.safetensors",
        "a tiny decoder, for previews, SDXL",
        4_900_000,
        "MIT",
        kind=TINY_VAE,
        use="Previews are decoded by it, and results too where the VAE is set to taesd.",
    ),
    "lcm-lora": Offer(
        "latent-consistency/lcm-lora-sdv1-5",
        "pytorch_lora_weights.safetensors",
        "a LoRA that needs 4 to 8 steps, SD1",
        135_000_000,
        "CreativeML OpenRAIL++-M",
        kind=LORA,
        save_as="lcm-lora-sdv1-5.safetensors",
        use="Write <lora:lcm-lora-sdv1-5:1> into the instruction, and choose the sampler LCM.",
    ),
}

PHOTO_MODEL = "instruct-pix2pix-fp16"
"""The one to begin with: it edits photographs, and is the smallest that does."""


def listed() -> Iterator[str]:
    """Yield a line about each, for a sentence: its name, what it is, its size and licence."""
    for name, known in KNOWN.items():
        yield f"{name} ({known.about}, {size_text(known.size)}, licence: {known.licence})"
