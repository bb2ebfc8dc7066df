"""The dbt models of one table as assets, their data tests as checks.

Specs come from dbt's manifest by dagster-dbt; dbt itself runs in this process, by
tailrace.transform.runner, because a dbt process of its own would cost 8 seconds of each minute.
"""

# No postponed annotations here: Dagster reads what an op needs from its signature.

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, dbt_assets

from assets import names
from assets.metadata import failure
from assets.resource import TailraceResource
from tailrace.config import Table

if TYPE_CHECKING:
    from tailrace.transform.runner import BuildResult, NodeResult

CHANGES_SOURCE = "changes"
CONTROL_SOURCE = "tailrace"


class TableTranslator(DagsterDbtTranslator):
    """Names dbt's nodes after the table they belong to: keys, group, owners, descriptions."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """`<model>/<dbt model>`; the source changes.<model> is the asset `<model>/changes`."""
        name = dbt_resource_props["name"]
        if dbt_resource_props["resource_type"] != "source":
            return dg.AssetKey([self._table.model, name])
        if dbt_resource_props["source_name"] == CHANGES_SOURCE:
            return names.changes_key(name)
        return dg.AssetKey([dbt_resource_props["source_name"], name])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return self._table.model

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        return list(super().get_owners(dbt_resource_props) or names.owners())

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props.get("description") or "")

    def get_asset_spec(self, manifest: Any, unique_id: str, project: Any) -> dg.AssetSpec:
        """Without edges to the control tables: they are bookkeeping, and no asset makes them."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        deps = [dep for dep in spec.deps if dep.asset_key.path[0] != CONTROL_SOURCE]
        return spec.replace_attributes(deps=deps, kinds={"dbt", "ducklake"})


def build_model_assets(*, table: Table, manifest: Mapping[str, Any] | Path) -> dg.AssetsDefinition:
    """The assets of one table's dbt models and the checks of their data tests."""

    @dbt_assets(
        manifest=manifest,
        select=" ".join(table.nodes),
        name=names.models_op(table.model),
        dagster_dbt_translator=TableTranslator(table),
        pool=names.MERGE_POOL,
    )
    def models(context: dg.AssetExecutionContext, tailrace: TailraceResource) -> Iterator[Any]:
        wanted = context.selected_asset_keys
        checked = {key.name: key for key in context.selected_asset_check_keys}
        if not checked and tailrace.has_nothing_to_merge(table.model):
            context.log.info(f"{table.model}: nothing has landed since the last merge")
            return
        try:
            built = tailrace.build([table.model], tests=bool(checked))
        except Exception as error:
            raise failure({table.model: error}) from error
        for note in built.notes:
            context.log.info(note)
        yield from _materializations(table, wanted, built)
        yield from _test_results(checked, built)
        if any(node.failed and node.name not in checked for node in built.nodes):
            _raise(table.model, built)

    return models


def _raise(model: str, built: "BuildResult") -> None:
    try:
        built.raise_failures()
    except Exception as error:
        raise failure({model: error}) from error


def _materializations(
    table: Table, wanted: Any, built: "BuildResult"
) -> Iterator[dg.MaterializeResult]:
    """One for each selected model that now shows what landed: those that dbt built, and the views
    above and below a merge, which show it without being built."""
    nodes = {node.name: node for node in built.nodes}
    if any(nodes[name].failed for name in table.nodes if name in nodes):
        sound = {name for name, node in nodes.items() if not node.failed}
    else:
        sound = set(table.nodes) if nodes else set()
    for key in names.dbt_keys(table):
        node = nodes.get(key.path[-1])
        if key not in wanted or key.path[-1] not in sound:
            continue
        if node is not None and node.status == "skipped":
            continue
        yield dg.MaterializeResult(asset_key=key, metadata=_node_metadata(key.path[-1], node))


def _node_metadata(name: str, node: "NodeResult | None") -> dict[str, Any]:
    metadata: dict[str, Any] = {"dagster/table_name": f"lake.analytics.{name}"}
    if node is None:
        return metadata | {"built": "not needed: a view over what was merged"}
    metadata |= {"built": node.status, "seconds": round(node.seconds, 2)}
    if node.rows is not None:
        metadata["rows merged"] = node.rows
    return metadata


def _test_results(
    checked: Mapping[str, dg.AssetCheckKey], built: "BuildResult"
) -> Iterator[dg.AssetCheckResult]:
    for node in built.nodes:
        key = checked.get(node.name)
        if key is None or node.status == "skipped":
            continue
        severity = "WARN" if node.status == "warn" else "ERROR"
        yield dg.AssetCheckResult(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=node.status == "pass",
            severity=dg.AssetCheckSeverity[severity],
            description=node.message or None,
            metadata={"rows found": node.rows or 0, "seconds": round(node.seconds, 2)},
        )
