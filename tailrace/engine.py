"""The engine put together: configured tables, AWS below, the warehouse above.

This is what the CLI and the Dagster assets call. It owns connections and scratch space, and
leaves the algorithms to capture/.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tailrace.capture import bootstrap, coverage, deliveries, drain, reconcile
from tailrace.capture.ports import Stream, StreamSource
from tailrace.capture.privacy import noted_in
from tailrace.capture.privacy import require_same as require_same_privacy
from tailrace.capture.private import PrivateScan, PrivateStream
from tailrace.capture.retry import retried
from tailrace.capture.stop import Stop
from tailrace.config import Config, ExportBase, ScanBase, Table
from tailrace.errors import ConfigError, Retryable, SourceMissing, TailraceError, Terminal
from tailrace.lake import attributes, maintenance
from tailrace.lake.comparison import Comparison
from tailrace.lake.converted import record_lines
from tailrace.lake.log import ChangeLog
from tailrace.lake.sql import ident
from tailrace.model import (
    DYNAMODB_STREAMS,
    INCREMENTAL,
    OPEN,
    SAMPLE_ITEMS,
    BaseResult,
    DrainResult,
    Epoch,
    Gap,
    Head,
    KeyAttribute,
    Maintenance,
    MaintenanceStep,
    Part,
    PartProgress,
    PassRecord,
    Reconciliation,
    SchemaDrift,
    Shard,
    TableDescription,
    TableStatus,
)
from tailrace.privacy import Privacy
from tailrace.sources.aws import Aws
from tailrace.sources.export import TableExport
from tailrace.sources.firehose import FirehoseSource
from tailrace.sources.kinesis import Pages
from tailrace.sources.registry import stream_source
from tailrace.sources.scan import TableScan
from tailrace.sources.tables import describe_table, point_in_time_recovery

logger = logging.getLogger(__name__)

TABLES_AT_ONCE = 8

DIFFERENCES_SHOWN = 100

# Bounded passes over a stream that was replaced; after them a new epoch is opened without its end.
LAST_PASSES = 1_000


@dataclass(frozen=True)
class WorldClock:
    """This machine's clock, and AWS's."""

    aws: Aws

    def monotonic(self) -> float:
        """Seconds of this process."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    def aws_now(self) -> datetime:
        """AWS's time."""
        return self.aws.now()


class Scratch:
    """A folder for what is too large for memory. It is locked while its process lives, so that
    whoever comes next removes what a killed one left behind, and nothing else."""

    PREFIX = "tailrace-scratch-"

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{self.PREFIX}*"):
            self._remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=self.PREFIX))
        self._lock = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    @staticmethod
    def _remove_if_left(folder: Path) -> None:
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, another user's, or just being made
            return


class Engine:
    """The tables of one tailrace.yaml. Use it as a context manager; its methods may be called
    from several threads."""

    def __init__(self, config: Config, progress: bootstrap.Progress | None = None) -> None:
        self.config = config
        self.stop = threading.Event()
        self._progress = progress or (lambda _: None)
        self._aws = Aws(config.aws)
        self._clock = WorldClock(self._aws)
        self._log = ChangeLog(config.warehouse)
        self._scratch = Scratch()

    @classmethod
    def open(cls, config: Config, *, progress: bootstrap.Progress | None = None) -> Engine:
        """Attaches the warehouse, creating it where it is missing.

        Raises Terminal where it cannot be opened, ConfigError for a bad profile."""
        return cls(config, progress)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends running work at its next step, closes the warehouse, removes scratch files."""
        self.stop.set()
        self._log.close()
        self._scratch.remove()

    def is_outdated(self) -> bool:
        """True where the warehouse was removed or replaced since it was attached."""
        return self._log.is_outdated()

    # ---------------------------------------------------------------------------------- work

    def base(self, model: str, *, restart: bool = False) -> BaseResult:
        """Opens an epoch and reads its base, or goes on with the one that is unfinished.

        A table that is live gets a new epoch: readers go on seeing the old one until the new one
        is live. With `restart` an unfinished base is given up for a new epoch as well. Blocks
        until the base is complete; raises what stands in the way, nothing committed is lost."""
        config = self._table(model)
        table, privacy = self._source(config)
        with self._bootstrap(config, privacy) as run:
            head = self._log.head(config.model)
            adopted = getattr(config.base, "export_arn", None)
            goes_on = bootstrap.continues(head, table, config.base.method, adopted)
            goes_on = goes_on and _has_privacy(head, privacy)
            if restart or not goes_on or self._is_in_vain(config, head):
                self._open_epoch(run, config, table)
            return self._read_base(run, config, table, privacy)

    def repair(self, model: str) -> BaseResult | None:
        """Closes a table's open gaps; None if it has none.

        Reads what changed since before the first gap, by incremental exports, where point-in-time
        recovery reaches back so far and a bucket is named; else a new base. An unfinished epoch
        is gone on with first. Raises as `base` does."""
        config = self._table(model)
        head = self._log.head(config.model)
        gaps = coverage.open_gaps(head)
        if not gaps or head.epoch is None:
            return None
        table, privacy = self._source(config)
        with self._bootstrap(config, privacy) as run:
            since = min(gap.since for gap in gaps)
            adopted = getattr(config.base, "export_arn", None)
            unfinished = bootstrap.continues(head, table, config.base.method, adopted)
            in_vain = self._is_in_vain(config, head) or not _has_privacy(head, privacy)
            if not unfinished or in_vain:
                if not in_vain and self._reaches(config, head, table, since):
                    old_images = table.view_type == "NEW_AND_OLD_IMAGES"
                    shards = self._shards(config, table)
                    bootstrap.open_incremental_epoch(run, table, since, old_images, shards)
                else:
                    self._open_epoch(run, config, table)
            return self._read_base(run, config, table, privacy)

    def _reaches(self, config: Table, head: Head, table: TableDescription, since: datetime) -> bool:
        """True where incremental exports can tell what changed since `since`: of this table,
        onto a live epoch, into a bucket, within point-in-time recovery."""
        if head.live is None or head.live.table_id != table.table_id:
            return False
        if head.live.source != config.stream.source:  # whose positions are not compared
            return False
        return self._exports_from(config, bootstrap.repair_begin(since))

    def _is_in_vain(self, config: Table, head: Head) -> bool:
        """True where the newest epoch can never be live, or waits for incremental exports that
        cannot be had any more: the bucket is no longer named, or point-in-time recovery does not
        reach back so far."""
        if coverage.is_void(head):
            return True
        epoch = head.epoch
        if epoch is None or (epoch.kind, epoch.state) != (INCREMENTAL, OPEN):
            return False
        return not self._exports_from(config, bootstrap.changes_begin(epoch))

    def _exports_from(self, config: Table, begin: datetime) -> bool:
        if config.repair_base is None:
            return False
        window = retried(lambda: point_in_time_recovery(self._aws, config.name), self._clock)
        return window is not None and window[0] <= begin

    def _source(self, config: Table) -> tuple[TableDescription, Privacy | None]:
        """The table as the warehouse is to know it, with a usable stream of the kind that is
        configured, and its privacy; what is left of the stream that the ledger followed so far, if
        it is the table's no more, is read first."""
        described = self._describe(config)
        source = self._kind(config, config.stream.source)
        table = retried(lambda: source.require(described), self._clock)
        privacy = _privacy(config, table.key)
        if privacy is not None:
            table = privacy.described(table)
        head = self._log.head(config.model)
        epoch = head.epoch
        as_it_was = epoch and (epoch.table_id, epoch.stream_arn) == (
            table.table_id,
            table.stream_arn,
        )
        if epoch is not None and not as_it_was:
            followed = self._as_followed(config, epoch, described)
            if (followed.table_id, followed.stream_arn) != (epoch.table_id, epoch.stream_arn):
                if _has_privacy(head, privacy):
                    self._read_to_its_end(config, epoch, followed)
                else:
                    self._note_replaced(config, epoch, followed)
        return table, privacy

    def _as_followed(
        self, config: Table, epoch: Epoch, table: TableDescription
    ) -> TableDescription:
        """The table with the stream that it has now of the kind that an epoch follows."""
        source = self._kind(config, epoch.source, epoch.stream_arn)
        return retried(lambda: source.describe(table), self._clock)

    def _read_to_its_end(self, config: Table, epoch: Epoch, table: TableDescription) -> None:
        """Drains the stream of `epoch`, which `table` no longer has, unless another run opens the
        next one meanwhile. What cannot be had of it is a gap."""
        for _ in range(LAST_PASSES):
            last = self.drain_table(config.model)
            if last.ended or last.epoch != epoch.number:
                return
            if self.stop.is_set():
                raise Retryable(
                    f"{config.model}: stopped before the end of the stream that was replaced.",
                    "Run again.",
                )
        self._note_replaced(config, epoch, table)

    def _note_replaced(
        self, config: Table, epoch: Epoch, table: TableDescription | None
    ) -> list[Gap]:
        late = _late(self._kind(config, epoch.source))
        return drain.note_replaced(self._log, self._clock, config.model, table, late)

    def _read_base(
        self,
        run: bootstrap.Bootstrap,
        config: Table,
        table: TableDescription,
        privacy: Privacy | None,
    ) -> BaseResult:
        """Goes on with the base of the newest epoch, as it was planned."""
        epoch = self._log.head(config.model).epoch
        assert epoch is not None
        if epoch.state != OPEN:
            return BaseResult(config.model, epoch.number, epoch.method, epoch.state, 0, 0, 0, 0.0)
        if epoch.kind == INCREMENTAL:
            assert config.repair_base is not None
            export = TableExport(self._aws, config.name, config.repair_base, privacy)
            return bootstrap.read_incremental(run, export, table)
        if isinstance(config.base, ScanBase):
            consistent = bool(epoch.detail["consistent"])
            scan = self._scan(config, privacy, consistent=consistent)
            result = bootstrap.read_scan(run, scan, table, config.base.max_rcu)
        else:
            export = TableExport(self._aws, config.name, config.base, privacy)
            result = bootstrap.read_export(run, export, table)
        if privacy is not None and result.items and privacy.never_found():
            names = ", ".join(privacy.never_found())
            logger.warning(
                "%s: none of %d items had the private attribute %s: look how it is spelled in %s.",
                config.model,
                result.items,
                names,
                self.config.path,
            )
        return result

    def _scan(
        self, config: Table, privacy: Privacy | None, *, consistent: bool
    ) -> TableScan | PrivateScan:
        scan = TableScan(self._aws, config.name, consistent=consistent)
        return scan if privacy is None else PrivateScan(scan, privacy)

    @contextmanager
    def _bootstrap(self, config: Table, privacy: Privacy | None) -> Iterator[bootstrap.Bootstrap]:
        source = self._kind(config, config.stream.source)
        with self._folder() as folder:
            yield bootstrap.Bootstrap(
                self._log,
                self._clock,
                config.model,
                folder,
                self._progress,
                Stop(self.stop),
                source.traits,
                _noted(privacy),
            )

    def _open_epoch(self, run: bootstrap.Bootstrap, config: Table, table: TableDescription) -> None:
        shards, base = self._shards(config, table), config.base
        if isinstance(base, ScanBase):
            bootstrap.open_scan_epoch(run, table, base.segments, base.consistent, shards)
        else:
            export = TableExport(self._aws, config.name, base)
            bootstrap.open_export_epoch(run, table, export, shards)

    def _shards(self, config: Table, table: TableDescription) -> bootstrap.Shards:
        source, arn = self._kind(config, config.stream.source), table.stream_arn
        assert arn is not None
        if isinstance(source, FirehoseSource):
            return ()

        def since(begins_at: datetime | None) -> list[Shard]:
            return retried(lambda: source.listing(arn, begins_at).shards(arn), self._clock)

        return since

    def drain(
        self, models: Sequence[str], *, thrifty: bool = False
    ) -> dict[str, DrainResult | Exception]:
        """One bounded pass over the stream of each table, tables in parallel; see drain_table.

        A table that fails does not hold up the others: its error stands in its place."""

        pages = self._pages(models)

        def one(model: str) -> DrainResult | Exception:
            try:
                return self._drained(self._table(model), thrifty, pages)
            except Exception as error:
                return error

        with ThreadPoolExecutor(TABLES_AT_ONCE, thread_name_prefix="drain") as pool:
            try:
                return dict(zip(models, pool.map(one, models), strict=True))
            except BaseException:  # told to end: the passes end at their next step
                self.stop.set()
                raise

    def drain_table(self, model: str, *, thrifty: bool = False) -> DrainResult:
        """One bounded pass over a table's stream; see tailrace.capture.drain.drain. A `thrifty`
        one leaves out silent shards of a large stream, unless coverage has to be proven.

        A stream that is no longer the table's is read to its end; then its gap is stored."""
        return self._drained(self._table(model), thrifty, self._pages([model]))

    def _drained(self, config: Table, thrifty: bool, pages: Pages) -> DrainResult:
        head = self._log.head(config.model)
        privacy = _privacy(config, head.table.key if head.table else ())
        beside, epoch = head.beside, head.epoch
        before: DrainResult | TailraceError | None = None
        if beside is not None and noted_in(beside) == _noted(privacy):
            try:
                before = self._pass(config, head, beside, privacy, thrifty, pages)
            except TailraceError as error:  # what takes over goes on, and is live the sooner
                before = error
        if epoch is None:
            return DrainResult(config.model, None, "none")
        result = self._pass(config, head, epoch, privacy, thrifty, pages)
        if isinstance(before, DrainResult):
            result = _together(before, result)
        elif before is not None and beside is not None:
            told = f"{beside.source}, which readers see until then, could not be drained: {before}"
            lag = self._lag(head)
            result = replace(result, lag_seconds=lag, notices=(*result.notices, told))
        if epoch.source == config.stream.source:
            return result
        told = (
            f"stream.source is {config.stream.source}, but the table is still read from"
            f" {epoch.source}: `tailrace base {config.model}` moves it."
        )
        return replace(result, notices=(*result.notices, told))

    def _pages(self, models: Sequence[str]) -> Pages:
        """What tables share that stream to one place: of `models`, which are drained at a time."""
        tables = [table.name for table in self.config.tables]
        return Pages(tables, [self._table(model).name for model in models])

    def _pass(
        self,
        config: Table,
        head: Head,
        epoch: Epoch,
        privacy: Privacy | None,
        thrifty: bool,
        pages: Pages,
    ) -> DrainResult:
        """One pass over the stream of the newest epoch, or of the one that is drained beside it."""
        source = self._kind(config, epoch.source, pages=pages)
        is_newest = epoch is head.epoch
        was_lost = is_newest and drain.is_lost(head) and not source.traits.ends
        if was_lost and self._is_followed(config, epoch):
            drain.note_regained(self._log, self._clock, config.model, _late(source))
        budget = drain.Budget(config.stream.pass_seconds, int(config.stream.pass_bytes))
        stop, log, model = Stop(self.stop), self._log, config.model

        is_its = source.traits.ends

        def still_its() -> bool:
            nonlocal is_its
            is_its = is_its or self._is_followed(config, epoch)
            return is_its

        if isinstance(source, FirehoseSource):
            delay = deliveries.Delay(source.delivery, source.late)
            objects = source.open(head, epoch, privacy)
            result = deliveries.drain(
                log,
                objects,
                self._clock,
                model,
                budget,
                delay,
                stop,
                epoch,
                still_its,
                _noted(privacy),
            )
        else:
            stream: Stream = source.open(head, epoch)
            if privacy is not None:
                stream = PrivateStream(stream, privacy)
            freshness = config.stream.freshness_seconds if thrifty else 0.0
            result = drain.drain(
                log,
                stream,
                self._clock,
                model,
                budget,
                stop,
                freshness,
                epoch,
                still_its,
                _noted(privacy),
            )
        if (is_its and not result.ended) or not is_newest:
            return result
        described = self._described(config)
        followed = self._as_followed(config, epoch, described) if described else None
        gaps = self._note_replaced(config, epoch, followed)
        return replace(result, gaps=tuple(gaps))

    def _kind(
        self,
        config: Table,
        name: str,
        stream_arn: str | None = None,
        pages: Pages | None = None,
    ) -> StreamSource | FirehoseSource:
        return stream_source(self._aws, config, name, record_lines, stream_arn, pages)

    def _is_followed(self, config: Table, epoch: Epoch) -> bool:
        """Whether the table's changes still go to the stream that an epoch follows."""
        table = self._described(config)
        if table is None or table.table_id != epoch.table_id:
            return False
        return self._as_followed(config, epoch, table).stream_arn == epoch.stream_arn

    def _described(self, config: Table) -> TableDescription | None:
        try:
            return self._describe(config)
        except SourceMissing:
            return None

    def _describe(self, config: Table) -> TableDescription:
        return retried(lambda: describe_table(self._aws, config.name), self._clock)

    def peek(self, models: Sequence[str]) -> dict[str, str]:
        """For each table, why it is due for a drain, or an empty text. Cheap: no records are
        kept. A table that cannot be looked at is due, so that the run shows its error."""

        def one(model: str) -> str:
            try:
                return self._due(self._table(model))
            except Exception as error:
                return f"looking at its stream failed: {error}"

        with ThreadPoolExecutor(TABLES_AT_ONCE, thread_name_prefix="peek") as pool:
            return dict(zip(models, pool.map(one, models), strict=True))

    def _due(self, config: Table) -> str:
        head, freshness = self._log.head(config.model), config.stream.freshness_seconds
        for epoch in filter(None, (head.epoch, head.beside)):
            source, model = self._kind(config, epoch.source), config.model
            if isinstance(source, FirehoseSource):
                delay = deliveries.Delay(source.delivery, source.late)
                objects = source.open(head, epoch)
                why = deliveries.due(
                    self._log, objects, self._clock, model, freshness, delay, epoch
                )
            else:
                stream = source.open(head, epoch)
                why = drain.due(self._log, stream, self._clock, model, freshness, epoch)
            if why:
                return why
        return ""

    def reconcile(
        self,
        model: str,
        method: str | None = None,
        *,
        sample: int = SAMPLE_ITEMS,
        max_rcu: float | None = None,
        patience_seconds: float = 0.0,
    ) -> Reconciliation:
        """Compares the warehouse with the table, whoever writes to it meanwhile.

        `method` is export, scan or sample (of `sample` items); left out, that of the table's
        base. A scan keeps to `max_rcu`, or the base's. Nothing is changed but that the stream is
        drained; see tailrace.capture.reconcile. Raises ConfigError where the method cannot be,
        Terminal where the table is not live, or lacks changes that are to be repaired."""
        config = self._table(model)
        method = method or config.base.method
        _refuse_method(config, method, sample, max_rcu)
        live = reconcile.require_live(config.model, self._log.head(config.model))
        table = self._as_followed(config, live, self._describe(config))
        reconcile.require_same(config.model, live, table)
        privacy = _privacy(config, table.key)
        require_same_privacy(config.model, live, _noted(privacy))
        with (
            self._bootstrap(config, privacy) as run,
            Comparison(self.config.warehouse, config.model, table.key, run.folder) as comparison,
        ):
            base = config.base if isinstance(config.base, ScanBase) else ScanBase()
            limit = max_rcu or base.max_rcu

            def read(head: Head) -> reconcile.Snapshot:
                if method == reconcile.SAMPLE:
                    source = self._scan(config, privacy, consistent=True)
                    return reconcile.read_sample(run, source, comparison, head, sample, limit)
                exported = _export_base(config)
                if method == reconcile.EXPORT and exported is not None:
                    export = TableExport(self._aws, config.name, exported, privacy)
                    return reconcile.read_export(run, export, comparison, head, table)
                consistent = base.consistent
                scan = self._scan(config, privacy, consistent=consistent)
                return reconcile.read_scan(
                    run, scan, comparison, table, base.segments, limit, consistent=consistent
                )

            return reconcile.reconcile(
                run,
                comparison,
                method,
                read,
                lambda: self.drain_table(config.model).rows,
                shown=DIFFERENCES_SHOWN,
                late=self._kind(config, live.source).traits.late,
                patience_seconds=patience_seconds,
                kept=None if config.log.days is None else timedelta(days=config.log.days),
            )

    def maintain(
        self,
        *,
        full: bool = True,
        limits: maintenance.Limits | None = None,
        tell: Callable[[MaintenanceStep], None] = lambda _: None,
    ) -> Maintenance:
        """Keeps the warehouse small and quick; see tailrace.lake.maintenance.maintain.

        May run at any time, beside anything, and be killed at any point. What fails stands in the
        result's `failures`."""
        keep = timedelta(days=self.config.warehouse.keep_snapshots_days)
        return maintenance.maintain(
            self.config.warehouse,
            limits or maintenance.Limits(keep),
            full=full,
            log_days={
                table.model: table.log.days
                for table in self.config.tables
                if table.log.days is not None
            },
            stopped=self.stop.is_set,
            tell=tell,
        )

    # --------------------------------------------------------------------------------- state

    def states(self, models: Sequence[str]) -> dict[str, str]:
        """The state of each table's newest epoch: none, open, base_complete or live."""
        heads = {model: self._log.head(model) for model in models}
        return {model: head.epoch.state if head.epoch else "none" for model, head in heads.items()}

    def status(self, models: Sequence[str] | None = None) -> list[TableStatus]:
        """How each table stands, from the ledger alone: no call to AWS."""
        names = models or [table.model for table in self.config.tables]
        return [self._status(self._table(model)) for model in names]

    def drift(self, model: str, within: timedelta) -> SchemaDrift:
        """What is new in a table's attributes, compared with what its first base held: what came
        `within` that time; of a frozen schema, all that it refuses."""
        table = self._table(model)
        frozen = table.schema_mode == "frozen"
        if frozen:
            new = attributes.refused(self._log.query, table.model, table.structs)
        else:
            new = attributes.came_since(self._log.query, table.model, within)
        known = self._log.query(
            "SELECT count(DISTINCT path) FROM tailrace.attributes WHERE model = ?", [table.model]
        )
        return SchemaDrift(table.model, frozen, tuple(new), int(known[0][0]))

    def passes(self, model: str, last: int = 10) -> list[PassRecord]:
        """The last passes over a table's stream, newest first."""
        return self._log.passes(self._table(model).model, last)

    def base_parts(self, model: str) -> list[PartProgress]:
        """What the ledger holds of each segment or file of the newest epoch's base, by part."""
        rows = self._log.query(
            "SELECT source, origin, part, arg_max(position_to, batch), bool_or(finished),"
            " sum(row_count), sum(byte_count) FROM tailrace.ledger WHERE model = ?"
            " AND kind = 'base' AND epoch = (SELECT max(epoch) FROM tailrace.epochs"
            " WHERE model = ?) GROUP BY source, origin, part ORDER BY length(part), part",
            [model, model],
        )
        return [
            PartProgress(Part("base", *row[:3]), None, row[3], row[4], int(row[5]), int(row[6]))
            for row in rows
        ]

    def unmerged(self, models: Sequence[str]) -> list[str]:
        """The models whose log holds visible rows that `<model>_latest` has not merged, or of whose
        relations one is missing."""
        return [model for model in models if self._is_unmerged(model)]

    def _is_unmerged(self, model: str) -> bool:
        live = self._log.query(
            "SELECT count(*) FROM tailrace.epochs WHERE model = ? AND state = 'live'", [model]
        )
        if not live[0][0]:
            return False
        latest = ident("analytics", f"{model}_latest")
        built = self._log.query(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'lake'"
            " AND table_schema = 'analytics'"
        )
        if not {row[0] for row in built} >= set(self._table(model).nodes):
            return True
        # New rows of the stream or of a base that went live; or a base that went live without
        # some key that is still shown.
        return bool(
            self._log.query(
                f"""
                WITH merged AS (
                    SELECT coalesce(max(_batch), 0) AS batch,
                        min(_epoch) FILTER (WHERE _op <> 'REMOVE') AS oldest FROM {latest})
                SELECT EXISTS (FROM tailrace.ledger WHERE model = $model AND kind = 'stream'
                        AND row_count > 0 AND batch > (SELECT batch FROM merged))
                    OR EXISTS (FROM tailrace.epochs AS live WHERE model = $model
                        AND state = 'live' AND batch > (SELECT batch FROM merged)
                        AND (epoch > (SELECT oldest FROM merged)
                            OR EXISTS (FROM tailrace.ledger WHERE model = $model
                                AND kind = 'base' AND epoch = live.epoch AND row_count > 0)))
                """,
                {"model": model},
            )[0][0]
        )

    def _status(self, table: Table) -> TableStatus:
        head = self._log.head(table.model)
        rows = self._log.query(
            "SELECT coalesce(sum(row_count), 0), coalesce(sum(row_count) FILTER"
            " (WHERE kind = 'base' AND epoch = ?), 0) FROM tailrace.ledger WHERE model = ?",
            [head.epoch.number if head.epoch else 0, table.model],
        )[0]
        record = head.last_pass
        done = [at for part, at in head.positions.items() if part.kind == "base"]
        return TableStatus(
            model=table.model,
            table_name=table.name,
            epoch=head.epoch.number if head.epoch else None,
            state=head.epoch.state if head.epoch else "none",
            rows=int(rows[0]),
            items_read=int(rows[1]),
            last_pass_at=record.ended_at if record else None,
            lag_seconds=self._lag(head),
            shards_open=record.shards_open if record else 0,
            proven_until=head.last_proof.proves_until if head.last_proof else None,
            delay_seconds=head.last_proof.delay_seconds if head.last_proof else 0.0,
            gaps=tuple(coverage.open_gaps(head)),
            closes_gaps=coverage.closes_gaps(head),
            base_parts_done=sum(at.finished for at in done),
            base_parts_total=max(_parts_planned(head), len(done)),
            idle_reads_a_day=_idle_reads_a_day(table, record),
            lost=record.lost if record else "",
        )

    def _lag(self, head: Head) -> float | None:
        proof = head.last_proof
        return (self._clock.aws_now() - proof.proves_until).total_seconds() if proof else None

    # ------------------------------------------------------------------------------- helpers

    def _table(self, model: str) -> Table:
        for table in self.config.tables:
            if model in (table.model, table.name):
                return table
        known = ", ".join(table.model for table in self.config.tables)
        raise ConfigError(
            f"{self.config.path}: no table is called {model}; configured are {known}.",
            "Use one of these, or add it under tables:.",
        )

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self._scratch.path))
        try:
            yield folder
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Terminal(
                f"The disk is full: {error}",
                f"Free some space in {folder.parent.parent} (TMPDIR) and run again: the ledger"
                " stands where it stood.",
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _late(source: StreamSource | FirehoseSource) -> timedelta:
    """By how much what is lost behind a proof may be older than it. A Firehose's proofs lag."""
    return timedelta(0) if isinstance(source, FirehoseSource) else source.traits.late


def _together(before: DrainResult, result: DrainResult) -> DrainResult:
    """Two passes over two streams of one table, told as one."""
    newest = [each.newest_change for each in (before, result) if each.newest_change]
    return replace(
        result,
        rows=before.rows + result.rows,
        bytes=before.bytes + result.bytes,
        shards_read=before.shards_read + result.shards_read,
        shards_open=before.shards_open + result.shards_open,
        newest_change=max(newest, default=None),
        lag_seconds=before.lag_seconds,  # what readers see is the old stream's
        seconds=before.seconds + result.seconds,
        calls=before.calls + result.calls,
        notices=before.notices + result.notices,
        pieces=" and ".join(dict.fromkeys((before.pieces, result.pieces))),
    )


def _privacy(config: Table, key: Sequence[KeyAttribute]) -> Privacy | None:
    return Privacy.of(config.model, config.private, [each.name for each in key])


def _noted(privacy: Privacy | None) -> dict[str, Any]:
    return privacy.noted if privacy else {}


def _has_privacy(head: Head, privacy: Privacy | None) -> bool:
    """Whether the newest epoch was opened with this privacy."""
    return head.epoch is not None and noted_in(head.epoch) == _noted(privacy)


def _export_base(config: Table) -> ExportBase | None:
    """Where a full export of the table may go."""
    return config.base if isinstance(config.base, ExportBase) else config.repair_base


def _refuse_method(config: Table, method: str, sample: int, max_rcu: float | None) -> None:
    if method not in reconcile.METHODS:
        raise ConfigError(
            f"{config.model}: no method is called {method}; there are"
            f" {', '.join(reconcile.METHODS)}.",
            "Use one of these.",
        )
    if method == reconcile.EXPORT and _export_base(config) is None:
        raise ConfigError(
            f"{config.model}: an export needs a bucket, but none is named.",
            "Reconcile by scan or by sample, or give the table `base: {method: export, bucket: …}`"
            " or `repair: {bucket: …}` in tailrace.yaml.",
        )
    if method == reconcile.EXPORT and max_rcu is not None:
        raise ConfigError(
            f"{config.model}: an export consumes no read capacity, so max_rcu limits nothing.",
            "Leave it out, or reconcile by scan or by sample.",
        )
    if sample < 1 or (max_rcu is not None and not max_rcu > 0):
        raise ConfigError(
            f"{config.model}: a sample of {sample} items at {max_rcu} units a second.",
            "Give a sample of at least 1 item, and more than 0 units.",
        )


def _parts_planned(head: Head) -> int:
    return int(head.epoch.detail.get("segments", 0)) if head.epoch else 0


def _idle_reads_a_day(table: Table, last: PassRecord | None) -> int:
    """Of the sources only DynamoDB Streams bills each GetRecords call."""
    if table.stream.source != DYNAMODB_STREAMS or last is None:
        return 0
    return drain.idle_reads_a_day(last.shards_open, table.stream.freshness_seconds)
