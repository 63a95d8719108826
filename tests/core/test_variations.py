"""Variations: one instruction that stands for several."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_pix2pix.engine.edit import resolved
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.prompts import parse_attention
from instruct_pix2pix.settings import EditSettings
from instruct_pix2pix.variations import MOST_VARIATIONS, variations


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("make it {watercolor|ukiyo-e|charcoal}", ["make it watercolor", "make it ukiyo-e", "make it charcoal"]),
        ("{a|b} {1|2}", ["a 1", "a 2", "b 1", "b 2"]),
        ("{a|b {c|d}} e", ["a e", "b c e", "b d e"]),
        ("a {|very }big cat", ["a big cat", "a very big cat"]),
        ("{a|a|b}", ["a", "b"]),
        ("{a|}|b", ["a|b", "|b"]),
        ("make it winter", ["make it winter"]),
        ("a {plain} brace", ["a {plain} brace"]),
        ("{x {a|b}}", ["{x a}", "{x b}"]),
        ("[cat|dog] in turns, as ever", ["[cat|dog] in turns, as ever"]),
        ("{open|never closed", ["{open|never closed"]),
        ("closed}|{", ["closed}|{"]),
        (r"\{a|b\}", [r"\{a|b\}"]),
        (r"{a\|b|c}", [r"a\|b", "c"]),
        (r"{a\}|b}", [r"a\}", "b"]),
        (r"\\{a|b}", [r"\\a", r"\\b"]),
        ("{a|b}\\", ["a\\", "b\\"]),
        ("", [""]),
    ],
)
def test_what_a_text_stands_for(text: str, meant: list[str]) -> None:
    assert list(variations(text)) == meant


def test_an_escaped_brace_is_a_brace_in_the_prompt() -> None:
    assert parse_attention(r"\{a\|b\}") == [("{a|b}", 1.0)]


def test_too_many_are_refused_at_once() -> None:
    for text in ("{a|b}" * 5000, "{" + "|".join(map(str, range(MOST_VARIATIONS + 1))) + "}"):
        with pytest.raises(UserError, match="stands for more than 100 others"):
            variations(text)
    assert len(variations("{" + "|".join(map(str, range(MOST_VARIATIONS))) + "}")) == MOST_VARIATIONS


def test_no_text_takes_long_or_deep_recursion() -> None:
    assert variations("{" * 5000 + "a|b" + "}" * 5000)
    assert variations("{a|b" + "\\{|" * 3000)


@given(st.text(alphabet="{}|\\ab", max_size=30))
def test_any_text_has_variations_and_they_are_final(text: str) -> None:
    try:
        found = variations(text)
    except UserError:
        return
    assert 1 <= len(found) <= MOST_VARIATIONS and len(set(found)) == len(found)
    if "|" not in text or "{" not in text:
        assert found == (text,)


def test_each_variation_has_each_seed() -> None:
    settings = EditSettings("make it {winter|summer}", seed=2**32 - 1, count=2)
    assert settings.results == 4
    made = [(one.instruction, one.seed) for one in settings.pictures()]
    assert made == [
        ("make it winter", 2**32 - 1),
        ("make it winter", 0),
        ("make it summer", 2**32 - 1),
        ("make it summer", 0),
    ]
    drawn = [one.seed for one in replace(settings, seed=-1).pictures()]
    assert drawn[:2] == drawn[2:] and drawn[0] != drawn[1]


def test_a_mistake_in_any_variation_is_found_before_the_edit() -> None:
    with pytest.raises(UserError):
        resolved(EditSettings("make it {winter|summer <lora:x:nan>}"))
