"""Prompts become embeddings: chunks of 75 tokens, weights, AND parts and step schedules."""

from __future__ import annotations

import pytest
import torch

from instruct_pix2pix.engine.text import PromptEncoder, encode_prompt, encode_schedule
from instruct_pix2pix.engine.tokenizer import Tokenizer
from instruct_pix2pix.errors import UserError

transformers = pytest.importorskip("transformers")

BOS, EOS = 49406, 49407
CAT, DOG, COMMA = 2368, 1929, 267  # CLIP's ids of 'cat', 'dog' and ',' at the end of a word


@pytest.fixture(scope="module")
def clip():
    """Return a small CLIP text model of transformers with random weights, as a function of token ids."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, eos_token_id=EOS
    )
    model = transformers.CLIPTextModel(config).eval()
    # as trained models have it, so that the mean that emphasis restores is not near zero
    final_norm = next(m for name, m in model.named_modules() if name.endswith("final_layer_norm"))
    torch.nn.init.uniform_(final_norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(final_norm.bias, 0.1, 0.4)

    @torch.no_grad()
    def encode(tokens):
        return model(input_ids=tokens).last_hidden_state

    return encode


@pytest.fixture
def encoder(clip):
    return PromptEncoder(Tokenizer(), clip)


class Counting:
    """A text encoder that remembers the token batches it was given."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.batches = []

    def __call__(self, tokens):
        self.batches.append(tokens.tolist())
        return self.encoder(tokens)


def words(chunk):
    """Return the tokens between BOS and the first EOS."""
    assert len(chunk.tokens) == len(chunk.weights) == 77
    assert chunk.tokens[0] == BOS
    return list(chunk.tokens[1 : chunk.tokens.index(EOS)])


# --- chunks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, [0]), (1, [1]), (74, [74]), (75, [75]), (76, [75, 1]), (150, [75, 75]), (200, [75, 75, 50])],
)
def test_a_long_prompt_fills_chunks_of_75_tokens(encoder, count, sizes):
    chunks = encoder.chunks("cat " * count)
    assert [words(chunk) for chunk in chunks] == [[CAT] * n for n in sizes]
    assert encoder.encode("cat " * count).shape == (1, 77 * len(sizes), 16)


def test_a_short_prompt_is_padded_with_eos_as_sd1_has_it(encoder):
    (chunk,) = encoder.chunks("cat dog")
    assert chunk.tokens == (BOS, CAT, DOG, *[EOS] * 74)
    assert chunk.weights == (1.0,) * 77
    (full,) = encoder.chunks("cat " * 75)
    assert full.tokens == (BOS, *[CAT] * 75, EOS)


@pytest.mark.parametrize(
    ("before", "after", "sizes"),
    [
        (55, 25, [56, 25]),  # the comma is the 20th token from the end: the 19 after it move on
        (54, 25, [75, 5]),  # one further away: the phrase is cut
        (74, 5, [75, 5]),  # the comma is the last token: nothing to move
        (75, 5, [75, 6]),  # the comma does not fit any more: it begins the next chunk
        (70, 4, [75]),  # exactly full: nothing follows, nothing moves
    ],
)
def test_the_words_after_a_comma_near_the_end_of_a_chunk_move_on_together(encoder, before, after, sizes):
    text = "cat " * before + ", " + "dog " * after
    chunks = [words(chunk) for chunk in encoder.chunks(text)]
    assert [len(chunk) for chunk in chunks] == sizes
    assert [token for chunk in chunks for token in chunk] == [CAT] * before + [COMMA] + [DOG] * after


def test_weights_move_on_with_their_words(encoder):
    first, second = encoder.chunks("cat " * 60 + ", " + "(" + "dog " * 20 + ":1.5)")
    assert first.weights == (1.0,) * 77
    assert second.weights == (1.0, *[1.5] * 20, *[1.0] * 56)
    assert words(second) == [DOG] * 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat BREAK dog", [[CAT], [DOG]]),
        ("cat, BREAK dog", [[CAT, COMMA], [DOG]]),
        ("BREAK dog", [[], [DOG]]),
        ("cat BREAK", [[CAT]]),
        ("cat BREAK BREAK dog", [[CAT], [], [DOG]]),
        ("(cat:1.2) BREAK (dog:1.3)", [[CAT], [DOG]]),
        ("cat " * 76 + "BREAK dog", [[CAT] * 75, [CAT], [DOG]]),
    ],
)
def test_break_begins_a_new_chunk(encoder, text, expected):
    assert [words(chunk) for chunk in encoder.chunks(text)] == expected


def test_a_comma_before_break_is_forgotten(encoder):
    chunks = encoder.chunks("cat " * 60 + ", BREAK " + "dog " * 76)
    assert [len(words(chunk)) for chunk in chunks] == [61, 75, 1]


# --- embeddings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "make it snow, at night", "turn the cat into a dog"])
def test_an_unweighted_prompt_is_what_transformers_gives(encoder, clip, text):
    ids = [BOS, *Tokenizer().encode(text), EOS]
    expected = clip(torch.tensor([ids + [EOS] * (77 - len(ids))]))
    assert torch.equal(encoder.encode(text), expected)


def test_all_chunks_are_encoded_in_one_batch_and_joined_in_order(clip):
    counting = Counting(clip)
    result = PromptEncoder(Tokenizer(), counting).encode("cat " * 75 + "dog")
    rows = [[BOS, *[CAT] * 75, EOS], [BOS, DOG, *[EOS] * 75]]
    assert counting.batches == [rows]
    expected = torch.cat([clip(torch.tensor([row])) for row in rows], dim=1)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_weights_scale_their_tokens_and_keep_the_mean(encoder, clip):
    # by hand, from the definition: token 2 is 'dog' with weight 1.5, then the mean is put back
    plain = clip(torch.tensor([[BOS, CAT, DOG, *[EOS] * 74]]))
    by_hand = plain.clone()
    by_hand[0, 2] *= 1.5
    by_hand *= plain.mean() / by_hand.mean()
    result = encoder.encode("cat (dog:1.5)")
    torch.testing.assert_close(result, by_hand)
    torch.testing.assert_close(result.mean(), plain.mean())
    assert not torch.allclose(result, plain, atol=1e-3)


def test_the_mean_is_kept_chunk_by_chunk(encoder, clip):
    plain = clip(torch.tensor([[BOS, CAT, *[EOS] * 75], [BOS, DOG, *[EOS] * 75]]))
    result = encoder.encode("cat BREAK (dog:0.2)")
    assert torch.equal(result[0, :77], plain[0])  # the chunk without weights is untouched
    by_hand = plain[1].clone()
    by_hand[1] *= 0.2
    torch.testing.assert_close(result[0, 77:], by_hand * (plain[1].mean() / by_hand.mean()))


def test_half_precision_stays_half_precision(clip):
    encoder = PromptEncoder(Tokenizer(), lambda tokens: clip(tokens).half())
    assert encoder.encode("a (cat:1.3)").dtype == torch.float16


def test_a_prompt_with_endless_weights_is_refused_in_words(encoder):
    with pytest.raises(UserError, match="weights in the prompt"):
        encoder.encode("(" * 9000 + "cat" + ")" * 9000)
    with pytest.raises(UserError, match="weights in the prompt"):
        encoder.encode("(" * 60 + "cat" + ":10)" * 60)


# --- AND and schedules -------------------------------------------------------------------------------


def test_and_makes_one_weighted_prompt_for_each_part(encoder):
    first, second = encode_prompt(encoder, "cat :1.2 AND a dog :-0.5", steps=20)
    assert (first.weight, second.weight) == (1.2, -0.5)
    assert [until for until, _ in first.schedule] == [20]
    assert torch.equal(first.schedule[0][1], encoder.encode("cat"))
    assert torch.equal(second.schedule[0][1], encoder.encode("a dog"))


def test_a_schedule_holds_each_text_until_its_step(encoder):
    (prompt,) = encode_prompt(encoder, "[cat:dog:0.25] on grass", steps=20)
    (first_until, first), (second_until, second) = prompt.schedule
    assert (first_until, second_until, prompt.weight) == (5, 20, 1.0)
    assert torch.equal(first, encoder.encode("cat on grass"))
    assert torch.equal(second, encoder.encode("dog on grass"))


def test_every_distinct_text_is_encoded_once(clip):
    counting = Counting(clip)
    encoder = PromptEncoder(Tokenizer(), counting)
    prompts = encode_prompt(encoder, "[cat|dog] AND dog AND[cat|dog]", steps=10)
    assert [len(prompt.schedule) for prompt in prompts] == [10, 1, 10]
    tokens = [batch[0][1:4] for batch in counting.batches]
    assert sorted(tokens) == sorted([[CAT, EOS, EOS], [DOG, EOS, EOS]])


def test_a_negative_prompt_follows_its_schedule_but_knows_no_and(encoder):
    prompt = encode_schedule(encoder, "[cat:dog:3] AND snow :2", steps=9)
    assert [until for until, _ in prompt.schedule] == [3, 9]
    assert prompt.weight == 1.0
    assert torch.equal(prompt.schedule[0][1], encoder.encode("cat AND snow :2"))
    assert torch.equal(prompt.schedule[1][1], encoder.encode("dog AND snow :2"))


def test_an_empty_prompt_is_one_chunk_for_all_steps(encoder):
    (prompt,) = encode_prompt(encoder, "", steps=20)
    ((until, embedding),) = prompt.schedule
    assert until == 20
    assert embedding.shape == (1, 77, 16)
