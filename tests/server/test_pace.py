"""How long the rest of some work takes, by what was done of it and when."""

from __future__ import annotations

import pytest

from instruct_pix2pix.server.worker.pace import LEAST_LEFT, Pace


def test_nothing_is_known_before_the_first_piece() -> None:
    pace = Pace()
    assert pace.left(10, 100.0) is None
    pace.reach(0, 100.0)
    assert pace.left(10, 130.0) is None


def test_the_first_piece_counts_until_there_is_a_second_which_took_its_own_time() -> None:
    pace = Pace()
    pace.reach(0, 100.0)
    pace.reach(1, 106.0)  # weights were packed in it
    assert pace.left(9, 106.0) == pytest.approx(54)
    pace.reach(2, 108.0)
    assert pace.left(8, 108.0) == pytest.approx(16)
    pace.reach(5, 117.0)
    assert pace.left(5, 117.0) == pytest.approx(5 * 11 / 4)


def test_time_goes_by_between_two_pieces_but_never_runs_out() -> None:
    pace = Pace()
    pace.reach(0, 0.0)
    pace.reach(1, 3.0)
    assert pace.left(2, 4.0) == pytest.approx(5)
    assert pace.left(2, 60.0) == LEAST_LEFT
    assert pace.left(0, 3.0) == LEAST_LEFT  # the picture is yet to be decoded


def test_a_pause_does_not_count() -> None:
    pace = Pace()
    pace.reach(0, 0.0)
    pace.reach(1, 4.0)
    pace.pause(100.0)
    assert pace.left(2, 105.0) == pytest.approx(7)
    pace.reach(2, 108.0)
    assert pace.left(1, 108.0) == pytest.approx(4)


def test_a_mark_without_progress_is_no_pace() -> None:
    pace = Pace()
    pace.reach(3, 0.0)
    pace.reach(3, 5.0)
    assert pace.left(1, 5.0) is None
