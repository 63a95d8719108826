"""Runs AUTOMATIC1111's own checkpoint merger, in its folder and by its Python: `python merge_in_a1111.py JOB.json`.

The job names a folder of data (which becomes its --data-dir), one of checkpoints (its --ckpt-dir), and what its merge
tab is asked for. The result lies among the checkpoints, under the name that it prints.
"""

import json
import os
import sys
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
words = ["--data-dir", job["data"], "--ckpt-dir", job["checkpoints"], "--no-download-sd-model"]
sys.argv = ["webui.py", *words, "--skip-torch-cuda-test", "--use-cpu", "all", "--no-half", "--do-not-download-clip"]
sys.path.insert(0, os.getcwd())

from modules import initialize  # noqa: E402 - it reads the arguments

initialize.imports()

from modules import extras, sd_models, sd_vae  # noqa: E402

sd_models.list_models()
sd_vae.refresh_vae_list()
titles = {info.name_for_extra: info.title for info in sd_models.checkpoints_list.values()}
*_, told = extras.run_modelmerger(
    "task",
    *(titles.get(job.get(name), "") for name in ("a", "b", "c")),
    job["method"],
    job["multiplier"],
    job["half"],
    job["name"],
    "safetensors",
    0,
    "None",
    "",
    True,
    True,
    True,
    "{}",
)
print(told)
written = Path(told.removeprefix("Checkpoint saved to "))
sd_models.list_models()
shown = next(info.metadata for info in sd_models.checkpoints_list.values() if info.filename == str(written))
Path(job["answer"]).write_text(json.dumps({"file": str(written), "metadata": shown}), encoding="utf-8")
