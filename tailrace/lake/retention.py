"""Which rows of a change log may go, where tailrace.yaml does not keep all of them (ADR 13).

Said as a condition on rows, which looks for itself whether now is a time for it; when it is applied
is tailrace.lake.maintenance's business. What the models have not taken in, what nobody may see yet,
and the newest row of each key, be it a tombstone, always stay.
"""

from __future__ import annotations

import duckdb

from tailrace.lake.schema import ANALYTICS, CHANGES
from tailrace.lake.sql import bound, ident, literal
from tailrace.lake.version import is_base_sql
from tailrace.model import LIVE

# In the states of a table that keep the raw items, as the macro every_state writes them.
RAW_ITEMS = "_image"


def droppable_sql(con: duckdb.DuckDBPyConnection, model: str, days: float) -> str | None:
    """A condition on rows of `changes.<model>`: true of those that landed more than `days` ago and
    are not needed any more. None where the models do not stand, or do not have the raw items yet
    from which the history is built anew."""
    ((built,),) = con.execute(
        bound(
            "SELECT count(*) FROM information_schema.columns WHERE table_catalog = 'lake'"
            " AND table_schema = ? AND (table_name, column_name) IN ((?, ?), (?, ?), (?, ?))",
            [
                ANALYTICS,
                *(f"{model}_states", RAW_ITEMS),
                *(f"{model}_latest", "_batch"),
                *(f"stg_{model}_changes", "visible_batch"),
            ],
        )
    ).fetchall()
    if built < 3:
        return None
    log, age = ident(CHANGES, model), round(days * 86_400_000_000)
    merged = [
        f"(SELECT coalesce(max(_batch), 0) FROM {ident(ANALYTICS, f'{model}_{name}')})"
        for name in ("states", "latest")
    ]
    epochs = f"tailrace.epochs WHERE model = {literal(model)}"
    live = f"SELECT epoch FROM {epochs} AND state = {literal(LIVE)}"
    # A base is weighed against what was there before: nothing goes until the history has done so.
    settled = (
        f"(SELECT arg_max(state, batch) FROM {epochs}) = {literal(LIVE)}"
        f" AND (SELECT max(batch) FROM {epochs}) <= {merged[0]}"
        f" AND landed_at < now() - to_microseconds({age})"
    )
    # Up to here every row has landed long ago, and both models have it.
    until = f"""least({", ".join(merged)}, (SELECT coalesce(max(batch), 0) FROM {log}
        WHERE landed_at < now() - to_microseconds({age})))"""
    superseded = f"""
        SELECT log_row FROM (
            SELECT log_row,
                row_number() OVER (PARTITION BY key ORDER BY version DESC) > 1
                AND row_number() OVER (PARTITION BY key ORDER BY visible_batch DESC, version DESC)
                    > 1 AS is_superseded
            FROM {ident(ANALYTICS, f"stg_{model}_changes")}
            WHERE visible_batch <= {until})
        WHERE is_superseded"""
    # The base of an epoch that was given up before it went live.
    given_up = (
        f"{is_base_sql('version')} AND epoch NOT IN ({live}) AND epoch < (SELECT max(epoch) FROM"
        f" ({live}))"
    )
    return f"{settled} AND (rowid IN ({superseded}) OR {given_up})"
