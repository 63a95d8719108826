"""The command `batch`: a folder of pictures, one instruction or one for each, and a journal of what became of them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.candidates import Search
from ..errors import UserError
from ..settings import EditSettings
from ..text import printable, say
from .arguments import (
    Command,
    ModelOptions,
    add_model,
    add_search,
    add_settings,
    asked_of,
    model_options_of,
    search_of,
    settings_of,
    suited_to,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..batch.driver import ModelFacts
    from ..batch.planning import BatchRequest
    from ..batch.units import Control, Executor, Item, Result, Unit
    from ..engine.precision import Machine


@dataclass(frozen=True)
class BatchOptions:
    """What `batch` is asked to do; the fields in common with `BatchRequest` mean what they mean there."""

    input: Path
    output: Path
    settings: EditSettings
    """Of every picture, where nothing nearer to it says otherwise; `batch_size` is not looked at."""
    asked: frozenset[str]
    """The names of the settings that were given; the others are to suit the model."""
    search: Search
    batch_size: int | None
    instructions: Path | None
    use_infotext: bool
    recursive: bool
    masks: Path | None
    format: str | None
    quality: int
    contact_sheet: bool
    overwrite: bool
    retry_failed: bool
    cluster: str | None
    """'auto', the address of a Ray cluster, or None for this process alone."""
    model: ModelOptions
    as_json: bool

    def request(self) -> BatchRequest:
        """Return the batch that is asked for. Raises UserError."""
        from ..batch.planning import BatchRequest

        return BatchRequest(
            self.input,
            self.output,
            replace(self.settings, batch_size=1),
            batch_size=self.batch_size,
            instructions=self.instructions,
            recursive=self.recursive,
            overwrite=self.overwrite,
            retry_failed=self.retry_failed,
            fmt=self.format,
            quality=self.quality,
            masks=self.masks,
            contact_sheet=self.contact_sheet,
            use_infotext=self.use_infotext,
            search=self.search,
            asked=self.asked,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("input", type=Path, metavar="IN_DIR")
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="another folder, also one inside IN_DIR")
    about = "what to change, where nothing nearer says so: see --instructions"
    parser.add_argument("instruction", nargs="?", metavar="INSTRUCTION", help=about)
    about = "CSV or JSONL: name, instruction, any setting; else NAME.txt beside the picture, else its own infotext"
    parser.add_argument("--instructions", type=Path, metavar="FILE", help=about)
    parser.add_argument("--ignore-infotext", action="store_true", help="take no instruction out of the pictures")
    parser.add_argument("--recursive", action="store_true", help="look into the folders in IN_DIR too")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="masks with the pictures' names: white is edited")
    parser.add_argument("--format", metavar="ENDING", help="png, jpg, webp, tif or avif (default: as each picture)")
    parser.add_argument("--quality", type=int, default=95, help="of jpg, webp and avif, 1 to 100 (default 95)")
    parser.add_argument("--contact-sheet", action="store_true", help="also make a sheet of all, before and after")
    parser.add_argument("--overwrite", action="store_true", help="replace files that come from other settings")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    add_search(parser)
    about = "use many machines or GPUs: auto for those here, or HOST:PORT of a Ray cluster (docs/many-machines.md)"
    parser.add_argument("--cluster", metavar="auto|ADDRESS", help=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_settings(parser, batch_size="by the size of the pictures")


def options_of(args: argparse.Namespace) -> BatchOptions:
    """Return what the arguments ask for. Raises UserError."""
    return BatchOptions(
        input=args.input,
        output=args.output,
        settings=settings_of(args),
        asked=asked_of(args),
        search=search_of(args),
        batch_size=args.batch_size,
        instructions=args.instructions,
        use_infotext=not args.ignore_infotext,
        recursive=args.recursive,
        masks=args.masks,
        format=args.format,
        quality=args.quality,
        contact_sheet=args.contact_sheet,
        overwrite=args.overwrite,
        retry_failed=args.retry_failed,
        cluster=args.cluster,
        model=model_options_of(args),
        as_json=args.json,
    )


def run(options: BatchOptions) -> int:
    """Edit a folder as asked; return 0 only when every picture that was asked for is there. Raises UserError."""
    # Imported here: `--help` need not wait for them, nor for torch who names a folder that is not there.
    from ..batch.planning import check_folders

    request = options.request()
    check_folders(request)
    path, device = options.model.find(), options.model.device

    from ..batch.driver import Event, Planned, facts_of, precision_of, run_batch
    from ..batch.units import Control
    from ..engine.edit import resolved
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from .batch_report import BatchReport, summary_lines
    from .photo_advice import advise

    tune_memory()
    resolved(request.settings)
    request.search.settled(request.settings, options.asked)
    request = replace(request, settings=suited_to(path, request.settings, options.asked))
    asked, control = options.model.precision, Control()
    if options.cluster:
        from ..batch.ray.executor import cluster_executor, cluster_precision  # Ray need not be there

        precision = precision_of(request.output, asked, partial(cluster_precision, options.cluster, device, say=say))
        facts = facts_of(path, precision)
        memory = options.model.memory
        execute = cluster_executor(options.cluster, path, facts.hash, device, precision, control, memory, say=say)
    else:
        own = choose_machine(device, asked, options.model.memory)
        precision = precision_of(request.output, asked, lambda _: own.precision)
        if precision != own.precision:
            say(f"{request.output} was begun in {precision}, and goes on in it; here {own.precision} is faster.")
        facts = facts_of(path, precision)
        machine = choose_machine(device, precision, options.model.memory)
        execute = _here(path, facts, machine, control, options.model.folders)
    report = BatchReport(request, as_json=options.as_json)

    def tell(event: Event) -> None:
        if isinstance(event, Planned) and event.results:
            advise(path, options.model.folders, _a_few_of(event.plan.items))
        report(event)

    try:
        with report:
            summary = run_batch(request, facts, execute, report=tell, control=control)
    except KeyboardInterrupt:
        say(f"Stopped: {report.done} of {report.pictures} pictures are done. The same command goes on where it was.")
        return 130
    for line in summary_lines(summary, request):
        say(line)
    return 0 if summary.ok else 1


def _a_few_of(items: Sequence[Item]) -> Iterator[tuple[str, Image.Image]]:
    """Yield names and pixels of some pictures, those that can be read."""
    from ..images import open_picture
    from ..models.photographs import a_few

    for item in a_few(items):
        with contextlib.suppress(UserError):  # told when its turn comes
            yield item.name, open_picture(item.source).image


def _here(
    path: Path, facts: ModelFacts, machine: Machine, control: Control, models: Sequence[Path]
) -> Executor:
    """Return the executor of this machine, which loads its model when there is something to make."""
    from ..batch.local_executor import UnitRunner, local_executor
    from ..engine.model import EditModel

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return  # nothing to make: no reason to load a model
        say(f"Loading {printable(path.stem)} …")
        model = EditModel.load(path, machine, models)
        for note in model.notes:
            say(note)
        maker = UnitRunner(model, facts.hash)

        def all_units() -> Iterator[Unit | None]:
            yield first
            yield from units

        yield from local_executor(maker, control)(all_units())

    return execute


COMMAND = Command(
    "batch",
    "Edit a folder of pictures; the same command again goes on where it was cut off.",
    add_arguments,
    options_of,
    run,
)
