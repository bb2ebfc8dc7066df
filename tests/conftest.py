"""How `make test` shares the tests out among processes, what it says while it runs, and what all
tests share."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import duckdb
import pytest
from xdist.scheduler import LoadScopeScheduling

# First, so that none of them is what everybody waits for in the end. What comes fourth should be
# short: xdist hands it at once to the process that has the kills, which are a single test.
LONGEST = ("test_kill", "test_models", "test_history", "test_refusals", "test_dagster")
RINGS = ("integration", "unit", "simulation")
STORIES = "test_simulation"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because many tests wait: for a server, a process, a lock."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first; stories come last, so that no process is left alone in the end."""
    items.sort(key=_place)


class _ByFile(LoadScopeScheduling):
    """A file's tests stay together, because they share what was set up for them. Stories share
    nothing. (xdist's own groups by marks do not work with this version of pytest.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith(f"{STORIES}.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


def _place(item: pytest.Item) -> tuple[int, int]:
    stem = item.path.stem
    longest = LONGEST.index(stem) if stem in LONGEST else len(LONGEST)
    ring = next((n for n, name in enumerate(RINGS) if name in item.path.parts), len(RINGS))
    return longest, len(RINGS) + 1 if stem == STORIES else ring


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failures(config))


class _Failures:
    """Names what fails at once: whoever loses patience with a run knows it then."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {report.nodeid} ({report.when}, {report.duration:.0f} s)")


@pytest.fixture(scope="session", autouse=True)
def _signatures_are_not_checked_each_time() -> Iterator[None]:
    """DuckDB checks an extension's signature for each connection anew, which takes longer than most
    of these tests. `duckdb.connect.__wrapped__` does; so do all processes that a test starts."""

    @functools.wraps(duckdb.connect)
    def connect(*arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        config = {"allow_unsigned_extensions": "true", **options.pop("config", {})}
        return connect.__wrapped__(*arguments, config=config, **options)

    with patch.object(duckdb, "connect", connect):
        yield
