"""The command `workflow`: an edit as a workflow for ComfyUI, with this program's nodes."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..engine.sampling.names import find_schedule, read_sampler
from ..errors import Remedy, UserError
from ..files import write_whole
from ..hosts.comfy.workflow import CARRIED, CHECKPOINT, Workflow
from ..settings import KNOBS, EditSettings
from ..text import say
from .arguments import Command, add_settings, settings_of

EXPLANATION = """The workflow goes to stdout, or to a file: drag that onto ComfyUI's window. Pictures and checkpoints
are named as in ComfyUI's own folders. The nodes are this program's, whose folder has to lie in ComfyUI's custom_nodes
(docs/comfyui.md)."""

LEFT = tuple(name for name in KNOBS if name not in CARRIED)


@dataclass(frozen=True)
class WorkflowOptions:
    """What `workflow` is asked to write."""

    settings: EditSettings
    image: str
    checkpoint: str
    builder: bool
    for_api: bool
    output: Path | None
    overwrite: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXPLANATION
    parser.add_argument("image", metavar="IMAGE", help="the picture, by its name in ComfyUI's folder 'input'")
    parser.add_argument("instruction", metavar="INSTRUCTION", help="what to change, in words")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the .json to write (default: stdout)")
    about = f"by its name in ComfyUI's folder 'checkpoints' (default {CHECKPOINT})"
    parser.add_argument("--checkpoint", default=CHECKPOINT, metavar="NAME", help=f"the model, {about}")
    about = "with Edit Conditioning, Edit Guider and ComfyUI's sampler, not with the one box"
    parser.add_argument("--guider", action="store_true", help=about)
    parser.add_argument("--api", action="store_true", help="as ComfyUI's API takes it, not its editor")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_settings(parser, leave=LEFT)


def options_of(args: argparse.Namespace) -> WorkflowOptions:
    """Return what the arguments ask for. Raises UserError."""
    settings = replace(settings_of(args, leave=LEFT), instruction=args.instruction).require_instruction()
    sampler, schedule = read_sampler(settings.sampler)
    return WorkflowOptions(
        replace(settings, sampler=sampler, schedule=find_schedule(schedule or settings.schedule)),
        args.image,
        args.checkpoint,
        args.guider,
        args.api,
        args.output,
        args.overwrite,
    )


def run(options: WorkflowOptions) -> int:
    """Write the workflow. Raises UserError for a file that is there."""
    made = Workflow(options.settings, image=options.image, checkpoint=options.checkpoint, builder=options.builder)
    text = json.dumps(made.for_api() if options.for_api else made.for_editor(), indent=2, ensure_ascii=False)
    if options.output is None:
        print(text)
        return 0
    if options.output.exists() and not options.overwrite:
        raise UserError("'", options.output, "' is there already", remedy=Remedy.OVERWRITE)
    write_whole(options.output, f"{text}\n".encode())
    say(f"{options.output}: drag it onto ComfyUI's window.")
    return 0


COMMAND = Command("workflow", "Write an edit as a workflow for ComfyUI.", add_arguments, options_of, run)
