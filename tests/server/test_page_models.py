"""The tab Models in a real browser: a model comes from a hub on this machine, and edits."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_pix2pix.models.known import KNOWN
from instruct_pix2pix.models.registry import DEMO
from tests.helpers.hub import CONV, Hub, asked_by_downloads, weights
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

NAME, FILE = "instruct-pix2pix-fp16", "instruct-pix2pix-00-22000-pruned-fp16.safetensors"
OFFER = f"[data-name='{NAME}']"


def lora(path: Path, texts: dict[str, str]) -> None:
    """Write a LoRA of one pair of matrices, without a value."""
    header = {"__metadata__": texts, "lora_unet_x.lora_down.weight":
              {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]}}  # fmt: skip
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with asked_by_downloads(KNOWN[NAME].repo, {FILE: DEMO.read_bytes()}) as found:
        yield found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of the server: with LoRAs and an embedding, and a model that cannot edit."""
    folder = tmp_path_factory.mktemp("gui") / "models"
    lora(folder / "Lora" / "water.safetensors", {"modelspec.trigger_phrase": "in watercolour"})
    lora(folder / "Lora" / "a+b" / "line art.safetensors", {})
    (folder / "Lora" / "a+b" / "line art.json").write_text('{"activation text": "thin  lines"}')
    lora(folder.parent / "embeddings" / "old-photo.safetensors", {})
    (folder / "plain.safetensors").write_bytes(
        weights({**CONV, "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]})
    )
    # the sizes of the demo model, which this file is: they lie beside it
    shutil.copy(DEMO.with_suffix(".yaml"), folder / Path(FILE).with_suffix(".yaml").name)
    return folder


@pytest.fixture(scope="module")
def site(hub: Hub, models: Path, tmp_path_factory: pytest.TempPathFactory):
    with served_page(tmp_path_factory.mktemp("outputs"), models) as (address, worker), chromium() as browser:
        yield browser, address, worker


@pytest.fixture
def at_page(site, hub: Hub) -> Iterator[Visit]:
    hub.gets.clear()
    hub.tokens.clear()
    with visit(*site) as visited:
        yield visited
        assert visited.elsewhere == []
        assert visited.errors == []


def open_models(visited: Visit) -> None:
    visited.open_tab("Models")
    visited.locate(OFFER).wait_for()


def share(visited: Visit) -> float:
    """Return how far the bar is, in percent; -1 as long as that is not known."""
    value = visited.locate(f"{OFFER} [role=progressbar]").get_attribute("aria-valuenow")
    return -1.0 if value is None else float(value)


def press(visited: Visit, action: str) -> None:
    visited.locate(f"{OFFER} [data-action={action}]").click()


def wait_for_share(visited: Visit, least: float) -> None:
    script = "([at, least]) => Number(document.querySelector(at)?.getAttribute('aria-valuenow') ?? -1) >= least"
    visited.page.wait_for_function(script, arg=[f"{OFFER} [role=progressbar]", least], timeout=60_000)


def says(visited: Visit, text: str) -> None:
    visited.locate(f"{OFFER} .ip2p-line").get_by_text(text).wait_for(timeout=60_000)


def files_in(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".part"))
    return {path.relative_to(folder).as_posix() for path in paths}


def test_a_newcomer_downloads_a_model_and_edits_with_it(at_page: Visit, hub: Hub, models: Path) -> None:
    before = files_in(models)
    open_models(at_page)
    offer = at_page.locate(OFFER)
    assert "2.13 GB" in offer.inner_text() and "Licence: none named there" in offer.inner_text()
    cosxl = at_page.locate("[data-name=cosxl-edit]").inner_text()
    assert "Non-Commercial Research Community License" in cosxl and "HF_TOKEN" in cosxl
    assert hub.tokens == []  # nothing was asked of the hub

    # a wrong hash is told, and nothing of it stays
    content = hub.repos[KNOWN[NAME].repo][FILE]
    hub.lies[FILE] = content[:-1] + bytes([content[-1] ^ 1])
    press(at_page, "start")
    says(at_page, "came without the size and hash that the hub gives for it, so it was removed: press Download again.")
    assert files_in(models) == before
    hub.lies.clear()

    # the bar moves; a break of the connection does not end it
    hub.gets.clear()
    hub.pace, hub.cut_at = 0.15, 9_000_000
    press(at_page, "start")
    wait_for_share(at_page, 10)
    first = share(at_page)
    says(at_page, "MB/s")
    says(at_page, "s left")
    at_page.page.wait_for_function("document.querySelectorAll('.ip2p-models .edits').length === 1")
    wait_for_share(at_page, first + 15)
    press(at_page, "pause")
    says(at_page, "Paused at")
    assert len(hub.gets) == 2 and hub.gets[0][1] is None
    assert int(str(hub.gets[1][1]).removeprefix("bytes=").removesuffix("-")) > 7_000_000

    # paused, it is found again after a reload, and goes on where it was
    at_page.reload()
    open_models(at_page)
    says(at_page, "Paused at")
    paused = share(at_page)
    assert first < paused < 100
    hub.pace = 0.02
    press(at_page, "start")
    at_page.locate(f"{OFFER} .ip2p-here").wait_for(timeout=60_000)
    assert int(str(hub.gets[2][1]).removeprefix("bytes=").removesuffix("-")) >= paused / 100 * 0.98 * len(content)
    assert (models / FILE).read_bytes() == content
    assert files_in(models) == {*before, FILE}

    # it is in both lists, and edits
    stem = Path(FILE).stem
    at_page.open_tab("img2img")
    at_page.set("ip2p_text_cfg", 6)
    at_page.open_tab("Models")
    at_page.locate(".ip2p-models tr.edits").filter(has_text=stem).wait_for()
    at_page.locate(f"{OFFER} [data-use]").click()
    at_page.page.wait_for_function(
        "(name) => document.querySelector('#setting_sd_model_checkpoint input').value.startsWith(name)", arg=stem
    )
    at_page.locate("#ip2p_defaults").get_by_text("Text CFG 7.5, Image CFG 1.5, 20 steps").click()
    at_page.page.wait_for_function("document.querySelector('#ip2p_text_cfg input').value == 7.5")
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    (edited,) = at_page.results()
    assert f"Model: {stem}" in edited.info["parameters"]


def test_a_hub_that_fails_for_good_is_a_sentence_and_the_button_goes_on_where_it_stopped(
    at_page: Visit, hub: Hub, models: Path
) -> None:
    name, file = "magicbrush", KNOWN["magicbrush"].file
    content = weights(extra=9_000_000)
    hub.repos[KNOWN[name].repo] = {file: content}
    hub.pace, hub.cut_at, hub.refuse_after_cut = None, 6_000_000, True
    offer = f"[data-name={name}]"
    open_models(at_page)
    at_page.locate(f"{offer} [data-action=start]").click()
    problem = at_page.locate(f"{offer} .problem")
    problem.get_by_text("press Download again to go on where it stopped").wait_for(timeout=60_000)
    assert "error 503" in problem.inner_text()
    hub.refuse_file, hub.refuse_after_cut = None, False
    at_page.locate(f"{offer} [data-action=start]").click()
    at_page.locate(f"{offer} .ip2p-here").wait_for(timeout=60_000)
    assert (models / file).read_bytes() == content
    assert int(str(hub.gets[-1][1]).removeprefix("bytes=").removesuffix("-")) > 4_000_000


def test_an_edit_does_not_wait_for_a_download(at_page: Visit, hub: Hub) -> None:
    name = "taesdxl"
    hub.repos[KNOWN[name].repo] = {KNOWN[name].file: weights({"1.weight": [4, 4]}, extra=9_000_000)}
    hub.pace = 3.0  # half a minute in all
    open_models(at_page)
    at_page.locate(f"[data-name={name}] [data-action=start]").click()
    at_page.locate(f"[data-name={name}] .ip2p-line").get_by_text("MB of 9.0 MB").wait_for(timeout=60_000)
    at_page.open_tab("img2img")
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    assert len(at_page.results()) == 1
    at_page.open_tab("Models")
    assert at_page.locate(f"[data-name={name}][data-state=running]").count() == 1
    at_page.locate(f"[data-name={name}] [data-action=cancel]").click()
    at_page.locate(f"[data-name={name}][data-state=offered]").wait_for(timeout=60_000)
    hub.pace = None


def test_any_model_of_the_hub_can_be_looked_up_by_its_name(at_page: Visit, hub: Hub, models: Path) -> None:
    open_models(at_page)
    field = at_page.locate("#ip2p_look_up input")
    field.fill("me/nothing")
    field.press("Enter")
    at_page.locate("#ip2p_look_up [role=alert]").get_by_text("shows no me/nothing").wait_for()
    at_page.errors.clear()  # the browser's note of the answer's status
    hub.repos["me/mine"] = {"it's [mine].safetensors": weights(extra=500_000)}
    hub.licence = "apache-2.0"
    field.fill("me/mine")
    field.press("Enter")
    offer = at_page.locate(".ip2p-offers li").filter(has_text="me/mine/it's [mine].safetensors")
    offer.wait_for()
    assert "0.8 MB" in offer.inner_text() and "Licence: apache-2.0" in offer.inner_text()
    assert hub.gets == []
    at_page.page.keyboard.press("Enter")  # its button has the focus
    offer.locator(".ip2p-here").wait_for(timeout=60_000)
    assert (models / "it's [mine].safetensors").is_file()
    hub.licence = ""


def test_cancel_throws_away_what_came(at_page: Visit, hub: Hub, models: Path) -> None:
    name = "taesd"
    hub.repos[KNOWN[name].repo] = {KNOWN[name].file: weights({"1.weight": [4, 4]}, extra=9_000_000)}
    hub.pace = 0.3
    before = files_in(models)
    open_models(at_page)
    at_page.locate(f"[data-name={name}] [data-action=start]").click()
    at_page.locate(f"[data-name={name}] .ip2p-line").get_by_text("MB of 9.0 MB").wait_for(timeout=60_000)
    at_page.locate(f"[data-name={name}] [data-action=cancel]").click()
    at_page.locate(f"[data-name={name}][data-state=offered]").wait_for(timeout=60_000)
    assert files_in(models) == before
    hub.pace = None


def test_the_models_say_what_they_are_and_their_hash_when_asked(at_page: Visit, models: Path) -> None:
    open_models(at_page)
    row = at_page.locate(".ip2p-models tr").filter(has_text="plain")
    assert "takes no picture to edit" in row.inner_text() and row.locator("[data-use]").count() == 0
    row.locator("[data-hash]").click()
    wanted = hashlib.sha256((models / "plain.safetensors").read_bytes()).hexdigest()[:10]
    row.locator("code").get_by_text(wanted).wait_for()
    demo = at_page.locate(".ip2p-models tr").filter(has_text="in demo").inner_text()
    assert "float16" in demo and "28.7 MB" in demo and "It can edit pictures." in demo


def test_a_model_that_was_put_into_the_folder_is_found_by_looking_again(at_page: Visit, models: Path) -> None:
    open_models(at_page)
    (models / "later.safetensors").write_bytes(weights(seed=7))
    try:
        at_page.locate("#ip2p_models_refresh").click()
        row = at_page.locate(".ip2p-models tr").filter(has_text="later")
        row.get_by_text("It can edit pictures. Text CFG 7.5, Image CFG 1.5, 20 steps, 512 px suit it.").wait_for()
    finally:
        (models / "later.safetensors").unlink()


def test_vaes_in_the_folder_of_models_are_offered_and_later_ones_by_looking_again(at_page: Visit, models: Path) -> None:
    def offered() -> list[str]:
        if not at_page.locate("#ip2p_vae input").is_visible():
            at_page.locate("#ip2p_more_settings > .label-wrap").click()
        at_page.locate("#ip2p_vae input").click()
        at_page.locate("#ip2p_vae [role=option]").first.wait_for()
        names = at_page.locate("#ip2p_vae [role=option]").all_inner_texts()
        at_page.page.keyboard.press("Escape")
        return [name.strip(" \u2713\n") for name in names]

    vae = models / "VAE" / "soft.safetensors"
    vae.parent.mkdir(exist_ok=True)
    assert offered() == ["automatic", "taesd"]
    try:
        vae.write_bytes(weights({"encoder.conv_in.weight": [4, 4]}))
        at_page.locate("#refresh_sd_model_checkpoint").click()
        at_page.page.wait_for_timeout(2000)
        assert offered() == ["automatic", "taesd", "soft"]
    finally:
        vae.unlink()


def test_a_click_writes_a_lora_an_embedding_or_its_words_into_the_instruction_and_takes_it_out(at_page: Visit) -> None:
    at_page.write("make it winter")
    open_models(at_page)
    texts = at_page.locate(".ip2p-cards .ip2p-card").evaluate_all("(all) => all.map((one) => one.dataset.write)")
    ours = ["<lora:line art:1>", "<lora:water:1>", "old-photo"]
    assert [text for text in texts if text in ours] == ours  # the program's own folder may have more
    for text in ("<lora:water:1>", "in watercolour", "old-photo"):
        at_page.locate(f".ip2p-cards [data-write='{text}']").click()
    at_page.open_tab("img2img")
    assert at_page.prompt() == "make it winter <lora:water:1> in watercolour old-photo"
    at_page.write("make it winter <lora:water:0.6> in watercolour old-photo")  # another weight is the same LoRA
    at_page.open_tab("Models")
    pressed = at_page.locate(".ip2p-cards [aria-pressed=true]").evaluate_all("(all) => all.map((o) => o.dataset.write)")
    assert pressed == ["<lora:water:1>", "in watercolour", "old-photo"]
    at_page.locate(".ip2p-cards [data-write='<lora:water:1>']").click()
    assert at_page.locate(".ip2p-cards [data-write='<lora:water:1>']").get_attribute("aria-pressed") == "false"
    at_page.locate(".ip2p-cards [data-write='thin lines']").click()
    at_page.open_tab("img2img")
    assert at_page.prompt() == "make it winter in watercolour old-photo thin lines"
    # gradio knows it too: what is counted is what stands there
    at_page.locate("#img2img_token_counter").get_by_text("/75").wait_for()


def test_the_page_asks_neither_hub_nor_server_for_models_before_the_tab_is_opened(at_page: Visit, hub: Hub) -> None:
    asked: list[str] = []
    at_page.page.on("request", lambda one: asked.append(one.url))
    at_page.page.reload()
    at_page.ready()
    at_page.errors.clear()
    assert not [url for url in asked if "/models" in url and "/gradio_api" not in url and "assets" not in url]
    open_models(at_page)
    assert [url for url in asked if url.endswith("/models")]
    assert hub.tokens == []


def test_the_models_and_the_bar_fit_a_telephone_and_have_names_for_those_who_cannot_see(site) -> None:
    with visit(*site, viewport={"width": 390, "height": 800}, color_scheme="dark") as visited:
        open_models(visited)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
        named = "(all) => all.every((one) => (one.getAttribute('aria-label') ?? one.textContent).trim())"
        assert visited.locate("#ip2p_models button").evaluate_all(named)
