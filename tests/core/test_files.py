"""Names that people give: of any length, in folders of others, and what is no name at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.files import is_folder, short_name, status_of, write_whole
from instruct_pix2pix.images import open_picture

SENTENCE = "make the picture look like a cold winter evening with snow on every roof " * 5


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else's, with a picture in it; meanwhile this process is nobody."""
    folder = tmp_path / "closed"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_what_is_not_there_has_no_status(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert status_of(tmp_path / "missing") is None and status_of(tmp_path / "file" / "below") is None
    assert not is_folder(tmp_path / "file") and not is_folder(tmp_path / "missing") and is_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of this kind do not exist here")
@pytest.mark.parametrize("look", [status_of, is_folder, open_picture])
def test_a_path_in_a_folder_of_others_is_said(closed: Path, look) -> None:
    with pytest.raises(UserError, match=r"a.png may not be read: change its permissions or those of its folder\."):
        look(closed / "a.png")


@pytest.mark.parametrize("look", [status_of, is_folder, open_picture])
def test_what_is_no_name_is_said_shortly(tmp_path: Path, look) -> None:
    with pytest.raises(UserError, match=r"^'make the picture look like a cold winter…' is no name that a "):
        look(Path(SENTENCE))
    with pytest.raises(UserError, match=r"^'a\?b.png' is no name that a file can have: check it\.$"):
        look(tmp_path / "a\0b.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"loop cannot be read .*: check the name"):
        look(tmp_path / "loop")


@pytest.mark.parametrize("letter", ["a", "ü", "日"])
def test_a_name_is_cut_between_letters_to_what_fits(letter: str, tmp_path: Path) -> None:
    for end in (".png", "-edited-12.png"):
        name = short_name(letter * 300, end)
        assert 250 < len(os.fsencode(name)) <= 255 and name.strip(letter) == end
        write_whole(tmp_path / name, b"data")
    assert short_name("house", ".png") == "house.png"
