"""In each real host: on a checkpoint that does not edit, the extension is as good as absent."""

from __future__ import annotations

import statistics

import numpy as np

from tests.hosts import checkpoints
from tests.hosts.conftest import Record
from tests.hosts.running import Host, picture

JOBS = 6


def test_pictures_of_a_plain_checkpoint_are_the_same_bits_without_the_extension(
    host: Host, bare: Host, record: Record
) -> None:
    assert "Instruct Pix2Pix".lower() not in bare.get("scripts")["img2img"]
    assert "Instruct Pix2Pix".lower() in host.get("scripts")["img2img"]
    pictures: dict[str, list[bytes]] = {}
    seconds: dict[str, list[float]] = {}
    both = {"with": host, "without": bare}
    for one in both.values():
        one.select(checkpoints.PLAIN)
        one.job(denoising_strength=0.6)  # the first job after a switch is the host's own business
    for _ in range(JOBS):
        for name, one in both.items():
            answer = one.job(denoising_strength=0.6)
            pictures.setdefault(name, []).append(answer.picture.tobytes())
            seconds.setdefault(name, []).append(answer.seconds)
    for name, one in both.items():
        pictures[name].append(one.job("txt2img").picture.tobytes())
    repeats = len(set(pictures["without"][:JOBS])) == 1  # ersatzForge draws its latents anew, alone too
    compared = slice(None) if repeats else slice(JOBS, None)
    assert pictures["with"][compared] == pictures["without"][compared]
    assert np.frombuffer(pictures["with"][0], np.uint8).std() > 1
    assert pictures["with"][0] != picture().tobytes()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    record("plain job, seconds with / without", round(medians["with"] / medians["without"], 3))
    host.records()
    answer = host.job(denoising_strength=0.6, alwayson_scripts={"Probe": {"args": ['{"time": true}']}})
    spent = host.records()[-1]["hooks_seconds"]
    record("plain job, share of our hooks", spent / answer.seconds)
    assert spent < 0.01 * answer.seconds
