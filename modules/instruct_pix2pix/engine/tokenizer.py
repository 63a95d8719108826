"""CLIP's tokenizer: text to byte-pair token ids, built on the `tokenizers` library."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib import resources

from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

FULL_VOCAB_SIZE = 49408
"""Tokens of CLIP: 256 bytes, 256 bytes that end a word, 48,894 merges, BOS and EOS."""

_END_OF_WORD = "</w>"
# English contractions, runs of letters, single digits, runs of anything else but white space
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def byte_alphabet() -> list[str]:
    """Return the printable stand-ins of all 256 bytes, in the order of CLIP's first 256 token ids.

    Printable bytes stand for themselves and come first; the others are shown as the code points from 256 on (GPT-2's
    byte alphabet).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


@lru_cache(maxsize=1)
def merges() -> tuple[tuple[str, str], ...]:
    """Return CLIP's 48,894 merges, the most frequent first."""
    packed = resources.files("instruct_pix2pix").joinpath("data/clip_bpe.txt.gz").read_bytes()
    pairs = (line.split(" ") for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return tuple((left, right) for left, right in pairs)


@lru_cache(maxsize=4)
def _pipeline(vocab_size: int) -> Pipeline:
    pairs = merges()[: vocab_size - 514]
    alphabet = byte_alphabet()
    words = [*alphabet, *(c + _END_OF_WORD for c in alphabet), *(left + right for left, right in pairs)]
    bpe = models.BPE(
        vocab={word: n for n, word in enumerate(words)},
        merges=list(pairs),
        end_of_word_suffix=_END_OF_WORD,
    )
    pipeline = Pipeline(bpe)
    pipeline.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return pipeline


class Tokenizer:
    """CLIP's vocabulary, or a prefix of it for a smaller model.

    A model with `vocab_size` tokens knows the first `vocab_size - 514` merges; its last two ids are BOS and EOS. Text
    is never read as BOS or EOS: `<|endoftext|>` in a prompt is punctuation and letters.
    """

    def __init__(self, vocab_size: int = FULL_VOCAB_SIZE) -> None:
        """Build the tokenizer. Raises ValueError for a `vocab_size` outside 514..49408."""
        if not 514 <= vocab_size <= FULL_VOCAB_SIZE:
            raise ValueError(f"a CLIP vocabulary has 514 to {FULL_VOCAB_SIZE} tokens, not {vocab_size}")
        self._size = vocab_size
        self._pipeline = _pipeline(vocab_size)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, BOS and EOS included."""
        return self._size

    @property
    def bos(self) -> int:
        """Id of the token that begins a text."""
        return self._size - 2

    @property
    def eos(self) -> int:
        """Id of the token that ends a text."""
        return self._size - 1

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, each in 0..vocab_size-3, without BOS and EOS."""
        valid = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no UTF-8 bytes
        return self._pipeline.encode(valid, add_special_tokens=False).ids

    def count(self, text: str) -> int:
        """Return how many tokens `text` takes, BOS and EOS not counted."""
        return len(self.encode(text))
