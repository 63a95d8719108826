"""What the page says about a task, a result and a model: text and small pieces of HTML, everything escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from ...engine.text import CHUNK, PromptEncoder
from ...engine.tokenizer import Tokenizer
from ...errors import UserError
from ...models.checkpoints import SUITED
from ...models.registry import DEMO, ModelEntry
from ...prompts import BREAK, parse_attention, schedule, split_and
from ...settings import EditSettings
from ...text import escape, number_text
from ...variations import told_apart, variations
from ..worker.edit_task import Candidate, EditResult, EditStatus
from ..worker.folder_task import FolderStatus, Stage
from ..worker.pace import LEAST_LEFT
from ..worker.task import TaskState, TaskStatus

PREVIEW_QUALITY = 80
MOST_WORDS = 80
"""Letters of a variation in a caption."""


def line(text: str, kind: str = "") -> str:
    """Return a sentence as HTML; `kind` is 'problem' for one that must be noticed."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="ip2p-line {kind}" role="{role}">{escape(text)}</p>'


# --- an edit ---


def progress(status: EditStatus, model: str, waited: float, preview: Image.Image | None = None) -> str:
    """Return how an edit stands: a bar with its text, and a preview of the pictures; `waited` is in seconds."""
    if status.state is TaskState.FAILED:
        return line(status.error, "problem")
    if status.state.ended:
        notes = "".join(map(line, status.notes))
        return line(_ended(status)) + notes + (line(status.unsaved, "problem") if status.unsaved else "")
    share = status.step / status.steps if status.state is TaskState.RUNNING and status.steps else None
    says, left = _going(status, model, waited)
    return bar(share, says, left, "" if preview is None else _picture(preview))


def bar(share: float | None, says: str, left: str, shown: str = "") -> str:
    """Return a bar filled to `share`, from 0 to 1 or None if unknown, with two texts below it, and then HTML."""
    known = "" if share is None else f' aria-valuenow="{share * 100:.0f}"'
    inside = (
        '<div class="ip2p-bar waiting">'
        if share is None
        else f'<div class="ip2p-bar" style="width:{share * 100:.1f}%">'
    )
    return (
        '<div class="ip2p-going"><div class="ip2p-progress" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f'{known} aria-label="{escape(says)}">{inside}</div></div>'
        f'<p class="ip2p-line"><span>{escape(says)}</span><span>{escape(left)}</span></p>{shown}</div>'
    )


def before_work(status: TaskStatus, model: str, waited: float) -> tuple[str, str] | None:
    """Return what a bar says, left and right, of a task whose work has not begun; None for any other."""
    if status.state is TaskState.QUEUED and status.position:
        return f"Waiting for {count_of(status.position, 'other edit')}", ""
    if status.state is not TaskState.RUNNING:
        return (f"Loading {model} …", f"{waited:.0f} s") if waited >= 1 else ("Starting …", "")
    return None


def time_left(status: TaskStatus) -> str:
    """Return '12 s left', or '' where that is not known."""
    return "" if status.eta is None else seconds_left(status.eta)


def seconds_left(seconds: float) -> str:
    """Return '12 s left' of work that has not ended."""
    return "nearly done" if seconds <= LEAST_LEFT else f"{duration(seconds)} left"


def _going(status: EditStatus, model: str, waited: float) -> tuple[str, str]:
    if status.interrupted:
        return "Stopping after this step …", ""
    if said := before_work(status, model, waited):
        return said
    says = f"Step {status.batch_step + 1}/{status.batch_steps}"
    if status.batch_step >= status.batch_steps:
        says = "Finishing"  # decoded, enlarged, written
    if status.candidates > 1:
        says = f"{status.candidates} candidates · {says}"
    if status.pictures > 1:
        says = f"Picture {min(status.batch + 1, status.pictures)} of {status.pictures} · {says}"
    return says, time_left(status)


def _ended(status: EditStatus) -> str:
    done = len(status.results)
    if not done:
        stopped = status.state is TaskState.INTERRUPTED
        return "Interrupted before a picture was done." if stopped else "All pictures were skipped."
    saved = f", saved in outputs/{status.saved}" if status.saved and not status.unsaved else ""
    saved = _chosen_from(status.results) + saved
    if status.state is TaskState.INTERRUPTED:
        return f"Interrupted. {count_of(done, 'picture')} finished{saved}."
    return f"{count_of(done, 'picture')} in {duration(status.seconds)}{saved}"


def _chosen_from(results: Sequence[EditResult]) -> str:
    count = max(len(result.candidates) for result in results)
    if not count:
        return ""
    cost = sum(result.cost for result in results) / len(results)
    return f", {'each ' if len(results) > 1 else ''}chosen from {count} for the work of {cost:.1f} edits"


def duration(seconds: float) -> str:
    """Return '0.8 s', '12 s' or '3 min 5 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count_of(number: int, thing: str) -> str:
    """Return '1 edit' or '3 edits'."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _picture(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=PREVIEW_QUALITY)
    encoded = base64.b64encode(data.getvalue()).decode()
    return (
        f'<img class="ip2p-preview" width="{image.width}" height="{image.height}" '
        f'alt="What the pictures are becoming" src="data:image/jpeg;base64,{encoded}">'
    )


# --- a folder ---


def folder_progress(
    status: FolderStatus,
    counts: Mapping[Stage, int],
    version: int,
    waited: float,
    where: str,
    said: Callable[[UserError], str],
) -> str:
    """Return how a folder stands, with the version of its table for batch.js; `waited` is in seconds.

    `where` is the name of the output folder, `said` puts an error into the page's words.
    """
    mark = f'<span hidden data-version="{version}"></span>'
    if status.problem is not None:
        return line(said(status.problem), "problem") + mark
    if status.state.ended:
        return line(_folder_ended(status, where)) + "".join(map(line, status.notes)) + mark
    running = status.state is TaskState.RUNNING
    share = (status.step / status.steps if status.steps else 0.0) if running and status.planned else None
    says, left = _folder_going(status, counts, waited)
    return bar(share, says, left) + mark


def _folder_going(status: FolderStatus, counts: Mapping[Stage, int], waited: float) -> tuple[str, str]:
    if said := before_work(status, "the model", waited):
        return said
    if not status.planned:
        return "Looking at the pictures …", ""
    ended = status.pictures - counts.get(Stage.WAITING, 0) - counts.get(Stage.WORKING, 0)
    how = f"{ended} of {count_of(status.pictures, 'picture')}"
    if counts.get(Stage.FAILED):
        how += f" · {counts[Stage.FAILED]} failed"
    if status.interrupted or status.stopping:
        return f"Stopping after this picture … {how}", ""
    if status.paused:
        return f"Paused after {how}", ""
    return how, time_left(status)


def _folder_ended(status: FolderStatus, where: str) -> str:
    summary = status.summary
    if summary is None:
        return "Interrupted before a picture was done."
    counts = [
        (summary.done, "done"),
        (summary.before, "done before"),
        (summary.skipped + summary.unasked, "skipped"),
        (summary.failed, "failed"),
        (summary.left, "left"),
    ]
    parts = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
    text = f"{count_of(status.pictures, 'picture')}: {parts}, in {duration(status.seconds)}."
    if summary.done or summary.before:
        text += f" Saved in {where}."
    if summary.left:
        text += " Generate goes on where it was."
    elif summary.before and not (summary.done or summary.failed or summary.skipped):
        text += " Another seed or output folder makes new ones."
    return text


def board(task_id: str) -> str:
    """Return the empty table of a folder, which batch.js fills."""
    heads = "".join(
        f'<th scope="col" role="columnheader">{name}</th>'
        for name in ("Before", "After", "Name", "State", "Seconds", "Reason")
    )
    return (
        f'<div class="ip2p-scroll" id="ip2p_board" data-job="{task_id}" tabindex="0" role="region" '
        'aria-label="Pictures of the folder"><table class="ip2p-board" role="table"><caption></caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup"></tbody></table></div>'
    )


def zip_link(task_id: str) -> str:
    """Return the link to all results of a folder."""
    return f'<a class="ip2p-button" href="folders/{task_id}/results.zip" download>Download as zip</a>'


# --- a result, a prompt, a model ---


def captions(asked: str, results: Sequence[EditResult]) -> list[str]:
    """Return the captions of results: what differs from one to the next; `asked` is the instruction as it was typed."""
    texts = variations(asked)
    own = dict(zip(texts, told_apart(texts), strict=True)) if len(texts) > 1 else {}
    words = [own.get(result.settings.instruction, "")[:MOST_WORDS] for result in results]
    return [
        f"{word}\n{caption(result.settings)}" if word else caption(result.settings)
        for word, result in zip(words, results, strict=True)
    ]


def caption(settings: EditSettings) -> str:
    """Return the caption of an edit: its seed and its scales."""
    return f"seed {settings.seed}\n{scales(settings)}"


def scales(settings: EditSettings) -> str:
    """Return 'Text 7.5 · Image 1.5', which breaks into lines between the two alone."""
    return f"Text\u00a0{number_text(settings.text_cfg)} · Image\u00a0{number_text(settings.image_cfg)}"


def candidate_captions(candidates: Sequence[Candidate]) -> list[str]:
    """Return the captions of the candidates of a result: what they differ in, and what told them apart."""
    by_seed = len({one.settings.seed for one in candidates}) > 1
    names = [f"seed {one.settings.seed}" if by_seed else scales(one.settings) for one in candidates]
    return [
        f"{'✓ ' if one.chosen else ''}{name}\n{what}"
        for one, name, what in zip(candidates, names, changes(candidates), strict=True)
    ]


def changes(candidates: Sequence[Candidate]) -> list[str]:
    """Return how far each of the candidates of a result changed the rest, or all of an edit of the whole picture."""
    what = "changed" if all(one.outside == one.inside for one in candidates) else "rest changed"
    return [f"{what} {one.outside:.1f}" for one in candidates]


def sheet_link(task_id: str) -> str:
    """Return the link to one picture of all that an edit tried."""
    return f'<a class="ip2p-button" href="jobs/{task_id}/contact-sheet.jpg" download>Contact sheet</a>'


def kept(share: float) -> str:
    """Return how much of a result, 0..1, is the input's own: a sentence."""
    percent = round(share * 100)
    if not percent:
        return "The whole picture was edited: nothing was kept back."
    return f"{percent} % of the picture is the input's own."


class TokenCounter:
    """Counts the tokens of a prompt as the text encoder will see it."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        self._encoder = PromptEncoder(self._tokenizer, lambda tokens: tokens)

    def __call__(self, texts: Iterable[str], steps: int) -> str:
        """Return HTML such as '5/75', of the longest of several prompts in the longest form of its steps."""
        forms = {shown for text in texts for shown in _forms(text, steps)}
        counts = [(self._count(shown), len(self._encoder.chunks(shown)) * CHUNK) for shown in forms]
        count, room = max(counts)
        return f'<span title="Tokens of the prompt, and how many fit">{count}/{room}</span>'

    def _count(self, text: str) -> int:
        return sum(self._tokenizer.count(word) for word, weight in parse_attention(text) if (word, weight) != BREAK)


def _forms(text: str, steps: int) -> set[str]:
    try:
        return {shown for part, _ in split_and(text) for _, shown in schedule(part, steps)}
    except UserError:
        return {text}


def model_choice(entry: ModelEntry) -> str:
    """Return the label of a model in the list to choose from, in plain words; the tab Models has its facts."""
    return f"{entry.name}: {_edits(entry)}"


def _edits(entry: ModelEntry) -> str:
    found = entry.checkpoint
    if entry.path == DEMO:
        return "drawn landscapes"
    if found is None:
        return "cannot be read"
    if not found.editable:
        return f"cannot edit ({f'without {found.missing[0]}' if found.missing else found.kind})"
    return f"photographs, {found.suited.size} px" if found.suited.size else "edits pictures"


def offer(entry: ModelEntry, values: Sequence[float]) -> str:
    """Return what a button says that sets the model's scales and steps; '' where `values` are those, as in `SUITED`."""
    if entry.checkpoint is None or tuple(values) == tuple(getattr(entry.checkpoint.suited, name) for name in SUITED):
        return ""
    return f"Use the model's defaults: {replace(entry.checkpoint.suited, size=None).text}"
