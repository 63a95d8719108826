"""Contact sheets: where the pictures are, that captions stay below them, and what is too much."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import EditSettings
from instruct_pix2pix.sheet import CELL, INK, MARK, MOST_CELLS, PAPER, caption_of, draw_sheet, marked

Box = tuple[int, int, int, int]
LONG = "make it a watercolour painting of the old harbour with all its ships and the sea behind it, " * 3


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (200, 100)) -> Image.Image:
    return Image.new("RGB", size, colour)


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> Box:
    """Where a colour is: left, top, right, bottom."""
    ys, xs = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_pictures_stand_in_reading_order_and_none_on_another() -> None:
    colours = [(200, 30 * number, 40) for number in range(5)]
    sheet = draw_sheet([(plain(colour), str(colour)) for colour in colours], 3)
    boxes = [box_of(sheet, colour) for colour in colours]
    assert [(right - left, bottom - top) for left, top, right, bottom in boxes] == [(200, 100)] * 5
    places = [(top, left) for left, top, _, _ in boxes]
    assert places == sorted(places) and len({top for top, _ in places}) == 2 and len({left for _, left in places}) == 3


def test_all_are_brought_to_the_size_of_the_largest_and_that_to_a_cell() -> None:
    cells = [(plain((200, 0, 0), (50, 100)), ""), (plain((0, 200, 0), (5, 5)), ""), (plain((0, 0, 200), (90, 60)), "")]
    sizes = [box_of(draw_sheet(cells), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    assert [(right - left, bottom - top) for left, top, right, bottom in sizes] == [(50, 100), (90, 90), (90, 60)]
    left, top, right, bottom = box_of(draw_sheet([(plain((200, 0, 0), (2000, 1000)), "")]), (200, 0, 0))
    assert (right - left, bottom - top) == (CELL, CELL // 2)


@pytest.mark.parametrize("text", [LONG, "W" * 10_000, "\n" * 1000 + "x", "a\x00b\u202e\tc" * 50, "1\n2\n3\n4\n5\n6"])
@pytest.mark.parametrize("width", [40, 200, 320])
def test_a_caption_stays_below_its_picture_whatever_it_is(text: str, width: int) -> None:
    cells = [(plain((200, 0, 0), (width, 60)), text), (plain((0, 0, 200), (width, 60)), "")]
    sheet = draw_sheet(cells)
    assert sheet.height < 200
    left, _, _, bottom = box_of(sheet, (200, 0, 0))
    beside = box_of(sheet, (0, 0, 200))[0]
    written = np.asarray(sheet.convert("L"))[bottom:]
    _, xs = np.nonzero(written < 200)
    assert not len(xs) or (xs.min() >= left - 1 and xs.max() < beside)
    assert (np.asarray(sheet)[:, beside - 4 : beside] == PAPER).all() and (np.asarray(sheet)[-2:] == PAPER).all()


def test_a_long_caption_has_more_lines_than_a_short_one() -> None:
    short, long = (draw_sheet([(plain((200, 0, 0)), text)]) for text in ("make it night", LONG))
    assert box_of(short, INK)[3] + 20 < box_of(long, INK)[3]


def test_what_tells_a_result_from_others_is_its_caption() -> None:
    settings = EditSettings("make\nit  winter", seed=7, text_cfg=6)
    assert caption_of(settings) == "seed 7\nText CFG 6, Image CFG 1.5\nmake it winter"
    assert caption_of(settings, with_instruction=False) == "seed 7\nText CFG 6, Image CFG 1.5"


def test_a_mark_is_a_frame_inside_the_picture() -> None:
    picture = marked(plain((200, 0, 0)))
    assert picture.size == (200, 100)
    shown = np.asarray(picture)
    assert all((edge == MARK).all() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]))
    assert (shown[20:80, 20:180] == (200, 0, 0)).all()


def test_more_than_a_sheet_can_show_is_refused() -> None:
    with pytest.raises(UserError, match="too many for a contact sheet"):
        draw_sheet([(plain((0, 0, 0), (1, 1)), "")] * (MOST_CELLS + 1))
