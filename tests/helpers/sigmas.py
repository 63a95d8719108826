"""Lists of sigmas for names as a person writes them: resolved as at a door, then made as by the engine."""

from torch import Tensor

from instruct_pix2pix.engine.edit import resolved
from instruct_pix2pix.engine.sampling import schedules
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import NoiseLevels
from instruct_pix2pix.settings import EditSettings


def get_sigmas(schedule: str, steps: int, levels: NoiseLevels, sampler: str) -> Tensor:
    settings = resolved(EditSettings(sampler=sampler, schedule=schedule))
    return schedules.get_sigmas(settings.schedule, steps, levels, SAMPLERS[settings.sampler])
