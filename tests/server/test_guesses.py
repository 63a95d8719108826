"""Wrong passwords are counted for each guesser, and make nobody else wait."""

from __future__ import annotations

from instruct_pix2pix.server.guesses import FORGOTTEN, FREE, LONGEST, MOST_GUESSERS, Guesses, network_of


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_doubles_up_to_a_limit_and_is_forgotten() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    waits = []
    for number in range(FREE + 8):
        guesses.add("10.0.0.7", f"guess {number}")
        waits.append(guesses.wait("10.0.0.7"))
        clock.now += waits[-1]
        assert guesses.wait("10.0.0.7") == 0
    assert waits == [0] * (FREE - 1) + [1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST]
    assert guesses.wait("10.0.0.8") == 0
    clock.now += FORGOTTEN + 1
    assert guesses.add("10.0.0.7", "guess") == 1


def test_the_same_wrong_password_again_and_again_is_no_guess() -> None:
    guesses = Guesses(Clock())
    for _ in range(100):
        guesses.add("10.0.0.7", "the old one, from a page that is still open")
    assert guesses.wait("10.0.0.7") == 0


def test_memory_is_bounded_and_those_who_go_on_stay_in_it() -> None:
    guesses = Guesses(Clock())
    for number in range(MOST_GUESSERS * 3):
        guesses.add("10.0.0.7", f"guess {number}")
        guesses.add(f"stranger {number}", "guess")
    assert guesses.wait("10.0.0.7") == LONGEST
    assert guesses.add("stranger 0", "another") == 1  # forgotten


def test_a_cookie_of_ours_is_known_and_no_other() -> None:
    guesses = Guesses()
    cookie = guesses.new_cookie()
    assert guesses.is_ours(cookie)
    for other in ("", ".", cookie[:-1], "x" + cookie, Guesses().new_cookie(), "\udcff.\udcff", "é.é"):
        assert not guesses.is_ours(other)


def test_a_network_of_one_person_is_one_guesser() -> None:
    assert network_of("10.0.0.7") == "10.0.0.7" != network_of("10.0.0.8")
    assert network_of("2001:db8::1") == network_of("[2001:db8::ffff]:443") != network_of("2001:db8:0:1::1")
    assert len(network_of("x" * 10_000)) < 100
