"""The limits of strangers: what is let through, what is lowered, what is refused and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from instruct_pix2pix.cli.main import COMMANDS
from instruct_pix2pix.cli.parser import Parser
from instruct_pix2pix.engine.candidates import Search
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.server.allowance import Allowance
from instruct_pix2pix.server.limits import Limits
from instruct_pix2pix.server.options import ServeOptions
from instruct_pix2pix.server.visitors import Proxies
from instruct_pix2pix.settings import EditSettings

LIMITS = Limits()
SMALL = (640, 480)


def admitted(search: Search = Search(), picture: tuple[int, int] = SMALL, **settings: object) -> EditSettings:  # noqa: B008
    return LIMITS.admit(EditSettings.from_mapping({"instruction": "make it winter", **settings}), search, picture)


def test_an_ordinary_edit_is_as_it_was() -> None:
    asked = EditSettings("make it winter", seed=1, count=4)
    assert LIMITS.admit(asked, Search(), SMALL) is asked


@pytest.mark.parametrize(
    ("settings", "search", "said"),
    [
        ({"steps": 51}, Search(), "Steps is 51, but this server gives 50 at most"),
        ({"size": "1024"}, Search(), "Size is 1024"),
        ({"size": "64x776"}, Search(), "Size is 776"),
        ({"result_size": "4096"}, Search(), "Result size is 4096"),
        ({"count": 5}, Search(), "5 edits are too many"),
        ({"count": 2}, Search(best_of=3), "6 edits are too many"),
        ({}, Search(strength=0.5), "5 edits are too many"),
        ({"instruction": "make it {a|b|c}", "count": 2}, Search(), "6 edits are too many"),
        ({"instruction": "a" * 501}, Search(), "The instruction has 501 letters"),
        ({"negative": "a" * 501}, Search(), "The negative prompt has 501 letters"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_in_a_sentence(settings: dict, search: Search, said: str) -> None:
    with pytest.raises(UserError, match=said):
        admitted(search, **settings)


@pytest.mark.parametrize("asked", ["auto", "own"])
def test_the_result_of_a_large_photograph_is_made_smaller_and_not_refused(asked: str) -> None:
    assert admitted(picture=(6000, 4000), result_size=asked).result_size == "2048"
    assert admitted(picture=(2048, 100), result_size=asked).result_size == asked
    assert admitted(picture=(6000, 4000), result_size="model").result_size == "model"


def test_limits_are_changed_by_name() -> None:
    assert LIMITS.changed([("steps", 30), ("seconds", 90)]) == Limits(steps=30, seconds=90)
    with pytest.raises(UserError, match="There is no limit 'stepz'"):
        LIMITS.changed([("stepz", 30)])
    with pytest.raises(UserError, match="The limit 'steps' is below 1"):
        LIMITS.changed([("steps", 0)])


# --- who is who ---


def address(client: str, *headers: str, proxies: Proxies = Proxies()) -> str:  # noqa: B008
    forwarded = [(b"x-forwarded-for", one.encode()) for one in headers]
    scope: Scope = {"type": "http", "client": (client, 1), "headers": forwarded}
    return proxies.address(scope)


def test_a_proxy_is_believed_only_where_it_is_known() -> None:
    assert address("127.0.0.1", "203.0.113.7") == "203.0.113.7"
    assert address("198.51.100.1", "203.0.113.7") == "198.51.100.1"
    behind = Proxies(("10.0.0.0/8",))
    assert address("10.1.2.3", "203.0.113.7", proxies=behind) == "203.0.113.7"
    assert address("127.0.0.1", "203.0.113.7", proxies=behind) == "127.0.0.1"


def test_what_a_visitor_writes_before_the_proxy_does_counts_for_nothing() -> None:
    behind = Proxies(("10.0.0.0/8",))
    assert address("10.1.2.3", "1.1.1.1, 203.0.113.7, 10.9.9.9", proxies=behind) == "203.0.113.7"
    assert address("10.1.2.3", "1.1.1.1", "203.0.113.7", proxies=behind) == "203.0.113.7"
    assert address("10.1.2.3", "10.0.0.1, 10.0.0.2", proxies=behind) == "10.0.0.1"
    assert address("::ffff:10.1.2.3", "2001:db8:1:2:3::4", proxies=behind) == "2001:db8:1:2::/64"


@given(st.text(max_size=50).filter(lambda text: text.isascii() and text.isprintable()))
def test_any_header_gives_some_name(text: str) -> None:
    assert isinstance(address("127.0.0.1", text), str)


def test_a_network_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="is not a network"):
        Proxies(("10.0.0.0/80",))


def test_an_allowance_is_each_visitors_own_and_comes_back() -> None:
    now = 0.0
    allowance = Allowance(100, 60.0, clock=lambda: now)
    assert allowance.take("a", 60) and not allowance.take("a", 60) and allowance.take("a", 40)
    assert allowance.take("b", 100) and not allowance.take("b", 1)
    now = 60.0
    assert allowance.take("a", 100)


# --- the command line ---


def options(*words: str) -> ServeOptions:
    parser = Parser()
    command = next(one for one in COMMANDS if one.name == "serve")
    command.add_arguments(parser)
    parser.set_defaults(debug=False)
    return command.options_of(parser.parse_args(words))


def test_strangers_need_no_password_and_have_limits() -> None:
    found = options("--listen", "--for-strangers", "--limit", "steps=30", "--behind", "10.0.0.0/8")
    assert (found.limits, found.proxies, found.users) == (Limits(steps=30), ("10.0.0.0/8",), ())
    assert options().limits is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "steps=30"], "add --for-strangers"),
        (["--for-strangers", "--limit", "stepz=30"], "There is no limit"),
        (["--for-strangers", "--allow-dir", "x"], "Strangers may name no folders"),
    ],
)
def test_what_does_not_go_together_is_told(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        options(*words)
