"""What happens to the controls: the settings of an edit, its model, and settings that come out of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from ... import panel
from ...engine.edit import settings_here
from ...errors import UserError
from ...images import read_infotext
from ...infotext import parse, settings_from
from ...models.catalog import Catalog
from ...models.checkpoints import SUITED
from ...models.registry import ModelEntry
from ...settings import KNOBS, EditSettings
from ...variations import variations
from . import html
from .form import LONGEST, ONE_EDIT, values_of
from .gradio_compat import inform, warn
from .layout import PngInfoPane, TopBar, Updates
from .panes.settings import SettingsPane, sides_shown, vae_choices
from .results import sent_path


class FormHandlers:
    """The handlers of the settings and of the model."""

    def __init__(
        self, catalog: Catalog, form: dict[str, Component], settings: SettingsPane, top: TopBar, tabs: gr.Tabs
    ) -> None:
        """`form` holds all controls of `form.NAMES` and `form.SEARCH`, those of `settings` among them."""
        self.catalog = catalog
        self.form, self.settings, self.top, self.tabs = form, settings, top, tabs
        self.count_tokens = html.TokenCounter()

    # --- settings ---

    def set(self, values: Mapping[str, Any]) -> Updates:
        """Set controls by name, all that hide others among them, and show those that then have an effect."""
        shown = {
            **self.finding(values["by_strength"]),
            **self.keeping(values["keep_rest"]),
            **self.sizing(values["sizing"]),
            **self.result_sizing(values["result_sizing"]),
            **self.start(values["from_noise"]),
        }
        return self._set(values, shown)

    def _set(self, values: Mapping[str, Any], shown: Updates) -> Updates:
        updates: Updates = {self.form[name]: gr.update(value=value) for name, value in values.items()}
        for component, update in shown.items():
            updates[component] = {**updates.get(component, {}), **update}
        return updates

    def finding(self, by_strength: bool) -> Updates:
        """Show how much to change where the scales are found by that, else what it replaces."""
        settings = self.settings
        replaced = (settings.text_cfg, settings.image_cfg, settings.randomize_cfg, settings.best_of)
        return {
            **{one: gr.update(visible=not by_strength) for one in replaced},
            settings.strength_pane: gr.update(visible=by_strength),
        }

    def searching(self, by_strength: bool, keep_rest: str) -> Updates:
        """Show what has an effect where results are found, and where they are not."""
        return {**self.finding(by_strength), **self.keeping(keep_rest)}

    def take(self, one: EditSettings) -> Updates:
        """Set the seed and the scales of one edit, and make results of them as they are."""
        values = {"seed": one.seed, "text_cfg": one.text_cfg, "image_cfg": one.image_cfg, "randomize_cfg": "off"}
        return self._set({**values, **ONE_EDIT}, self.finding(by_strength=False))

    def keeping(self, keep_rest: str) -> Updates:
        """Show what belongs to keeping the rest where it is kept."""
        visible = keep_rest != KNOBS["keep_rest"].default
        return {one: gr.update(visible=visible) for one in (self.settings.keep_amount, self.settings.look_pane)}

    def result_sizing(self, sizing: str) -> Updates:
        """Show the longest side of a result where it has an effect."""
        return {self.settings.result_longest: gr.update(visible=sizing == LONGEST)}

    def sizing(self, sizing: str) -> Updates:
        """Show the controls that a way of sizing needs."""
        return {
            getattr(self.settings, name): gr.update(visible=visible) for name, visible in sides_shown(sizing).items()
        }

    def start(self, from_noise: bool) -> Updates:
        """Show the denoising strength where it has an effect."""
        return {self.settings.denoise: gr.update(visible=not from_noise)}

    def instruction_tokens(self, text: str, steps: float | None) -> str:
        """Count the tokens of an instruction: those of its longest variation."""
        try:
            return self._tokens(variations(text or ""), steps)
        except UserError:
            return self._tokens([text], steps)

    def negative_tokens(self, text: str, steps: float | None) -> str:
        """Count the tokens of a negative prompt."""
        return self._tokens([text or ""], steps)

    def _tokens(self, texts: Sequence[str], steps: float | None) -> str:
        return self.count_tokens(texts, int(min(max(steps or 1, 1), KNOBS["steps"].maximum or 1)))

    def reuse(self, infotext: str) -> Updates:
        """Set the controls, and the model if it is here, as an infotext has them."""
        settings, left_out = settings_here(infotext)
        for sentence in left_out:
            warn(sentence)
        values = {**values_of(settings), **ONE_EDIT}
        del values["batches"], values["batch_size"]  # an infotext is about one picture
        entry = self.model_of(infotext)
        return {**self.set(values), **(self._chosen(entry) if entry else {})}

    def model_of(self, infotext: str) -> ModelEntry | None:
        """Return the model of an infotext; None where it names none, or one that is not here, which is said."""
        name = parse(infotext).fields.get("Model")
        if not name:
            return None
        same = [entry.name for entry in self.catalog.entries if name in (entry.name, entry.path.stem)]
        try:
            return self.catalog.find(same[0] if same else name)
        except UserError:
            warn(f"The model '{name[:60]}' of this picture is not here: another model makes another picture.")
            return None

    def recycle(self, infotext: str) -> Updates:
        """Take the seed of an infotext."""
        return {self.settings.seed: settings_from(infotext or "")[0].seed}

    # --- the model ---

    def choose(self, name: str, before: str, *values: float) -> Updates:
        """Choose a model, or say why it cannot be chosen and keep the one before.

        Offers its scales and steps where others stand: `values` are those, in the order of `SUITED`.
        """
        try:
            entry = self.catalog.find(str(name))
        except UserError as error:
            return {self.top.checkpoint: before, self.top.status: panel.line(str(error))}
        return {**self._chosen(entry), **self._offered(entry, values)}

    def _offered(self, entry: ModelEntry, values: Sequence[float]) -> Updates:
        text = html.offer(entry, values)
        return {self.top.defaults: gr.update(value=text, visible=bool(text))}

    def take_defaults(self, name: str) -> Updates:
        """Set the scales and steps that suit the chosen model."""
        found = self.catalog.find(str(name)).checkpoint
        values = {} if found is None else {self.form[one]: getattr(found.suited, one) for one in SUITED}
        return {**values, self.top.defaults: gr.update(visible=False)}

    def refresh(self, chosen: str) -> Updates:
        """Look for models and VAEs again."""
        self.catalog.refresh()
        return {**self.choices(chosen), self.settings.vae: gr.update(choices=vae_choices(self.catalog.dirs))}

    def choices(self, chosen: object) -> Updates:
        """Show the models that are known, and choose one by name, or the default where there is no such model."""
        entries = self.catalog.entries
        try:
            entry = self.catalog.find(str(chosen))
        except UserError:
            entry = self.catalog.default
        choices = [(html.model_choice(one), one.name) for one in entries]
        return {
            **self._chosen(entry),
            self.top.checkpoint: gr.update(choices=choices, value=entry.name),
        }

    def use(self, name: str, *values: float) -> Updates:
        """Choose a model that may have come just now, as `choose` does, and go to where it edits."""
        try:
            entry = self.catalog.find(name)
        except UserError as error:
            return {self.top.status: panel.line(str(error))}
        return {
            **self.choices(entry.name),
            **self._offered(entry, values),
            self.tabs: gr.Tabs(selected="img2img"),
        }

    def _chosen(self, entry: ModelEntry) -> Updates:
        top = self.top
        return {top.checkpoint: entry.name, top.chosen: entry.name, top.status: ""}  # the list says what it is


class PngInfoHandlers:
    """The handlers of the tab PNG Info."""

    def __init__(self, pane: PngInfoPane, picture: gr.Image, tabs: gr.Tabs, form: FormHandlers) -> None:
        """`picture` is where a picture is sent, `tabs` those of the page."""
        self.pane, self.picture, self.tabs, self.form = pane, picture, tabs, form

    def read_info(self, sent: object) -> Updates:
        """Show the infotext of a picture."""
        pane, path = self.pane, sent_path(sent)
        if not path:
            return {pane.text: ""}
        try:
            text = read_infotext(path)
        except UserError as error:
            warn(str(error))
            return {pane.picture: None, pane.text: ""}
        if not text:
            inform("There are no settings in this picture.")
        return {pane.text: text or ""}

    def send(self, sent: object, text: str) -> Updates:
        """Set the controls and take the picture too."""
        path, updates = sent_path(sent), self.send_settings(text)
        return {**updates, self.picture: path} if path and text.strip() else updates

    def send_settings(self, text: str) -> Updates:
        """Set the controls from an infotext and go to the tab img2img."""
        if not text.strip():
            warn("There is nothing to send: drop a picture that was made here or in another web UI.")
            return {self.tabs: gr.skip()}
        return {**self.form.reuse(text), self.tabs: gr.Tabs(selected="img2img")}
