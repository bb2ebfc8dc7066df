"""dbt's manifest, from which the dbt assets are made: fresh in `dagster dev`, prebuilt elsewhere,
where parsing a project again in each process would cost seconds of each minute."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tailrace.config import Config
from tailrace.errors import ConfigError

# `dagster dev` sets it; dagster-dbt's DbtProject.prepare_if_dev goes by it too.
DEV_VARIABLE = "DAGSTER_IS_DEV_CLI"


def manifest_for(config: Config) -> Path:
    """The path of manifest.json. In `dagster dev`, missing model files are generated and the
    manifest is written again where the project has changed.

    Raises ConfigError where a table has no model files or, in production, no manifest is there;
    Terminal where dbt cannot read the project."""
    if os.environ.get(DEV_VARIABLE):
        return _prepared(config)
    path = config.dbt.project_dir / "target" / "manifest.json"
    missing = models_without_files(config)
    if missing:
        raise ConfigError(
            f"{config.dbt.project_dir} has no dbt models for {', '.join(missing)}.",
            "Run `tailrace generate`, then build the manifest again.",
        )
    if not path.exists():
        raise ConfigError(
            f"There is no dbt manifest at {path}, and outside `dagster dev` none is made.",
            "Build it when you deploy: python -m assets.manifest"
            f" (it reads {config.path.name} as Dagster does), and again after `tailrace generate`.",
        )
    return path


def models_without_files(config: Config) -> Sequence[str]:
    """The configured models of which a dbt file is missing."""
    folder = config.dbt.project_dir / "models"
    present = {file.stem for file in folder.rglob("*.sql")}
    return [table.model for table in config.tables if not set(table.nodes) <= present]


def _prepared(config: Config) -> Path:
    from tailrace.transform import generate, runner

    if models_without_files(config):
        generate.generate(config)
    return runner.manifest_path(config)


if __name__ == "__main__":
    from tailrace.config import load_config

    print(_prepared(load_config()))  # noqa: T201
