"""Runs AUTOMATIC1111's own checkpoint merger, in its folder and by its Python: `python merge_in_a1111.py JOBS.json`.

The jobs name a folder of data (its --data-dir), one of checkpoints (its --ckpt-dir), what its merge tab is asked for,
and a file for the answer: where the results lie, and what A1111 then shows of every checkpoint.
"""

import json
import sys
from pathlib import Path

asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
words = ["--data-dir", asked["data"], "--ckpt-dir", asked["checkpoints"], "--no-download-sd-model"]
sys.argv = ["webui.py", *words, "--skip-torch-cuda-test", "--use-cpu", "all", "--no-half", "--do-not-download-clip"]
sys.path.insert(0, str(Path.cwd()))

from modules import initialize  # noqa: E402 - it reads the arguments # pyright: ignore[reportAttributeAccessIssue]

initialize.imports()

from modules import extras, sd_models, sd_vae  # noqa: E402 # pyright: ignore[reportAttributeAccessIssue]

sd_models.list_models()
sd_vae.refresh_vae_list()
files = {}
for name, job in asked["jobs"].items():
    titles = {info.name_for_extra: info.title for info in sd_models.checkpoints_list.values()}
    models = [titles.get(job.get(which), "") for which in ("a", "b", "c")]
    how = [job["method"], job["multiplier"], job["half"], name, "safetensors", 0, "None", "", True, True, True, "{}"]
    *_, told = extras.run_modelmerger("task", *models, *how)
    files[name] = told.removeprefix("Checkpoint saved to ")
sd_models.list_models()
shown = {info.name: info.metadata for info in sd_models.checkpoints_list.values()}
Path(asked["answer"]).write_text(json.dumps({"files": files, "shown": shown}), encoding="utf-8")
