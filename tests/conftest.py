"""How `make test` shares the tests out among processes."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together, because they share what was set up for them; stories share
    nothing, and come after the longest files, so that no process is left alone at the end."""
    for item in items:
        if item.path.parent.name != "simulation":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
