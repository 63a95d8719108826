"""What the API takes and gives, in the shapes of the AUTOMATIC1111 web UI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...settings import BEST_OF, KNOBS, STRENGTH


class Img2Img(BaseModel):
    """A request for edits. What is left out, or null, is taken from the options (GET /sdapi/v1/options).

    The scales and steps that are not set there either are those that suit the checkpoint.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    init_images: list[str] | None = Field(
        None, description="The picture to edit, one of them, in base64 with or without 'data:image/…;base64,'."
    )
    prompt: str | None = Field("", description="The instruction: what to change. A1111's prompt language applies.")
    negative_prompt: str | None = Field("", description=KNOBS["negative"].help)
    cfg_scale: float | None = Field(None, description=f"Text CFG, 1 to 30. {KNOBS['text_cfg'].help}")
    image_cfg_scale: float | None = Field(None, description=f"Image CFG, 0 to 5. {KNOBS['image_cfg'].help}")
    steps: int | None = Field(None, description=f"1 to 150. {KNOBS['steps'].help}")
    sampler_name: str | None = Field(None, description="A name from GET /sdapi/v1/samplers.")
    sampler_index: str | None = Field(None, description="The older name of sampler_name, which goes first.")
    scheduler: str | None = Field(None, description="A name or label from GET /sdapi/v1/schedulers.")
    seed: int | None = Field(
        -1, description="0 to 4294967295, or its remainder; -1 draws one. Each further picture takes the next."
    )
    batch_size: int | None = Field(1, description="Pictures computed together, 1 to 64.")
    n_iter: int | None = Field(1, description="How many batches.")
    width: int | None = Field(
        None, description="Without width and height: edited in the picture's shape, at the model's size."
    )
    height: int | None = Field(None, description="With only one of them, the other follows from the picture.")
    resize_mode: int | None = Field(
        0, description="How to meet width x height: 0 stretch, 1 cut the middle out, 2 fill the sides up."
    )
    denoising_strength: float | None = Field(None, description=KNOBS["denoise"].help + " Here 1 unless given.")
    result_size: str | int | None = Field(
        None, description=KNOBS["result_size"].help + " Unless it is named: model where width or height is."
    )
    keep_rest: str | None = Field(None, description=KNOBS["keep_rest"].help)
    keep_amount: float | None = Field(None, description=f"0 to 1. {KNOBS['keep_amount'].help}")
    zoom: bool | None = Field(None, description=KNOBS["zoom"].help)
    apg_eta: float | None = Field(None, description=f"0 to 1. {KNOBS['apg_eta'].help}")
    apg_threshold: float | None = Field(None, description=f"0 to 1000. {KNOBS['apg_threshold'].help}")
    apg_momentum: float | None = Field(None, description=f"-1 to 1. {KNOBS['apg_momentum'].help}")
    no_text: str | None = Field(None, description=KNOBS["no_text"].help)
    guidance: str | None = Field(None, description=KNOBS["guidance"].help)
    vae: str | None = Field(None, description=KNOBS["vae"].help)
    best_of: int | None = Field(
        None, description=f"1 to 64. {BEST_OF.help} 'looked_at' in 'info' lists them. batch_size: how many at once."
    )
    strength: str | float | None = Field(
        None, description=f"{STRENGTH.help} Refused together with cfg_scale, image_cfg_scale or best_of."
    )
    mask: str | None = Field(None, description="In base64: white (of a transparent one what is opaque) is edited.")
    inpainting_mask_invert: int | None = Field(0, description="1: black is edited, white is kept.")
    mask_blur: int | None = Field(None, description="Accepted without effect: the edge is always soft, inwards.")
    inpaint_full_res: bool | None = Field(
        None, description="With a mask the same as zoom, which goes first; inpaint_full_res_padding has no effect."
    )
    infotext: str | None = Field(
        None, description="Settings as text, in place of the options; what the request says itself goes first."
    )
    override_settings: dict[str, Any] | None = Field(
        None, description="For this request alone: sd_model_checkpoint, or another option."
    )
    override_settings_restore_afterwards: bool | None = Field(True, description="false: they become the options.")
    include_init_images: bool | None = Field(False, description="Whether 'parameters' repeats the pictures.")
    send_images: bool | None = Field(True, description="Whether the pictures are in the answer.")
    include_map: bool | None = Field(
        False, description="Whether 'maps' in the answer shows where the instruction means to change the picture."
    )
    save_images: bool | None = Field(False, description="Whether they are saved in the server's outputs folder.")
    alwayson_scripts: dict[str, Any] | None = Field(None, description="Accepted without effect; 'info' says so.")
    script_name: str | None = Field(None, description="Refused unless empty: there are no scripts here.")
    script_args: list[Any] | None = Field(None, description="Has no meaning without scripts.")
    force_task_id: str | None = Field(
        None,
        pattern=r"^[\w()-]{0,64}$",
        description="A name for this request: 'current_task' of progress, and the task of interrupt and skip.",
    )
    styles: list[str] | None = Field(None, description="Accepted without effect; 'info' says so.")
    subseed_strength: float | None = Field(None, description="Accepted without effect; 'info' says so.")
    tiling: bool | None = Field(None, description="Accepted without effect; 'info' says so.")
    restore_faces: bool | None = Field(None, description="Accepted without effect; 'info' says so.")
    refiner_checkpoint: str | None = Field(None, description="Accepted without effect; 'info' says so.")
    s_churn: float | None = Field(None, description="Accepted without effect; 'info' says so.")


class Img2ImgAnswer(BaseModel):
    """The edits."""

    images: list[str] = Field(description="PNG in base64, each with its settings in it.")
    parameters: dict[str, Any] = Field(description="The request.")
    info: str = Field(
        description="JSON: seeds, prompts, infotexts, sizes; 'kept' is the share of each picture, 0 to 1, that is the "
        "input's own; 'notes' says what had no effect. With best_of or strength, for each picture: 'looked_at', the "
        "candidates with how much of the rest ('outside') and of what is meant ('inside') they changed, 0 to 255, and "
        "'cost', the work in edits."
    )
    maps: list[str | None] | None = Field(
        None,
        description="With include_map, one for each picture: a grey PNG in base64, white where the instruction means "
        "to change it; null without keep_rest.",
    )


class MapAnswer(BaseModel):
    """Where an edit would change its picture."""

    image: str = Field(description="A grey PNG in base64: white is where the instruction means to change the picture.")
    notes: list[str] = Field(description="What of the request had no effect, a sentence each.")


class PngInfo(BaseModel):
    """A picture whose settings are wanted."""

    image: str = Field(description="The picture in base64.")
