"""The tokenizer gives the token ids of Hugging Face's CLIPTokenizer, for the full vocabulary and a prefix."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_pix2pix.engine.tokenizer import Tokenizer, byte_alphabet, merges

transformers = pytest.importorskip("transformers")

TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "Make It SNOW",
    "turn him into a cyborg, make it night; add (a) [red] hat!",
    "don't they're I'VE we'll she'd it's 'em rock'n'roll '' ''s",
    "1234 3.14 2x4 1,000,000 ½ ² \uff11\uff12",
    "supercalifragilisticexpialidocious" * 5,
    "x" * 300,
    "Ünïcode é e\u0301 ß ﬁ İstanbul ΑΣ Σ",
    "😀 👩‍👩‍👧 🇫🇷 ❤️ 🐈‍⬛",
    "日本語 漢字 한국어 العربية हिन्दी ไทย",
    "tab\tnew\nline\r\n  many   spaces  ",
    "\u00a0no-break \u3000wide \u200b zero \ufeff mark",
    "\x00\x01\x7f control",
    "<|x|> </w> a</w> ▁ Ġ",
    "!?,;:...--__~~ @#$%^&*()+={}|\\/\"'`<>",
    "https://example.org/a_b-c?d=e&f=%20",
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return a function that builds transformers' CLIPTokenizer for a vocabulary size from our data file."""

    def build(vocab_size: int):
        folder = tmp_path_factory.mktemp("clip")
        used = merges()[: vocab_size - 514]
        alphabet = byte_alphabet()
        words = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in used)]
        words += ["<|startoftext|>", "<|endoftext|>"]
        vocabulary = {word: n for n, word in enumerate(words)}
        assert len(vocabulary) == vocab_size
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in used), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        return transformers.CLIPTokenizer.from_pretrained(folder)

    return build


@pytest.fixture(scope="module")
def full(reference):
    return Tokenizer(), reference(49408)


def test_known_ids_of_clip(full):
    # "a photo of a cat" as every CLIP ViT-L/14 program tokenises it
    ours, _ = full
    assert [ours.bos, *ours.encode("a photo of a cat"), ours.eos] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ours.encode(",") == [267]


@pytest.mark.parametrize("text", TEXTS)
def test_agrees_with_transformers(full, text):
    ours, theirs = full
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.count(text) == len(ours.encode(text))


def test_bos_and_eos_are_those_of_transformers(full):
    ours, theirs = full
    assert (ours.bos, ours.eos, ours.vocab_size) == (theirs.bos_token_id, theirs.eos_token_id, 49408)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_agrees_with_transformers_on_any_text(full, text):
    ours, theirs = full
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("vocab_size", [514, 600, 8192])
def test_a_smaller_vocabulary_uses_the_first_merges(reference, vocab_size):
    ours, theirs = Tokenizer(vocab_size), reference(vocab_size)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert all(0 <= n < ours.bos for n in ids)
    assert (ours.bos, ours.eos) == (vocab_size - 2, vocab_size - 1)


def test_the_names_of_special_tokens_in_a_prompt_stay_text():
    tokenizer = Tokenizer()
    ids = tokenizer.encode("<|startoftext|> a <|endoftext|>")
    assert tokenizer.bos not in ids
    assert tokenizer.eos not in ids


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark():
    # what Python makes of a command line argument that is not valid UTF-8
    tokenizer = Tokenizer()
    assert tokenizer.encode("a \udcff b") == tokenizer.encode("a ? b")


@pytest.mark.parametrize("vocab_size", [0, 513, 49409])
def test_an_impossible_vocabulary_size_is_refused(vocab_size):
    with pytest.raises(ValueError, match="514"):
        Tokenizer(vocab_size)


def test_the_vocabulary_file_is_packed_without_a_date(pytestconfig):
    packed = (pytestconfig.rootpath / "modules/instruct_pix2pix/data/clip_bpe.txt.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # RFC 1952: the time field of the header
    assert len(gzip.decompress(packed).decode("utf-8").splitlines()) == 49152 - 256 - 2
