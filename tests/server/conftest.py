"""What tests of the page share: a server with a browser, and a first visit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.browser import Visit, chromium, served_page, visit


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    """A server and a browser."""
    with served_page(tmp_path_factory.mktemp("outputs")) as (address, worker), chromium() as browser:
        yield browser, address, worker


@pytest.fixture
def at_page(site) -> Iterator[Visit]:
    """A first visit; whatever happens in it, nothing may leave the machine and no script may fail."""
    with visit(*site) as visited:
        yield visited
        assert visited.elsewhere == []
        assert visited.errors == []
