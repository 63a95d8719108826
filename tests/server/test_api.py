"""The API as the web UI's own clients use it, and as clumsy or hostile ones do."""

import asyncio
import base64
import io
import json
import re
import struct
import threading
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import webuiapi
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from instruct_pix2pix.conditioning import fit
from instruct_pix2pix.engine.edit import edit, fitted, map_of, resolved
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.images import encode_picture, open_picture, read_infotext
from instruct_pix2pix.infotext import settings_from
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tests.helpers.merged import write_merged_demo
from tests.helpers.serving import EXAMPLES, HOUSE, Served, encoded, pictures, quick, served

ROOT = Path(__file__).parents[2]

NIGHT = {  # a LoRA for the demo model, and one tensor that has no place in it
    "lora_unet_conv_in.lora_up.weight": torch.full((96, 1, 1, 1), 0.1),
    "lora_unet_conv_in.lora_down.weight": torch.full((1, 8, 3, 3), 0.3),
    "emb.night": torch.ones(1),
}
WORD = torch.ones(2, 160)  # an embedding for it


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    (folder / "models").mkdir()
    first = "model.diffusion_model.input_blocks"
    tensors = {
        f"{first}.0.0.weight": torch.zeros(320, 4, 3, 3),
        f"{first}.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768),
    }
    save_file(tensors, folder / "models" / "plain.safetensors")
    beside = {"models/Lora/night": NIGHT, "models/VAE/other": {"x": torch.ones(1)}}
    beside["embeddings/snowy"] = {"emb_params": WORD}
    for name, held in beside.items():
        (folder / name).parent.mkdir()
        save_file(held, folder / f"{name}.safetensors")
    (folder / "models" / "broken.safetensors").write_bytes(DEMO.read_bytes()[:50_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with served(folder, folder / "models") as running:
            yield running


@pytest.fixture(scope="module")
def client(server):
    return webuiapi.WebUIApi(port=server.port)


@pytest.fixture(scope="module")
def model(server):
    return EditModel.load(DEMO, server.worker.machine)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


def test_averages_that_are_not_used_are_told_in_the_answer_and_in_the_log(tmp_path, caplog):
    write_merged_demo(tmp_path / "models" / "merged.safetensors")
    with served(tmp_path, tmp_path / "models") as running:
        body = quick(steps=1, width=64, height=64, override_settings={"sd_model_checkpoint": "merged"})
        notes = [json.loads(running.post("img2img", **body).json()["info"])["notes"] for _ in range(2)]
    told = "The moving average (EMA) in 'merged.safetensors' is not that of its weights"
    assert all(any(note.startswith(told) for note in each) for each in notes)
    assert [record.getMessage().startswith(told) for record in caplog.records].count(True) == 1


# --- with webuiapi, a client from PyPI ---


def test_the_client_gets_the_engines_own_pictures(server, client, model):
    made = client.img2img(
        images=[Image.open(HOUSE)],
        prompt="make it winter",
        negative_prompt="rain",
        cfg_scale=8,
        image_cfg_scale=1.4,
        steps=3,
        seed=7,
        width=96,
        height=96,
        batch_size=2,
        n_iter=2,
        denoising_strength=1.0,
        sampler_name="DPM++ 2M",
        scheduler="karras",
    )
    settings = EditSettings(
        instruction="make it winter",
        negative="rain",
        text_cfg=8,
        image_cfg=1.4,
        steps=3,
        seed=7,
        count=4,
        batch_size=2,
        sampler="DPM++ 2M",
        schedule="Karras",
        size="96x96",
    )
    expected = [edited.image for edited in edit(model, open_picture(HOUSE).image, settings)]
    assert len(made.images) == 4 and all(map(same, made.images, expected))
    assert made.info["all_seeds"] == [7, 8, 9, 10] and made.info["all_prompts"] == ["make it winter"] * 4
    assert made.info["sd_model_name"] == "demo" and made.info["width"] == 96 and made.info["notes"] == []
    assert made.parameters["cfg_scale"] == 8 and made.parameters["init_images"] is None
    assert [read_infotext(image) for image in made.images] == made.info["infotexts"]


def test_the_client_reads_the_settings_back_from_a_result(server, client):
    made = client.img2img(images=[Image.open(HOUSE)], prompt="make it night", steps=2, seed=9, width=64, height=64)
    read = client.png_info(made.image)
    assert settings_from(read.info)[0].seed == 9
    assert read.parameters["Prompt"] == "make it night" and read.parameters["Size-1"] == 64
    assert client.png_info(Image.open(HOUSE)).info == ""


@pytest.mark.parametrize("size", [(10_240, 512), (40_000, 40), (9000, 9000)])
def test_the_settings_in_a_strip_and_in_a_large_grid_are_read(server, size):
    info = PngInfo()
    info.add_text("parameters", "make it night\nSteps: 2, Seed: 9, Size: 64x64")
    data = io.BytesIO()
    Image.new("1", size).save(data, "PNG", pnginfo=info)
    answer = server.client.post("/sdapi/v1/png-info", json={"image": encoded(data.getvalue())})
    assert answer.status_code == 200 and answer.json()["parameters"]["Seed"] == "9"


def test_how_a_picture_and_its_mask_were_read_is_told(server):
    cut = io.BytesIO()
    Image.open(HOUSE).convert("RGB").save(cut, "JPEG")
    mask = Image.new("LA", (96, 96), (255, 0))
    body = quick(init_images=[encoded(cut.getvalue()[:-2])], mask=encoded(mask))
    assert json.loads(server.post("img2img", **body).json()["info"])["notes"] == [
        "The picture is cut short: next to nothing is missing.",
        "The mask is transparent everywhere: it was read as if it were opaque.",
    ]


def test_the_client_lists_what_there_is(server, client):
    assert "Euler a" in client.util_get_sampler_names() and "karras" in client.util_get_scheduler_names()
    models = {one["model_name"]: one for one in client.get_sd_models()}
    assert models["demo"]["editable"] and not models["plain"]["editable"] and not models["broken"]["editable"]
    assert models["demo"]["about"].startswith("instruct-pix2pix")
    assert "Stable Diffusion" in models["plain"]["about"] and "broken.safetensors" in models["broken"]["about"]
    for empty in (client.get_upscalers, client.get_face_restorers):
        assert empty() == []
    assert [one["name"] for one in client.get_loras()] == ["night"]
    assert [one["model_name"] for one in client.get_sd_vae()] == ["other"]
    for more in (client.get_hypernetworks, client.get_realesrgan_models, client.get_prompt_styles):
        assert more() == []
    assert client.get_latent_upscale_modes() == []
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert [*client.get_embeddings()["loaded"]] == ["snowy"]
    assert client.get_cmd_flags() == {"api": True, "listen": False, "auth": False}
    assert client.refresh_checkpoints() is None
    ram = client.get_memory()["ram"]
    assert 50e6 < ram["used"] < ram["total"] and ram["free"] == ram["total"] - ram["used"]


def test_the_client_chooses_a_model_and_waits_until_it_is_ready(server, client):
    client.util_set_model("demo")
    client.util_wait_for_ready(check_interval=0.1)
    assert client.util_get_current_model() == "demo"


def in_thread(function):
    result: list = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    return thread, result


def test_the_client_sees_progress_and_interrupts_keeping_what_is_finished(server, client):
    long = {"images": [Image.open(HOUSE)], "prompt": "make it winter", "width": 64, "height": 64, "seed": 1}
    thread, made = in_thread(lambda: webuiapi.WebUIApi(port=server.port).img2img(**long, steps=10, n_iter=50))
    told: list[dict] = []
    server.wait_until(lambda: told.append(client.get_progress()) or told[-1]["state"]["job_no"] >= 2)
    working = [one for one in told if one["state"]["sampling_step"] or one["progress"]]
    assert working and all(one["eta_relative"] >= 1 for one in working)
    shown = client.get_progress()
    assert 0 < shown["progress"] < 1 and shown["eta_relative"] > 0
    assert shown["state"]["job_count"] == 50 and shown["state"]["job_no"] >= 2
    seen: list[str] = []
    server.wait_until(lambda: seen.append(server.get("progress")["current_image"]) or seen[-1])
    assert Image.open(io.BytesIO(base64.b64decode(seen[-1]))).size == (64, 64)
    assert server.get("progress?skip_current_image=true")["current_image"] is None
    assert client.interrupt() == {}
    thread.join(120)
    assert 2 <= len(made[0].images) < 50 and made[0].info["interrupted"] is True
    assert len(made[0].info["infotexts"]) == len(made[0].images)
    idle = client.get_progress()
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0 and idle["current_image"] is None


def test_the_client_skips_a_batch(server, client):
    thread, made = in_thread(lambda: server.edit(steps=12, n_iter=3, size="64", width=64, height=64))
    server.wait_until(lambda: server.worker.queue.running and server.worker.queue.running.status().batch_step >= 1)
    assert client.skip() is None
    thread.join(120)
    assert len(made[0]) == 2


def test_nothing_to_interrupt_is_no_error(server, client):
    assert client.interrupt() == {} and client.skip() is None
    assert server.client.post("/sdapi/v1/interrupt?task=nothing").json() == {}


def test_a_request_with_a_name_is_interrupted_by_it_and_the_others_go_on(server):
    body = quick(width=64, steps=20, n_iter=50)
    named, answers = in_thread(lambda: server.post("img2img", **body, force_task_id="task(mine)"))
    server.wait_until(lambda: server.get("progress")["current_task"] == "task(mine)")
    other, made = in_thread(lambda: server.edit(width=64))
    server.wait_until(lambda: len(server.worker.queue) == 2)
    assert server.post("img2img", **body, force_task_id="task(mine)").status_code == 422
    server.client.post("/sdapi/v1/interrupt", params={"task": "task(mine)"})
    named.join(120)
    other.join(120)
    assert json.loads(answers[0].json()["info"])["interrupted"] is True and len(made[0]) == 1


def test_text_alone_is_refused_with_the_reason(client):
    with pytest.raises(RuntimeError, match=r"422.*needs one"):
        client.txt2img(prompt="a horse")


# --- requests ---


def test_two_requests_at_once_are_served_in_order(server):
    ended: list[str] = []

    def ask(name: str, n_iter: int) -> None:
        server.edit(n_iter=n_iter, width=64, height=64)
        ended.append(name)

    first = threading.Thread(target=ask, args=("first", 3))
    first.start()
    server.wait_until(lambda: server.worker.queue.running)
    second = threading.Thread(target=ask, args=("second", 1))
    second.start()
    server.wait_until(lambda: len(server.worker.queue) == 2)
    assert server.get("progress")["textinfo"].endswith("1 more in the queue")
    first.join(120)
    second.join(120)
    assert ended == ["first", "second"]


def test_what_is_left_out_comes_from_the_options(server, model):
    before = server.get("options")
    assert before["text_cfg"] == 7.5 and before["image_cfg"] == 1.5 and before["denoise"] == 1.0
    (made,) = server.edit(image_cfg_scale=None)
    (expected,) = edit(model, open_picture(HOUSE).image, EditSettings(instruction="make it winter", steps=3, seed=5))
    assert same(made, expected.image)
    assert server.post("options", text_cfg=3, sampler="k_euler", nonsense=1).status_code == 200
    try:
        read = settings_from(read_infotext(server.edit(width=64)[0]) or "")[0]
        assert (read.text_cfg, read.sampler) == (3, "Euler")
        assert server.post("options", text_cfg=4, image_cfg=99).status_code == 422
        assert server.get("options")["text_cfg"] == 3  # all or none
    finally:
        server.post("options", **before)
    assert server.get("options") == before


def test_overridden_settings_are_for_one_request_unless_they_shall_stay(server):
    before = server.get("options")
    over = {"sd_model_checkpoint": "demo.safetensors [b7efbdedd2]", "rescale": 0.5, "speed": "fast"}
    over["CLIP_stop_at_last_layers"] = 2
    answer = server.post("img2img", **quick(override_settings=over, width=64))
    info = json.loads(answer.json()["info"])
    assert "Guidance rescale: 0.5" in info["infotexts"][0] and "Speed: fast" in info["infotexts"][0]
    assert any("CLIP_stop_at_last_layers" in note for note in info["notes"])
    assert server.get("options") == before
    server.edit(width=64, override_settings={"rescale": 0.25}, override_settings_restore_afterwards=False)
    assert server.get("options")["rescale"] == 0.25
    server.post("options", **before)


def test_an_infotext_stands_for_the_settings_and_makes_the_same_picture(server):
    (made,) = server.edit(cfg_scale=6, steps=4, seed=77, width=64, sampler_name="Heun")
    again = server.post("img2img", init_images=[encoded(HOUSE)], infotext=read_infotext(made))
    assert same(pictures(again)[0], made)
    (other,) = pictures(server.post("img2img", init_images=[encoded(HOUSE)], infotext=read_infotext(made), seed=78))
    assert not same(other, made)


def test_what_an_infotext_says_that_cannot_be_done_here_is_said(server):
    text = "make it night\nSteps: 3, Sampler: DPM fast 9000, Schedule type: Karras, CFG scale: 99, Seed: 4294967301"
    answer = server.post("img2img", init_images=[encoded(HOUSE)], infotext=text, width=64)
    info = json.loads(answer.json()["info"])
    told = " ".join(info["notes"])
    assert "CFG is 99" in told and "'DPM fast 9000'" in told and "5 was used" in told and len(info["notes"]) == 3
    assert info["seed"] == 5 and info["steps"] == 3 and info["sampler_name"] == EditSettings().sampler
    assert "Schedule type: Karras" in info["infotexts"][0] and info["prompt"] == "make it night"


def test_a_seed_of_64_bits_is_used_by_its_remainder_and_shown_so(server):
    answer = server.post("img2img", **quick(width=64, seed=2**64 - 1))
    info = json.loads(answer.json()["info"])
    assert info["all_seeds"] == [2**32 - 1] and "Seed: 4294967295," in info["infotexts"][0]
    assert len(info["notes"]) == 1 and "18446744073709551615" in info["notes"][0]


def test_what_clients_leave_empty_is_left_out(server):
    empty = {"scheduler": "", "sampler_name": "", "sampler_index": "", "force_task_id": "", "mask": "", "infotext": ""}
    over = {"sd_model_checkpoint": ""}
    (made,) = server.edit(width=64, **empty, override_settings=over)
    assert same(made, server.edit(width=64)[0])


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "DATA:image/png;charset=utf-8;base64,"])
def test_base64_comes_in_every_spelling(server, head):
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 255, (20, 20, 3), np.uint8))
    texts = [encoded(noisy.crop((0, 0, side, 20))) for side in (18, 19, 20)]
    assert any(text.endswith("==") for text in texts) and all("+" in text and "/" in text for text in texts)
    for text in texts:
        plain = server.post("png-info", image=text)
        for spelt in (text.rstrip("="), text.translate(str.maketrans("+/", "-_")).rstrip("=")):
            lines = "\r\n".join(spelt[i : i + 60] for i in range(0, len(spelt), 60))
            answer = server.post("png-info", image=f"{head}{lines}\n")
            assert answer.status_code == plain.status_code == 200, answer.text


def test_a_picture_comes_in_base64_with_or_without_the_head_of_a_data_address(server):
    plain = server.edit(width=64)
    headed = server.edit(width=64, init_images=["data:image/png;base64," + encoded(HOUSE)])
    text = encoded(HOUSE)
    broken_into_lines = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    assert same(plain[0], headed[0]) and same(plain[0], server.edit(width=64, init_images=[broken_into_lines])[0])


def test_the_size_follows_the_picture_unless_it_is_said(server, model):
    wide = Image.open(HOUSE).convert("RGB").resize((120, 80))
    ask = {"init_images": [encoded(wide)], "steps": 2}
    assert server.edit(**ask)[0].size == (120, 80)  # its own, edited at 96 x 64
    assert server.edit(**ask, result_size="model")[0].size == (96, 64)
    assert server.edit(**ask, width=120)[0].size == server.edit(**ask, height=80)[0].size == (120, 80)
    settings = EditSettings(instruction="make it winter", steps=2, seed=5, size="64x64", result_size="model")
    stretched = wide.resize((64, 64), Image.Resampling.LANCZOS)
    (expected,) = edit(model, stretched, settings)
    assert same(server.edit(**ask, width=64, height=64)[0], expected.image)
    (expected,) = edit(model, wide, settings)  # the engine cuts the middle out
    assert same(server.edit(**ask, width=64, height=64, resize_mode=1)[0], expected.image)
    small = np.asarray(wide.resize((64, 43), Image.Resampling.LANCZOS))
    filled = Image.fromarray(np.concatenate([small[:1].repeat(10, 0), small, small[-1:].repeat(11, 0)]))
    (expected,) = edit(model, filled, settings)
    assert same(server.edit(**ask, width=64, height=64, resize_mode=2)[0], expected.image)


def test_only_the_masked_part_changes(server):
    mask = Image.new("L", (96, 96))
    mask.paste(255, (0, 0, 96, 40))
    source = np.asarray(fit(96, 96, 96, 8).apply(Image.open(HOUSE).convert("RGB"))).astype(int)
    for invert in (0, 1):
        (made,) = server.edit(mask=encoded(mask), inpainting_mask_invert=invert, mask_blur=4)
        changed = np.abs(np.asarray(made).astype(int) - source).max(axis=2)
        kept, edited = (changed[48:], changed[:40]) if not invert else (changed[:32], changed[48:])
        assert kept.max() <= 1 and edited.max() > 30


def test_the_opaque_part_of_a_transparent_mask_is_edited(server):
    mask = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 96, 40))
    (made,) = server.edit(mask=encoded(mask))
    plain = Image.new("L", (96, 96))
    plain.paste(255, (0, 0, 96, 40))
    assert same(made, server.edit(mask=encoded(plain))[0])


# --- LoRAs, embeddings, VAEs ---


def test_a_lora_acts_as_in_the_web_ui_and_what_is_missing_is_told(server):
    plain, night, again = (server.edit(prompt=f"make it winter{tag}") for tag in ("", "<lora:night:1>", ""))
    assert same(plain[0], again[0]) and not same(plain[0], night[0])
    answer = server.post("img2img", **quick(prompt="make it winter <lora:night:1>"))
    info = json.loads(answer.json()["info"])
    assert 'Lora hashes: "night: ' in info["infotexts"][0] and info["prompt"] == "make it winter <lora:night:1>"
    assert any("'night' 1 of 3 tensors were left out" in note for note in info["notes"])
    assert "LoRA put on: night at 1." in info["notes"]
    answer = server.post("img2img", **quick(prompt="make it winter <lora:day:1>"))
    assert "There is no LoRA 'day': put its file into models/Lora (there are demo-lcm, night)." in answer.text
    assert str(server.outputs.parent) not in answer.text


def test_a_vae_is_chosen_by_the_web_uis_option_too(server):
    for ask in ({"vae": "nothing"}, {"override_settings": {"sd_vae": "nothing"}}):
        assert "There is no VAE 'nothing': put its file into models/VAE" in server.post("img2img", **quick(**ask)).text
    assert same(server.edit(override_settings={"sd_vae": "Automatic"})[0], server.edit()[0])


def test_a_word_of_an_embedding_changes_the_edit(server):
    assert not same(server.edit(prompt="make it snowy")[0], server.edit(prompt="make it winter")[0])
    answer = server.post("img2img", **quick(prompt="make it Snowy"))
    assert "TI hashes: " in json.loads(answer.json()["info"])["infotexts"][0]


# --- what the web UI does not have ---

BALL = EXAMPLES / "ball.png"


def test_the_rest_is_kept_and_the_answer_tells_how_much_and_where(server, model):
    ask = {"init_images": [encoded(BALL)], "prompt": "remove the ball", "steps": 8, "n_iter": 2}
    answer = server.post("img2img", **quick(**ask, keep_rest="always", keep_amount=0.4, include_map=True))
    settings = EditSettings("remove the ball", steps=8, seed=5, count=2, keep_rest="always", keep_amount=0.4)
    expected = list(edit(model, open_picture(BALL).image, settings))
    info, maps = json.loads(answer.json()["info"]), answer.json()["maps"]
    assert all(map(same, pictures(answer), [one.image for one in expected]))
    assert info["kept"] == [round(one.kept, 4) for one in expected] and 0 < min(info["kept"]) < 1
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in maps]
    assert [one.mode for one in shown] == ["L", "L"]
    assert all(one.relevance and same(map_, one.relevance) for map_, one in zip(shown, expected, strict=True))
    assert info["extra_generation_params"] == {"Image CFG scale": 1.5, "Keep the rest": "always", "Keep amount": 0.4}


def test_without_keeping_there_is_no_map_and_none_comes_unless_it_is_asked_for(server):
    answer = server.post("img2img", **quick(width=64, n_iter=2, include_map=True))
    assert answer.json()["maps"] == [None, None] and json.loads(answer.json()["info"])["kept"] == [0, 0]
    assert "maps" not in server.post("img2img", **quick(width=64, keep_rest="always")).json()


def test_where_an_edit_would_change_the_picture_is_shown_before_it_is_made(server, model):
    answer = server.post("relevance-map", **quick(prompt="paint the house blue", width=96, seed=5, styles=["x"]))
    assert answer.status_code == 200, answer.text
    assert answer.json()["notes"] == ["styles had no effect: there is no such thing here."]
    shown = Image.open(io.BytesIO(base64.b64decode(answer.json()["image"])))
    settings = resolved(EditSettings("paint the house blue", steps=2, seed=5, size="96x96"))
    picture = fitted(model, open_picture(HOUSE).image, settings)
    assert shown.mode == "L" and shown.size == (96, 96) and same(shown, map_of(model, picture, settings))
    assert server.post("relevance-map", **quick(prompt="")).status_code == 422
    assert server.post("relevance-map", **quick(sampler_name="warp")).status_code == 422


def test_a_result_has_the_pictures_own_size_unless_a_size_is_named(server):
    large = Image.open(HOUSE).convert("RGB").resize((240, 160), Image.Resampling.LANCZOS)
    ask = {"init_images": [encoded(large)], "steps": 1}
    assert server.edit(**ask)[0].size == (240, 160)
    assert server.edit(**ask, width=96)[0].size == (96, 64)
    assert server.edit(**ask, width=96, result_size="own")[0].size == (240, 160)
    (made,) = server.edit(**ask, result_size=300)
    assert made.size == (300, 200) and "Result size: 300" in str(read_infotext(made))


def test_a_picture_of_16_bits_keeps_them_where_nothing_is_edited(server):
    fine = np.random.default_rng(3).integers(0, 65536, (160, 240, 3), np.uint16)
    mask = Image.new("L", (240, 160))
    mask.paste(255, (120, 0, 240, 160))
    picture = base64.b64encode(encode_picture(fine, "PNG")).decode()
    answer = server.post("img2img", **quick(init_images=[picture], mask=encoded(mask), steps=1))
    made = open_picture(base64.b64decode(answer.json()["images"][0]), deep=True).deep
    assert made is not None and made.shape == fine.shape
    assert np.array_equal(made[:, :118], fine[:, :118]) and not np.array_equal(made[:, 130:], fine[:, 130:])
    assert server.edit(init_images=[picture], steps=1, width=64, height=64)[0].size == (64, 64)


def test_only_the_region_has_the_web_uis_name_too(server):
    mask = {"mask": encoded(Image.new("L", (96, 96), 255)), "steps": 1}

    def zooms(**ask) -> bool:
        return settings_from(str(read_infotext(server.edit(width=64, **ask)[0])))[0].zoom

    assert zooms(**mask, inpaint_full_res=True) and zooms(**mask, zoom=True)
    assert not zooms(**mask) and not zooms(**mask, inpaint_full_res=False)
    assert not zooms(**mask, inpaint_full_res=True, zoom=False) and not zooms(steps=1, inpaint_full_res=True)


def test_the_new_settings_are_options_and_come_back_from_an_infotext(server):
    before = server.get("options")
    new = {"keep_rest": "always", "keep_amount": 0.3, "apg_eta": 0.5, "apg_threshold": 12.5, "apg_momentum": -0.25}
    new |= {"no_text": "zeros", "guidance": "instruct-diffusion"}
    assert server.post("options", **new).status_code == 200
    try:
        (made,) = server.edit()
    finally:
        server.post("options", **before)
    read = settings_from(str(read_infotext(made)))[0]
    assert {name: getattr(read, name) for name in new} == new
    again = server.post("img2img", init_images=[encoded(HOUSE)], infotext=read_infotext(made))
    assert same(pictures(again)[0], made) and same(server.edit(**new)[0], made)
    assert not same(server.edit()[0], made)


@pytest.mark.parametrize("search", [{"best_of": 3}, {"strength": "strong"}, {"strength": 0.3}], ids=str)
def test_a_result_found_among_several_is_told_with_what_was_looked_at_and_comes_again_from_its_infotext(server, search):
    answer = server.post("img2img", **quick(init_images=[encoded(BALL)], prompt="remove the ball", n_iter=2, **search))
    info, made = json.loads(answer.json()["info"]), pictures(answer)
    assert len(made) == len(info["looked_at"]) == len(info["cost"]) == 2 and min(info["cost"]) > 1
    for looks, picture, seed, text in zip(info["looked_at"], made, info["all_seeds"], info["infotexts"], strict=True):
        assert len(looks) == (3 if "best_of" in search else 5)
        [chosen] = [one for one in looks if one["chosen"]]
        assert all(one["outside"] >= 0 and one["inside"] >= 0 for one in looks) and chosen["seed"] == seed
        read = settings_from(text)[0]
        assert (chosen["cfg_scale"], chosen["image_cfg_scale"]) == (read.text_cfg, read.image_cfg)
        [again] = pictures(server.post("img2img", init_images=[encoded(BALL)], infotext=text))
        assert np.abs(np.asarray(again, int) - np.asarray(picture, int)).max() <= 1
    assert info["looked_at"][0][0]["seed"] == 5


def test_a_result_that_was_not_searched_for_says_nothing_of_a_search(server):
    for plain in ({}, {"best_of": 1}, {"strength": ""}, {"best_of": None, "strength": None}):
        info = json.loads(server.post("img2img", **quick(width=64, steps=1, **plain)).json()["info"])
        assert not {"looked_at", "cost"} & info.keys()


def test_each_variation_of_a_prompt_is_a_result_with_its_own_prompt(server):
    answer = server.post("img2img", **quick(prompt="make it {winter|night}", width=64, steps=1, n_iter=2))
    info = json.loads(answer.json()["info"])
    assert info["prompt"] == "make it {winter|night}" and info["all_seeds"] == [5, 6, 5, 6]
    assert info["all_prompts"] == ["make it winter"] * 2 + ["make it night"] * 2
    assert [text.split("\n")[0] for text in info["infotexts"]] == info["all_prompts"]
    alone = [server.edit(prompt=f"make it {what}", width=64, steps=1, n_iter=2) for what in ("winter", "night")]
    assert all(map(same, pictures(answer), [*alone[0], *alone[1]]))
    notes = json.loads(server.post("img2img", **quick(prompt="it <hypernet:{a|b}:1>", steps=1)).json()["info"])["notes"]
    assert notes == ["<hypernet:a:1>, <hypernet:b:1> had no effect: there are no such networks here."]


def test_what_does_nothing_is_said_to_do_nothing(server):
    ask = {"prompt": "a <hypernet:x:1>", "alwayson_scripts": {"ControlNet": {"args": []}}, "tiling": True}
    answer = server.post("img2img", **quick(width=64, **ask))
    notes = " ".join(json.loads(answer.json()["info"])["notes"])
    assert "ControlNet" in notes and "tiling" in notes and "<hypernet:x:1>" in notes


def test_results_are_saved_and_sent_as_asked(server):
    answer = server.post("img2img", **quick(width=64, n_iter=2, save_images=True, send_images=False))
    assert answer.json()["images"] == []
    saved = sorted(server.outputs.glob("*/*.png"))
    assert [read_infotext(path) for path in saved] == json.loads(answer.json()["info"])["infotexts"]
    assert len(saved) == 2 and str(server.outputs) not in answer.text
    answer = server.post("img2img", **quick(width=64, include_init_images=True))
    assert answer.json()["parameters"]["init_images"] == [encoded(HOUSE)]


def test_a_client_that_hangs_up_ends_its_edit(server):
    body = quick(steps=150, n_iter=100)
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"http://127.0.0.1:{server.port}/sdapi/v1/img2img", json=body, timeout=1.5, trust_env=False)
    server.wait_until(lambda: server.worker.queue.running is None)


def test_many_who_wait_do_not_keep_the_others_from_asking(server):
    async def ask() -> None:
        address = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=address, timeout=180, trust_env=False) as client:
            body = quick(steps=150, n_iter=50)
            waiting = [asyncio.create_task(client.post("/sdapi/v1/img2img", json=body)) for _ in range(50)]
            while len(server.worker.queue) < 50:
                await asyncio.sleep(0.01)
            text = (await client.get("/sdapi/v1/progress", timeout=60)).json()["textinfo"]
            assert text.endswith("49 more in the queue")
            for task in waiting:
                task.cancel()

    asyncio.run(ask())
    server.wait_until(lambda: len(server.worker.queue) == 0)  # nobody waits for these any more


# --- what cannot be answered ---


def bomb() -> bytes:
    """A PNG of 400 megapixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")


BAD = {
    "no picture": ({"init_images": None}, "init_images"),
    "two pictures": ({"init_images": [encoded(HOUSE)] * 2}, "2 pictures"),
    "no base64": ({"init_images": ["&&&"]}, "base64"),
    "base64 cut short": ({"init_images": [encoded(HOUSE)[:1001]]}, "base64"),
    "picture cut short": ({"init_images": [encoded(HOUSE.read_bytes()[:1200])]}, "cut short"),
    "no picture but text": ({"init_images": [encoded(b"hello")]}, "not a picture"),
    "decompression bomb": ({"init_images": [encoded(bomb())]}, "megapixels"),
    "an address": ({"init_images": ["http://127.0.0.1/x.png"]}, "address"),
    "a path": ({"init_images": ["/etc/passwd"]}, ""),
    "bad mask": ({"mask": encoded(b"hello")}, "The mask"),
    "empty instruction": ({"prompt": " "}, "instruction"),
    "text cfg": ({"cfg_scale": 99}, "Text CFG"),
    "image cfg": ({"image_cfg_scale": -1}, "Image CFG"),
    "steps": ({"steps": 0}, "Steps"),
    "wrong kind": ({"steps": "many"}, "steps"),
    "seed": ({"seed": -2}, "Seed"),
    "too many": ({"n_iter": 100_000}, "Count"),
    "batch": ({"batch_size": -1}, "Batch size"),
    "too many pixels": ({"n_iter": 1000, "width": 4096, "height": 4096}, "too many"),
    "width": ({"width": 100_000, "height": 64}, "Size"),
    "no width": ({"width": 0}, "Size"),
    "resize mode": ({"resize_mode": 3}, "resize_mode"),
    "denoising": ({"denoising_strength": 2}, "Denoising"),
    "sampler": ({"sampler_name": "Oiler a"}, "Euler a"),
    "scheduler": ({"scheduler": "KL Optimal"}, "Karras"),
    "script": ({"script_name": "X/Y/Z plot"}, "script"),
    "unknown model": ({"override_settings": {"sd_model_checkpoint": "nope"}}, "demo"),
    "plain model": ({"override_settings": {"sd_model_checkpoint": "plain"}}, "instruct-pix2pix checkpoint"),
    "broken model": ({"override_settings": {"sd_model_checkpoint": "broken"}}, "broken.safetensors"),
    "model by path": ({"override_settings": {"sd_model_checkpoint": str(DEMO)}}, "no model"),
    "model by way up": ({"override_settings": {"sd_model_checkpoint": "../demo/demo"}}, "no model"),
    "name of a task": ({"force_task_id": "../<x>"}, "force_task_id"),
    "best of none": ({"best_of": 0}, "Best of"),
    "best of many": ({"best_of": 65}, "Best of"),
    "strength": ({"strength": "very"}, "How much to change"),
    "strength as a number": ({"strength": 1.5}, "How much to change"),
    "two searches": ({"best_of": 2, "strength": 0.5}, "cannot be combined"),
    "strength and a scale": ({"strength": 0.5, "cfg_scale": 7.5}, "finds both scales itself"),
    "strength and the other": ({"strength": 0.5, "image_cfg_scale": 1.5}, "finds both scales itself"),
    "strength and an option": ({"strength": 0.5, "override_settings": {"text_cfg": 5}}, "finds both scales itself"),
    "many candidates": ({"best_of": 64, "n_iter": 1000, "steps": 1}, "too many at once"),
    "variations": ({"prompt": "{a|b|c|d|e|f|g|h|i|j|k}" * 2}, "more than 100"),
    "keeping": ({"keep_rest": "sometimes"}, "Keep the rest"),
    "amount": ({"keep_amount": 1.5}, "Keep amount"),
    "result size": ({"result_size": "huge"}, "Result size"),
    "result too large": ({"result_size": 32768}, "is too large"),
    "eta": ({"apg_eta": -1}, "APG eta"),
    "half a letter": ({"prompt": "make it \ud800"}, "not text"),
    "setting of another kind": ({"override_settings": {"text_cfg": [1]}}, "Text CFG"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_a_bad_value_is_refused_in_one_sentence(server, change, said):
    body = json.dumps(quick(width=64, **change) if "width" not in change else quick(**change))
    answer = server.client.post(
        "/sdapi/v1/img2img", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    detail = answer.json()["detail"]
    assert answer.status_code == 422 and said in detail and answer.json()["error"]
    assert "Traceback" not in detail and "\n" not in detail and len(detail) < 500
    sent = str(change)
    assert str(ROOT) not in detail or str(ROOT) in sent


BODIES = {
    "half of it": b'{"init_images": ["',
    "nothing": b"",
    "a list": b"[1, 2]",
    "a deep list": b"[" * 100_000,
    "bytes": bytes(range(256)),
    "not a number": b'{"prompt": "x", "init_images": [], "cfg_scale": NaN}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["img2img", "options", "png-info"])
def test_a_malformed_body_is_refused_in_one_sentence(server, path, body):
    answer = server.client.post(f"/sdapi/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    if path == "options" and b"NaN" in body:
        assert answer.status_code == 200  # names that are no options
        return
    assert answer.status_code in (400, 422) and "Traceback" not in answer.text
    assert isinstance(answer.json()["detail"], str)


def test_numbers_that_are_no_json_do_not_come_back(server):
    body = json.dumps(quick(width=64, override_settings={"eta_noise": float("nan")}, styles=["\ud800"]))
    answer = server.client.post(
        "/sdapi/v1/img2img", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200 and "NaN" not in answer.text
    assert answer.json()["parameters"]["override_settings"] == {"eta_noise": None}


def test_an_unknown_address_and_a_wrong_method_are_told(server):
    for method, path, status in (("GET", "/sdapi/v1/nothing", 404), ("GET", "/sdapi/v1/img2img", 405)):
        answer = server.client.request(method, path)
        assert answer.status_code == status and isinstance(answer.json()["detail"], str)


def test_a_full_queue_says_to_come_again(server, monkeypatch):
    monkeypatch.setattr(server.worker.queue, "most_waiting", -1)
    answer = server.post("img2img", **quick())
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def test_after_all_that_the_server_still_edits(server):
    for path in sorted(EXAMPLES.glob("*.png"))[:2]:
        assert len(server.edit(init_images=[encoded(path)], width=64)) == 1


# --- the list of the API ---


def test_the_list_of_the_api_is_complete_and_loads_nothing_from_elsewhere(server: Served):
    page = server.client.get("/docs").text
    described = server.client.get("/openapi.json").json()
    assert len(described["paths"]) > 20
    for path in described["paths"]:
        assert path in page
    known = ("image_cfg_scale", "override_settings", "denoising_strength", "keep_rest", "include_map")
    for field in (*known, "best_of", "strength", "looked_at"):
        assert field in page
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(|//[a-z]", page)
    assert server.client.get("/", follow_redirects=True).text == page
