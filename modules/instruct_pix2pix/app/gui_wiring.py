"""Which event on the page calls which handler, and what it may change."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .gui_events import Desk
from .gui_layout import Layout


def connect(page: gr.Blocks, ui: Layout, desk: Desk, count: int) -> None:
    """Connect the components with the handlers, inside the page that is open."""
    form = ui.form
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    quick: dict[str, Any] = {**hidden, "concurrency_limit": None}
    unread: dict[str, Any] = {**quick, "preprocess": False}  # gradio must not open pictures: our limits come first
    at_once: dict[str, Any] = {**hidden, "queue": False}
    browser: dict[str, Any] = {"fn": None, "api_visibility": "private"}

    sides = {ui.by_hand, ui.swap, form["longest"], form["width"], form["height"]}
    details = {ui.details, ui.compare, ui.infotext, ui.download, ui.selected}
    running = {ui.generate, ui.stopping, ui.gallery, *details}
    model = {ui.checkpoint, ui.status, ui.chosen}
    settings = {*form.values(), *sides, *model}

    wanted = {*form.values(), ui.checkpoint, ui.picture, ui.mask, ui.mode, ui.live, ui.save}
    submitted = {ui.following, ui.job_id, ui.memory, ui.progress, *running}
    # gradio takes sets here too, but its types do not say so
    opened: Any = {ui.following, ui.live, ui.save, ui.models, ui.picture, *settings, *running}
    begun = [
        ui.generate.click(desk.submit, wanted, submitted, **unread),
        page.load(desk.opened, [ui.memory, ui.job_id], opened, **quick),
    ]
    for event in begun:
        event.then(desk.follow, [ui.following, ui.live], [ui.progress, ui.news], **quick)
    ui.news.change(desk.show, [ui.following, ui.selected], running, **quick)
    ui.interrupt.click(desk.interrupt, ui.following, None, **at_once)
    ui.skip.click(desk.skip, ui.following, None, **at_once)

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
    ui.inpaint_tab.select(lambda: "inpaint", None, ui.mode, **quick)
    ui.img2img_tab.select(lambda: "img2img", None, ui.mode, **quick)

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
