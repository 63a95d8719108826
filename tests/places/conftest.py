"""What the tests of the places share: those that need their packages run with --places."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--places"):
        skip = pytest.mark.skip(reason="runs with --places, and the packages of tests/places/requirements.txt")
        for item in items:
            if item.get_closest_marker("places"):
                item.add_marker(skip)
