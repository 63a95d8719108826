"""Files that are made to keep a reader busy are refused at once, and the list of models comes in spite of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models import tensor_pickle
from instruct_pix2pix.models.checkpoints import inspect
from instruct_pix2pix.models.weights_files import read_weights
from tests.helpers.hostile_files import HOSTILE, legacy_pickle, raw_zip
from tests.helpers.programs import in_child

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs pipes, and Linux's accounts")

LIST = """
import json, resource, sys
from pathlib import Path
from instruct_pix2pix.models.registry import find_models
resource.setrlimit(resource.RLIMIT_AS, (700_000_000, 700_000_000))
told = {entry.name: entry.problem for entry in find_models([Path(sys.argv[1])])}
read = int(Path("/proc/self/io").read_text().split()[1])
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps([told, peak, read]))
"""


def test_a_folder_of_hostile_files_is_listed_in_little_memory(tmp_path):
    for name, write in HOSTILE.items():
        write(tmp_path / name)
    told, peak, read = json.loads(in_child(LIST, tmp_path))
    assert len(told) == len(HOSTILE) + 1  # the demo model
    assert told.pop("demo") is None
    assert all(problem and problem.endswith(".") for problem in told.values())
    assert peak < 300_000  # KiB
    assert read < 17_000_000 * len(HOSTILE)


def test_a_pickle_may_have_so_many_instructions_and_no_more(tmp_path):
    for write in (raw_zip, legacy_pickle):
        # besides: the protocol, an empty dict and the end
        write(tmp_path / "a.ckpt", b"}" + b"N0" * (tensor_pickle.MOST_INSTRUCTIONS // 2 - 2) + b".")
        with pytest.raises(UserError, match=r"no named tensors|not a checkpoint"):
            inspect(tmp_path / "a.ckpt")
        write(tmp_path / "b.ckpt", b"}" + b"N0" * (tensor_pickle.MOST_INSTRUCTIONS // 2) + b".")
        with pytest.raises(UserError, match="more than 500,000 instructions"):
            inspect(tmp_path / "b.ckpt")


def test_a_trainers_table_of_words_in_the_metadata_does_not_count_as_tensors(tmp_path):
    """kohya's ss_tag_frequency: as a text, megabytes long for large data sets."""
    table = json.dumps({"pictures": {f"tag number {i}": i for i in range(150_000)}})
    save_file({"a.lora_down.weight": torch.zeros(4, 4)}, tmp_path / "a.safetensors", {"ss_tag_frequency": table})
    assert inspect(tmp_path / "a.safetensors").kind == "LoRA"


def test_a_folder_beside_the_parts_of_a_model_is_not_looked_into(tmp_path):
    """What lies in safety_checker/ has no part in an edit, and nothing wrong there prevents one."""
    part = tmp_path / "unet"
    part.mkdir()
    save_file({"conv_in.weight": torch.zeros(320, 4, 3, 3)}, part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "safety_checker").mkdir()
    (tmp_path / "safety_checker" / "model.safetensors.index.json").write_text("damaged")
    assert inspect(tmp_path).kind == "Stable Diffusion"


def test_the_hash_of_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        told = in_child(
            "import sys; from pathlib import Path; from instruct_pix2pix.models.registry import model_hash\n"
            "try: print(model_hash(Path(sys.argv[1])))\n"
            "except Exception as error: print(error)",
            path,
        )
        assert told == f"'{path.name}' is not a file.\n"


def test_folders_and_links_that_lead_nowhere_in_place_of_files_are_told(tmp_path):
    unet = tmp_path / "unet"
    unet.mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    file = unet / "diffusion_pytorch_model.safetensors"
    for make in (
        file.mkdir,
        lambda: file.symlink_to(file),
        lambda: file.symlink_to(tmp_path / "nothing"),
        lambda: os.mkfifo(file),
    ):
        make()
        with pytest.raises(UserError, match="folder without a model"):
            inspect(tmp_path)
        file.rmdir() if file.is_dir() else file.unlink()
    unet.rmdir()
    unet.symlink_to(tmp_path)
    with pytest.raises(UserError, match="folder without a model"):
        inspect(tmp_path)


def test_files_that_are_changed_at_random_are_answered_in_little_memory(tmp_path):
    """Each format, with bytes changed, pieces doubled, taken out and put elsewhere."""
    whole: list[bytes] = []
    for name, write in HOSTILE.items():
        if name in ("same-dict.ckpt", "colliding-memo.ckpt"):
            write(tmp_path / "x")
            whole.append((tmp_path / "x").read_bytes()[:3_000])
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 8, 3, 3), "b": torch.ones(3)}
    save_file(tensors, tmp_path / "x")
    whole.append((tmp_path / "x").read_bytes())
    for new in (True, False):
        torch.save({"state_dict": tensors}, tmp_path / "x", _use_new_zipfile_serialization=new)
        whole.append((tmp_path / "x").read_bytes())
    dice, path, answered = random.Random(5), tmp_path / "y", 0
    for _ in range(400):
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randint(1, 4)):
            here, there, size = dice.randrange(len(data)), dice.randrange(len(data)), dice.randint(1, 64)
            match dice.randrange(4):
                case 0:
                    data[here] = dice.randrange(256)
                case 1:
                    data[here:here] = data[there : there + size]
                case 2:
                    del data[here : here + size]
                    data += b"\0" * size
                case _:
                    data[here : here + size] = data[there : there + size]
        path.write_bytes(data)
        try:
            inspect(path)
            answered += 1
            for tensor in read_weights(path).values():
                assert tensor.nbytes <= len(data)
        except UserError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
    assert 0 < answered < 400
