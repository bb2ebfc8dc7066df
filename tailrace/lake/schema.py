"""The warehouse's own tables: control tables in `tailrace`, one change log a table in `changes`.

All of them are append-only; the state is the last row. The ledger, which grows a row a shard and
minute, stays inlined in the catalog until maintenance makes files of it. Nothing that analysts
query is: beside a SQLite catalog a reader may miss rows in the moment in which they go into a file.
"""

from __future__ import annotations

import duckdb

from tailrace.lake.sql import bound, ident, literal

CONTROL = "tailrace"
CHANGES = "changes"
ANALYTICS = "analytics"

LEDGER = "ledger"

# Up to this many rows that a commit adds to the ledger stay in the catalog, instead of becoming a
# Parquet file.
INLINED_ROWS = 200

# Smaller than DuckDB's 122,880: about 20 MB of 1 KB items a row group, so memory stays flat. Rows
# of the log are the widest, and what is written of them at a time is one page: it should fit a
# cache.
ROW_GROUP_ROWS = 20_480
LOG_ROW_GROUP_ROWS = 4_096

_CONTROL_TABLES = {
    "tables": """model VARCHAR, batch BIGINT, table_name VARCHAR, table_arn VARCHAR,
        table_id VARCHAR, key_schema JSON, stream_arn VARCHAR, view_type VARCHAR,
        recorded_at TIMESTAMPTZ""",
    "epochs": """model VARCHAR, batch BIGINT, epoch INTEGER, kind VARCHAR, method VARCHAR,
        state VARCHAR, table_id VARCHAR, stream_arn VARCHAR, detail JSON,
        recorded_at TIMESTAMPTZ""",
    "ledger": """model VARCHAR, batch BIGINT, epoch INTEGER, kind VARCHAR, source VARCHAR,
        origin VARCHAR, part VARCHAR, position_from VARCHAR, position_to VARCHAR,
        finished BOOLEAN, row_count BIGINT, byte_count BIGINT, oldest_change TIMESTAMPTZ,
        newest_change TIMESTAMPTZ, pass_id VARCHAR, detail JSON, landed_at TIMESTAMPTZ""",
    "attributes": """model VARCHAR, batch BIGINT, path VARCHAR, type VARCHAR,
        integer_digits INTEGER, scale INTEGER, example_key VARCHAR, recorded_at TIMESTAMPTZ""",
    "gaps": """model VARCHAR, batch BIGINT, epoch INTEGER, since TIMESTAMPTZ, until TIMESTAMPTZ,
        found_at TIMESTAMPTZ, reason VARCHAR""",
    "structures": """model VARCHAR, batch BIGINT, path VARCHAR, structure JSON,
        recorded_at TIMESTAMPTZ""",
}

_LOG_COLUMNS = """batch BIGINT, version VARCHAR, epoch INTEGER, op VARCHAR, key VARCHAR,
    image JSON, old_image JSON, changed_at TIMESTAMPTZ, ttl_expired BOOLEAN,
    looked_up BOOLEAN, landed_at TIMESTAMPTZ"""


def create_control_tables(con: duckdb.DuckDBPyConnection) -> None:
    """Creates schemas, control tables and storage options, where they are missing."""
    if _exists(con, CONTROL, "structures"):
        return
    for schema in (CONTROL, CHANGES, ANALYTICS):
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {ident(schema)}")
    for option, value in (
        ("parquet_compression", "'zstd'"),
        ("parquet_compression_level", "1"),
        ("parquet_row_group_size", str(ROW_GROUP_ROWS)),
    ):
        con.execute(f"CALL lake.set_option({literal(option)}, {value})")
    for schema in (CONTROL, CHANGES, ANALYTICS):
        con.execute(
            f"CALL lake.set_option('data_inlining_row_limit', 0, schema => {literal(schema)})"
        )
    con.execute(
        f"CALL lake.set_option('parquet_row_group_size', {LOG_ROW_GROUP_ROWS},"
        f" schema => {literal(CHANGES)})"
    )
    # The tables last: where they stand, the options above stand too, whatever was killed.
    con.execute("BEGIN")
    for name, columns in _CONTROL_TABLES.items():
        con.execute(f"CREATE TABLE IF NOT EXISTS {ident(CONTROL, name)} ({columns})")
    con.execute("COMMIT")
    # If this is missed, the next maintenance makes up for it.
    con.execute(inline_ledger_sql(INLINED_ROWS))


def inline_ledger_sql(rows: int) -> str:
    """CALL that lets commits of up to `rows` rows of the ledger stay in the catalog."""
    return (
        f"CALL lake.set_option('data_inlining_row_limit', {rows},"
        f" schema => {literal(CONTROL)}, table_name => {literal(LEDGER)})"
    )


def create_log(con: duckdb.DuckDBPyConnection, model: str) -> None:
    """Creates the change log of a table, where it is missing."""
    if not _exists(con, CHANGES, model):
        con.execute(f"CREATE TABLE IF NOT EXISTS {ident(CHANGES, model)} ({_LOG_COLUMNS})")


def _exists(con: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    found = con.execute(
        bound(
            "SELECT count(*) FROM information_schema.tables"
            " WHERE table_catalog = 'lake' AND table_schema = ? AND table_name = ?",
            [schema, table],
        ),
    ).fetchone()
    return bool(found and found[0])
