"""The A1111 prompt language reads as it does in the AUTOMATIC1111 web UI.

The three tables hold what that program's own parser returned: modules/prompt_parser.py of
AUTOMATIC1111/stable-diffusion-webui at commit 28bd8e142d5f77b71ae8d7d7140b5da1b3a49906, with lark 1.1.2,
one prompt at a time, no hires steps, new scheduling.
"""

from __future__ import annotations

import time

import pytest

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.prompts import (
    for_host,
    lora_tags,
    negative_for_host,
    network_notes,
    parse_attention,
    schedule,
    split_and,
)

ATTENTION: list[tuple[str, list[tuple[str, float]]]] = [
    ("plain words", [("plain words", 1.0)]),
    ("a (wooden) boat", [("a ", 1.0), ("wooden", 1.1), (" boat", 1.0)]),
    ("(open", [("open", 1.1)]),
    ("\\(as is\\]", [("(as is]", 1.0)]),
    ("(two)(brackets)", [("twobrackets", 1.1)]),
    (
        "one (((boat:1.3)) [in] the (fog:0.5), oars, (((gulls)))!",
        [
            ("one ", 1.0),
            ("boat", 1.5730000000000004),
            (" ", 1.1),
            ("in", 1.0),
            (" the ", 1.1),
            ("fog", 0.55),
            (", oars, ", 1.1),
            ("gulls", 1.4641000000000006),
            ("!", 1.1),
        ],
    ),
    ("", [("", 1.0)]),
    ("()", [("", 1.0)]),
    ("[]", [("", 1.0)]),
    ("(:1.5)", [("", 1.0)]),
    ("( )", [(" ", 1.1)]),
    ("a)", [("a)", 1.0)]),
    ("a]", [("a]", 1.0)]),
    ("a) (b", [("a) ", 1.0), ("b", 1.1)]),
    ("[a", [("a", 0.9090909090909091)]),
    ("[[a]", [("a", 0.8264462809917354)]),
    ("[a]]b", [("a", 0.9090909090909091), ("]b", 1.0)]),
    ("((a)", [("a", 1.2100000000000002)]),
    ("((((a))))", [("a", 1.4641000000000006)]),
    ("[[[a]]]", [("a", 0.7513148009015777)]),
    ("[(a)]", [("a", 1.0)]),
    ("([a])", [("a", 1.0)]),
    ("(a:1.2", [("a:1.2", 1.1)]),
    ("(a:1.2))", [("a", 1.2), (")", 1.0)]),
    ("a:1.2)", [("a:1.2)", 1.0)]),
    ("(a : 1.2 )", [("a ", 1.2)]),
    ("(a:+1.2)", [("a", 1.2)]),
    ("(a:-0.5)", [("a", -0.5)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:2.)", [("a", 2.0)]),
    ("(a:0)", [("a", 0.0)]),
    ("(a:1)b", [("ab", 1.0)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("(a:1.2:1.3)", [("a:1.2", 1.3)]),
    ("(a:1.2 b)", [("a:1.2 b", 1.1)]),
    ("(a, (b:1.5), c:0.8)", [("a, ", 0.8), ("b", 1.2000000000000002), (", c", 0.8)]),
    ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.9090909090909091)]),
    ("[a (b] c)", [("a ", 0.9090909090909091), ("b", 1.0), (" c", 1.1)]),
    ("a\\\\b", [("a\\b", 1.0)]),
    ("\\", [("", 1.0)]),
    ("a\\", [("a", 1.0)]),
    ("\\\\(a)", [("\\", 1.0), ("a", 1.1)]),
    ("\\(a\\:1.2\\)", [("(a:1.2)", 1.0)]),
    ("(a\\))", [("a)", 1.1)]),
    ("(\\(a:1.1\\):1.4)", [("(a:1.1)", 1.4)]),
    ("a: b", [("a: b", 1.0)]),
    ("::", [("::", 1.0)]),
    ("a|b", [("a|b", 1.0)]),
    ("[a:b:3]", [("a:b:3", 0.9090909090909091)]),
    ("[a|(b:1.1)]", [("a|", 0.9090909090909091), ("b", 1.0)]),
    ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
    ("BREAK", [("", 1.0), ("BREAK", -1.0), ("", 1.0)]),
    ("a BREAK BREAK b", [("a", 1.0), ("BREAK", -1.0), ("", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
    ("a  BREAK\n b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
    ("aBREAKb", [("aBREAKb", 1.0)]),
    ("a,BREAK,b", [("a,", 1.0), ("BREAK", -1.0), (",b", 1.0)]),
    ("(a) BREAK [b]", [("a", 1.1), ("", 1.0), ("BREAK", -1.0), ("", 1.0), ("b", 0.9090909090909091)]),
    ("(a BREAK b:1.2)", [("a", 1.2), ("BREAK", -1.2), ("b", 1.2)]),
    ("BREAK a BREAK", [("", 1.0), ("BREAK", -1.0), ("a", 1.0), ("BREAK", -1.0), ("", 1.0)]),
    ("break", [("break", 1.0)]),
    ("a\n(b\nc:1.2)\n", [("a\n", 1.0), ("b\nc", 1.2), ("\n", 1.0)]),
    ("猫 (犬:1.2)", [("猫 ", 1.0), ("犬", 1.2)]),
    ("😀 (🐈)", [("😀 ", 1.0), ("🐈", 1.1)]),
    ("((a:1.1):1.1)", [("a", 1.2100000000000002)]),
    ("<lora:x:0.5> (a)", [("<lora:x:0.5> ", 1.0), ("a", 1.1)]),
    ("(a)(b:1.1)[c]", [("ab", 1.1), ("c", 0.9090909090909091)]),
    ("a AND (b:1.2)", [("a AND ", 1.0), ("b", 1.2)]),
]

SCHEDULE: list[tuple[str, int, list[tuple[int, str]]]] = [
    ("test", 10, [(10, "test")]),
    ("a [b:3]", 10, [(3, "a "), (10, "a b")]),
    ("a [b: 3]", 10, [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", 10, [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", 10, [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", 10, [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", 10, [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [open", 10, [(10, "a [open")]),
    ("a [b:.5] c", 10, [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", 10, [(10, "a [{b|d{:.5] c")]),
    ("((a][:b:c [d:3]", 10, [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", 4, [(1, "a"), (2, "(b:1.1)"), (3, "a"), (4, "(b:1.1)")]),
    ("[sea|]side", 4, [(1, "seaside"), (2, "side"), (3, "seaside"), (4, "side")]),
    ("[sea|||]side", 5, [(1, "seaside"), (2, "side"), (3, "side"), (4, "side"), (5, "seaside")]),
    ("[|a]", 3, [(1, ""), (2, "a"), (3, "")]),
    ("[|]", 2, [(1, ""), (2, "")]),
    ("", 10, [(10, "")]),
    (" ", 10, [(10, " ")]),
    ("[a:b:3]", 2, [(2, "a")]),
    ("[a:b:0.3]", 10, [(3, "a"), (10, "b")]),
    ("[a:b:0.25]", 10, [(2, "a"), (10, "b")]),
    ("[a:b:0.05]", 10, [(10, "b")]),
    ("[a:b:1.0]", 10, [(10, "a")]),
    ("[a:b:2.5]", 10, [(10, "a")]),
    ("[a:b:0]", 10, [(10, "b")]),
    ("[a:b:-1]", 10, [(10, "b")]),
    ("[a:b:-.5]", 10, [(10, "b")]),
    ("[a:b:+3]", 10, [(3, "a"), (10, "b")]),
    ("[a:b:3.]", 10, [(10, "a")]),
    ("[a:b:1e1]", 20, [(10, "a"), (20, "b")]),
    ("[a:b:5e-1]", 10, [(10, "b")]),
    ("[a:b:1.5e-1]", 20, [(3, "a"), (20, "b")]),
    ("[a:b:10]", 10, [(10, "a")]),
    ("[a:b:11]", 10, [(10, "a")]),
    ("[a:b: 3 ]", 10, [(3, "a"), (10, "b")]),
    ("[a::3]", 10, [(3, "a"), (10, "")]),
    ("[:b:3]", 10, [(3, ""), (10, "b")]),
    ("[::3]", 10, [(3, ""), (10, "")]),
    ("[:3]", 10, [(3, ""), (10, "")]),
    ("[ :3]", 10, [(3, ""), (10, " ")]),
    ("[3]", 10, [(10, "[3]")]),
    ("[a:3:4]", 10, [(4, "a"), (10, "3")]),
    ("[a:b]", 10, [(10, "[a:b]")]),
    ("[a:b:c]", 10, [(10, "[a:b:c]")]),
    ("[a:b:c:3]", 10, [(10, "[a:b:c:3]")]),
    ("[a:b:3 4]", 10, [(10, "[a:b:3 4]")]),
    ("[a:[b:c]:3]", 10, [(10, "[a:[b:c]:3]")]),
    ("[[a:b:2]:c:5]", 10, [(2, "a"), (5, "b"), (10, "c")]),
    ("[a:[b:c:7]:3]", 10, [(3, "a"), (7, "b"), (10, "c")]),
    ("[a:[b:c:2]:5]", 10, [(2, "a"), (5, "a"), (10, "c")]),
    ("[a:b:3] [c:d:6]", 10, [(3, "a c"), (6, "b c"), (10, "b d")]),
    ("[a:b:3] [c:d:3]", 10, [(3, "a c"), (10, "b d")]),
    ("([a:b:3]:1.2)", 10, [(3, "(a:1.2)"), (10, "(b:1.2)")]),
    ("[(a:1.2):(b:1.3):3]", 10, [(3, "(a:1.2)"), (10, "(b:1.3)")]),
    ("[(a:1.2:1.3):b:3]", 10, [(10, "[(a:1.2:1.3):b:3]")]),
    ("a\\:b [c:3]", 10, [(3, "a\\:b "), (10, "a\\:b c")]),
    ("[a\\:b:3]", 10, [(3, ""), (10, "a\\:b")]),
    ("\\[a:b:3\\]", 10, [(10, "\\[a:b:3\\]")]),
    ("[a:b:3\\]", 10, [(10, "[a:b:3\\]")]),
    ("[a\\]:3]", 10, [(3, ""), (10, "a\\]")]),
    ("a\\", 10, [(10, "a\\")]),
    ("[a:3]\\", 10, [(10, "[a:3]\\")]),
    ("[a:3] \\\n", 10, [(10, "[a:3] \\\n")]),
    ("(a|b)", 10, [(10, "(a|b)")]),
    ("a|b [c:3]", 10, [(10, "a|b [c:3]")]),
    ("a\\|b [c:3]", 10, [(3, "a\\|b "), (10, "a\\|b c")]),
    ("[a|b", 10, [(10, "[a|b")]),
    ("[a|b)", 10, [(10, "[a|b)")]),
    ("[a|b:3]", 10, [(10, "[a|b:3]")]),
    ("[a|b\\]", 10, [(10, "[a|b\\]")]),
    ("[x [a|b]", 3, [(1, "[x a"), (2, "[x b"), (3, "[x a")]),
    ("[[a|b]:c:2]", 4, [(1, "a"), (2, "b"), (3, "c"), (4, "c")]),
    ("[a:[b|c]:2]", 4, [(1, "a"), (2, "a"), (3, "b"), (4, "c")]),
    ("[a|[b|c]]", 4, [(1, "a"), (2, "c"), (3, "a"), (4, "c")]),
    ("[a|[b:c:2]]", 4, [(1, "a"), (2, "b"), (3, "a"), (4, "c")]),
    ("[a|b][c|d|e]", 4, [(1, "ac"), (2, "bd"), (3, "ae"), (4, "bc")]),
    ("[a|b] AND [c:d:2]", 4, [(1, "a AND c"), (2, "b AND c"), (3, "a AND d"), (4, "b AND d")]),
    ("([a|b", 2, [(2, "([a|b")]),
    ("(a [b:c:4] d", 10, [(4, "(a b d"), (10, "(a c d")]),
    ("a [b:c:4] d)", 10, [(4, "a b d)"), (10, "a c d)")]),
    ("[[a:b:4] b", 10, [(4, "[a b"), (10, "[b b")]),
    ("[x:[a:b:4] b", 10, [(4, "[x:a b"), (10, "[x:b b")]),
    ("a) [b:c:4] d", 10, [(4, "a) b d"), (10, "a) c d")]),
    (
        "a [road:river:0.25] by [a mill:the sea:0.75][ at dawn::0.6][: in rain:0.25] [flat:deep:0.5]",
        100,
        [
            (25, "a road by a mill at dawn flat"),
            (50, "a river by a mill at dawn in rain flat"),
            (60, "a river by a mill at dawn in rain deep"),
            (75, "a river by a mill in rain deep"),
            (100, "a river by the sea in rain deep"),
        ],
    ),
    ("a\n[b:\nc:3]\n", 10, [(3, "a\nb\n"), (10, "a\n\nc\n")]),
    ("[猫:犬:.5] 😀", 10, [(5, "猫 😀"), (10, "犬 😀")]),
    ("[a:b:.5]", 1, [(1, "b")]),
    ("[a|b]", 1, [(1, "a")]),
    ("<lora:x:0.5> [a:3]", 10, [(3, "<lora:x:0.5> "), (10, "<lora:x:0.5> a")]),
    ("BREAK [a BREAK:b:3]", 10, [(3, "BREAK a BREAK"), (10, "BREAK b")]),
]

AND: list[tuple[str, list[tuple[str, float]]]] = [
    ("a", [("a", 1.0)]),
    ("a AND b", [("a", 1.0), (" b", 1.0)]),
    ("a :1.2 AND b :0.5", [("a", 1.2), (" b", 0.5)]),
    ("a :-1 AND b:+.5", [("a", -1.0), (" b", 0.5)]),
    ("a\nAND\nb :0.3\n", [("a", 1.0), ("\nb", 0.3)]),
    ("a AND a :2", [("a", 1.0), (" a", 2.0)]),
    ("AND a:\uff11", [("", 1.0), (" a", 1.0)]),
    ("a:1.2.3", [("a:1.2.3", 1.0)]),
    ("a:b", [("a:b", 1.0)]),
    ("a:", [("a:", 1.0)]),
    ("a AND", [("a", 1.0), ("", 1.0)]),
    ("AND", [("", 1.0), ("", 1.0)]),
    ("AND b", [("", 1.0), (" b", 1.0)]),
    ("", [("", 1.0)]),
    ("  a  AND  b  ", [("  a", 1.0), ("  b", 1.0)]),
    ("aANDb", [("aANDb", 1.0)]),
    ("a and b", [("a and b", 1.0)]),
    ("a,AND,b", [("a,", 1.0), (",b", 1.0)]),
    ("a AND_b", [("a AND_b", 1.0)]),
    ("(a:1.2)", [("(a:1.2)", 1.0)]),
    ("(a:1.2) :0.8 AND b", [("(a:1.2)", 0.8), (" b", 1.0)]),
    ("a :1e3", [("a :1e3", 1.0)]),
    ("[a AND b:3]", [("[a", 1.0), (" b:3]", 1.0)]),
    ("a AND AND b", [("a", 1.0), ("", 1.0), (" b", 1.0)]),
    ("a :0 AND b", [("a", 0.0), (" b", 1.0)]),
    ("a :1 2", [("a :1 2", 1.0)]),
    ("猫 :0.5 AND 犬", [("猫", 0.5), (" 犬", 1.0)]),
]


@pytest.mark.parametrize(("text", "expected"), ATTENTION)
def test_attention_weights_are_those_of_a1111(text, expected):
    assert parse_attention(text) == expected


@pytest.mark.parametrize(("text", "steps", "expected"), SCHEDULE)
def test_step_schedules_are_those_of_a1111(text, steps, expected):
    assert schedule(text, steps) == expected


@pytest.mark.parametrize(("text", "expected"), AND)
def test_and_parts_are_those_of_a1111(text, expected):
    assert split_and(text) == expected


@pytest.mark.parametrize("text", ["(a:1.2.3)", "(a:.)", "(a:1..5)", "(a:-.)"])
def test_a_weight_that_is_no_number_is_text_in_an_ordinary_bracket(text):
    # A1111 stops with a Python error here
    assert parse_attention(text) == [(text[1:-1], 1.1)]


@pytest.mark.parametrize("when", ["1e999", "9" * 400, "1.5e999"])
def test_a_change_after_an_endless_number_of_steps_never_happens(when):
    # A1111 stops with a Python error here
    assert schedule(f"[a:b:{when}]", 10) == [(10, "a")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a:b:3]]", [(3, "a]"), (10, "b]")]),
        ("x [a:b:3](y", [(3, "x a(y"), (10, "x b(y")]),
        ("[a:b:3]: c", [(3, "a: c"), (10, "b: c")]),
        ("([a:b:3][y", [(3, "(a[y"), (10, "(b[y")]),
    ],
)
def test_a_schedule_beside_a_stray_bracket_is_still_a_schedule(text, expected):
    # A1111 reads these one way or the other, by the hash seed of its process
    assert schedule(text, 10) == expected


@pytest.mark.parametrize("weight", ["30", "-11", "9" * 400])
def test_an_and_weight_beyond_reason_is_refused_in_words(weight):
    with pytest.raises(UserError, match="weight of a sub-prompt"):
        split_and(f"a AND b :{weight}")


# --- plain English, which A1111 would misread ---


@pytest.mark.parametrize(
    "text",
    ["make the clock show 10:30", "crop it to 16:9", "write on the sign: 5", "make him older: 60", "a:2", "a : .5"],
)
def test_a_number_at_the_end_of_a_prompt_without_and_is_text(text):
    assert split_and(text) == [(text, 1.0)]


def test_a_time_or_a_ratio_is_text_beside_and_too():
    assert split_and("a clock at 10:30 AND a 16:9 frame :0.5") == [("a clock at 10:30", 1.0), (" a 16:9 frame", 0.5)]
    assert split_and("noon, 12:00. AND snow :1.5") == [("noon, 12:00.", 1.0), (" snow", 1.5)]


@pytest.mark.parametrize("text", ["(see 3:4)", "(at 10:30)", "(16:9 )", "(aged: 60)", "(a:-11)", "(2:1)"])
def test_a_number_in_a_bracket_that_is_no_weight_is_text(text):
    assert parse_attention(text) == [(text[1:-1], 1.1)]


@pytest.mark.parametrize(
    ("text", "weight"), [("(r2d2:1.2)", 1.2), ("(1990: 1.3)", 1.3), ("(a:10)", 10.0), ("(a 3:4:0.5)", 0.5)]
)
def test_a_weight_in_a_bracket_stays_a_weight_after_a_digit(text, weight):
    assert [found for _, found in parse_attention(text)] == [weight]


def test_and_and_break_are_words_of_a_prompt_in_capitals():
    text = "BREAK THE WINDOW AND ADD A (RED:1.2) CAT"
    assert split_and(text) == [(text, 1.0)]
    assert parse_attention(text) == [("BREAK THE WINDOW AND ADD A ", 1.0), ("RED", 1.2), (" CAT", 1.0)]
    assert len(split_and("snow AND ICE")) == 2


def test_what_asks_for_a_lora_is_left_out_and_told_of():
    text = "a <lora:night:0.6> cat AND a <b> dog<hypernet:x> :0.5"
    assert split_and(text) == [("a  cat", 1.0), (" a <b> dog", 0.5)]
    assert network_notes("a <b> dog <lora:night>") == []
    (note,) = network_notes(text)
    assert note.startswith("<hypernet:x> had no effect")


@pytest.mark.parametrize(
    ("text", "negative", "note"),
    [
        ("make it red <lora:night:0.8", "", "<lora:night:0.8 was read as words: a LoRA is written <lora:name:0.8>"),
        ("a <lora:day <lora:night:1> cat", "", "<lora:day was read as words"),
        ("a cat", "blurred <lora:night:1>", "<lora:night:1> was read as words of the negative prompt"),
    ],
)
def test_a_lora_that_is_read_as_words_is_told_of(text, negative, note):
    (told,) = network_notes(text, negative)
    assert told.startswith(note) and told.endswith(".") and "\n" not in told


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("a <b> dog <hypernet:x:1>", []),
        ("<lora:night>", [("night", 1, 1)]),
        ("<LoRA:night:0.5>", [("night", 0.5, 0.5)]),
        ("<lora:night:0.6> and <lyco:day.v2:-1>", [("night", 0.6, 0.6), ("day.v2", -1, -1)]),
        ("<lora:night:0.5:1>", [("night", 0.5, 1)]),
        ("<lora:night:te=0.5:unet=1>", [("night", 0.5, 1)]),
        ("<lora:night:0.5:unet=0>", [("night", 0.5, 0)]),
        ("<lora:night:unet=0.5>", [("night", 1, 0.5)]),
        ("<lora: my night : .5 >", [("my night", 0.5, 0.5)]),
        ("<lora:a:1> AND <lora:b:1> [x:<lora:a:0.5>:4]", [("a", 1.5, 1.5), ("b", 1, 1)]),
    ],
)
def test_loras_of_a_prompt_with_their_weights(text, tags):
    """As AUTOMATIC1111's extra_networks_lora.py reads them."""
    assert [(tag.name, tag.text, tag.unet) for tag in lora_tags(text)] == tags


@pytest.mark.parametrize(
    "text",
    ["<lora:>", "<lora::1>", "<lora:a:much>", "<lora:a:nan>", "<lora:a:1e9>", "<lora:a:1:1:8>", "<lora:a:x=1>"],
)
def test_a_lora_that_cannot_be_read_is_told(text):
    with pytest.raises(UserError, match="is no LoRA that can be used"):
        lora_tags(text)


def test_a_backslash_before_a_letter_or_a_digit_is_text():
    assert parse_attention("C:\\new\\1.png") == [("C:\\new\\1.png", 1.0)]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("make it (winter:1.2) [a|b] AND night :0.5", "make it (winter:1.2) [a|b] AND night :0.5"),
        ("make the clock show 10:30", "make the clock show 10:30 :1"),
        ("a 16:9 frame 16:9 AND winter :0.5", "a 16:9 frame 16:9 :1 AND winter :0.5"),
        ("a (see 3:4) b", "a (see 3:4:1.1) b"),
        ("older (age: 60)", "older (age: 60:1.1)"),
        ("3:4) is no bracket", "3:4) is no bracket"),
        ("C:\\new \\(a\\)", "C:\\\\new \\(a\\)"),
        ("MAKE IT WINTER AND BREAK (ICE:1.3)", "MAKE IT WINTER and break (ICE:1.3)"),
    ],
)
def test_a_prompt_is_written_so_that_the_web_ui_reads_it_in_the_same_way(text, written):
    # Each was read by the web UI's parser of above, with the results that this module gives for `text`.
    assert for_host(text) == written


def test_a_negative_prompt_for_the_web_ui_gets_no_weight_at_its_end():
    assert negative_for_host("clocks that show 10:30") == "clocks that show 10:30"
    assert negative_for_host("(see 3:4)") == "(see 3:4:1.1)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 20_000 + "a" + "]" * 20_000, [(10, "[" * 20_000 + "a" + "]" * 20_000)]),
        ("[a:" * 20_000, [(10, "[a:" * 20_000)]),
        ("[" * 20_000 + "a" + ":3]" * 20_000, [(3, ""), (10, "a")]),
    ],
)
def test_brackets_nested_very_deep_are_read_like_any_other(text, expected):
    assert schedule(text, 10) == expected


@pytest.mark.parametrize("filler", [" ", "9", "\\", "(", ")", "[", ":", ":0", "a:1 ", "BREAK ", "[a|b]"])
def test_a_very_long_prompt_takes_little_time_whatever_it_is_made_of(filler):
    text = filler * (40_000 // len(filler))
    start = time.process_time()
    parse_attention(text)
    schedule(text, 2)
    for_host(text)
    assert time.process_time() - start < 3.0
