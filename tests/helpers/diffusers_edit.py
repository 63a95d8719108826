"""diffusers' pipeline with the weights and the words of a model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.tokenizer import byte_alphabet, merges
from tools.reference_networks import diffusers_pipeline


def pipeline(model: EditModel, folder: Path) -> Any:
    """Return diffusers' pipeline with the weights of `model`, and a CLIP tokenizer of its vocabulary."""
    pytest.importorskip("diffusers")
    from transformers import CLIPTokenizer

    size = model.config.text.vocab_size
    pairs = merges()[: size - 514]
    words = [*byte_alphabet(), *(c + "</w>" for c in byte_alphabet()), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == size
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    return diffusers_pipeline(model, tokenizer)
