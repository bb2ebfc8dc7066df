"""The engine as Dagster hands it to assets and sensors: opened late, closed by who opened it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from tailrace.config import Config, load_config

if TYPE_CHECKING:
    from tailrace.engine import Engine
    from tailrace.model import BaseProgress
    from tailrace.transform.runner import BuildResult


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

        with Engine.open(self.config, progress=progress) as engine:
            yield engine

    def note_drained(self, models: Sequence[str], unmerged: Sequence[str]) -> None:
        """Remembers, for the steps of this run, which of the drained tables have unmerged rows."""
        self._drained.update({model: model in unmerged for model in models})

    def has_nothing_to_merge(self, model: str) -> bool:
        """True where this run has drained the table and found every row merged already."""
        return self._drained.get(model) is False

    def build(self, models: Sequence[str], *, tests: bool = False) -> BuildResult:
        """Runs dbt in this process; see tailrace.transform.runner.build."""
        from tailrace.transform import runner

        return runner.build(self.config, models, tests=tests)


@cache
def _config(path: str) -> Config:
    return load_config(path)
