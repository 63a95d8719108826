"""What the page says about a matrix, and its table, as HTML."""

from __future__ import annotations

from collections.abc import Iterable

from ....text import number_text
from ...worker.matrix_task import MatrixStatus, MatrixTask
from ...worker.task import TaskState
from .. import html

HINT = "Left is before, right is after. A click or Enter makes the edit, and sets the controls to it."


def progress(status: MatrixStatus, cells: int, model: str, waited: float) -> str:
    """Return how a matrix of so many cells stands; `waited` is in seconds."""
    if status.state is TaskState.FAILED:
        return html.line(status.error, "problem")
    if status.state.ended:
        return html.line(_ended(status, cells)) + "".join(map(html.line, status.notes))
    running = status.state is TaskState.RUNNING
    says, left = _going(status, cells, model, waited)
    return html.bar(status.step / status.steps if running else None, says, left)


def _going(status: MatrixStatus, cells: int, model: str, waited: float) -> tuple[str, str]:
    if status.interrupted:
        return "Stopping …", ""
    if said := html.before_work(status, model, waited):
        return said
    if status.step >= status.steps:
        return f"Finishing {html.count_of(cells, 'edit')}: {len(status.results)} done", ""
    steps = f"Step {status.step // cells + 1}/{status.steps // cells}"
    return f"{html.count_of(cells, 'edit')} · {steps}", html.time_left(status)


def _ended(status: MatrixStatus, cells: int) -> str:
    done = len(status.results)
    if status.state is TaskState.FINISHED:
        return f"{html.count_of(done, 'edit')} in {html.duration(status.seconds)}. Choose one."
    if not status.coarse:
        return "Interrupted before there was anything to see."
    return f"Interrupted: {done} of {html.count_of(cells, 'edit')} finished."


def table(task: MatrixTask, *, live: bool) -> str:
    """Return the table of a matrix without its pictures; `live` is whether coarse pictures are to be shown."""
    width, height = task.status().size
    heads = "".join(f'<th scope="col">Text CFG <b>{number_text(value)}</b></th>' for value in task.text_cfg)
    rows = "".join(_rows(task))
    layers = _layers(task.seeds) if len(task.seeds) > 1 else ""
    shows_coarse = "true" if live else ""
    return f"""
<div class="ip2p-matrix" id="ip2p_matrix" data-job="{task.id}" data-live="{shows_coarse}"
    data-columns="{len(task.text_cfg)}" data-rows="{len(task.image_cfg)}" data-layers="{len(task.seeds)}"
    style="--ip2p-columns: {len(task.text_cfg)}; --ip2p-ratio: {width} / {height}">
{layers}
<div class="ip2p-scroll"><table role="grid" aria-label="Edits by Text CFG and Image CFG">
<thead><tr><th class="ip2p-corner" scope="col"><span>Input</span></th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="ip2p-hint">{HINT}</p>
<a class="ip2p-button" href="matrices/{task.id}/matrix.png" download hidden>Download the matrix</a>
<figure class="ip2p-stage"><div class="ip2p-wipe"></div>
<input type="range" min="0" max="100" value="50" aria-label="Before and after: how much is shown as it was">
<figcaption></figcaption></figure>
</div>"""


def _rows(task: MatrixTask) -> Iterable[str]:
    for row, image_cfg in enumerate(task.image_cfg):
        yield f'<tr><th scope="row">Image CFG <b>{number_text(image_cfg)}</b></th>'
        for column, text_cfg in enumerate(task.text_cfg):
            place = row * len(task.text_cfg) + column
            name = f"Text CFG {number_text(text_cfg)}, Image CFG {number_text(image_cfg)}"
            yield (
                f'<td role="gridcell" aria-selected="false"><button type="button" class="ip2p-cell ip2p-wipe" '
                f'data-place="{place}" tabindex="{-1 if place else 0}" aria-label="{name}"></button></td>'
            )
        yield "</tr>"


def _layers(seeds: Iterable[int]) -> str:
    choices = "".join(
        f'<label><input type="radio" name="ip2p_layer" value="{i}"{"" if i else " checked"}> {seed}</label>'
        for i, seed in enumerate(seeds)
    )
    return f'<fieldset class="ip2p-layers"><legend>Seed</legend>{choices}</fieldset>'
