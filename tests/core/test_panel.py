"""The panel and the script around it, on each gradio that a host has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from instruct_pix2pix.hosts.job import CONTROLS, SETTINGS
from instruct_pix2pix.settings import KNOBS

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "modules" / "instruct_pix2pix" / "data" / "demo" / "demo.safetensors"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"

HOSTS = {  # what the hosts pin, as far as gradio needs it
    "a1111": ["gradio==3.41.2", "pydantic<2", "fastapi==0.94.0", "httpx==0.24.1", "huggingface_hub<0.26", "numpy<2"],
    "forge": ["gradio==4.40.0", "pydantic==2.8.2", "fastapi==0.104.1", "huggingface_hub<0.26", "numpy<2"],
}


@pytest.fixture(scope="module", params=HOSTS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The page that a host with its own gradio builds, in an environment of its own."""
    folder = tmp_path_factory.mktemp("hosts")
    python = environment(folder / "venv", HOSTS[request.param])
    return {**build(python, folder / request.param), "wider": build(python, folder / "wider" / request.param, "count")}


def build(python: Path, folder: Path, *added: str) -> dict[str, Any]:
    """Build the page of the host that the folder is named after, and return what is on it; see panel_in_a_host.py."""
    folder.mkdir(parents=True)
    plain = load_file(DEMO)
    plain[FIRST] = plain[FIRST][:, :4].contiguous()
    save_file(plain, folder / "plain.safetensors")
    program = [python, ROOT / "tests" / "helpers" / "panel_in_a_host.py", folder, DEMO, folder / "plain.safetensors"]
    done = subprocess.run([*map(str, program), *added], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "wanted": folder.name}


def environment(folder: Path, packages: list[str]) -> Path:
    """Make a virtual environment with these packages before those of the environment that runs the tests."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *packages]
    done = subprocess.run([str(part) for part in pip], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages_folder = Path(subprocess.check_output(where, text=True).strip())
    (packages_folder / "after.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_it_is_the_gradio_of_the_host(page: dict[str, Any]) -> None:
    assert f"gradio=={page['gradio']}" in HOSTS[page["wanted"]]
    assert page["host"] == {"a1111": "AUTOMATIC1111", "forge": "Forge"}[page["wanted"]]


def test_loading_the_script_leaves_the_hosts_path_as_it_was(page: dict[str, Any]) -> None:
    assert page["path"]


def test_the_panel_is_open_and_names_an_edit_model_at_once(page: dict[str, Any]) -> None:
    assert page["props"]["ip2p_panel"]["open"] is True
    assert "instruct-pix2pix" in page["props"]["ip2p_status"]["value"]
    assert "8 channels" in page["props"]["ip2p_status"]["value"]


def test_another_checkpoint_closes_it_and_says_what_to_select(page: dict[str, Any]) -> None:
    accordion, status, suited = page["looks"]["other"]
    assert accordion["open"] is False
    assert "select an instruct-pix2pix checkpoint" in accordion["label"]
    assert "pick an instruct-pix2pix checkpoint" in status["value"]
    assert suited["value"] == ""  # nothing is offered
    accordion, status, suited = page["looks"]["edit"]
    assert accordion["open"] is True and "select" not in accordion["label"]
    assert json.loads(suited["value"]) == {"text_cfg": 7.5, "image_cfg": 1.5, "steps": 20}  # no size: no known family


def test_no_checkpoint_at_all_is_a_sentence(page: dict[str, Any]) -> None:
    accordion, status, _ = page["looks"]["none"]
    assert accordion["open"] is False
    assert "No checkpoint is selected" in status["value"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("ip2p_text_cfg", "img2img_cfg_scale"), ("ip2p_image_cfg", "img2img_image_cfg_scale")]
)
def test_the_scales_are_kept_in_step_in_the_browser(page: dict[str, Any], ours: str, theirs: str) -> None:
    steps = [event for event in page["events"] if sorted([*event["in"], *event["out"]]) == sorted([ours, theirs])]
    directions = sorted((event["in"], event["out"]) for event in steps)
    assert directions == sorted([([ours], [theirs]), ([theirs], [ours]), ([theirs], [ours])])  # once when it opens
    assert all(event["js"] for event in steps)
    assert page["props"][theirs]["maximum"] >= page["props"][ours]["maximum"]


def test_choosing_a_checkpoint_and_opening_the_page_look_at_it(page: dict[str, Any]) -> None:
    looks = [event["in"] for event in page["events"] if event["out"] == ["ip2p_panel", "ip2p_status", "ip2p_suited"]]
    assert sorted(looks) == [[], ["setting_sd_model_checkpoint"]]


def test_a_template_goes_to_the_browser(page: dict[str, Any]) -> None:
    (event,) = [event for event in page["events"] if event["in"] == ["ip2p_templates"]]
    assert "ip2pUseTemplate" in event["js"]
    assert "function ip2pUseTemplate(" in (ROOT / "javascript" / "instruct_pix2pix.js").read_text()


def test_every_function_that_an_event_calls_in_the_browser_is_there(page: dict[str, Any]) -> None:
    script = (ROOT / "javascript" / "instruct_pix2pix.js").read_text()
    called = {name for event in page["events"] for name in re.findall(r"\bip2p\w+", event["js"] or "")}
    assert called == {"ip2pUseTemplate", "ip2pOfferDefaults", "ip2pOfferSize", "ip2pAnswer", "ip2pDefaults", "ip2pSize"}
    assert all(f"function {name}(" in script for name in called)


def test_an_api_call_names_its_arguments_by_place(page: dict[str, Any]) -> None:
    """A change of this order would change the meaning of every program that calls the extension."""
    assert page["arguments"][:4] == ["ip2p_from_noise", "ip2p_randomize", "ip2p_rescale", "ip2p_speed"]


def test_a_new_setting_is_one_word_in_one_list(page: dict[str, Any]) -> None:
    """And is then a control, the last argument, a name of an API call, a field of an infotext and an axis of a plot."""
    wider, knob = page["wider"], KNOBS["count"]
    assert wider["arguments"] == [*page["arguments"], "ip2p_count"]
    shown = wider["props"]["ip2p_count"]
    assert [shown[key] for key in ("value", "label", "maximum")] == [knob.default, knob.label, knob.maximum]
    assert wider["jobs"]["added"] == {
        "ends": None,
        "infotext": {"count": 3, "Image CFG scale": 1.5},
        "strength": 0.6,
    }
    assert wider["jobs"]["added wrong"]["ends"].startswith("Count is 5000, but must lie between 1 and 1000")
    assert wider["pasted"]["edit"] == {**page["pasted"]["edit"], "ip2p_count": 1}
    assert wider["pasted"]["from input"]["ip2p_count"] == 3
    assert wider["axes"] == [*page["axes"], "instruct_pix2pix_count"]


def test_every_control_is_in_the_table_for_programs() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == list(CONTROLS)


def test_an_infotext_of_an_edit_sets_every_control(page: dict[str, Any]) -> None:
    """What it does not name was at its default, but for the start, which it names when it was from noise."""
    assert page["pasted"]["edit"] == {
        **{f"ip2p_{name}": CONTROLS[name].default for name in SETTINGS},
        "ip2p_text_cfg": 4.5,
        "ip2p_image_cfg": 1.9,
        "ip2p_from_noise": True,
        "ip2p_randomize": "off",
        "ip2p_rescale": 0.25,
    }
    told = page["pasted"]["from input"]
    assert (told["ip2p_from_noise"], told["ip2p_speed"], told["ip2p_rescale"]) == (False, "fast", 0.0)


def test_another_infotext_leaves_the_controls_as_they_are(page: dict[str, Any]) -> None:
    """Hosts take None for that: on the page, and in a call of the API."""
    assert set(page["pasted"]["plain"].values()) == {None}
    damaged = page["pasted"]["damaged"]
    assert [damaged[f"ip2p_{name}"] for name in ("text_cfg", "image_cfg", "rescale", "speed")] == [None] * 4


def test_a_call_of_the_api_takes_the_scales_from_its_infotext(page: dict[str, Any]) -> None:
    named = {name: api for name, api in page["requested"].items() if api}
    assert named == {"ip2p_text_cfg": "cfg_scale", "ip2p_image_cfg": "image_cfg_scale"}


def test_an_api_call_may_give_them_by_name(page: dict[str, Any]) -> None:
    answer = page["jobs"]["named"]
    assert answer["ends"] is None
    assert answer["infotext"] == {"Speed": "fast", "Image CFG scale": 1.5}
    assert answer["strength"] == 0.6  # not from noise


def test_a_wrong_name_or_value_ends_the_job_with_a_sentence(page: dict[str, Any]) -> None:
    assert page["jobs"]["misnamed"]["ends"] == "There is no control 'sped': did you mean 'speed'?"
    assert page["jobs"]["wrong"]["ends"].startswith("Start from noise is 'no', but must be true or false")


def test_by_place_they_mean_what_they_meant(page: dict[str, Any]) -> None:
    answer = page["jobs"]["placed"]
    assert answer["ends"] is None
    assert answer["infotext"] == {"Edit start": "noise", "Guidance rescale": 0.5, "Image CFG scale": 1.5}
    assert answer["strength"] == 1.0


def test_null_by_place_means_the_default(page: dict[str, Any]) -> None:
    assert page["jobs"]["nothing"] == {
        "ends": None,
        "infotext": {"Edit start": "noise", "Image CFG scale": 1.5},
        "strength": 1.0,
    }


def test_txt2img_gets_no_panel(page: dict[str, Any]) -> None:
    assert page["txt2img"] == []


def test_a_web_gui_that_it_cannot_work_in_is_told_so_and_left_alone(tmp_path: Path) -> None:
    """As SD.Next is: the modules that the script imports are there, those that it hooks into are not."""
    page = build(Path(sys.executable), tmp_path / "another")
    assert page["host"] is None
    assert page["arguments"] == []
    assert page["props"]["ip2p_panel"]["open"] is False
    assert "not in this web GUI" in page["props"]["ip2p_panel"]["label"]
    assert "AUTOMATIC1111, Forge and its kin" in page["props"]["ip2p_status"]["value"]
    assert page["events"] == []
