"""What the page says and what its controls mean, without a browser; and what its server refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instruct_pix2pix.engine.candidates import Search
from instruct_pix2pix.engine.edit import settings_here
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import encode_picture, save_picture
from instruct_pix2pix.models.add_on_cards import AddOnCard
from instruct_pix2pix.models.registry import ModelEntry
from instruct_pix2pix.server.page import html
from instruct_pix2pix.server.page.form import NAMES, SEARCH, edit_of, search_values, settings_of, values_of
from instruct_pix2pix.server.page.gradio_compat import GradioGate
from instruct_pix2pix.server.page.models_tab import markup
from instruct_pix2pix.server.page.results import kept_in_grey
from instruct_pix2pix.server.page.sheet_route import sheet_of
from instruct_pix2pix.server.worker.edit_task import Candidate, EditResult, EditStatus
from instruct_pix2pix.server.worker.folder_task import FolderStatus
from instruct_pix2pix.server.worker.task import TaskState
from instruct_pix2pix.settings import GUIDANCES, KEEP_REST, NO_TEXT, RANDOMIZE_CFG, RESULT_SIZES, SPEEDS, EditSettings
from instruct_pix2pix.variations import variations
from tools.browser import EXAMPLES, served_page

UNTOUCHED = {
    **dict.fromkeys(NAMES),
    "sizing": "Automatic",
    "from_noise": True,
    "denoise": 0.75,
    "longest": 512,
    "width": 512,
    "height": 512,
    "result_sizing": "Automatic",
    "result_longest": 2048,
}


def test_names_of_another_program_are_left_out_and_the_rest_is_kept() -> None:
    text = "a house\nSteps: 9, Sampler: k_dpmpp_2m, Schedule type: Restart, CFG scale: 6, Seed: 1, Size: 512x512"
    settings, notes = settings_here(text)
    assert (settings.sampler, settings.schedule, settings.steps) == ("DPM++ 2M", EditSettings().schedule, 9)
    assert len(notes) == 1 and "'Restart'" in notes[0]
    settings, notes = settings_here(text.replace("k_dpmpp_2m", "Euler smea").replace("Restart", "karras"))
    assert (settings.sampler, settings.schedule) == (EditSettings().sampler, "Karras")
    assert len(notes) == 1 and "'Euler smea'" in notes[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_model_whose_name_is_not_text_leaves_the_page_whole(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"nothing")
    with served_page(tmp_path / "outputs", tmp_path / "models") as (address, _):
        assert "caf?" in httpx.get(address, trust_env=False).text
        listed = httpx.get(f"{address}/sdapi/v1/sd-models", trust_env=False)
    assert "\\ud" not in listed.text and {one["title"] for one in listed.json()} == {"caf?", "demo"}


def test_what_is_to_be_known_of_a_model_stands_below_its_edits() -> None:
    edit = EditStatus(state=TaskState.FINISHED, notes=("The averages are <left> alone.",))
    folder = FolderStatus(state=TaskState.FINISHED, notes=("The averages are <left> alone.",))
    for shown in (html.progress(edit, "big", 0.0), html.folder_progress(folder, {}, 1, 0.0, "out", str)):
        assert shown.count("The averages are &lt;left&gt; alone.") == 1


def test_untouched_controls_mean_the_defaults() -> None:
    assert settings_of(UNTOUCHED) == EditSettings()


@given(
    st.builds(
        EditSettings,
        instruction=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20),
        text_cfg=st.floats(1, 30),
        steps=st.integers(1, 150),
        seed=st.integers(-1, 2**32 - 1),
        denoise=st.floats(0, 1),
        size=st.sampled_from(["auto", "640", "512x768"]),
        randomize_cfg=st.sampled_from(RANDOMIZE_CFG),
        speed=st.sampled_from(SPEEDS),
        keep_rest=st.sampled_from(KEEP_REST),
        keep_amount=st.floats(0, 1),
        result_size=st.sampled_from([*RESULT_SIZES, "1600"]),
        zoom=st.booleans(),
        apg_eta=st.floats(0, 1),
        apg_threshold=st.floats(0, 1000),
        apg_momentum=st.floats(-1, 1),
        no_text=st.sampled_from(NO_TEXT),
        guidance=st.sampled_from(GUIDANCES),
    )
)
def test_controls_set_from_settings_mean_those_settings(settings: EditSettings) -> None:
    assert settings_of({**UNTOUCHED, **values_of(settings)}) == settings


def test_batches_times_their_size_are_made() -> None:
    settings = settings_of({**UNTOUCHED, "batches": 3, "batch_size": 2})
    assert (settings.count, settings.batch_size) == (6, 2)
    assert {name: values_of(settings)[name] for name in ("batches", "batch_size")} == {"batches": 3, "batch_size": 2}


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 7.5), ("width", "1e9"), ("text_cfg", float("nan")), ("seed", -2), ("batches", -1)]
)
def test_a_value_that_no_control_has_is_refused_with_a_sentence(name: str, value: object) -> None:
    with pytest.raises(UserError, match="must"):
        settings_of({**UNTOUCHED, "sizing": "Width × height", name: value})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "0/75"),
        ("make it winter", "3/75"),
        ("(make it winter:1.3)", "3/75"),
        ("[a:make it winter:0.5]", "3/75"),
        ("make it winter AND red", "3/75"),
        ("a " * 76, "76/150"),
        ("a BREAK b", "2/150"),
        ("a :1e999 AND b", "/75"),
    ],
)
def test_tokens_are_counted_as_the_encoder_sees_them(text: str, shown: str) -> None:
    assert f"{shown}<" in html.TokenCounter()([text], 20)


def test_of_several_prompts_the_longest_is_counted() -> None:
    assert "4/75<" in html.TokenCounter()(variations("make it {night|very cold|}"), 20)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (EditStatus(state=TaskState.QUEUED, position=2), "Waiting for 2 other edits"),
        (EditStatus(state=TaskState.LOADING), "Loading big … 3 s"),
        (
            EditStatus(state=TaskState.RUNNING, pictures=4, batch=1, batch_step=5, batch_steps=20, eta=65.2),
            "Picture 2 of 4 · Step 6/20 1 min 5 s left",
        ),
        (
            EditStatus(state=TaskState.RUNNING, pictures=2, candidates=8, batch_step=5, batch_steps=20),
            "Picture 1 of 2 · 8 candidates · Step 6/20",
        ),
        (
            EditStatus(state=TaskState.RUNNING, pictures=2, batch=1, batch_step=20, batch_steps=20, eta=1.0),
            "Picture 2 of 2 · Finishing nearly done",
        ),
        (EditStatus(state=TaskState.RUNNING, interrupted=True), "Stopping after this step …"),
        (EditStatus(state=TaskState.INTERRUPTED), "Interrupted before a picture was done."),
        (EditStatus(state=TaskState.FAILED, problem=UserError("No <memory>.")), "No &lt;memory&gt;."),
    ],
)
def test_the_state_of_an_edit_is_said_in_words(status: EditStatus, says: str) -> None:
    shown = html.progress(status, "big", 3.2)
    assert " ".join(re.sub(r"<[^>]*>", " ", shown).split()) == says


def candidate(seed: int, text_cfg: float, outside: float, inside: float, chosen: bool = False) -> Candidate:
    return Candidate(EditSettings("red", seed=seed, text_cfg=text_cfg), outside, inside, chosen, b"")


def result(*candidates: Candidate, cost: float = 1.0, **settings: Any) -> EditResult:
    return EditResult(b"", (8, 8), EditSettings(**settings), "", 1.0, candidates=candidates, cost=cost)


def test_candidates_are_called_by_what_they_differ_in_and_what_they_changed() -> None:
    by_seed = [candidate(5, 7.5, 2.13, 30), candidate(6, 7.5, 9.99, 31, chosen=True)]
    by_scales = [candidate(5, 3.0, 2.0, 2.0), candidate(5, 7.5, 4.0, 4.0, chosen=True)]
    assert html.candidate_captions(by_seed) == ["seed 5\nrest changed 2.1", "✓ seed 6\nrest changed 10.0"]
    whole = ["Text\u00a03 · Image\u00a01.5\nchanged 2.0", "✓ Text\u00a07.5 · Image\u00a01.5\nchanged 4.0"]
    assert html.candidate_captions(by_scales) == whole


def test_what_a_search_cost_is_said_in_edits() -> None:
    looks = [candidate(seed, 7.5, 1, 2) for seed in range(4)]
    one = EditStatus(state=TaskState.FINISHED, results=(result(*looks, cost=2.2),), seconds=3, saved="2026-01-31")
    said = "1 picture in 3.0 s, chosen from 4 for the work of 2.2 edits, saved in outputs/2026-01-31"
    assert said in html.progress(one, "", 0.0)
    two = replace(one, results=(result(*looks, cost=2.0), result(*looks, cost=3.0)), saved="")
    assert "2 pictures in 3.0 s, each chosen from 4 for the work of 2.5 edits<" in html.progress(two, "", 0.0)
    assert "1 picture in 3.0 s<" in html.progress(replace(one, results=(result(),), saved=""), "", 0.0)


def test_the_caption_of_a_variation_is_what_is_its_own() -> None:
    asked = "turn it into {a watercolor|an ink drawing} on paper"
    results = [result(instruction=text, seed=seed) for text in variations(asked) for seed in (1, 2)]
    first = [caption.split("\n")[:2] for caption in html.captions(asked, results)]
    expected = [["a watercolor", "seed 1"], ["a watercolor", "seed 2"], ["an ink drawing", "seed 1"]]
    assert first == [*expected, ["an ink drawing", "seed 2"]]
    assert html.captions("red", [result(instruction="red", seed=1)]) == ["seed 1\nText\u00a07.5 · Image\u00a01.5"]


def test_how_results_are_found_follows_from_the_controls_in_sight() -> None:
    assert edit_of(UNTOUCHED) == (EditSettings(), Search())
    values = {**UNTOUCHED, "best_of": 4, "strength": 0.3, "randomize_cfg": "text"}
    assert edit_of(values) == (EditSettings(randomize_cfg="text"), Search(best_of=4))
    assert edit_of({**values, "text_cfg": 3, "by_strength": True}) == (EditSettings(), Search(strength=0.3))
    for wrong in ({"best_of": 65}, {"best_of": True}, {"by_strength": True, "strength": 2}):
        with pytest.raises(UserError, match="must"):
            edit_of({**UNTOUCHED, **wrong})


def test_a_browser_gives_back_how_results_were_found_and_nothing_that_cannot_be() -> None:
    known = {"best_of": 4, "by_strength": True, "strength": 0.8}
    assert search_values(known) == known
    for other in (None, [], {}, {**known, "best_of": "x"}, {**known, "strength": None}, {**known, "best_of": 0}):
        assert search_values(other) == SEARCH
    assert search_values({**known, "by_strength": "yes"}) == {**known, "by_strength": False}


def test_a_contact_sheet_has_every_candidate_once_and_the_result_in_the_place_of_the_chosen() -> None:
    def webp(colour: tuple[int, int, int]) -> bytes:
        return encode_picture(Image.new("RGB", (60, 40), colour), "WEBP")

    reds = [replace(candidate(seed, 7.5, 1, 2, chosen=seed == 1), picture=webp((220, 0, 0))) for seed in range(3)]
    green = encode_picture(Image.new("RGB", (60, 40), (0, 200, 0)), "PNG")
    sheet = np.asarray(sheet_of((replace(result(*reds, instruction="red"), png=green),)), int)
    red, found = ((sheet[..., one] > 180) & (sheet[..., other] < 60) for one, other in ((0, 1), (1, 0)))
    assert red.sum() > 1.8 * 60 * 40 and 0.7 * 60 * 40 < found.sum() <= 60 * 40
    places = [np.nonzero(mask.any(axis=0))[0] for mask in (red, found)]
    assert places[0].min() < places[1].min() < places[1].max() < places[0].max()


def test_a_sheet_of_very_many_stays_a_picture_that_can_be_opened() -> None:
    png = encode_picture(Image.new("RGB", (400, 100), (0, 0, 200)), "PNG")
    for looks in (0, 2):
        candidates = [candidate(seed, 7.5, 1, 2, chosen=seed == 0) for seed in range(looks)]
        candidates = [replace(one, picture=png) for one in candidates]
        sheet = sheet_of((replace(result(*candidates), png=png),) * 1200)
        assert sheet.width * sheet.height < 60_000_000 and max(sheet.size) < 30_000


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.0, "The whole picture was edited: nothing was kept back."),
        (0.623, "62 % of the picture is the input's own."),
        (1.0, "100 % of the picture is the input's own."),
    ],
)
def test_how_much_was_kept_is_a_sentence(share: float, says: str) -> None:
    assert html.kept(share) == says


def test_what_was_kept_is_grey_and_what_was_edited_is_as_it_was() -> None:
    before = Image.new("RGB", (40, 20), (250, 30, 10))
    edited = Image.new("L", (4, 2))
    edited.paste(255, (2, 0, 4, 2))
    shown = kept_in_grey(before, edited)
    assert shown.getpixel((38, 10)) == (250, 30, 10)
    kept = shown.getpixel((2, 10))
    assert isinstance(kept, tuple) and max(kept) - min(kept) < 20
    assert kept_in_grey(before, None).tobytes() == before.tobytes()


def test_the_bar_shows_the_share_that_is_done() -> None:
    status = EditStatus(state=TaskState.RUNNING, step=25, steps=100, batch_steps=100)
    shown = html.progress(status, "demo", 0.0, Image.new("RGB", (8, 4)))
    assert 'aria-valuenow="25"' in shown
    assert "width:25.0%" in shown
    assert 'src="data:image/jpeg;base64,' in shown


def test_names_of_files_are_text_and_nothing_else() -> None:
    entry = ModelEntry("<img src=x>${1}{{2}}`", Path("a&b/c.ckpt"), None, "bad <b>")
    card = AddOnCard("<img>", 1, "<lora:{x}`:1>", "<b>")
    table = markup.here([entry], [Path("/home/me/<b>")], {"<b>": [card]})
    assert "<img" not in table
    assert "<b><" not in table and "<lora" not in table and "<b>&lt;img&gt;</b>" in table
    assert "{" not in table
    assert "`" not in table
    assert "/home/me" not in table


# --- the server ---


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the page."""
    with served_page(tmp_path_factory.mktemp("served")) as (address, _):
        yield address


@pytest.mark.parametrize("path", ["info", "openapi.json", "process_recording", "vibe-edit", "call/submit", "runs"])
def test_of_gradios_api_only_what_the_page_uses_is_there(address: str, path: str) -> None:
    for method in ("GET", "POST"):
        assert httpx.request(method, f"{address}/gradio_api/{path}", trust_env=False).status_code == 404


def test_the_start_of_the_server_is_told_and_stays_the_same(address: str) -> None:
    first, again = (httpx.get(f"{address}/gradio_api/app_id", trust_env=False).json() for _ in range(2))
    assert first == again and isinstance(first["app_id"], int)
    assert httpx.post(f"{address}/gradio_api/app_id", trust_env=False).status_code == 404


def test_the_page_shows_no_files_but_its_own(address: str) -> None:
    secret = Path(__file__).resolve()
    for path in (secret, "/etc/passwd", f"{EXAMPLES}/../pyproject.toml"):
        answer = httpx.get(f"{address}/gradio_api/file={path}", trust_env=False)
        assert answer.status_code in (403, 404), path
    assert httpx.get(f"{address}/gradio_api/file={EXAMPLES}/house.png", trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that was never uploaded, with something to read in it."""
    path = tmp_path_factory.mktemp("secret") / "private.png"
    return save_picture(Image.new("RGB", (16, 16)), path, "my secret")


def read_info(app: httpx.Client, sent: object) -> tuple[int, str]:
    """Ask the page for the infotext of a file as a browser does; return the status and what came of it."""
    config = app.get("/config").json()
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    change = next(one for one in config["dependencies"] if [ids["pnginfo_image"], "change"] in one["targets"])
    body = {"data": [sent], "fn_index": change["id"], "session_hash": "abc", "trigger_id": ids["pnginfo_image"]}
    answer = app.post("/gradio_api/queue/join", json=body)
    if answer.status_code != 200:
        return answer.status_code, answer.text
    with app.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
        for row in stream.iter_lines():
            if '"process_completed"' in row:
                return 200, json.dumps(json.loads(row.removeprefix("data: "))["output"])
    raise AssertionError


def file_data(path: object) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_a_file_that_was_uploaded_is_read(address: str, secret: Path) -> None:
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        uploaded = client.post("/gradio_api/upload", files={"files": secret.read_bytes()}).json()[0]
        status, told = read_info(client, file_data(uploaded))
    assert status == 200
    assert "my secret" in told


def test_the_settings_in_a_strip_are_read(address: str, tmp_path: Path) -> None:
    strip = save_picture(Image.new("1", (10_240, 512)), tmp_path / "strip.png", "settings of a strip")
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        uploaded = client.post("/gradio_api/upload", files={"files": strip.read_bytes()}).json()[0]
        status, told = read_info(client, file_data(uploaded))
    assert status == 200 and "settings of a strip" in told


@pytest.mark.parametrize("how", ["{0}", "{1}/../../{0}", "http://127.0.0.1:1/a.png", "file://{0}", "\0", 5])
def test_a_file_that_was_only_named_is_not_read(address: str, secret: Path, how: object) -> None:
    cache = os.environ["GRADIO_TEMP_DIR"]
    path = how.format(secret, cache) if isinstance(how, str) else how
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        for sent in (file_data(path), {"path": path}, [[{"x": file_data(path)}]]):
            status, told = read_info(client, sent)
            assert (status, json.loads(told)["detail"]) == (403, "The server no longer has this file: choose it again.")


def test_gradio_itself_refuses_it_too(address: str, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradioGate, "is_uploaded", lambda self, path: True)
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        status, told = read_info(client, file_data(str(secret)))
    assert status == 200
    assert "my secret" not in told


def test_below_a_path_the_page_names_its_parts_there(tmp_path: Path) -> None:
    with served_page(tmp_path, root_path="/edit") as (address, _):
        behind = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.7", "Host": "127.0.0.1:8443"}
        config = httpx.get(f"{address}/config", headers=behind, trust_env=False).json()
        assert config["root"] == "https://127.0.0.1:8443/edit"


VALID = {"data": [], "fn_index": 0, "session_hash": "abc"}
DEEP = b"[" * 100_000
MALFORMED: list[tuple[str, object]] = [
    *(("queue/join", body) for body in (b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"fn_index":1e400,"data":[]}', DEEP)),
    *((path, {**VALID, "fn_index": index}) for path in ("queue/join", "run/predict") for index in (99999, -1, 10**30)),
    *(("queue/join", {**VALID, "fn_index": index}) for index in ("x", True, 0.5, None, [])),
    *(("queue/join", {**VALID, "session_hash": session}) for session in (None, 5, "", "x" * 1000, "a/b", {}, "\ud800")),
    *((path, {**VALID, "data": data}) for path in ("queue/join", "run/predict") for data in (None, {}, "x", [1], [{}])),
    ("queue/join", {**VALID, "trigger_id": "x"}),
    *(("cancel", body) for body in (b"", b"{}", {**VALID, "event_id": 5}, b'{"x":"\\ud800"}', b'{"fn_index":1e400}')),
]


@pytest.fixture
def nothing_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither the log nor stderr may have an error or a traceback."""
    yield
    assert [record.message for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("path", "body"), MALFORMED)
def test_a_malformed_call_is_answered_with_a_sentence(
    address: str, path: str, body: object, nothing_logged: None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{address}/gradio_api/{path}", content=content, headers=headers, trust_env=False, timeout=60)
    assert answer.status_code == 422 and "load it again" in answer.json()["detail"]


def called(client: httpx.Client, event: str, change: Callable[[list[object]], object]) -> int:
    """Call a handler with what its components send untouched, but for a change; return the status."""
    config = client.get("/config").json()
    parts = {part["id"]: part for part in config["components"]}
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    elem_id, _, kind = event.partition(".")
    call = next(one for one in config["dependencies"] if [ids[elem_id], kind] in one["targets"])
    data = [parts[part]["props"].get("value") for part in call["inputs"]]
    change(data)
    body = {"data": data, "fn_index": call["id"], "session_hash": "abc", "trigger_id": ids[elem_id]}
    return client.post("/gradio_api/run/predict", json=body).status_code


def replaced(data: list[object], place: int, value: object) -> None:
    data[place] = value


def test_a_handler_gets_nothing_that_no_component_sends(address: str, nothing_logged: None) -> None:
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        assert called(client, "img2img_generate.click", lambda data: None) == 200
        sizes: list[int] = []
        called(client, "img2img_generate.click", lambda data: sizes.append(len(data)))
        for place in range(sizes[0]):
            for value in (["x"], {"x": 1}, -1e308, "\0" * 100, True):
                data_of = partial(replaced, place=place, value=value)
                assert called(client, "img2img_generate.click", data_of) in (200, 422)


STREAMS = ["queue/data", "queue/data?session_hash=unknown", "heartbeat/%00", "heartbeat/" + "x" * 500]


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_is_not_there_is_not_found(address: str, path: str, nothing_logged: None) -> None:
    assert httpx.get(f"{address}/gradio_api/{path}", trust_env=False, timeout=60).status_code == 404


@pytest.mark.parametrize("path", ["static/", "assets/", "svelte/", "jobs/", "folders/", "gradio_api/file="])
def test_a_name_that_no_file_can_have_is_not_found(address: str, path: str, nothing_logged: None) -> None:
    assert httpx.get(f"{address}/{path}{'x' * 3000}", trust_env=False, timeout=60).status_code == 404


def test_an_upload_beyond_the_limit_is_refused(address: str) -> None:
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": b"\0" * (62 * 2**20)}, trust_env=False)
    assert answer.status_code == 413
