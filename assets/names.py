"""What a table's assets are called, who owns them, and which pools keep their writers apart."""

from __future__ import annotations

import os

import dagster as dg

from tailrace.config import Table

OWNERS_VARIABLE = "TAILRACE_OWNERS"
DEFAULT_OWNERS = "team:data"

# One drain in the whole installation, one merge in the whole warehouse: pools have one slot each.
DRAIN_POOL = "drain"
MERGE_POOL = "merge"

# One reconciliation at a time: it may take hours, and holds up neither drains nor merges.
RECONCILE_POOL = "reconcile"

FRESHNESS, COVERAGE, SCHEMA_DRIFT = "freshness", "coverage", "schema_drift"
RECONCILIATION = "reconciliation"

# The checks on `<model>/changes` that each drain makes.
CHECKS = (COVERAGE, FRESHNESS, SCHEMA_DRIFT)


def base_key(model: str) -> dg.AssetKey:
    """`<model>/base`."""
    return dg.AssetKey([model, "base"])


def changes_key(model: str) -> dg.AssetKey:
    """`<model>/changes`."""
    return dg.AssetKey([model, "changes"])


def dbt_keys(table: Table) -> tuple[dg.AssetKey, ...]:
    """`<model>/<dbt model>` for each dbt model of one table, in the order of their building."""
    return tuple(dg.AssetKey([table.model, node]) for node in table.nodes)


def merged_key(model: str) -> dg.AssetKey:
    """`<model>/<model>_latest`: what each build of a table merges into."""
    return dg.AssetKey([model, f"{model}_latest"])


def models_op(model: str) -> str:
    """The op that builds the dbt models of one table."""
    return f"{model}_models"


def check_keys(model: str) -> tuple[dg.AssetCheckKey, ...]:
    """The checks on `<model>/changes` that each minute's run makes."""
    return tuple(dg.AssetCheckKey(changes_key(model), name) for name in CHECKS)


def reconciliation_key(model: str) -> dg.AssetCheckKey:
    """The check on `<model>/changes`, in an op of its own."""
    return dg.AssetCheckKey(changes_key(model), RECONCILIATION)


def base_pool(table: Table) -> str:
    """Bases of different tables run side by side, two of one table never do."""
    return f"base_{table.model}"


def owners() -> list[str]:
    """$TAILRACE_OWNERS, separated by commas: `team:data, ana@example.com`."""
    given = os.environ.get(OWNERS_VARIABLE, DEFAULT_OWNERS)
    return [owner.strip() for owner in given.split(",") if owner.strip()]
