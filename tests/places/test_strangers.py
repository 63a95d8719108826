"""Twenty strangers at once on the page, served as it is for them: each has a share, and none sees another's."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from instruct_pix2pix.models.checkpoints import model_files
from instruct_pix2pix.server.limits import Limits
from instruct_pix2pix.server.worker.worker import Worker
from tests.helpers.stranger import Stranger
from tools.browser import served_page

STRANGERS = 20
EXAMPLES = Path(__file__).parents[2] / "examples"
LIMITS = Limits(steps=40, waiting=25, each=2, upload=1, uploads=2, seconds=1200)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Worker, Path]]:
    """The page for strangers, with the demo model; everything that it might save in a folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    frames = ["https://huggingface.co"]
    with served_page(outputs, limits=LIMITS, frames=frames) as (server, worker):
        yield server, worker, outputs


@pytest.fixture
def stranger(served: tuple[str, Worker, Path]) -> Iterator[Stranger]:
    """One of them."""
    with Stranger(served[0], "192.0.2.99") as one:
        yield one


@pytest.fixture
def house(stranger: Stranger) -> str:
    """A picture that the stranger has sent."""
    return stranger.upload((EXAMPLES / "house.png").read_bytes())


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The worker waits before it looks for a task's model, until this is set: what has come can be counted."""
    let_go = threading.Event()
    monkeypatch.setattr("instruct_pix2pix.server.worker.worker.model_files", lambda p: let_go.wait() and model_files(p))
    yield let_go
    let_go.set()


def test_twenty_strangers_at_once_have_their_shares_and_their_own_results(
    served: tuple[str, Worker, Path], held: threading.Event
) -> None:
    server, worker, outputs = served
    most = LIMITS.waiting + 1

    def ask(number: int) -> tuple[Stranger, list[str], list[str]]:
        one = Stranger(server, f"192.0.2.{number + 1}")
        path = one.upload(Image.new("RGB", (96, 64), (10 * number, 100, 100)))
        tasks, refused = [], []
        for _ in range(3):
            try:
                tasks.append(one.generate(path, img2img_steps=1, img2img_seed=number))
            except ValueError as error:
                refused.append(str(error))
        return one, tasks, refused

    with ThreadPoolExecutor(STRANGERS) as pool:
        asked = list(pool.map(ask, range(STRANGERS)))
    accepted = [len(tasks) for _, tasks, _ in asked]
    assert max(accepted) == LIMITS.each
    assert sum(accepted) == len(worker.queue) == most
    said = [sentence for _, _, refused in asked for sentence in refused]
    assert len(said) == 3 * STRANGERS - most
    assert all("of your edits are still under way" in one or "the queue, which is full" in one for one in said)
    held.set()
    ends = [(number, one, [one.wait(task) for task in tasks]) for number, (one, tasks, _) in enumerate(asked)]
    for number, one, found in ends:
        for last in found:
            picture = one.picture(last["results"][0])
            assert f"Seed: {number}," in picture.info["parameters"]
            assert picture.size == (96, 64)
    shown = {one.session: one.strip(one.session) for _, one, _ in ends}
    assert [len(results) for results in shown.values()] == accepted
    ids = [result["id"] for results in shown.values() for result in results]
    assert len(set(ids)) == len(ids)
    with Stranger(server, "192.0.2.77") as nosy:
        assert nosy.strip(nosy.session) == []
        id_ = ids[0]
        for path in (f"/strip/{nosy.session}/{id_}/thumb", f"/strip/{nosy.session}/{id_}/whole"):
            assert nosy.client.get(path).status_code == 404
        for path in ("/gradio_api/file=", "/gradio_api/file=/", f"/gradio_api/file={outputs}"):
            assert nosy.client.get(path).status_code in (403, 404)
    for number, one, _ in ends:
        for result in shown[one.session]:
            before = one.client.get(f"/strip/{one.session}/{result['id']}/before").content
            assert Image.open(io.BytesIO(before)).convert("RGB").getpixel((9, 9)) == (10 * number, 100, 100)
        one.client.close()
    assert list(outputs.rglob("*.png")) == []


def test_there_is_neither_an_api_that_all_share_nor_a_folder(stranger: Stranger, house: str) -> None:
    assert stranger.client.get("/openapi.json").json()["paths"] == {}
    for path in ("/sdapi/v1/progress", "/sdapi/v1/options", "/docs"):
        assert stranger.client.get(path).status_code == 404
    assert stranger.client.post("/sdapi/v1/interrupt").status_code == 404
    assert stranger.client.post("/drops/0123456789abcdef", params={"name": "a.png"}).status_code == 404
    with pytest.raises(ValueError, match="This server edits no folders"):
        stranger.generate(house, Mode="batch", img2img_batch_input_dir="outputs")


def test_nothing_is_saved_even_where_the_page_says_so(
    served: tuple[str, Worker, Path], stranger: Stranger, house: str
) -> None:
    stranger.wait(stranger.generate(house, ip2p_save=True))
    assert [path for path in served[2].rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"img2img_steps": 41}, "Steps is 41, but this server gives 40 at most"),
        ({"img2img_batch_count": 5}, "5 edits are too many at once"),
        ({"img2img_sizing": "Longest side", "img2img_longest": 1024}, "Size is 1024"),
        ({"ip2p_best_of": 5}, "5 edits are too many at once"),
    ],
)
def test_a_request_beyond_a_limit_is_told_so(stranger: Stranger, house: str, values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stranger.generate(house, **values)


def test_a_matrix_of_more_cells_than_edits_is_refused(stranger: Stranger, house: str) -> None:
    with pytest.raises(ValueError, match="25 edits are too many at once"):
        stranger.begin("ip2p_matrix_make", house, "make it winter", img2img_steps=2)


def test_the_controls_go_as_far_as_the_limits(stranger: Stranger) -> None:
    ends = {id_: stranger.props(id_)["maximum"] for id_ in ("img2img_steps", "img2img_batch_count", "img2img_longest")}
    assert ends == {"img2img_steps": 40, "img2img_batch_count": 4, "img2img_longest": 768}
    assert stranger.props("img2img_batch_tab")["visible"] is False
    assert stranger.props("ip2p_save")["visible"] is False


def test_an_edit_that_takes_too_long_is_stopped_and_told_so(tmp_path: Path) -> None:
    with served_page(tmp_path, limits=Limits(seconds=1)) as (server, _), Stranger(server, "192.0.2.1") as one:
        picture = one.upload(Image.new("RGB", (768, 768), "red"))
        large = {"img2img_sizing": "Longest side", "img2img_longest": 768}
        last = one.wait(one.generate(picture, img2img_steps=50, img2img_batch_count=4, **large))
    assert last["stopped"]
    assert "this server gives an edit 1 s" in last["html"]


def test_a_large_file_and_many_files_are_refused(served: tuple[str, Worker, Path]) -> None:
    with Stranger(served[0], "192.0.2.55") as one, Stranger(served[0], "192.0.2.56") as other:
        files = {"files": ("a.png", b"x" * (1 << 20 | 1), "image/png")}
        assert one.client.post("/gradio_api/upload", files=files).status_code in (400, 413)
        small = {"files": ("a.png", b"x" * 700_000, "image/png")}
        statuses = [one.client.post("/gradio_api/upload", files=small).status_code for _ in range(3)]
        assert statuses[-1] == 429
        assert other.client.post("/gradio_api/upload", files=small).status_code == 200


def test_a_site_that_is_named_may_show_the_page_and_no_other(stranger: Stranger) -> None:
    headers = stranger.client.get("/").headers
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert "x-frame-options" not in headers
