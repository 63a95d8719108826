"""Which event on the page calls which handler, and what it may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import gradio as gr

from .batch_handlers import BatchHandlers
from .form import settings_of
from .handlers import EditHandlers, Updates
from .layout import Layout


def connect(page: gr.Blocks, ui: Layout, desk: EditHandlers, folders: BatchHandlers, count: int) -> None:
    """Connect the components with the handlers, inside the page that is open."""
    form, batch = ui.form, ui.batch
    # Where gradio 6.31 shows an event's progress, even hidden, a clock may run at every frame of the browser from then
    # on. A state has nothing to show.
    hidden: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": ui.selected, "api_visibility": "private"}
    quick: dict[str, Any] = {**hidden, "concurrency_limit": None}
    unread: dict[str, Any] = {**quick, "preprocess": False}  # gradio must not open pictures: our limits come first
    at_once: dict[str, Any] = {**hidden, "queue": False}
    browser: dict[str, Any] = {**hidden, "fn": None}

    sides = {ui.by_hand, ui.swap, form["longest"], form["width"], form["height"]}
    details = {ui.compare, ui.infotext, ui.download, ui.selected}
    steering = {batch.steering, batch.pause, batch.resume, batch.after, batch.retry, batch.download}
    board = {batch.board, *steering}
    model = {ui.checkpoint, ui.status, ui.chosen}
    settings = {*form.values(), *sides, *model}

    # An edit or a folder: what is submitted is told by the sub-tab, what is followed by its job.

    def submit(data: Mapping[Any, Any], request: gr.Request) -> Updates:
        folder = data[ui.mode] == "batch"
        updates = folders.submit(data, folders.is_here(request)) if folder else desk.submit(data)
        return {**updates, ui.memory: remembered(ui, data)} if ui.following in updates else updates

    def show(job_id: str, selected: int | None, request: gr.Request) -> Updates:
        folder = folders.found(job_id)
        return folders.show(folder, folders.is_here(request)) if folder else desk.show(job_id, selected)

    def opened_again(memory: object, job_id: object) -> Updates:
        return {**desk.opened(memory, job_id), **folders.opened(memory, job_id)}

    about_folder = {*batch.fields.values(), batch.instructions}
    wanted = {*form.values(), ui.checkpoint, ui.picture, ui.mask, ui.mode, ui.live, ui.save, *about_folder}
    submitted = {ui.following, ui.job_id, ui.memory, ui.progress, ui.selected, *board}
    again = {ui.modes, ui.mode, ui.examples, *batch.fields.values()}
    # gradio takes sets here too, but its types do not say so
    opened: Any = {ui.following, ui.live, ui.save, ui.models, ui.picture, *again, *settings, ui.selected, *board}
    begun = [
        ui.generate.click(submit, wanted, submitted, preprocess=False, **at_once),
        batch.retry.click(folders.retry, ui.following, submitted, **quick),
    ]
    found = page.load(opened_again, [ui.memory, ui.job_id], opened, **quick)
    for event, new in [*((event, "true") for event in begun), (found, "false")]:
        event.then(**browser, js=f"(job, live) => {{ ip2pFollow(job, live, {new}); }}", inputs=[ui.following, ui.live])
    shown = {ui.progress, ui.gallery, *details, *board}
    told = ui.news.click(show, [ui.following, ui.selected], shown, trigger_mode="always_last", **at_once)
    told.then(**browser, js="() => { ip2pShown(); }")
    ui.interrupt.click(desk.interrupt, ui.following, None, **at_once)
    ui.skip.click(desk.skip, ui.following, None, **at_once)
    for button, handler in ((batch.pause, folders.pause), (batch.resume, folders.resume), (batch.stop, folders.stop)):
        button.click(handler, ui.following, None, **at_once)

    ui.gallery.select(desk.select, ui.following, {*details, ui.progress}, **quick)
    ui.use_as_input.click(desk.use_as_input, [ui.following, ui.selected], {ui.picture, ui.progress}, **quick)
    ui.reuse.click(desk.reuse, ui.infotext, settings, **quick)
    ui.recycle.click(desk.recycle, ui.infotext, {form["seed"]}, **quick)
    ui.dice.click(**browser, js="() => -1", outputs=form["seed"])
    ui.swap.click(
        **browser,
        js="(width, height) => [height, width]",
        inputs=[form["width"], form["height"]],
        outputs=[form["width"], form["height"]],
    )

    for place in (ui.picture, ui.arrival):
        admit = desk.admit if place is ui.picture else desk.arrive
        place.upload(admit, place, {ui.picture, ui.progress, ui.arrival}, **unread)
    ui.examples.select(desk.example, None, {ui.picture, form["instruction"], ui.examples}, **quick)
    for mode, tab in (("inpaint", ui.inpaint_tab), ("img2img", ui.img2img_tab), ("batch", batch.tab)):
        tab.select(partial(folders.entered, mode), None, {ui.mode, ui.examples}, **quick)

    ui.checkpoint.input(desk.choose, [ui.checkpoint, ui.chosen], model, **quick)
    for button in (ui.refresh, ui.models_refresh):
        button.click(desk.refresh, ui.checkpoint, {*model, ui.models}, **quick)

    ui.info_picture.change(desk.read_info, ui.info_picture, {ui.info_picture, ui.info_text}, **unread)
    ui.send.click(desk.send, [ui.info_picture, ui.info_text], {*settings, ui.picture, ui.tabs}, **unread)
    ui.send_settings.click(desk.send_settings, ui.info_text, {*settings, ui.tabs}, **quick)

    form["sizing"].input(desk.sizing, form["sizing"], sides, **quick)
    form["from_noise"].input(desk.start, form["from_noise"], {form["denoise"]}, **quick)
    for text, shown in ((form["instruction"], ui.prompt_count), (form["negative"], ui.negative_count)):
        text.change(desk.tokens, [text, form["steps"]], shown, trigger_mode="always_last", **at_once)
        page.load(desk.tokens, [text, form["steps"]], shown, **at_once)
    ui.theme.input(**browser, js="(choice) => ip2pTheme(choice)", inputs=ui.theme)
    page.load(**browser, js="() => ip2pTheme()", outputs=ui.theme)
    ui.reset.click(desk.reset(count), None, {*settings, ui.models, ui.memory, ui.live, ui.save}, **quick)


def remembered(ui: Layout, data: Mapping[Any, Any]) -> dict[str, Any]:
    """What a browser keeps of the controls until the page is opened again."""
    return {
        "settings": asdict(settings_of({name: data[control] for name, control in ui.form.items()})),
        "checkpoint": data[ui.checkpoint],
        "live": data[ui.live],
        "save": data[ui.save],
        "batch": {name: data[control] for name, control in ui.batch.fields.items()},
    }
