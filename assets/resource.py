"""The engine as Dagster hands it to assets and sensors: opened late, closed by who opened it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from tailrace.config import Config, load_config
from tailrace.errors import interruptible

if TYPE_CHECKING:
    from tailrace.engine import Engine
    from tailrace.model import BaseProgress
    from tailrace.transform.runner import BuildResult

Result = TypeVar("Result")

# How long the sensor looks through one engine: what it has cached stays bounded.
KEPT_OPEN_SECONDS = 3600.0


class TailraceResource(dg.ConfigurableResource):
    """Tables, warehouse and AWS of one tailrace.yaml. Credentials are never part of it: they are
    boto3's business."""

    config_path: str = Field(description="The path of tailrace.yaml.")
    _drained: dict[str, bool] = PrivateAttr(default_factory=dict)

    @property
    def config(self) -> Config:
        """The file, read once a process. Raises ConfigError."""
        return _config(self.config_path)

    @contextmanager
    def engine(self, progress: Callable[[BaseProgress], None] | None = None) -> Iterator[Engine]:
        """The engine, open until the block ends. `progress` hears of a base being read.

        Raises what `Engine.open` raises."""
        from tailrace.engine import Engine

        with Engine.open(self.config, progress=progress) as engine, interruptible():
            yield engine

    def look(self, through: Callable[[Engine], Result]) -> Result:
        """What `through` returns of an engine that stays open for the next look: opening one is
        most of what an idle minute costs. It is opened anew where `through` fails on one that was
        open before, the warehouse is another one, or it has been open for an hour."""
        return _kept_open(self.config_path).look(self.config, through)

    def note_drained(self, models: Sequence[str], unmerged: Sequence[str]) -> None:
        """Remembers, for the steps of this run, which of the drained tables have unmerged rows."""
        self._drained.update({model: model in unmerged for model in models})

    def has_nothing_to_merge(self, model: str) -> bool:
        """True where this run has drained the table and found every row merged already."""
        return self._drained.get(model) is False

    def build(self, models: Sequence[str], *, tests: bool = False) -> BuildResult:
        """Runs dbt in this process; see tailrace.transform.runner.build."""
        from tailrace.transform import runner

        with interruptible():
            return runner.build(self.config, models, tests=tests)


class _KeptOpen:
    """One engine of this process, and one look through it at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._opened_at = 0.0

    def look(self, config: Config, through: Callable[[Engine], Result]) -> Result:
        from tailrace.engine import Engine

        with self._lock:
            if time.monotonic() - self._opened_at > KEPT_OPEN_SECONDS:
                self._close()
            if self._engine is not None and self._engine.is_outdated():
                self._close()
            if self._engine is not None:
                try:
                    return through(self._engine)
                except Exception:  # a connection that broke meanwhile is no news
                    self._close()
            self._engine = Engine.open(config)
            self._opened_at = time.monotonic()
            try:
                return through(self._engine)
            except BaseException:
                self._close()
                raise

    def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


@cache
def _kept_open(path: str) -> _KeptOpen:
    return _KeptOpen()


@cache
def _config(path: str) -> Config:
    return load_config(path)
