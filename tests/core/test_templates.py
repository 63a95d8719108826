"""The instruction templates: where their blanks are, and what they become."""

import re

import pytest

from instruct_pix2pix.templates import TEMPLATES, Template

BLANK = re.compile(r"\{[^{}]+\}")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_every_example_is_its_template_filled_in(template: Template):
    fixed = BLANK.split(template.text)
    assert len(fixed) > 1
    words = re.fullmatch("(.+)".join(map(re.escape, fixed)), template.example)
    assert words and all(word.strip() for word in words.groups())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_braces_stand_around_blanks_alone(template: Template):
    """ip2pUseTemplate takes all of them away, and marks what the first two enclose."""
    assert "{" not in BLANK.sub("", template.text) and "}" not in BLANK.sub("", template.text)


def test_the_templates_cover_the_tutorials_and_differ():
    texts = [template.text for template in TEMPLATES]
    assert len(set(texts)) == len(texts) >= 10
    starts = ["Change the style", "Have ", "Make {her", "Turn ", "Replace ", "Put them", "Make it", "Apply "]
    starts += ["Add {an object}", "Add {an object} on "]
    assert all(any(text.startswith(start) for text in texts) for start in starts)
