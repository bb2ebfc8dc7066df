"""The `tailrace` command: what a person or a script types.

Data goes to standard output and nothing else does; progress, logs and errors go to standard
error. Exit codes: 0 done, 1 failed, 2 wrong use or configuration. The work itself is left to the
engine, the transform and the sources, which are imported when a command needs them, so that
`--help` is quick. Tests put their own `Parts` in their place.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from typer.core import TyperGroup

from tailrace import __version__
from tailrace.errors import ConfigError, TailraceError, Terminal, interruptible
from tailrace.model import (
    SAMPLE_ITEMS,
    BaseProgress,
    DrainResult,
    Maintenance,
    MaintenanceStep,
    Reconciliation,
    TableStatus,
)

if TYPE_CHECKING:
    from tailrace.config import Config
    from tailrace.console import Reporter
    from tailrace.sample import Suggestion
    from tailrace.starter import Described
    from tailrace.sync import Replicates, SyncResult
    from tailrace.transform.generate import Written

    class Works(Replicates, Protocol):
        """What the commands ask of the engine."""

        def reconcile(
            self,
            model: str,
            method: str | None = None,
            *,
            sample: int = ...,
            max_rcu: float | None = None,
        ) -> Reconciliation: ...

        def maintain(
            self, *, full: bool = ..., tell: Callable[[MaintenanceStep], None] = ...
        ) -> Maintenance: ...


DEBUG_VARIABLE = "TAILRACE_DEBUG"
SQL_PAGE_ROWS = 1_000
FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

STATUS_KEYS = (
    "table",
    "model",
    "epoch",
    "state",
    "rows",
    "items_read",
    "base_parts_done",
    "base_parts_total",
    "last_pass_at",
    "proven_until",
    "lag_seconds",
    "shards_open",
    "idle_reads_a_day",
    "gaps",
    "lost",
)

LIST_TABLES = "SELECT table_schema, table_name FROM information_schema.tables"

OnProgress = Callable[[BaseProgress], None]


class Parts:
    """Everything below the command line, imported when it is first needed."""

    def config(self, path: Path | None) -> Config:
        """Read tailrace.yaml. Raises ConfigError."""
        from tailrace.config import load_config

        return load_config(path)

    def engine(
        self, config: Config, progress: OnProgress | None = None
    ) -> AbstractContextManager[Works]:
        """The engine over the configured tables and warehouse."""
        from tailrace.engine import Engine

        return Engine.open(config, progress=progress)

    def build(self, config: Config, models: Sequence[str]) -> Sequence[str]:
        """Build the dbt models of these tables; what there is to say of it, e.g. new columns."""
        from tailrace.transform.runner import build

        result = build(config, models)
        result.raise_failures()
        return result.notes

    def generate(self, config: Config, *, check: bool) -> Sequence[Written]:
        """Write (or, `check`, only compare) the dbt files; what became of each."""
        from tailrace.transform import generate

        return generate.check(config) if check else generate.generate(config)

    def generate_missing(self, config: Config, models: Sequence[str]) -> Sequence[Written]:
        """Write the dbt files where a table has none yet; what was written."""
        folder = config.dbt.project_dir / "models"
        if all(any(folder.rglob(f"{model}_latest.sql")) for model in models):
            return []
        return [each for each in self.generate(config, check=False) if each.changed]

    def connect(self, config: Config) -> Any:
        """A read-only DuckDB connection with the warehouse in use."""
        from tailrace.lake.attach import connect

        return connect(config.warehouse, read_only=True)

    def init_sql(self, config: Config, local_extensions: bool) -> str:
        """The statements that attach the warehouse to a DuckDB."""
        from tailrace.lake.attach import init_sql

        return init_sql(config.warehouse, local_extensions=local_extensions)

    def describe(
        self, names: Sequence[str], region: str | None, profile: str | None, *, sample: bool
    ) -> tuple[str, list[Described]]:
        """The region in use and what AWS says of these tables; with `sample` also what some
        items of each suggest."""
        from tailrace.config import AwsConfig
        from tailrace.sample import SAMPLE_ITEMS, suggestions
        from tailrace.sources.aws import Aws
        from tailrace.sources.scan import TableScan
        from tailrace.sources.tables import describe_table, point_in_time_recovery
        from tailrace.starter import Described

        aws = Aws(AwsConfig(region=region, profile=profile))
        described = []
        for name in names:
            table = describe_table(aws, name)
            recoverable: bool | None = None
            with contextlib.suppress(TailraceError):  # advice only: it may lack the permission
                recoverable = point_in_time_recovery(aws, name) is not None
            found: tuple[Suggestion, ...] = ()
            unsampled = ""
            if sample:
                try:
                    page = TableScan(aws, name, consistent=False).page(0, 1, None, SAMPLE_ITEMS)
                    found = tuple(suggestions(page.lines, [each.name for each in table.key]))
                except TailraceError as error:  # advice only, too
                    unsampled = error.message
            described.append(Described(table, recoverable, found, unsampled))
        return aws.region, described


class _Commands(TyperGroup):
    """Turns what a command raises into one red line, what to do, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TailraceError as error:
            _explain(error)
            code = WRONG_USE if isinstance(error, ConfigError) else FAILED
        except Exception as error:
            if isinstance(error, BrokenPipeError) or hasattr(error, "exit_code"):
                raise  # typer's own: wrong use, Exit, Abort
            _explain(_unexpected(error))
            code = FAILED
        _leave_threads_behind(code)
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="DynamoDB tables in your warehouse: complete and minutes old.",
    epilog=f"Exit codes: 0 done, 1 failed, 2 wrong use or configuration. {DEBUG_VARIABLE}=1 shows "
    "traces.",
)


class StatusFormat(StrEnum):
    table = "table"
    json = "json"


class Method(StrEnum):
    export = "export"
    scan = "scan"
    sample = "sample"


class SqlFormat(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration; else $TAILRACE_CONFIG, else tailrace.yaml here.",
        show_default=False,
    ),
]
TableOption = Annotated[
    list[str] | None,
    typer.Option("--table", "-t", metavar="TABLE", help="Only this table; may stand repeatedly."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        force=True,
    )
    if _debugging():
        logging.getLogger("tailrace").setLevel(logging.DEBUG)
    if ctx.obj is None:
        ctx.obj = Parts()


# ------------------------------------------------------------------------------------- commands


@app.command()
def init(
    ctx: typer.Context,
    tables: Annotated[list[str], typer.Argument(metavar="TABLE…", help="DynamoDB tables.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Write here, not to standard output."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="AWS region; else boto3's.")] = None,
    profile: Annotated[str | None, typer.Option(help="AWS profile; else boto3's.")] = None,
    export_bucket: Annotated[
        str | None,
        typer.Option(help="S3 bucket to export into; used for tables with PITR on."),
    ] = None,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample/--no-sample",
            help="Read at most 100 items of each table and suggest types for their attributes.",
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Describe tables and write a tailrace.yaml for them.

    The file is commented, loads as it stands, and goes to standard output or to --config. A sample
    costs at most 128 read capacity units a table, and shows no value."""
    from tailrace.starter import starter, warnings

    if config is not None and config.exists() and not force:
        raise ConfigError(
            f"{config} exists already.", "Name another file, or replace it with --force."
        )
    names = list(dict.fromkeys(tables))
    in_use, described = ctx.obj.describe(names, region, profile, sample=sample)
    text = starter(described, in_use, profile=profile, export_bucket=export_bucket)
    if config is None:
        typer.echo(text, nl=False)
    else:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text, encoding="utf-8")
    for each in described:
        for warning in warnings(each):
            _note(warning, style="yellow")
        if each.unsampled:
            _note(
                f"{each.table.name}: no types are suggested, no sample was read: {each.unsampled}"
            )
    if config is not None:
        _note(f"Wrote {config}. Look through it; then `tailrace generate` and `tailrace sync`.")


@app.command()
def generate(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a file would change.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Write the dbt files of each table into the dbt project.

    Those of tables that are no longer configured are removed. Files that were edited by hand are
    left alone; where there is no project yet, one is made."""
    settings = ctx.obj.config(config)
    written = ctx.obj.generate(settings, check=check)
    for each in written:
        if each.status != "unchanged":
            _note(f"{each.path}: {'would be ' if check and each.changed else ''}{each.status}")
    changed = sum(each.changed for each in written)
    if not changed:
        _note("The dbt files are up to date.")
    elif check:
        raise Terminal(
            f"{changed} of the generated dbt files are not what tailrace.yaml asks for.",
            "Run `tailrace generate` and commit what it writes.",
        )


@app.command()
def sync(
    ctx: typer.Context,
    table: TableOption = None,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            help="Go on until every table is live and a pass begun now has reached the tip.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Read missing bases, drain the streams, build models.

    What the sensor's run does, without a daemon. Kill it at any point and run it again: it goes on
    from what it committed."""
    from tailrace.console import Reporter
    from tailrace.sync import synchronise

    parts: Parts = ctx.obj
    settings = parts.config(config)
    models = _models(settings, table)

    def build(due: Sequence[str]) -> None:
        for written in parts.generate_missing(settings, due):  # now that the keys are known
            reporter.tell(f"{written.path}: {written.status}")
        for line in parts.build(settings, due):
            reporter.tell(line)

    with _kept_to_stderr(), Reporter() as reporter, _interruptible(reporter):
        opened = parts.engine(settings, reporter.progress)
        with _left_open_while_busy(opened) as engine:
            result = synchronise(
                engine,
                build,
                models,
                until_caught_up=until_caught_up,
                repairs=all(settings.table(model).repair.automatic for model in models),
                tell=reporter.tell,
            )
        _summarise(result, models, reporter.tell)
    for error in dict.fromkeys(result.failures.values()):
        _explain(error if isinstance(error, TailraceError) else _unexpected(error))
    if result.failures:
        wrong = all(isinstance(error, ConfigError) for error in result.failures.values())
        raise typer.Exit(WRONG_USE if wrong else FAILED)


@app.command()
def base(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="A table's name or model.", metavar="TABLE")],
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Give up an unfinished base for a new one."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Read a table's base: go on with an unfinished one, else open a new epoch.

    A table that is live is read anew behind its readers' backs: they see the old epoch until the
    new one is live, which the next `tailrace sync` brings about."""
    from tailrace.console import Reporter

    parts: Parts = ctx.obj
    settings = parts.config(config)
    [model] = _models(settings, [table])
    with _kept_to_stderr(), Reporter() as reporter, _interruptible(reporter):
        opened = parts.engine(settings, reporter.progress)
        with _left_open_while_busy(opened) as engine:
            read = engine.base(model, restart=restart)
        reporter.tell(
            f"{model}: epoch {read.epoch}, base by {read.method} complete: {read.items:,} items"
            f" in {read.seconds:.0f} s. `tailrace sync` takes it live."
        )


@app.command()
def repair(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="A table's name or model.", metavar="TABLE")],
    config: ConfigOption = None,
) -> None:
    """Close a table's gaps: read what changed since before the first one.

    By incremental exports, where point-in-time recovery is on and a bucket is named; else by a new
    base. Readers go on seeing what they see until the next `tailrace sync` takes it live."""
    from tailrace.console import Reporter

    parts: Parts = ctx.obj
    settings = parts.config(config)
    [model] = _models(settings, [table])
    with _kept_to_stderr(), Reporter() as reporter, _interruptible(reporter):
        opened = parts.engine(settings, reporter.progress)
        with _left_open_while_busy(opened) as engine:
            read = engine.repair(model)
        if read is None:
            reporter.tell(f"{model}: there is no gap to repair.")
        else:
            reporter.tell(
                f"{model}: epoch {read.epoch}, by {read.method}, {read.state}: {read.items:,} items"
                f" in {read.seconds:.0f} s. `tailrace sync` takes it live."
            )


@app.command()
def reconcile(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="A table's name or model.", metavar="TABLE")],
    method: Annotated[
        Method | None,
        typer.Option(help="How the table is read; else as its base.", show_default=False),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="ITEMS",
            min=1,
            help=f"How many random items to compare, {SAMPLE_ITEMS:,} for --method sample.",
            show_default=False,
        ),
    ] = None,
    max_rcu: Annotated[
        float | None,
        typer.Option(metavar="N", help="Most read capacity units a second; else the base's."),
    ] = None,
    format: Annotated[StatusFormat, typer.Option("--format", "-f")] = StatusFormat.table,
    config: ConfigOption = None,
) -> None:
    """Prove that the warehouse equals the table: by keys, and by content.

    The table is read by a fresh export, by a scan, or in random samples, and compared with what
    the warehouse says of that very time: nobody has to stop writing. Each difference is shown with
    both sides. Exit code 0 only if there is none.

    --format json gives an object with model, method, equal (true or false), began_at and ended_at
    (ISO 8601, UTC), capacity_units, seconds, counts, and differences: the first 100, each with
    kind, key, source and warehouse."""
    from tailrace.console import Reporter, print_reconciliation

    parts: Parts = ctx.obj
    settings = parts.config(config)
    [model] = _models(settings, [table])
    if sample is not None and method not in (None, Method.sample):
        raise ConfigError(
            f"--sample {sample} says how large a sample is, but --method is {method}.",
            "Leave one of them out.",
        )
    _require_warehouse(settings)
    chosen = Method.sample.value if sample is not None else method and method.value
    with (
        _kept_to_stderr(),
        Reporter() as reporter,
        _interruptible(reporter, "Nothing was changed; the same command starts over."),
        parts.engine(settings, reporter.progress) as engine,
    ):
        result = engine.reconcile(model, chosen, sample=sample or SAMPLE_ITEMS, max_rcu=max_rcu)
    if format is StatusFormat.json:
        typer.echo(json.dumps(_reconciliation_object(result), indent=2, ensure_ascii=False))
    else:
        print_reconciliation(result)
    if not result.is_equal:
        raise typer.Exit(FAILED)


@app.command()
def maintain(
    ctx: typer.Context,
    format: Annotated[StatusFormat, typer.Option("--format", "-f")] = StatusFormat.table,
    config: ConfigOption = None,
) -> None:
    """Keep the warehouse small and quick: merge files, expire snapshots, clean up.

    Dagster does it each hour by itself; without Dagster, run it daily. It may run beside anything,
    and be interrupted: what it did stays done. Exit code 1 where some of it failed.

    --format json gives an object with seconds, failures, steps (name, done, seconds), and before
    and after: tables, snapshots, old_files and catalog_bytes."""
    from tailrace.console import Reporter, print_maintenance

    parts: Parts = ctx.obj
    settings = parts.config(config)
    if not _warehouse_exists(settings):
        raise Terminal(
            f"There is no warehouse yet: {settings.warehouse.catalog_target} does not exist.",
            "Run `tailrace sync` first, or name another configuration with --config.",
        )
    with (
        _kept_to_stderr(),
        Reporter() as reporter,
        _interruptible(reporter, "What was done stays done; the same command goes on."),
        parts.engine(settings) as engine,
    ):
        result = engine.maintain(
            tell=lambda step: reporter.tell(f"{step.name}: {step.done:,} in {step.seconds:.1f} s")
        )
    if format is StatusFormat.json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        print_maintenance(result)
    if result.failures:
        raise typer.Exit(FAILED)


@app.command()
def status(
    ctx: typer.Context,
    table: TableOption = None,
    format: Annotated[StatusFormat, typer.Option("--format", "-f")] = StatusFormat.table,
    config: ConfigOption = None,
) -> None:
    """Show each table's epoch, state, rows, last pass, lag, shards, and gaps.

    --format json gives an array of objects with the keys table, model, epoch, state (none, open,
    base_complete, live), rows, items_read, base_parts_done, base_parts_total, last_pass_at (ISO
    8601, UTC), proven_until (every change made before it is in the log), lag_seconds (its age),
    shards_open, idle_reads_a_day (GetRecords calls to a stream without changes), gaps (since,
    until, reason) and lost (what the source lost from which another one takes over); what is not
    known is null."""
    settings = ctx.obj.config(config)
    models = _models(settings, table)
    if _warehouse_exists(settings):
        with ctx.obj.engine(settings) as engine:
            found = {each.model: each for each in engine.status(models)}
    else:
        found = {}
        _note("There is no warehouse yet: `tailrace sync` makes it.")
    names = {each.model: each.name for each in settings.tables}
    lines = [found.get(model) or _unknown(model, names[model]) for model in models]
    if format is StatusFormat.json:
        typer.echo(json.dumps([_status_object(each) for each in lines], indent=2))
    else:
        from tailrace.console import print_status

        print_status(lines)


@app.command()
def sql(
    ctx: typer.Context,
    query: Annotated[
        str, typer.Argument(metavar="SQL", help="DuckDB's SQL; - reads it from stdin.")
    ],
    format: Annotated[SqlFormat, typer.Option("--format", "-f")] = SqlFormat.table,
    config: ConfigOption = None,
) -> None:
    """Query the warehouse, read-only.

    The models are in the schema in use, analytics: FROM orders is FROM analytics.orders, and SHOW
    TABLES lists them. The logs are changes.<model>, the ledger tailrace.*. Of several statements
    what the last one finds is printed.

    --format json prints an array of objects and nothing else: numbers have all their digits, JSON
    columns are JSON, BLOB is base64, times are ISO 8601."""
    settings = ctx.obj.config(config)
    query = sys.stdin.read() if query == "-" else query
    if not query.strip():
        raise ConfigError("The query is empty.", f'For example: tailrace sql "{LIST_TABLES}"')
    connection = _open_warehouse(ctx.obj, settings)
    try:
        with _sql_errors_explained():
            connection.execute("USE lake.analytics")
            cursor = connection.execute(query)
        _print_rows(cursor, format)
    finally:
        connection.close()


@app.command()
def attributes(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="A table's name or model.", metavar="TABLE")],
    format: Annotated[SqlFormat, typer.Option("--format", "-f")] = SqlFormat.table,
    config: ConfigOption = None,
) -> None:
    """What is known of a table's attributes: types, digits, when they were seen, how often.

    One row an attribute and type. `items` counts the living items that hold it, and `last_seen` is
    when one of them changed last: both are worked out now, from all items."""
    from tailrace.lake.attributes import overview_sql

    settings = ctx.obj.config(config)
    [model] = _models(settings, [table])
    connection = _open_warehouse(ctx.obj, settings)
    try:
        sql = overview_sql(lambda text: connection.execute(text).fetchall(), model)
        with _sql_errors_explained():
            cursor = connection.execute(sql)
        _print_rows(cursor, format)
    finally:
        connection.close()


@app.command()
def export(
    ctx: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="A table's name or model, or a relation such as orders_history."
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="FILE", help="Its ending is the format: .parquet, .csv, .json, .ndjson."
        ),
    ],
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT",
            help="The table as it was then, e.g. '2026-11-01 12:00' (UTC, unless it has a zone).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Copy a table, or another relation of analytics, into a file.

    Parquet keeps every type. CSV and JSON are as `tailrace sql` prints them; .ndjson has an object
    a line. The file appears when it is whole."""
    from tailrace.lake.copies import require_place, write_copy
    from tailrace.lake.sql import ident, literal

    parts: Parts = ctx.obj
    settings = parts.config(config)
    require_place(to, force=force)
    model = next((each.model for each in settings.tables if table in (each.model, each.name)), None)
    if as_of is not None and model is None:
        raise ConfigError(
            f"--as-of is for a table, but {table} is none of {', '.join(settings.models)}.",
            "Name one of these, or leave --as-of out.",
        )
    connection = _open_warehouse(parts, settings)
    try:
        name = _relation(connection, model or table)
        rows = ident("lake", "analytics", name)
        if as_of is not None:
            rows = f"{ident('lake', 'analytics', f'{name}_as_of')}({literal(as_of)})"
        with _sql_errors_explained():
            count = write_copy(connection, f"SELECT * FROM {rows}", to)
    finally:
        connection.close()
    _note(f"Wrote {count:,} rows to {to}.")


@app.command("init-sql")
def init_sql(
    ctx: typer.Context,
    local_extensions: Annotated[
        bool,
        typer.Option(
            "--local-extensions",
            help="Load DuckDB's extensions from this environment's files: nothing is downloaded.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Print the statements that attach the warehouse to a DuckDB, read-only.

    `tailrace init-sql > init.sql`, then `duckdb -init init.sql`; BI tools take them as a
    connection's init SQL. No password stands in them."""
    typer.echo(ctx.obj.init_sql(ctx.obj.config(config), local_extensions), nl=False)


# ------------------------------------------------------------------------------------- printing


def _open_warehouse(parts: Parts, settings: Config) -> Any:
    """A read-only connection. Raises Terminal where there is no warehouse yet."""
    _require_warehouse(settings)
    return parts.connect(settings)


def _relation(connection: Any, name: str) -> str:
    """The relation of analytics with that name. Raises Terminal where there is none."""
    found = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'lake'"
        " AND table_schema = 'analytics' ORDER BY table_name"
    ).fetchall()
    there = [row[0] for row in found]
    if name not in there:
        raise Terminal(
            f"There is no analytics.{name}; there are: {', '.join(there) or 'none yet'}.",
            "Name one of these, or build it with `tailrace sync`.",
        )
    return name


def _print_rows(cursor: Any, format: SqlFormat) -> None:
    from tailrace.console import print_rows
    from tailrace.tabular import TABLE_ROWS_MOST, columns_of, write_csv, write_json

    columns = columns_of(cursor.description)
    if format is SqlFormat.json:
        write_json(columns, _rows(cursor), sys.stdout)
    elif format is SqlFormat.csv:
        write_csv(columns, _rows(cursor), sys.stdout)
    else:
        with _sql_errors_explained():
            rows = cursor.fetchmany(TABLE_ROWS_MOST + 1)
        print_rows(columns, rows[:TABLE_ROWS_MOST])
        if len(rows) > TABLE_ROWS_MOST:
            _note(f"The first {TABLE_ROWS_MOST:,} rows; --format csv or json prints all of them.")


def _rows(cursor: Any) -> Iterator[Sequence[Any]]:
    while True:
        with _sql_errors_explained():
            rows = cursor.fetchmany(SQL_PAGE_ROWS)
        if not rows:
            return
        yield from rows


def _status_object(each: TableStatus) -> dict[str, Any]:
    values = asdict(each)
    values["table"] = values.pop("table_name")
    values["last_pass_at"] = _iso(each.last_pass_at)
    values["proven_until"] = _iso(each.proven_until)
    values["lost"] = each.lost or None
    values["gaps"] = [
        {"since": _iso(gap.since), "until": _iso(gap.until), "reason": gap.reason}
        for gap in each.gaps
    ]
    return {key: values[key] for key in STATUS_KEYS}


def _reconciliation_object(result: Reconciliation) -> dict[str, Any]:
    found = result.found
    return {
        "model": result.model,
        "method": result.method,
        "equal": result.is_equal,
        "began_at": _iso(result.began_at),
        "ended_at": _iso(result.ended_at),
        "capacity_units": result.capacity_units,
        "seconds": round(result.seconds, 1),
        "counts": {
            "source_items": found.source_items,
            "warehouse_items": found.warehouse_items,
            "equal": found.equal,
            "missing": found.missing,
            "extra": found.extra,
            "different": found.different,
            "latest_items": found.latest_items,
            "latest_different": found.latest_different,
            "unsettled": found.unsettled,
        },
        "differences": [asdict(each) for each in found.shown],
    }


def _summarise(result: SyncResult, models: Sequence[str], tell: Callable[[str], None]) -> None:
    for model in models:
        last = result.passes.get(model)
        if last is not None:
            tell(f"{model}: {_describe(last)}, {result.rows[model]:,} changes")
            for notice in last.notices:
                tell(f"{model}: {notice}")


def _describe(last: DrainResult) -> str:
    if last.state == "live":
        tip = "at the tip" if last.reached_tip else "more to read: the next pass goes on"
        return f"live, {tip}"
    if last.void:
        return "not live: its stream lost changes after its base, which has to be read anew"
    if last.state == "base_complete" and last.reached_tip and last.delay_seconds:
        delay = f"{last.delay_seconds:.0f} s"
        return f"not live yet: what its source may bring late is waited for, {delay}"
    if last.state == "base_complete":
        return "not live yet, a pass has to reach the tip first (--until-caught-up waits for it)"
    return f"not live yet ({last.state})"


# -------------------------------------------------------------------------------------- the rest


def _models(settings: Config, tables: Sequence[str] | None) -> list[str]:
    if not tables:
        return list(settings.models)
    return list(dict.fromkeys(settings.table(name).model for name in tables))


def _warehouse_exists(settings: Config) -> bool:
    warehouse = settings.warehouse
    return warehouse.catalog_kind != "sqlite" or Path(warehouse.catalog_target).exists()


def _require_warehouse(settings: Config) -> None:
    if not _warehouse_exists(settings):
        raise Terminal(
            f"There is no warehouse yet: {settings.warehouse.catalog_target} does not exist.",
            "Run `tailrace sync` first, or name another configuration with --config.",
        )


def _unknown(model: str, table_name: str) -> TableStatus:
    return TableStatus(
        model=model,
        table_name=table_name,
        epoch=None,
        state="none",
        rows=0,
        items_read=0,
        last_pass_at=None,
        lag_seconds=None,
        shards_open=0,
        base_parts_done=0,
        base_parts_total=0,
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


@contextlib.contextmanager
def _sql_errors_explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__module__.lstrip("_").partition(".")[0] != "duckdb":
            raise
        raise Terminal(
            str(error),
            f'Correct the query. `tailrace sql "{LIST_TABLES}"` lists what there is; the warehouse'
            " is opened read-only.",
        ) from error


@contextlib.contextmanager
def _kept_to_stderr() -> Iterator[None]:
    """What a library prints (dbt does) is no data."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _left_open_while_busy(opened: AbstractContextManager[Works]) -> Iterator[Works]:
    """Closes the engine, unless a base that was told to stop is still being read in its thread:
    the process is left as it stands then, which is as safe as any kill."""
    engine = opened.__enter__()
    try:
        yield engine
    finally:
        if not _busy():
            opened.__exit__(None, None, None)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextlib.contextmanager
def _interruptible(
    reporter: Reporter,
    then: str = "What was committed stays; the same command goes on from there.",
) -> Iterator[None]:
    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as told:
        reporter.__exit__()
        terminated = isinstance(told, _Terminated)
        code = TERMINATED if terminated else INTERRUPTED
        _note(f"{'Terminated' if terminated else 'Interrupted'}. {then}")
        _leave_threads_behind(code)
        raise typer.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _busy() -> bool:
    return any(thread.name == "bases" for thread in threading.enumerate())


def _leave_threads_behind(code: int) -> None:
    """End the process now if a base is still being read: its threads would hold it for hours."""
    if _busy():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _explain(error: TailraceError) -> None:
    if _debugging():
        import traceback

        traceback.print_exception(error)
    _note(f"Error: {error.message}", style="bold red")
    if error.remedy:
        _note(f"What to do: {error.remedy}")


def _note(text: str, style: str = "") -> None:
    from tailrace.console import note

    note(text, style)


def _unexpected(error: Exception) -> TailraceError:
    explained = TailraceError(
        f"Unexpected {type(error).__name__}: {error}",
        f"Run again with {DEBUG_VARIABLE}=1 for the trace; if it stays, it is worth an issue.",
    )
    explained.__cause__ = error
    return explained


def _debugging() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
