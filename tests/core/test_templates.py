"""The instruction templates: where their blanks are, and what they become."""

import pytest

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.templates import TEMPLATES, Template, blanks, fill

HORSE = Template("Turn the {something in the photo} into {a new object}", "Turn the horse into a dragon")


def test_the_blanks_are_what_a_person_has_to_replace():
    found = [HORSE.text[start:end] for start, end in blanks(HORSE)]
    assert found == ["{something in the photo}", "{a new object}"]
    assert blanks("Make it winter") == []


def test_filling_the_blanks_gives_the_sentence():
    assert fill(HORSE, "horse", "a dragon") == HORSE.example


def test_words_are_taken_as_they_are():
    assert fill(HORSE, r"\1 {x}", "") == r"Turn the \1 {x} into "


@pytest.mark.parametrize("words", [(), ("horse",), ("horse", "a dragon", "now")])
def test_a_wrong_number_of_words_is_explained(words: tuple[str, ...]):
    with pytest.raises(UserError, match=rf"has 2 blanks, but {len(words)} were filled"):
        fill(HORSE, *words)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_every_example_is_its_template_filled_in(template: Template):
    # Read off the words between the fixed parts of the sentence, fill them in again.
    words, rest, end = [], template.example, 0
    spans = blanks(template)
    assert spans
    for index, (start, stop) in enumerate(spans):
        fixed = template.text[end:start]
        assert rest.startswith(fixed)
        rest = rest[len(fixed) :]
        next_start = spans[index + 1][0] if index + 1 < len(spans) else None
        following = template.text[stop:next_start]
        word = rest[: rest.index(following)] if following else rest
        assert word.strip()
        words.append(word)
        rest, end = rest[len(word) :], stop
    assert fill(template, *words) == template.example


def test_the_templates_cover_the_tutorials_and_differ():
    texts = [template.text for template in TEMPLATES]
    assert len(set(texts)) == len(texts) >= 10
    starts = ["Change the style", "Have ", "Make {her", "Turn ", "Replace ", "Put them", "Make it", "Apply "]
    starts += ["Add {an object}", "Add {an object} on "]
    assert all(any(text.startswith(start) for text in texts) for start in starts)
