"""What an edit has beside its checkpoint, by its settings: LoRAs in the weights, words of embeddings, another VAE."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ...models.add_ons import LORA, TINY_VAE, VAE_FILE, AddOnFolders, file_state, kohya_hash
from ...prompts import LoraTag, lora_tags
from ...settings import EditSettings
from ..loading.config import ModelConfig
from ..loading.loader import Networks, load_vae
from ..networks.vae import VAE
from ..offload import Kept
from ..precision import Machine
from ..tokenizer import Tokenizer
from .exchange import Exchange
from .layer_names import layers_of
from .lora import WeightedLora, merged, read_lora
from .tiny_vae import TinyDecoder, load_tiny_decoder
from .words import Words

AUTOMATIC, TINY = ("automatic", "none"), "taesd"
"""Values of the setting 'vae' that are no file's name: the model's own, and the tiny decoder."""

_TINY_NAMES = {0.18215: "taesd_decoder", 0.13025: "taesdxl_decoder"}
"""By the scale of a model's latents, which tells whose they are."""


@dataclass
class _MergedLoras:
    """LoRAs whose layers are computed."""

    key: Hashable
    exchange: Exchange
    notes: tuple[str, ...]
    hashes: Mapping[str, str]
    on: bool = True


@dataclass
class _Vae:
    """A VAE in place of the model's own."""

    state: Hashable
    vae: VAE


@dataclass
class _Tiny:
    """The tiny decoder, None where there is none, and the file that it is from."""

    state: Hashable = None
    decoder: TinyDecoder | None = None


@dataclass(frozen=True)
class AddOnFacts:
    """What a result tells of what was beside the checkpoint."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of its infotext, under AUTOMATIC1111's names."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever asked for it."""


class AddOns:
    """Puts on a model what an edit's settings name, and takes it off again without a trace.

    The last LoRAs stay computed, and the last VAE loaded: an edit with the same ones begins at once.
    """

    def __init__(self, networks: Networks, home: Kept, tokenizer: Tokenizer, folders: AddOnFolders) -> None:
        """`home` is who moves the networks."""
        self._folders = folders
        self._home = home
        self._machine: Machine = home.machine
        self._config: ModelConfig = networks.config
        self._layers = layers_of(networks.unet, networks.texts)
        self._own_vae = networks.vae
        self._merge: _MergedLoras | None = None
        self._vae: _Vae | None = None
        self._tiny = _Tiny()
        self.words = Words(tokenizer, networks.texts, folders)
        self.vae = networks.vae
        """The VAE in use."""
        self.fast = False
        """Whether the tiny decoder decodes in its place."""

    def put_on(self, settings: EditSettings) -> None:
        """Put on what these settings name, and nothing else.

        Raises UserError for a name that no file has, and for a file that does not fit.
        """
        self.words.look()
        self._put_on_loras(lora_tags(settings.instruction))
        self.vae, self.fast = self._own_vae, False
        name = settings.vae.strip()
        if name.lower() == TINY:
            self._require_tiny_decoder()
            self.fast = True
        elif name.lower() not in AUTOMATIC:
            self.vae = self._loaded_vae(self._folders.find(VAE_FILE, name))

    def take_off(self) -> None:
        """Give the model its own weights and its own VAE back, to the bit."""
        if self._merge and self._merge.on:
            self._home.bring_home()
            self._merge.exchange.swap()
            self._merge.on = False
        self.vae, self.fast = self._own_vae, False

    @property
    def texts_key(self) -> Hashable:
        """What the embedding of a text depends on beside the text."""
        return self._merge.key if self._merge and self._merge.on else None

    def facts(self, settings: EditSettings) -> AddOnFacts:
        """Return what to tell of an edit with these settings, while they are put on."""
        texts = f"{settings.instruction}\n{settings.negative}"
        merge = self._merge if self._merge and self._merge.on else None
        hashes = {"Lora hashes": merge.hashes if merge else {}, "TI hashes": self.words.hashes(texts)}
        fields = {name: _listed(found) for name, found in hashes.items() if found}
        return AddOnFacts(fields, (*(merge.notes if merge else ()), *self.words.notes(texts)))

    @property
    def tiny_decoder(self) -> TinyDecoder | None:
        """The tiny decoder for this model's latents; None where its file is not there. Raises UserError for another."""
        name = self._tiny_name
        path = name and self._folders.files(TINY_VAE).get(name)
        if not path:
            return None
        state = file_state(path)
        if self._tiny.state != state:
            self._tiny = _Tiny(state, load_tiny_decoder(path, self._machine.device, self._machine.dtype))
        return self._tiny.decoder

    def _require_tiny_decoder(self) -> None:
        if self._tiny_name is None:
            raise UserError("There is no tiny VAE for the latents of this model: choose the VAE automatic.")
        if self.tiny_decoder is None:
            self._folders.find(TINY_VAE, self._tiny_name)  # says what is missing, and where

    @property
    def _tiny_name(self) -> str | None:
        vae = self._config.vae
        if (vae.z_channels, vae.factor) != (4, 8):
            return None
        scale = self._config.scale_factor
        return next((name for own, name in _TINY_NAMES.items() if math.isclose(scale, own, rel_tol=1e-3)), None)

    def _put_on_loras(self, tags: tuple[LoraTag, ...]) -> None:
        if not tags:
            self.take_off()
            return
        paths = {tag: self._folders.find(LORA, tag.name) for tag in tags}
        key = tuple((file_state(path), tag.text, tag.unet) for tag, path in paths.items())
        if self._merge is None or self._merge.key != key:
            self.take_off()
            self._merge = None  # before others are computed: they take memory
            self._merge = self._merged(key, paths)
        if not self._merge.on:
            self._home.bring_home()
            self._merge.exchange.swap()
            self._merge.on = True

    def _merged(self, key: Hashable, paths: Mapping[LoraTag, Path]) -> _MergedLoras:
        loras = [WeightedLora(read_lora(path, self._layers), tag.text, tag.unet) for tag, path in paths.items()]
        put_on = ", ".join(f"{path.stem} at {tag.weights}" for tag, path in paths.items())
        notes = (f"LoRA put on: {put_on}.", *(note for lora in loras for note in lora.file.notes))
        hashes = {tag.name: kohya_hash(path) for tag, path in paths.items()}
        self._home.bring_home()
        return _MergedLoras(key, merged(loras, self._machine), notes, hashes)

    def _loaded_vae(self, path: Path) -> VAE:
        state = file_state(path)
        if self._vae is None or self._vae.state != state:
            self._vae = None
            vae = load_vae(path, self._config, self._machine, self._home.home)
            self._home.prepare(vae)
            self._vae = _Vae(state, vae)
        return self._vae.vae


def _listed(hashes: Mapping[str, str]) -> str:
    """Return names and hashes as AUTOMATIC1111 writes them, which its reader splits at ': ' and ', '."""
    return ", ".join(f"{name.replace(':', '').replace(',', '')}: {found}" for name, found in hashes.items())
