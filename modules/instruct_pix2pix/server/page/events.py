"""Which event on the page calls which handler, and what it may change: a function for each part of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ...models.checkpoints import SUITED
from ...prompts import network_notes
from ...settings import KNOBS, seed_notes
from ...templates import TEMPLATES
from ..desktop import has_desktop
from . import html
from .batch_handlers import BatchHandlers
from .form import SEARCH, settings_of
from .form_handlers import FormHandlers, PngInfoHandlers
from .gradio_compat import UNREAD, no_progress, unordered, visitor_of
from .handlers import EditHandlers
from .layout import Layout, Updates
from .matrix.handlers import MatrixHandlers
from .photo_offer import PhotoOfferHandlers
from .strip.handlers import StripHandlers

Arguments = dict[str, Any]
"""Those of an event, as `gr.Button.click` takes them."""

SEARCH_KEEPS = """(by_strength, best_of, keep_rest) =>
    keep_rest === "off" && (by_strength || best_of > 1) ? "automatic" : keep_rest"""
"""Keeps the rest, in sight, as soon as results are to be found: in the browser, before Generate can be pressed."""


@dataclass(frozen=True)
class Handlers:
    """All handlers of a page."""

    edit: EditHandlers
    matrix: MatrixHandlers
    batch: BatchHandlers
    form: FormHandlers
    png_info: PngInfoHandlers
    strip: StripHandlers
    photo_offer: PhotoOfferHandlers


def connect(page: gr.Blocks, layout: Layout, handlers: Handlers, count: int) -> None:
    """Connect the components with the handlers, inside the page that is open; `count` is what a reset sets."""
    events = _Events(layout)
    _task_events(page, layout, events, handlers)
    _matrix_events(layout, events, handlers.matrix)
    _result_events(layout, events, handlers.edit, handlers.form)
    _strip_events(page, layout, events, handlers.strip)
    _number_events(layout, events)
    _picture_events(layout, events, handlers.edit)
    _model_events(layout, events, handlers.form)
    _photo_offer_events(layout, events, handlers.photo_offer)
    _png_info_events(layout, events, handlers.png_info)
    _form_events(page, layout, events, handlers.form)
    _template_events(page, layout, events)
    _preference_events(page, layout, events, handlers.edit, count)


class _Events:
    """What several events have in common: their arguments, and the components that they change together."""

    def __init__(self, layout: Layout) -> None:
        common: Arguments = {**no_progress(layout.results.former), "api_visibility": "private"}
        self.queued: Arguments = {**common, "concurrency_limit": None}
        self.unread: Arguments = {**self.queued, **UNREAD}
        self.at_once: Arguments = {**common, "queue": False}
        self.browser: Arguments = {**common, "fn": None}

        settings, results, batch = layout.settings, layout.results, layout.batch_results
        self.sides: set[Block] = {
            settings.side_row,
            settings.swap,
            settings.longest,
            settings.width,
            settings.height,
        }
        self.model: set[Block] = {layout.top.checkpoint, layout.top.status, layout.top.chosen}
        self.finding: set[Block] = {
            settings.strength_pane,
            *(layout.form[name] for name in ("text_cfg", "image_cfg", "randomize_cfg", *SEARCH)),
        }
        self.form: set[Block] = {
            *layout.form.values(),
            *self.sides,
            *self.finding,
            settings.look_pane,
            *self.model,
        }
        self.details: set[Block] = {
            results.compare,
            results.infotext,
            results.download,
            results.selected,
            results.kept_pane,
            results.kept,
            results.kept_text,
            results.candidates_pane,
            results.candidates,
        }
        self.board: set[Block] = {
            batch.board,
            batch.steering,
            batch.pause,
            batch.resume,
            batch.after,
            batch.retry,
            batch.download,
        }
        self.matrix: set[Block] = {layout.board.table, layout.board.shown}


def _task_events(page: gr.Blocks, layout: Layout, events: _Events, handlers: Handlers) -> None:
    """Begin, follow and steer a task: an edit, a matrix or a folder."""
    edit_handlers, matrix_handlers, batch_handlers = handlers.edit, handlers.matrix, handlers.batch
    memory, prompts, pictures, results = layout.memory, layout.prompts, layout.pictures, layout.results
    preferences, batch, batch_results = layout.preferences, layout.batch, layout.batch_results

    # The open sub-tab says what is submitted; the task itself says what is followed.

    def submit(data: Mapping[Block, Any], request: gr.Request) -> Updates:
        if data[pictures.mode] == "batch":
            updates = batch_handlers.submit(data, batch_handlers.folder_access.is_here(request))
        else:
            updates = edit_handlers.submit(data, visitor_of(request))
        return begun_by(updates, data)

    def submit_matrix(data: Mapping[Block, Any], request: gr.Request) -> Updates:
        return begun_by(matrix_handlers.submit(data, visitor_of(request)), data)

    def submit_less(data: Mapping[Block, Any], request: gr.Request) -> Updates:
        return begun_by(*handlers.strip.vary(-1, data, visitor_of(request)))

    def submit_more(data: Mapping[Block, Any], request: gr.Request) -> Updates:
        return begun_by(*handlers.strip.vary(1, data, visitor_of(request)))

    def look(data: Mapping[Block, Any], request: gr.Request) -> Updates:
        return edit_handlers.look(data, visitor_of(request))

    def begun_by(updates: Updates, data: Mapping[Block, Any]) -> Updates:
        if memory.followed not in updates:
            return updates
        seed = layout.form["seed"]
        if notes := seed_notes(data[seed]):
            updates[seed] = KNOBS["seed"].check(data[seed])
        texts = (data[layout.form[name]] or "" for name in ("instruction", "negative"))
        if notes := notes + network_notes(*texts):
            updates[layout.progress] = html.line(" ".join(notes))
        return {**updates, memory.settings: remembered(layout, data)}

    def show(task_id: str, selected: str | None, request: gr.Request) -> Updates:
        folder = batch_handlers.found(task_id)
        if folder:
            return batch_handlers.show(folder, batch_handlers.folder_access.is_here(request))
        matrix = matrix_handlers.found(task_id)
        return matrix_handlers.show(matrix, selected) if matrix else edit_handlers.show(task_id, selected)

    def opened_again(remembered: object, task_id: object, matrix_id: object, request: gr.Request) -> Updates:
        return {
            results.open_folder: gr.update(visible=has_desktop() and batch_handlers.folder_access.is_here(request)),
            **edit_handlers.opened(remembered, task_id),
            **matrix_handlers.opened(remembered, task_id, matrix_id),
            **batch_handlers.opened(remembered, task_id),
        }

    def open_folder(task_id: str | None, request: gr.Request) -> Updates:
        here = batch_handlers.folder_access.is_here(request)
        return edit_handlers.open_folder(task_id) if here else {layout.progress: gr.skip()}

    wanted: set[Block] = {
        *layout.form.values(),
        layout.top.checkpoint,
        layout.strip.session,
        pictures.picture,
        pictures.mask,
        pictures.mode,
        preferences.live,
        preferences.save,
        *batch.fields.values(),
        batch.instructions,
        *layout.settings.matrix.fields.values(),
    }
    submitted = unordered(
        memory.followed,
        memory.last_task,
        memory.settings,
        layout.progress,
        layout.form["seed"],
        results.selected,
        *events.board,
        *events.matrix,
    )
    restored = unordered(
        memory.followed,
        preferences.live,
        preferences.save,
        pictures.picture,
        pictures.modes,
        pictures.mode,
        *batch.fields.values(),
        *events.form,
        results.selected,
        results.open_folder,
        *events.board,
        *events.matrix,
        *layout.settings.matrix.fields.values(),
    )
    begun = [
        prompts.generate.click(submit, wanted, submitted, **UNREAD, **events.at_once),
        layout.settings.matrix.make.click(submit_matrix, wanted, submitted, **UNREAD, **events.at_once),
        batch_results.retry.click(batch_handlers.retry, memory.followed, submitted, **events.queued),
    ]
    varied = unordered(*submitted, *events.form, pictures.picture)
    for button, vary in ((results.less, submit_less), (results.more, submit_more)):
        begun.append(button.click(vary, wanted | {results.selected}, varied, **UNREAD, **events.at_once))
    found = page.load(
        opened_again,
        [memory.settings, memory.last_task, layout.board.shown],
        restored,
        js="async (settings, ...tasks) => [settings, ...await ip2pSeen(...tasks)]",  # those of this tab
        **events.queued,
    )
    for event, new in [*((event, "true") for event in begun), (found, "false")]:
        follow = f"(job, live) => {{ ip2pFollow(job, live, {new}); }}"
        event.then(**events.browser, js=follow, inputs=[memory.followed, preferences.live])
    found.then(**events.browser, js="(name) => { ip2pPhotoAgain(name); }", inputs=layout.top.checkpoint)
    settings = layout.settings
    settings.look.click(edit_handlers.looking, None, unordered(settings.look), **events.at_once).then(
        look,
        unordered(*wanted),
        unordered(settings.look, settings.looked, layout.progress),
        **events.unread,
    ).failure(edit_handlers.looked, None, unordered(settings.look), **events.at_once)
    told = memory.news.click(
        show,
        [memory.followed, results.selected],
        unordered(layout.progress, results.gallery, results.sheet, *events.details, *events.board),
        trigger_mode="always_last",
        **events.at_once,
    )
    told.then(**events.browser, js="() => { ip2pShown(); }")
    results.open_folder.click(open_folder, memory.followed, unordered(layout.progress), **events.queued)
    for button, handler in (
        (prompts.interrupt, edit_handlers.interrupt),
        (prompts.skip, edit_handlers.skip),
        (batch_results.pause, batch_handlers.pause),
        (batch_results.resume, batch_handlers.resume),
        (batch_results.stop, batch_handlers.stop),
    ):
        button.click(handler, memory.followed, None, **events.at_once)
    prompts.interrupt.click(matrix_handlers.interrupt, layout.board.shown, None, **events.at_once)


def _matrix_events(layout: Layout, events: _Events, matrix_handlers: MatrixHandlers) -> None:
    """Set up a matrix, and choose one of its cells."""
    matrix, board, memory, pictures = layout.settings.matrix, layout.board, layout.memory, layout.pictures
    fields = [matrix.text_cfg, matrix.image_cfg, matrix.seeds]
    for field in fields:
        field.change(
            matrix_handlers.offer, fields, matrix.make, trigger_mode="always_last", **UNREAD, **events.at_once
        )
    suited = unordered(*fields)
    layout.top.checkpoint.input(matrix_handlers.suit, layout.top.checkpoint, suited, **events.queued)
    layout.top.use.click(matrix_handlers.suit, layout.top.wanted, suited, js="() => ip2pWanted()", **events.queued)
    layout.preferences.reset.click(matrix_handlers.reset, None, suited, **events.queued)
    chosen = board.choose.click(
        matrix_handlers.choose,
        [
            board.wanted,
            memory.followed,
            pictures.picture,
            pictures.mode,
            pictures.mask,
            layout.preferences.save,
            memory.settings,
        ],
        unordered(
            *events.form,
            memory.followed,
            memory.last_task,
            memory.settings,
            pictures.picture,
            pictures.modes,
            pictures.mode,
            layout.progress,
            layout.results.selected,
            board.wanted,
        ),
        js="(_, ...values) => [ip2pWantedCell(), ...values]",
        **UNREAD,
        **events.at_once,
    )
    # Without previews: the cell is one.
    follow = "(cell, task) => { ip2pChosenCell(cell); ip2pFollow(task, false, true); }"
    chosen.then(**events.browser, js=follow, inputs=[board.wanted, memory.followed])


def _result_events(layout: Layout, events: _Events, edit_handlers: EditHandlers, form_handlers: FormHandlers) -> None:
    """Select a result, and go on from it."""
    results, followed = layout.results, layout.memory.followed
    results.gallery.select(edit_handlers.select, followed, unordered(*events.details, layout.progress), **events.queued)
    input_of = [results.selected, layout.pictures.picture, results.former]
    taken = [layout.pictures.picture, results.former, results.give_back, layout.progress]
    results.use_as_input.click(edit_handlers.use_as_input, input_of, unordered(*taken), **events.unread)
    results.give_back.click(edit_handlers.give_back, results.former, unordered(*taken), **events.queued)
    results.candidates.select(
        edit_handlers.take_candidate,
        results.selected,
        unordered(*events.finding, layout.form["seed"], layout.progress),
        **events.queued,
    )
    pictures = layout.pictures
    inpainting = unordered(
        pictures.modes,
        pictures.mode,
        pictures.picture,
        results.sent_mask,
        layout.progress,
    )
    use_mask: Arguments = {**events.browser, "js": "(sent) => { ip2pUseMask(sent); }", "inputs": results.sent_mask}
    results.send_to_inpaint.click(
        edit_handlers.send_to_inpaint, input_of, unordered(*inpainting, *taken), **events.unread
    ).then(**use_mask)
    results.use_as_mask.click(
        edit_handlers.use_as_mask, [results.selected, pictures.picture], inpainting, **events.unread
    ).then(**use_mask)
    results.reuse.click(form_handlers.reuse, results.infotext, unordered(*events.form), **events.queued)
    layout.settings.recycle.click(
        form_handlers.recycle, results.infotext, unordered(layout.settings.seed), **events.queued
    )


def _strip_events(page: gr.Blocks, layout: Layout, events: _Events, strip_handlers: StripHandlers) -> None:
    """Show a result of the strip, and mark there what is shown."""
    strip, selected = layout.strip, layout.results.selected
    page.load(**events.browser, js="async () => await ip2pSession()", outputs=strip.session)
    strip.choose.click(
        strip_handlers.choose,
        strip.wanted,
        unordered(*events.details, layout.progress),
        js="() => ip2pWantedResult()",
        trigger_mode="always_last",
        **events.at_once,
    )
    layout.results.compare_two.click(**events.browser, js="() => { ip2pCompareShown(); }")
    selected.change(**events.browser, js="(id) => { ip2pShownResult(id); }", inputs=selected)


def _number_events(layout: Layout, events: _Events) -> None:
    """Set numbers of the form in the browser."""
    settings = layout.settings
    settings.dice.click(**events.browser, js="() => -1", outputs=settings.seed)
    sides = [settings.width, settings.height]
    settings.swap.click(**events.browser, js="(width, height) => [height, width]", inputs=sides, outputs=sides)


def _picture_events(layout: Layout, events: _Events, edit_handlers: EditHandlers) -> None:
    """Take what is to be edited."""
    pictures = layout.pictures
    for place, handler in ((pictures.picture, edit_handlers.admit), (pictures.arrival, edit_handlers.arrive)):
        changed = unordered(pictures.picture, layout.progress, pictures.arrival)
        place.upload(handler, place, changed, **events.unread)
    layout.examples.select(
        edit_handlers.example,
        None,
        unordered(pictures.picture, layout.prompts.instruction, layout.examples),
        **events.queued,
    )
    for mode, tab in (
        ("inpaint", pictures.inpaint_tab),
        ("img2img", pictures.img2img_tab),
        ("batch", layout.batch.tab),
    ):
        tab.select(**events.browser, js=f"() => {json.dumps(mode)}", outputs=pictures.mode)  # before the next click


def _model_events(layout: Layout, events: _Events, form_handlers: FormHandlers) -> None:
    """Choose a model, look for more, and open the tab of them."""
    top, models = layout.top, layout.models
    suited = [layout.form[name] for name in SUITED]
    given, changed = [top.checkpoint, top.chosen, *suited], unordered(*events.model, top.defaults)
    top.checkpoint.input(form_handlers.choose, given, changed, **events.queued)
    top.defaults.click(form_handlers.take_defaults, top.checkpoint, unordered(*suited, top.defaults), **events.queued)
    for button in (top.refresh, models.refresh):
        found = unordered(*events.model, layout.settings.vae)
        button.click(form_handlers.refresh, top.checkpoint, found, **events.queued).then(
            **events.browser, js="() => { ip2pModels(true); }"
        )
    models.tab.select(**events.browser, js="() => { ip2pModels(); }")
    top.use.click(
        form_handlers.use,
        [top.wanted, *suited],
        unordered(*events.model, top.defaults, layout.tabs),
        js="(_, ...values) => [ip2pWanted(), ...values]",
        **events.queued,
    )


def _photo_offer_events(layout: Layout, events: _Events, handlers: PhotoOfferHandlers) -> None:
    """Look whether the model knows what it is given, whenever either is another."""
    checkpoint, picture, found = layout.top.checkpoint, layout.pictures.picture, layout.photo_offer.found
    drop: Any = layout.batch.fields["drop"]
    folder: Any = layout.batch.fields["input"]
    gr.on(
        [checkpoint.change, picture.change, drop.change, folder.blur],
        handlers.look,
        [checkpoint, picture, drop, folder],
        found,
        trigger_mode="always_last",
        **events.unread,
    ).then(**events.browser, js="(...told) => { ip2pPhotoOffer(...told); }", inputs=[found, checkpoint])


def _png_info_events(layout: Layout, events: _Events, png_info_handlers: PngInfoHandlers) -> None:
    """Read a picture's settings, and send them to the form."""
    pane = layout.png_info
    pane.picture.change(png_info_handlers.read_info, pane.picture, unordered(pane.picture, pane.text), **events.unread)
    pane.send.click(
        png_info_handlers.send,
        [pane.picture, pane.text],
        unordered(*events.form, layout.pictures.picture, layout.tabs),
        **events.unread,
    )
    pane.send_settings.click(
        png_info_handlers.send_settings, pane.text, unordered(*events.form, layout.tabs), **events.queued
    )


def _form_events(page: gr.Blocks, layout: Layout, events: _Events, form_handlers: FormHandlers) -> None:
    """Show what has an effect, and count tokens."""
    prompts, settings = layout.prompts, layout.settings
    kept: set[Block] = {settings.keep_amount, settings.look_pane}
    settings.keep_rest.input(form_handlers.keeping, settings.keep_rest, unordered(*kept), **events.queued)
    finding = [settings.by_strength, settings.best_of, settings.keep_rest]
    for one in finding[:2]:
        one.input(**events.browser, js=SEARCH_KEEPS, inputs=finding, outputs=settings.keep_rest).then(
            form_handlers.searching,
            [settings.by_strength, settings.keep_rest],
            unordered(*events.finding, *kept),
            **events.queued,
        )
    sizing = settings.result_sizing
    sizing.input(form_handlers.result_sizing, sizing, unordered(settings.result_longest), **events.queued)
    settings.sizing.input(form_handlers.sizing, settings.sizing, unordered(*events.sides), **events.queued)
    settings.from_noise.input(form_handlers.start, settings.from_noise, unordered(settings.denoise), **events.queued)
    for text, count, shown in (
        (prompts.instruction, form_handlers.instruction_tokens, prompts.instruction_tokens),
        (settings.negative, form_handlers.negative_tokens, settings.negative_tokens),
    ):
        inputs = [text, settings.steps]
        text.change(count, inputs, shown, trigger_mode="always_last", **UNREAD, **events.at_once)
        page.load(count, inputs, shown, **UNREAD, **events.at_once)


def _template_events(page: gr.Blocks, layout: Layout, events: _Events) -> None:
    """Keep instructions in the list of templates, in the browser."""
    prompts, own = layout.prompts, json.dumps([template.text for template in TEMPLATES])
    page.load(**events.browser, js=f"() => ip2pTemplates({own})", outputs=layout.settings.templates)
    listed = [layout.settings.templates, layout.progress]
    layout.settings.keep.click(**events.browser, js="() => ip2pKeepInstruction()", outputs=listed)
    marked: Arguments = {**events.browser, "js": "(text) => { ip2pMarkKept(text); }", "inputs": prompts.instruction}
    prompts.instruction.change(**marked)
    page.load(**marked)


def _preference_events(
    page: gr.Blocks, layout: Layout, events: _Events, edit_handlers: EditHandlers, count: int
) -> None:
    """Light or dark, what happens in the end, and everything back to its default."""
    preferences = layout.preferences
    preferences.theme.input(**events.browser, js="(choice) => ip2pTheme(choice)", inputs=preferences.theme)
    page.load(**events.browser, js="() => ip2pTheme()", outputs=preferences.theme)
    done = preferences.when_done
    done.input(**events.browser, js="(wanted) => ip2pWhenDone(wanted)", inputs=done, outputs=done)
    page.load(**events.browser, js="() => ip2pWhenDone()", outputs=done)
    preferences.reset.click(
        edit_handlers.reset(count),
        None,
        unordered(*events.form, layout.memory.settings, preferences.live, preferences.save),
        **events.queued,
    )


def remembered(layout: Layout, data: Mapping[Block, Any]) -> dict[str, Any]:
    """Return what a browser keeps of the controls until the page is opened again."""
    return {
        "settings": asdict(settings_of({name: data[control] for name, control in layout.form.items()})),
        "search": {name: data[layout.form[name]] for name in SEARCH},
        "checkpoint": data[layout.top.checkpoint],
        "live": data[layout.preferences.live],
        "save": data[layout.preferences.save],
        "batch": {name: data[control] for name, control in layout.batch.fields.items()},
        "matrix": {name: data[control] for name, control in layout.settings.matrix.fields.items()},
    }
