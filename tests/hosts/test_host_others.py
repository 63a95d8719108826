"""In each real host: our extension beside others: those in the folder IP2P_HOST_EXTENSIONS, and the built-in ones.

A test whose other extension is not there is skipped.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts import checkpoints
from tests.hosts.running import DIRECT, Host, RefusedError, encoded, picture
from tests.hosts.test_host_edits import distance, is_picture
from tests.hosts.test_host_formula import PROMPTS, probed

THRESHOLDING = ("dynamic thresholding (cfg scale fix)", "dynamicthresholding (cfg-fix) integrated")
"""Titles of one extension in different hosts, as for each that follows."""
Arguments = dict[int | str, Any]
"""Those that are not the default: by place, or by a word of their label where hosts have them in different places."""
CHANGES: list[tuple[tuple[str, ...], Arguments, dict[str, Any]]] = [
    (THRESHOLDING, {0: True, "mimic": 1.0}, {}),
    (("kohya hrfix integrated",), {0: True}, {}),
    (("forge couple",), {0: True, 3: ";"}, {"prompt": "make it snow; make it rain"}),
    (("regional prompter",), {0: True}, {"prompt": "make it snow BREAK make it rain"}),
    (("cd tuner",), {0: True, 1: 5.0, 3: 5.0}, {}),
    (("latent couple extension",), {0: True}, {"prompt": "make it AND snow AND rain"}),
]
"""Titles, arguments, and what else the job says."""


def asked(host: Host, titles: tuple[str, ...], arguments: Arguments) -> dict[str, Any]:
    """The part of a job's body that calls the first of these extensions which is there; skips the test if none is."""
    scripts = {one["name"]: one for one in host.get("script-info") if one["is_img2img"]}
    title = next((title for title in titles if title in scripts), None)
    if title is None:
        pytest.skip(f"{titles[0]} is not among the host's extensions")
    values = [one["value"] for one in scripts[title]["args"]]
    labels = [str(one["label"]).lower() for one in scripts[title]["args"]]
    for key, value in arguments.items():
        place = key if isinstance(key, int) else next(i for i, label in enumerate(labels) if key in label)
        values[place] = value
    return {title: {"args": values}}


def test_an_edit_is_the_formula_while_the_others_are_idle(editor: Host) -> None:
    editor.job(**probed(7.5, 1.5))
    assert max(step["error"] for step in editor.records()) <= 1e-4


@pytest.mark.parametrize(("titles", "arguments", "body"), CHANGES, ids=[one[0][0] for one in CHANGES])
@pytest.mark.parametrize("checkpoint", [checkpoints.EDITS, checkpoints.PLAIN])
def test_the_other_one_changes_an_edit_and_works_on_a_plain_checkpoint(
    host: Host, titles: tuple[str, ...], arguments: Arguments, body: dict[str, Any], checkpoint: str
) -> None:
    called = asked(host, titles, arguments)
    changes_an_edit(host, called, body, checkpoint)


def changes_an_edit(host: Host, called: dict[str, Any], body: dict[str, Any], checkpoint: str) -> None:
    """Check that another extension, called so, changes an edit and leaves nothing behind; on a plain one, it works."""
    host.select(checkpoint)
    body = {"denoising_strength": 0.6, "steps": 3} | body
    without, changed = host.job(**body).picture, host.job(alwayson_scripts=called, **body).picture
    assert is_picture(changed)
    if checkpoint == checkpoints.EDITS:  # random weights answer some of them by a level, plain ones the most
        assert distance(changed, without) > 1
    assert distance(host.job(**body).picture, without) <= 1


@pytest.fixture
def controlnet(host: Host) -> dict[str, Any]:
    """The part of a job's body that asks for a ControlNet of random weights."""
    asked(host, ("controlnet",), {})
    if host.name == "a1111" and not checkpoints.are_full_size(checkpoints.folder()):
        pytest.skip("the extension builds ControlNets of full size alone: IP2P_HOST_MODELS has small checkpoints")
    with DIRECT.open(f"{host.url}/controlnet/model_list") as answer:
        [model] = [name for name in json.load(answer)["model_list"] if name.startswith(checkpoints.CONTROLNET)]
    unit = {"enabled": True, "model": model, "image": encoded(picture(80, 80))}
    return asked(host, ("controlnet",), {0: unit})


@pytest.mark.parametrize("checkpoint", [checkpoints.EDITS, checkpoints.PLAIN])
def test_a_controlnet_changes_an_edit_and_works_on_a_plain_checkpoint(
    host: Host, controlnet: dict[str, Any], checkpoint: str
) -> None:
    changes_an_edit(host, controlnet, {}, checkpoint)


@pytest.mark.parametrize(("text", "image"), [(7.5, 1.5), (1.0, 1.5), (7.5, 1.0)])
@pytest.mark.parametrize("prompt", ["negative", "long, AND, batch 2"])
def test_with_a_controlnet_in_every_row_an_edit_is_the_formula(
    editor: Host, controlnet: dict[str, Any], prompt: str, text: float, image: float
) -> None:
    body = {**PROMPTS[prompt][0], **probed(text, image)}
    editor.job(**body | {"alwayson_scripts": body["alwayson_scripts"] | controlnet})
    assert max(step["error"] for step in editor.records()) <= 1e-4


@pytest.mark.parametrize(
    ("title", "first"),
    [
        ("controlnet", {"enabled": True, "module": "reference_only", "image": encoded(picture(80, 80))}),
        ("stylealign integrated", True),
    ],
    ids=["reference", "stylealign"],
)
def test_what_takes_two_rows_for_granted_is_refused_with_a_sentence(editor: Host, title: str, first: object) -> None:
    called = asked(editor, (title,), {0: first})
    with pytest.raises(RefusedError, match="does not work with a model that edits: switch it off"):
        editor.job(alwayson_scripts=called)
    assert is_picture(editor.job().picture)


def test_thresholding_that_mimics_the_scale_itself_leaves_the_formula(editor: Host) -> None:
    called = asked(editor, THRESHOLDING, {0: True, "mimic": 7.5})
    body = probed(7.5, 1.5)
    editor.job(**body | {"alwayson_scripts": body["alwayson_scripts"] | called})
    assert max(step["error"] for step in editor.records()) <= 1e-4
