"""In each real host: the extension is updated, disabled and enabled while the host runs, and its UI is reloaded."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.hosts import checkpoints
from tests.hosts.running import Host, RefusedError
from tests.hosts.test_host_edits import distance


def ours(host: Host) -> dict[str, Any]:
    """What our extension has put into the host."""
    host.records()
    host.job(denoising_strength=0.6, alwayson_scripts={"Probe": {"args": ['{"look": true}']}})
    return host.records()[-1]


def elements(page: str) -> list[str]:
    """The names of our elements on a page."""
    return re.findall(r'"elem_id": ?"(ip2p_\w+)"', page)


def refusal(host: Host) -> str:
    with pytest.raises(RefusedError) as refused:
        host.job("txt2img")
    return refused.value.body


def update(host: Host) -> None:
    """Replace files as a newer commit does, which moves a module and changes others."""
    package = host.installed / "modules" / "instruct_pix2pix"
    (package / "hosts" / "axes.py").rename(package / "hosts" / "plot.py")
    for file, old, new in (
        (host.installed / "scripts" / "instruct_pix2pix.py", "hosts.axes", "hosts.plot"),
        (package / "hosts" / "plot.py", "[Instruct Pix2Pix]", "[Newer]"),
        (package / "hosts" / "job.py", "This checkpoint edits pictures", "This newer sentence is said"),
    ):
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")


def test_an_update_is_used_whole_after_reload_ui_and_not_before(own: Host) -> None:
    own.select(checkpoints.EDITS)
    picture, axes = own.job().picture, ours(own)["axes"]
    update(own)
    assert distance(own.job().picture, picture) <= 1
    assert "This checkpoint edits pictures" in refusal(own)
    own.reload()
    assert distance(own.job().picture, picture) <= 1
    assert "This newer sentence is said" in refusal(own)
    assert ours(own)["axes"] == [one.replace("Instruct Pix2Pix", "Newer") for one in axes] != []


def test_once_disabled_nothing_of_it_is_left_and_once_enabled_it_works_again(own: Host) -> None:
    own.select(checkpoints.EDITS)
    picture, before, page = own.job().picture, ours(own), own.page()
    assert before["callbacks"]
    assert before["axes"]
    assert before["modules"]
    assert elements(page)
    assert "instruct_pix2pix.js" in page
    own.post("options", {"disabled_extensions": ["instruct-pix2pix"]})
    own.reload()
    own.select(checkpoints.PLAIN)  # Forge and its kin do not edit by themselves
    assert not any(ours(own).values())
    page = own.page()
    assert elements(page) == []
    assert "instruct_pix2pix.js" not in page
    own.post("options", {"disabled_extensions": []})
    own.reload()
    own.select(checkpoints.EDITS)
    assert distance(own.job().picture, picture) <= 1
    assert ours(own) == before
