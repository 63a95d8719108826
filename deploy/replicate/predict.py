"""What Replicate runs: up to 4 edits of a picture. Written by write_predict.py: change that."""

from cog import BaseRunner, Input, Path
from prediction import Editor


class Runner(BaseRunner):
    """The model in memory, and what it is asked."""

    def setup(self) -> None:
        """Load the model."""
        self.editor = Editor.load()

    def run(
        self,
        image: Path = Input(description="The picture to edit."),
        instruction: str = Input(description="What to change, as you would tell a person."),
        negative: str = Input(default="", description="What the result should not look like; stands in for the empty text."),
        text_cfg: float | None = Input(default=None, description="How strongly the instruction is followed: higher changes more. Left out: 7.5, or what suits the model.", ge=1.0, le=30.0),
        image_cfg: float | None = Input(default=None, description="How closely the input picture is kept: higher changes less. Left out: 1.5, or what suits the model.", ge=0.0, le=5.0),
        steps: int | None = Input(default=None, description="Sampling steps: 20 to 30 suit most edits; time grows with them. Left out: 20, or what suits the model.", ge=1, le=150),
        sampler: str = Input(default="Euler a", description="The rule that takes each step from noise to picture.", choices=["Euler a", "Euler", "Heun", "DPM2", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE", "LMS", "DDIM", "UniPC", "LCM"]),
        schedule: str = Input(default="Automatic", description="How the noise levels are spaced; Automatic takes the sampler's own.", choices=["Automatic", "Uniform", "Karras", "Exponential", "SGM Uniform", "Simple"]),
        seed: int = Input(default=-1, description="The same seed gives the same edit; -1 draws a new one.", ge=-1, le=4294967295),
        count: int = Input(default=1, description="How many edits to make, each with the next seed.", ge=1, le=4),
        batch_size: int = Input(default=1, description="How many edits are computed together: faster on a large GPU, more memory.", ge=1, le=4),
        rescale: float = Input(default=0.0, description="Tames washed-out or burnt colours at high Text CFG; 0 is off.", ge=0.0, le=1.0),
        denoise: float = Input(default=1.0, description="1 starts from pure noise, as in the paper; lower starts from the noised input.", ge=0.0, le=1.0),
        size: str = Input(default="auto", description="Size at which the edit is computed: auto, the longest side (512), or width x height (512x768); sides from 64 to 4096."),
        randomize_cfg: str = Input(default="off", description="Draws one scale or both for each picture, from its seed: up to a fifth below or above what is set.", choices=["off", "text", "image", "both"]),
        speed: str = Input(default="exact", description="exact is the guidance as published; balanced and fast evaluate less and differ a little.", choices=["exact", "balanced", "fast"]),
        vae: str = Input(default="automatic", description="What turns latents into pictures: automatic is the model's own; else a name, or taesd, small and fast."),
        keep_rest: str = Input(default="off", description="Leaves as it was what the instruction does not mean. automatic: except in edits of the whole picture, such as 'make it winter'; always: in every edit.", choices=["off", "automatic", "always"]),
        keep_amount: float = Input(default=0.5, description="How much of the picture is kept when the rest is: higher keeps more.", ge=0.0, le=1.0),
        result_size: str = Input(default="auto", description="Size of the finished picture: own is the input's, model that of the edit, a number the longest side; auto is own where the input is larger."),
        zoom: bool = Input(default=False, description="Where edit or mask cover a small part, edits that part at the model's full size and puts it back."),
        apg_eta: float = Input(default=1.0, description="Against burnt colours at high Text CFG: the share of the guidance along the picture itself; 1 is off.", ge=0.0, le=1.0),
        apg_threshold: float = Input(default=0.0, description="Against burnt colours at high Text CFG: the most that the guidance may weigh, usually 15; 0 is off.", ge=0.0, le=1000.0),
        apg_momentum: float = Input(default=0.0, description="How much of the last step's guidance is added to this one's, usually -0.5; 0 is off.", ge=-1.0, le=1.0),
        no_text: str = Input(default="empty", description="What SDXL models take for no text, without a negative prompt: empty, as they were trained, or zeros, as diffusers does it.", choices=["empty", "zeros"]),
        guidance: str = Input(default="instruct-pix2pix", description="How the two scales act: as in InstructPix2Pix, or as InstructDiffusion's checkpoint needs it, which looks the same.", choices=["instruct-pix2pix", "instruct-diffusion"]),
        best_of: int = Input(default=1, description="How many seeds to begin for each result; the one that leaves the rest as it was is finished. Keeps the rest.", ge=1, le=16),
        strength: str = Input(default="", description="subtle, normal, strong, or 0 to 1: finds Text CFG and Image CFG itself. Keeps the rest."),
        mask: Path | None = Input(default=None, description="White is edited, black is kept as it is."),
        output_format: str = Input(default="png", description="Format of the results.", choices=["png", "jpg", "webp"]),
    ) -> list[Path]:
        """Edit a picture; the files go with the next prediction."""
        values = {
            "instruction": instruction,
            "negative": negative,
            "text_cfg": text_cfg,
            "image_cfg": image_cfg,
            "steps": steps,
            "sampler": sampler,
            "schedule": schedule,
            "seed": seed,
            "count": count,
            "batch_size": batch_size,
            "rescale": rescale,
            "denoise": denoise,
            "size": size,
            "randomize_cfg": randomize_cfg,
            "speed": speed,
            "vae": vae,
            "keep_rest": keep_rest,
            "keep_amount": keep_amount,
            "result_size": result_size,
            "zoom": zoom,
            "apg_eta": apg_eta,
            "apg_threshold": apg_threshold,
            "apg_momentum": apg_momentum,
            "no_text": no_text,
            "guidance": guidance,
            "best_of": best_of,
            "strength": strength,
        }
        found = self.editor.edit(image, mask, output_format, values)
        return [Path(file) for file in found]
