"""Runs dbt in this process, on the models of some tables, and explains what went wrong.

Starting dbt is the dearest part of a busy minute, so it is imported late, keeps its manifest
between calls, and is asked for what is needed only: <model>_states and <model>_latest each time,
the views when they are missing or their code changed. What the models do is in dbt_project/.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from tailrace.config import Config
from tailrace.errors import ConfigError, Retryable, TailraceError, Terminal
from tailrace.lake import structure
from tailrace.lake.attach import CATALOG, sqlite_path, without_password
from tailrace.lake.log import is_lost_race
from tailrace.lake.schema import ANALYTICS, CHANGES, CONTROL
from tailrace.lake.sql import bound, ident
from tailrace.lake.turns import turn
from tailrace.transform.generate import split_condition

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

BUILD_ATTEMPTS = 8
BUILD_WAIT_SECONDS = 0.2
BUILD_WAIT_MAX_SECONDS = 5.0

# What a manifest is made from; target/ and logs/ are not.
PROJECT_FOLDERS = ("macros", "models", "tests", "seeds", "snapshots", "analyses")

_one_dbt_at_a_time = threading.RLock()
_manifests: dict[Path, tuple[str, Manifest]] = {}


@dataclass(frozen=True)
class NodeResult:
    """What dbt did with one model or test. `status` is dbt's: success, error, fail, warn, pass,
    skipped. `rows` is what a merge brought in, where it is known."""

    name: str
    status: str
    seconds: float
    rows: int | None = None
    message: str = ""

    @property
    def failed(self) -> bool:
        """True for what stops a build; a warning does not."""
        return self.status in ("error", "fail", "runtime error", "partial success")


@dataclass(frozen=True)
class BuildResult:
    """What a call to `build` did. `notes` is what dbt had to say (new columns, rebuilds),
    `attempts` how often the warehouse was asked, `seconds` all of it."""

    nodes: tuple[NodeResult, ...] = ()
    failures: tuple[TailraceError, ...] = ()
    notes: tuple[str, ...] = ()
    attempts: int = 0
    seconds: float = 0.0

    def raise_failures(self) -> None:
        """Raises the first failure, if there is one, with all of them in its message."""
        if not self.failures:
            return
        first = self.failures[0]
        message = "\n".join(failure.message for failure in self.failures)
        raise type(first)(message, first.remedy)


def build(config: Config, models: Sequence[str], *, tests: bool = False) -> BuildResult:
    """Brings the dbt models of the named tables up to date with the change log, and with `tests`
    runs their data tests.

    A table without a change log yet is left out. Database errors stand in `failures`, one a
    model; a warehouse that stays busy is Retryable there. Raises ConfigError where the dbt files
    are missing, Terminal where dbt cannot read them."""
    begun = time.monotonic()
    _require_files(config, models)
    with _working_on(config) as con:
        state = _warehouse_state(con, config, models)
        unknown = _learn_structures(con, config, models)
        models = [model for model in models if model not in unknown]
        stamps = _stamps(con, config, models)
        nodes = _due(config, models, state, stamps)
        if not nodes:
            failures = tuple(unknown.values())
            return BuildResult(failures=failures, seconds=time.monotonic() - begun)
        result = _run_until_settled(config, nodes)
        outgrown = _outgrown(con, config, models, state, nodes)
        if outgrown and not result.failures:
            result = _joined(result, _run_until_settled(config, outgrown))
        result = replace(result, failures=(*unknown.values(), *result.failures))
        built = {node.name for node in result.nodes if not node.failed and node.status != "skipped"}
        whole = [m for m in models if set(config.table(m).nodes) <= built]
        _remember_built(config, {model: stamps[model] for model in whole})
        if tests and not result.failures:
            tested = _invoke(config, ["test", "--select", *_nodes_of(config, models)])
            result = _joined(result, tested)
        if any("built anew" in note for note in result.notes):
            result = replace(result, notes=(*result.notes, *_broken_views(con, config)))
        rows = _merged_rows(con, _filled(config, models), state, result.nodes)
    named = tuple(replace(node, rows=rows.get(node.name, node.rows)) for node in result.nodes)
    return replace(result, nodes=named, seconds=time.monotonic() - begun)


def manifest_path(config: Config) -> Path:
    """The path of an up-to-date manifest.json, written first where the project has changed.

    Raises ConfigError where there is no dbt project, Terminal where dbt cannot read it."""
    target = config.dbt.project_dir / "target"
    path = target / "manifest.json"
    stamp = target / "tailrace_manifest.txt"
    _require_project(config)
    with _one_dbt_at_a_time:
        fingerprint = _fingerprint(config)
        if path.exists() and stamp.exists() and stamp.read_text() == fingerprint:
            return path
        outcome = _dbt(config, ["parse"], manifest=None, write_json=True)
        if not outcome.success:
            raise _project_broken(config, outcome.exception)
        stamp.write_text(fingerprint)
    return path


# -------------------------------------------------------------------------- what has to be done


@dataclass(frozen=True)
class _State:
    """Which relations stand in the warehouse, and the watermark of each table that dbt fills."""

    logs: frozenset[str]
    relations: frozenset[str]
    watermarks: dict[str, int]


def _warehouse_state(
    con: duckdb.DuckDBPyConnection, config: Config, models: Sequence[str]
) -> _State:
    found = con.execute(
        bound(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_catalog = ? AND table_schema IN (?, ?)",
            [CATALOG, CHANGES, ANALYTICS],
        )
    ).fetchall()
    logs = frozenset(name for schema, name in found if schema == CHANGES)
    relations = frozenset(name for schema, name in found if schema == ANALYTICS)
    filled = _filled(config, models)
    marks = {name: _watermark(con, name) for name in filled if name in relations}
    return _State(logs, relations, marks)


def _watermark(con: duckdb.DuckDBPyConnection, node: str) -> int:
    return _count(con, f"SELECT coalesce(max(_batch), 0) FROM {ident(CATALOG, ANALYTICS, node)}")


def _merged_rows(
    con: duckdb.DuckDBPyConnection,
    filled: Collection[str],
    state: _State,
    nodes: Iterable[NodeResult],
) -> dict[str, int]:
    """How many rows the build has written of each table that dbt fills."""
    return {
        node.name: _count(
            con,
            f"SELECT count(*) FROM {ident(CATALOG, ANALYTICS, node.name)}"
            f" WHERE _batch > {state.watermarks.get(node.name, 0)}",
        )
        for node in nodes
        if node.name in filled and node.status == "success"
    }


def _broken_views(con: duckdb.DuckDBPyConnection, config: Config) -> Iterator[str]:
    """What to say of the views in the warehouse that are somebody's own and cannot be queried, now
    that columns have changed their types."""
    ours = {name for table in config.tables for name in table.nodes}
    views = con.execute(
        bound(
            "SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = ?", [CATALOG]
        )
    ).fetchall()
    for schema, view in views:
        if schema == ANALYTICS and view in ours:
            continue
        try:
            con.execute(f"DESCRIBE {ident(CATALOG, schema, view)}")
        except duckdb.Error as error:
            yield (
                f"the view {schema}.{view} cannot be queried now that columns have changed:"
                f" {str(error).splitlines()[0]}. Nothing of Tailrace's uses it: mend or drop it."
            )


def _count(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(sql).fetchone()
    return int(row[0]) if row else 0


def _filled(config: Config, models: Iterable[str]) -> list[str]:
    """The tables that each build brings up to date; the rest are views."""
    return [name for model in models for name in config.table(model).filled]


def _nodes_of(config: Config, models: Iterable[str]) -> list[str]:
    return [name for model in models for name in config.table(model).nodes]


def _due(
    config: Config, models: Sequence[str], state: _State, stamps: Mapping[str, str]
) -> list[str]:
    """The whole chain where a view is missing or what it is made from has changed since it was
    built here, else the tables alone."""
    known = _built(config)
    nodes: list[str] = []
    for model in models:
        if model not in state.logs:
            continue
        table = config.table(model)
        views = set(table.nodes) - set(table.filled)
        whole = views <= state.relations and known.get(model) == stamps[model]
        nodes += table.filled if whole else table.nodes
    return nodes


def _built_path(config: Config) -> Path:
    return config.dbt.project_dir / "target" / "tailrace_built.json"


def _learn_structures(
    con: duckdb.DuckDBPyConnection, config: Config, models: Sequence[str]
) -> dict[str, TailraceError]:
    """Brings the structures of documents up to date; returns what went wrong, by model."""
    tables = [table for table in map(config.table, models) if table.structs]
    if not tables:
        return {}
    with turn(config.warehouse):
        return structure.learn_all(con, tables)


def _outgrown(
    con: duckdb.DuckDBPyConnection,
    config: Config,
    models: Sequence[str],
    state: _State,
    built: Collection[str],
) -> list[str]:
    """The models of item types that lack a column which their items use since this merge."""
    found = []
    for table in (config.table(model) for model in models):
        latest = f"{table.model}_latest"
        for name, split in table.split.items():
            if name in built or name not in state.relations:
                continue
            lacking = _columns(con, table.model) - _columns(con, name)
            used = " OR ".join(f"{ident(column)} IS NOT NULL" for column in sorted(lacking))
            with suppress(duckdb.BinderException):  # it needs a column that is not there yet
                if lacking and _count(
                    con,
                    f"SELECT count(*) FROM {ident(CATALOG, ANALYTICS, latest)}"
                    f" WHERE _batch > {state.watermarks.get(latest, 0)} AND _op <> 'REMOVE'"
                    f" AND ({used}) AND ({split_condition(split)}\n)",
                ):
                    found.append(name)
    return found


def _columns(con: duckdb.DuckDBPyConnection, relation: str) -> set[str]:
    rows = con.execute(f"DESCRIBE {ident(CATALOG, ANALYTICS, relation)}").fetchall()
    return {row[0] for row in rows}


def _stamps(
    con: duckdb.DuckDBPyConnection, config: Config, models: Sequence[str]
) -> dict[str, str]:
    """What each table's views are made from: the project's code, the epochs, which
    <model>_changes has in its text, and the structures of lists, whose members views of rows name.
    """
    fingerprint = _fingerprint(config)
    epochs, tables = (ident(CATALOG, CONTROL, name) for name in ("epochs", "tables"))
    found = con.execute(f"""
        SELECT model, string_agg(concat_ws(' ', epoch, state, view_type), ', ' ORDER BY batch)
        FROM {epochs} LEFT JOIN {tables} USING (model, batch)
        WHERE state IN ('open', 'live') GROUP BY model""").fetchall()
    shapes = dict(found)
    structures = {
        table.model: structure.digest(con, table.model, table.rows)
        for table in map(config.table, models)
        if table.rows
    }
    return {
        model: f"{fingerprint}: {shapes.get(model, '')} {structures.get(model, '')}".strip()
        for model in models
    }


def _built(config: Config) -> dict[str, str]:
    """The stamp of each model at the time its views were built in this warehouse."""
    try:
        known = json.loads(_built_path(config).read_text())
    except (OSError, ValueError):
        return {}
    return dict(known.get(config.warehouse.catalog, {}))


def _remember_built(config: Config, new: Mapping[str, str]) -> None:
    if not new:
        return
    path = _built_path(config)
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    known.setdefault(config.warehouse.catalog, {}).update(new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1))


def _fingerprint(config: Config) -> str:
    """A hash over the project's files: their paths and contents."""
    project = config.dbt.project_dir
    files = [project / "dbt_project.yml", project / "profiles.yml", project / "packages.yml"]
    for folder in PROJECT_FOLDERS:
        files += sorted((project / folder).rglob("*"))
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(project)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _require_project(config: Config) -> None:
    if not (config.dbt.project_dir / "dbt_project.yml").exists():
        raise ConfigError(
            f"There is no dbt project in {config.dbt.project_dir}.",
            "Run `tailrace generate`: it makes one.",
        )


def _require_files(config: Config, models: Sequence[str]) -> None:
    _require_project(config)
    folder = config.dbt.project_dir / "models"
    present = {file.stem for file in folder.rglob("*.sql")}
    missing = [node for node in _nodes_of(config, models) if node not in present]
    if missing:
        raise ConfigError(
            f"{folder} lacks the models {', '.join(missing)}.", "Run `tailrace generate`."
        )


# --------------------------------------------------------------------------------- running dbt


def _run_until_settled(config: Config, nodes: Sequence[str]) -> BuildResult:
    """Runs the nodes; those that lost a race, or were skipped because of one, again."""
    result = BuildResult()
    wait = BUILD_WAIT_SECONDS
    due = list(nodes)
    _manifest(config)  # before the lock is taken: reading a changed project takes seconds
    for attempt in range(1, BUILD_ATTEMPTS + 1):
        last = attempt == BUILD_ATTEMPTS
        with turn(config.warehouse):
            run = _invoke(config, ["run", "--select", *due], final=last)
        again = {n.name for n in run.nodes if n.failed and is_lost_race(Exception(n.message))}
        result = _joined(result, run)
        if not again or last:
            break
        due = [n.name for n in run.nodes if n.name in again or n.status == "skipped"]
        time.sleep(random.uniform(0, wait))  # noqa: S311
        wait = min(wait * 2, BUILD_WAIT_MAX_SECONDS)
    return replace(_without_states(config, result), attempts=attempt)


def _without_states(config: Config, result: BuildResult) -> BuildResult:
    """The result once the current rows are merged too where only the states before them failed: a
    history that cannot be built is reported, and holds nobody's current rows up."""
    names = {node.name for node in result.nodes if node.status == "skipped"}
    names -= {name for table in config.tables for name in table.over_states}
    # By file, because the name of a public model is its folder's too, and would select all of it.
    held_up = sorted(f"file:{name}.sql" for name in names)
    if not held_up:
        return result
    with turn(config.warehouse):
        run = _invoke(config, ["run", "--select", *held_up])
    return replace(_joined(result, run), failures=(*result.failures, *run.failures))


def _joined(before: BuildResult, after: BuildResult) -> BuildResult:
    """Both results; what was run again counts as the later run says."""
    nodes = {node.name: node for node in (*before.nodes, *after.nodes)}
    notes = dict.fromkeys((*before.notes, *after.notes))
    return replace(before, nodes=tuple(nodes.values()), failures=after.failures, notes=tuple(notes))


def _invoke(config: Config, arguments: list[str], *, final: bool = False) -> BuildResult:
    outcome = _dbt(config, arguments, manifest=_manifest(config), write_json=False)
    if outcome.exception is not None:
        raise _project_broken(config, outcome.exception)
    results = getattr(outcome.result, "results", [])
    nodes = tuple(
        NodeResult(
            name=each.node.name,
            status=str(each.status),
            seconds=each.execution_time,
            rows=each.failures if each.node.resource_type == "test" else None,
            message=(each.message or "") if str(each.status) != "success" else "",
        )
        for each in results
    )
    failures = tuple(_failure(config, node) for node in nodes if node.failed)
    return BuildResult(nodes=nodes, failures=failures, notes=tuple(outcome.notes))


def _failure(config: Config, node: NodeResult) -> TailraceError:
    text = "\n".join(line.strip() for line in node.message.strip().splitlines() if line.strip())
    if is_lost_race(Exception(text)):
        return Retryable(
            f"{node.name}: the warehouse's catalog stayed busy. {text}",
            "Run it again: nothing was half merged. If it persists, look for a program that"
            " writes to the warehouse all the time.",
        )
    if node.status == "fail":
        return Terminal(
            f"{node.name}: the data test found {node.rows} rows. {text}",
            f"Look at them: dbt test --select {node.name} --store-failures, in"
            f" {config.dbt.project_dir}.",
        )
    return Terminal(
        f"{node.name}: dbt could not build it. {text}",
        f"The table is as it was before. See the model under {config.dbt.project_dir}/models;"
        f" run it by hand with: dbt run --select {node.name}",
    )


def _project_broken(config: Config, error: BaseException | None) -> TailraceError:
    text = str(error or "dbt gave no reason").strip()
    if is_lost_race(Exception(text)):
        return Retryable(f"The warehouse's catalog stayed busy: {text}", "Run it again.")
    return Terminal(
        f"dbt could not run the project in {config.dbt.project_dir}: {text}",
        "Correct the file it names; or remove it and run `tailrace generate` for a fresh one.",
    )


@dataclass(frozen=True)
class _Outcome:
    """What dbtRunner returned, and what the macros had to say meanwhile."""

    success: bool
    exception: BaseException | None
    result: Any
    notes: list[str]


def _manifest(config: Config) -> Manifest:
    """The project's manifest: kept in this process as long as no file of the project changes,
    and on disk by dbt's own partial parsing."""
    project = config.dbt.project_dir
    fingerprint = _fingerprint(config)
    known = _manifests.get(project)
    if known is not None and known[0] == fingerprint:
        return known[1]
    outcome = _dbt(config, ["parse"], manifest=None, write_json=False)
    if not outcome.success:
        raise _project_broken(config, outcome.exception)
    manifest: Manifest = outcome.result
    _manifests[project] = (fingerprint, manifest)
    return manifest


def _dbt(
    config: Config, arguments: list[str], *, manifest: Manifest | None, write_json: bool
) -> _Outcome:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from dbt.cli.main import dbtRunner

    notes: list[str] = []

    def listen(event: Any) -> None:
        if event.info.name == "JinjaLogInfo":
            notes.append(event.data.msg)

    project = str(config.dbt.project_dir)
    flags = [
        "--quiet",
        "--no-print",
        "--no-use-colors",
        "--log-level=none",
        "--log-level-file=none",
        "--no-send-anonymous-usage-stats",
        "--write-json" if write_json else "--no-write-json",
        f"--project-dir={project}",
        f"--profiles-dir={project}",
        f"--target-path={Path(project) / 'target'}",
        f"--log-path={Path(project) / 'logs'}",
    ]
    try:
        # dbt-duckdb prints to standard output, where a script may expect JSON and nothing else.
        with redirect_stdout(StringIO()):
            outcome = dbtRunner(manifest=manifest, callbacks=[listen]).invoke(
                [arguments[0], *flags, *arguments[1:]]
            )
    finally:
        _close_lake()
    return _Outcome(outcome.success, outcome.exception, outcome.result, notes)


def _close_lake() -> None:
    """dbt-duckdb would keep the lake attached for as long as the process lives."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    with suppress(Exception):
        DuckDBConnectionManager.env().close()
    DuckDBConnectionManager.close_all_connections()


@contextmanager
def _working_on(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, opened once for dbt and for this module's own questions."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from tailrace.transform import plugin

    path = sqlite_path(config.warehouse)
    if path is not None and not path.exists():
        raise Terminal(
            f"There is no warehouse yet: {path} does not exist.",
            "Run `tailrace sync`, or materialize a table's base in Dagster, first.",
        )
    with _one_dbt_at_a_time:
        try:
            with plugin.working_on(config) as con:
                yield con
        except duckdb.Error as error:
            kind = Retryable if is_lost_race(error) else Terminal
            raise kind(
                f"The warehouse could not be read: {without_password(str(error))}",
                "Check warehouse.catalog and warehouse.data_path in tailrace.yaml.",
            ) from error
