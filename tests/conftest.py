"""Fixtures of all tests: nothing here touches a person's own files, and the demo model is loaded in one way."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.models.registry import DEMO

settings.register_profile("busy", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("busy")



def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-size", action="store_true", help="also load and run full-size checkpoints, 4 GB each")
    parser.addoption("--places", action="store_true", help="also run what needs the packages of Replicate and Spaces")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder that is nobody's, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model() -> EditModel:
    """The demo model on the CPU in float32, loaded anew for each file of tests: weights are packed as they are used."""
    return EditModel.load(DEMO, choose_machine("cpu", "fp32"))
