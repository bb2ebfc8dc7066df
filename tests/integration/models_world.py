"""Fabricated change logs over a real DuckLake, and what the models must make of them.

`Table` lands batches as the engine would; `expected` works out the answer in plain Python, from
the rules alone, without SQL. It shares no code with the macros.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from tailrace.config import Config, load_config
from tailrace.lake import discovery
from tailrace.lake.schema import create_control_tables, create_log
from tailrace.lake.sql import ident
from tailrace.transform.generate import generate
from tailrace.transform.plugin import working_on

Item = Mapping[str, Any]

# Of a table's whole past; each look is a query of its own.
MOMENTS_LOOKED_AT = 6

OURS = {"_key", "_version", "_epoch", "_batch", "_op", "_changed_at", "_ttl_expired", "_image"}
RESERVED = OURS | {"_landed_at", "_valid_from", "_valid_to", "_is_current", "_by_ttl", "_moment"}
RESERVED |= {"_changed", "_before", "_after", "_position", "rowid"}
RESERVED |= {"_ducklake_internal_row_id", "_ducklake_internal_snapshot_id"}


@contextmanager
def opened(folder: Path, text: str) -> Iterator[tuple[Config, duckdb.DuckDBPyConnection]]:
    """A folder for a tailrace.yaml of that text: its configuration, with the dbt files generated,
    and the connection that builds in its warehouse and is asked."""
    (folder / "warehouse").mkdir()
    (folder / "tailrace.yaml").write_text(text)
    config = load_config(folder / "tailrace.yaml")
    generate(config)
    with working_on(config) as con:
        con.execute("USE lake")
        yield config, con


def write_config(folder: Path, project: Path, models: Iterable[str]) -> Config:
    """A tailrace.yaml in `folder` with the warehouse beside it."""
    tables = "".join(f"  - {{name: {model}}}\n" for model in models)
    file = folder / "tailrace.yaml"
    file.write_text(
        f"warehouse: {{catalog: 'sqlite:warehouse/catalog.sqlite', data_path: warehouse/data}}\n"
        f"dbt: {{project_dir: '{project}'}}\ntables:\n{tables}"
    )
    return load_config(file)


@dataclass(frozen=True)
class Row:
    """One row of a change log, as the reference sees it."""

    batch: int
    epoch: int
    phase: int
    position: int
    op: str
    key: str
    image: str | None
    at: datetime
    by_ttl: bool = False
    prior: bool = False
    old_image: str | None = None

    @property
    def version(self) -> str:
        if self.prior:
            return f"{self.epoch + 1:06d}-{self.position:040d}"
        return f"{self.epoch:06d}{self.phase}{self.position:040d}"


@dataclass
class Table:
    """One table's log: what was landed, in the warehouse (`con`) and for the reference. Attributes
    of the `key` are texts, `numbers` or `binaries`. `clock` is when the next thing happens: a
    change, the reading of a base, an epoch's going live."""

    config: Config
    con: duckdb.DuckDBPyConnection
    model: str
    key: tuple[str, ...] = ("pk",)
    numbers: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    view_type: str = "NEW_IMAGE"
    batch: int = 0
    clock: datetime = datetime(2026, 11, 1, tzinfo=UTC)
    rows: list[Row] = field(default_factory=list)
    live: dict[int, tuple[int, str]] = field(default_factory=dict)
    live_at: dict[int, datetime] = field(default_factory=dict)
    seen: list[tuple[int, str, str]] = field(default_factory=list)
    overlapping: set[int] = field(default_factory=set)

    def after(self, seconds: float) -> Table:
        """The table, that much later."""
        self.clock += timedelta(seconds=seconds)
        return self

    def open(self, epoch: int, kind: str = "full", *, overlaps: bool = False) -> None:
        """Opens an epoch: a batch of its own. Where its stream `overlaps` the one before it, what
        it tells waits until it is live."""
        con = self.con
        if overlaps:
            self.overlapping.add(epoch)
        create_control_tables(con)
        create_log(con, self.model)
        self.batch += 1
        kinds = dict.fromkeys(self.key, "S")
        kinds |= dict.fromkeys(self.numbers, "N") | dict.fromkeys(self.binaries, "B")
        schema = json.dumps([{"name": name, "type": kind} for name, kind in kinds.items()])
        con.execute(
            "INSERT INTO tailrace.tables VALUES (?, ?, ?, NULL, NULL, ?, NULL, ?, now())",
            [self.model, self.batch, self.model, schema, self.view_type],
        )
        self._epoch(con, epoch, kind, "open")
        if self.batch == 1:
            self.seen += [(1, name, kind) for name, kind in kinds.items()]

    def go_live(self, epoch: int, kind: str = "full") -> None:
        """Takes an epoch live: a batch of its own."""
        self.batch += 1
        self._epoch(self.con, epoch, kind, "live")
        self.live[epoch] = (self.batch, kind)
        self.live_at[epoch] = self.clock

    def base(self, epoch: int, *items: Item) -> None:
        """Lands base rows in one batch."""
        self._land([(epoch, 0, 0, "READ", self.key_of(item), item) for item in items])

    def repair(self, epoch: int, *changes: tuple[int, Item | None, Item]) -> None:
        """Lands rows of an incremental base in one batch, as `stream` does a stream's."""
        self._land(
            [
                (epoch, 0, position, "READ" if item else "REMOVE", self.key_of(key), item)
                for position, item, key in changes
            ]
        )

    def stream(
        self,
        epoch: int,
        *changes: tuple[int, Item | None, Item],
        discovered: bool = True,
        by_ttl: bool = False,
        prior: bool = False,
        old: Item | None = None,
        op: str = "MODIFY",
    ) -> None:
        """Lands stream rows in one batch: (position, new item or None for a removal, key).
        With `discovered` off, as if nothing had been learned of their attributes; with `prior`
        they are older than the epoch's base, and belong to the epoch before; with `old`, the stream
        tells that this is what was before."""
        self._land(
            [
                (epoch - prior, 1, position, op if item else "REMOVE", self.key_of(key), item)
                for position, item, key in changes
            ],
            discovered,
            by_ttl,
            prior,
            old,
        )

    def shown(self, row: Row) -> bool:
        """Whether anyone may see a row now."""
        waits = row.phase == 0 or row.epoch + row.prior in self.overlapping
        return bool(self.live) and (not waits or row.epoch + row.prior in self.live)

    def key_of(self, item: Item) -> str:
        return _json({name: item[name] for name in self.key})

    def _epoch(self, con: duckdb.DuckDBPyConnection, epoch: int, kind: str, state: str) -> None:
        detail = '{"overlaps": true}' if epoch in self.overlapping else None
        con.execute(
            "INSERT INTO tailrace.epochs VALUES (?, ?, ?, ?, 'scan', ?, '', '', ?, ?)",
            [self.model, self.batch, epoch, kind, state, detail, self.clock],
        )

    def _land(
        self,
        changes: list[tuple[int, int, int, str, str, Item | None]],
        discovered: bool = True,
        by_ttl: bool = False,
        prior: bool = False,
        old: Item | None = None,
    ) -> None:
        if not changes:
            return
        self.batch += 1
        log = ident("changes", self.model)
        landed = [
            Row(
                self.batch,
                epoch,
                phase,
                position,
                op,
                key,
                _json(item) if item else None,
                self.clock,
                by_ttl and not item,
                prior,
                _json(old) if old else None,
            )
            for epoch, phase, position, op, key, item in changes
        ]
        con = self.con
        con.execute("BEGIN")
        con.executemany(
            f"INSERT INTO {log} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, false, now())",
            [
                [r.batch, r.version, r.epoch, r.op, r.key, r.image, r.old_image, r.at, r.by_ttl]
                for r in landed
            ],
        )
        known = con.execute(
            "SELECT path, type, max(integer_digits), max(scale) FROM tailrace.attributes"
            " WHERE model = ? GROUP BY ALL",
            [self.model],
        ).fetchall()
        found = discovery.discover(
            con,
            f"(SELECT key, image FROM {log} WHERE batch = {self.batch})",
            [discovery.Attribute(*row) for row in known],
        )
        if found and discovered:
            con.execute(discovery.insert_sql(self.model, self.batch, found))
        con.execute("COMMIT")
        self.rows += landed
        for row in landed:
            for name, value in json.loads(row.image or "{}").items():
                self.seen.append((row.batch, name, next(iter(value))))


def query(con: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """The rows of a query, as an analyst gets them."""
    found = con.execute(sql)
    names = [column[0] for column in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


# ------------------------------------------------------------------------------- the reference


def expected_items(table: Table) -> dict[str, dict[str, Any]]:
    """Each living key's item, in DynamoDB JSON, once everything landed so far is merged."""
    if not table.live:
        return {}
    newest: dict[str, Row] = {}
    for row in table.rows:
        if not table.shown(row):
            continue
        if row.key not in newest or row.version > newest[row.key].version:
            newest[row.key] = row
    full = max((epoch for epoch, (_, kind) in table.live.items() if kind == "full"), default=0)
    return {
        key: json.loads(row.image)
        for key, row in newest.items()
        if row.image is not None and row.epoch >= full
    }


def expected_names(table: Table) -> dict[tuple[str, bool], str]:
    """The columns of each attribute: the one of its values and, once it had two types, that of its
    exact values. First come, first served; case makes no difference."""
    due: dict[tuple[str, bool], int] = {}
    for name, tags in _tags(table).items():
        due[name, False] = min(batch for batch, _ in tags)
        typed = sorted(batch for batch, tag in tags if tag != "NULL")
        if len(typed) > 1:
            due[name, True] = typed[1]
    taken = set(RESERVED)
    names: dict[tuple[str, bool], str] = {}
    for name, exact in sorted(due, key=lambda each: (due[each], each[1], each[0].encode())):
        wanted = f"{name}__raw" if exact else name
        plain = "".join("_" if c == '"' or c < " " or c == "\x7f" else c for c in wanted)
        free, number = plain or "unnamed", 1
        while free.lower() in taken:
            number += 1
            free = f"{plain or 'unnamed'}_{number}"
        taken.add(free.lower())
        names[name, exact] = free
    return names


def _tags(table: Table) -> dict[str, list[tuple[int, str]]]:
    """Each attribute's tags, with the batch in which each was seen first."""
    first: dict[tuple[str, str], int] = {}
    for batch, name, tag in table.seen:
        first[name, tag] = min(batch, first.get((name, tag), batch))
    tags: dict[str, list[tuple[int, str]]] = {}
    for (name, tag), batch in first.items():
        tags.setdefault(name, []).append((batch, tag))
    return tags


def expected_type(table: Table, name: str, exact: bool) -> str:
    """The SQL type of a column."""
    tags = {tag for _, seen, tag in table.seen if seen == name} - {"NULL"}
    if exact:
        return "JSON"
    if tags in ({"N"}, {"NS"}):
        (tag,) = tags
        texts = [
            json.loads(row.image)[name].get(tag)
            for row in table.rows
            if row.image and name in json.loads(row.image)
        ]
        if tag == "N":
            return _number_type([text for text in texts if text is not None])
        return _number_type([text for texts_ in texts for text in texts_ or []]) + "[]"
    if len(tags) > 1 and tags <= {"S", "N", "BOOL"}:
        return "VARCHAR"
    simple = {"S": "VARCHAR", "BOOL": "BOOLEAN", "B": "BLOB", "SS": "VARCHAR[]", "BS": "BLOB[]"}
    return simple.get(next(iter(tags)), "JSON") if len(tags) == 1 else "JSON"


def _number_type(texts: list[str]) -> str:
    if not texts:
        return "VARCHAR"
    if any("E" in text.upper() for text in texts):
        return "VARCHAR"
    whole = max(len(text.lstrip("-").partition(".")[0]) for text in texts)
    scale = max(len(text.partition(".")[2]) for text in texts)
    if scale == 0 and whole <= 18:
        return "BIGINT"
    return f"DECIMAL(38,{scale})" if whole + scale <= 38 else "VARCHAR"


def expected_value(value: Mapping[str, Any] | None, type_: str, exact: bool = False) -> Any:
    """A DynamoDB value as the column of that type shows it."""
    if value is None:
        return None
    tag, inner = next(iter(value.items()))
    if type_ == "JSON":
        return dict(value) if exact else plain(value)
    if tag == "NULL":
        return None
    if type_.endswith("[]"):
        return [expected_value({tag[0]: each}, type_[:-2]) for each in inner]
    if type_ == "BIGINT":
        return int(inner)
    if type_.startswith("DECIMAL"):
        return Decimal(inner)
    if type_ == "VARCHAR" and tag == "BOOL":
        return str(inner).lower()
    return base64.b64decode(inner) if type_ == "BLOB" else inner


def plain(value: Mapping[str, Any]) -> Any:
    """Plain JSON of a DynamoDB value, as `loads` reads it: numbers by their digits."""
    tag, inner = next(iter(value.items()))
    if tag == "M":
        return {name: plain(each) for name, each in inner.items()}
    if tag == "L":
        return [plain(each) for each in inner]
    if tag in ("N", "NS"):
        return Number(inner) if tag == "N" else [Number(each) for each in inner]
    return None if tag == "NULL" else inner


@dataclass(frozen=True)
class Number:
    """A number's text: equal to no string."""

    text: str


def loads(text: str) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_int=Number, parse_float=Number)


def differences(table: Table) -> list[str]:
    """How the public model and the merged table differ from the reference; empty if they do not."""
    items = expected_items(table)
    names = expected_names(table)
    types = {column: expected_type(table, *column) for column in names}
    latest = query(table.con, f"SELECT * FROM analytics.{table.model}_latest")
    public = query(table.con, f"SELECT * FROM analytics.{table.model}")
    found = (
        [f"{len(public)} rows in public, {len(items)} expected"]
        if len(public) != len(items)
        else []
    )
    living = {row["_key"]: row for row in latest if row["_op"] != "REMOVE"}
    if len({row["_key"] for row in latest}) != len(latest):
        found.append("a key stands twice")
    found += [f"missing {key}" for key in items.keys() - living.keys()]
    found += [f"too many {key}" for key in living.keys() - items.keys()]
    for key in items.keys() & living.keys():
        row = living[key]
        if json.loads(row["_image"]) != items[key]:
            found.append(f"{key}: {row['_image']}, expected {items[key]}")
        for (name, exact), column in names.items():
            type_ = types[name, exact]
            wanted = expected_value(items[key].get(name), type_, exact)
            shown = row.get(column, "no such column")
            if type_ == "JSON" and isinstance(shown, str) and column in row:
                shown = loads(shown)
            if shown != wanted or type(shown) is not type(wanted):
                found.append(f"{key}.{name}: {shown!r} in {column}, expected {wanted!r}")
    described = query(table.con, f"DESCRIBE analytics.{table.model}_latest")
    columns = {row["column_name"]: row["column_type"] for row in described}
    for (name, exact), column in names.items():
        if columns.get(column) != types[name, exact]:
            type_ = types[name, exact]
            found.append(f"{name}: {column} is {columns.get(column)}, expected {type_}")
    extra = columns.keys() - OURS - set(names.values())
    return found + [f"a column nobody asked for: {name}" for name in extra]


# --------------------------------------------------------------------------- the past, likewise


@dataclass(frozen=True)
class State:
    """One state of a key as the history has to show it; no `item` is a deletion."""

    begins: datetime
    ends: datetime | None
    op: str
    by_ttl: bool
    item: dict[str, Any] | None
    row: Row | None = None


def expected_history(table: Table) -> dict[str, list[State]]:
    """Every key's states in their order, told from the log row by row."""
    rows: dict[str, list[Row]] = {}
    for row in sorted(table.rows, key=lambda each: each.version):
        if table.shown(row):
            rows.setdefault(row.key, []).append(row)
    return {key: _states(table, of_key) for key, of_key in rows.items()}


def _states(table: Table, rows: list[Row]) -> list[State]:
    """A key's states, each with the time that its row names, but never before the last one's."""
    told: list[tuple[datetime, str, bool, dict[str, Any] | None, Row | None]] = []
    for number, row in enumerate(rows):
        if number and (ended := _replaced(table, rows[number - 1], row)):
            told.append((ended, "REMOVE", False, None, None))
        item = json.loads(row.image) if row.image else None
        found_before = bool(told) and _canonical(told[-1][3]) == _canonical(item)
        found_after = _told_by(table, row, rows[number + 1 :])
        if row.phase == 1 or not (found_before or found_after):
            told.append((row.at, row.op, row.by_ttl, item, row))
    if ended := _replaced(table, rows[-1], None):
        told.append((ended, "REMOVE", False, None, None))
    begins = [max(each[0] for each in told[: number + 1]) for number in range(len(told))]
    ends = [*begins[1:], None]
    return [State(a, z, *each[1:]) for a, z, each in zip(begins, ends, told, strict=True)]


def _replaced(table: Table, row: Row, following: Row | None) -> datetime | None:
    """When the item of a row was gone because a full base went live that did not hold it."""
    later = [e for e, (_, kind) in table.live.items() if kind == "full" and e > row.epoch]
    if row.image is None or not later:
        return None
    full = min(later)
    if following is not None and following.epoch <= full:
        was_there = following.phase == 0 or following.batch < table.live[full][0]
        if following.epoch < full or was_there:
            return None
    return table.live_at[full]


def _told_by(table: Table, base: Row, following: list[Row]) -> bool:
    """Whether the changes that had landed when the base's epoch went live make its row needless:
    the first is as old as it, or it found what one of them had made."""
    if base.phase == 1:
        return False
    changes = [
        each
        for each in following
        if each.phase == 1 and each.epoch == base.epoch
        and each.batch <= table.live[base.epoch][0]
    ]  # fmt: skip
    if not changes or following[0] is not changes[0]:
        return False
    return changes[0].at <= base.at or any(_same(base, each) for each in changes)


def _same(row: Row, other: Row) -> bool:
    return bool(row.image) == bool(other.image) and _canonical(
        json.loads(row.image or "null")
    ) == _canonical(json.loads(other.image or "null"))


def _canonical(value: Any) -> str:
    """The JSON of an item in which neither attributes nor elements of sets have an order."""
    if isinstance(value, dict):
        members = {
            name: sorted(inner)
            if name in ("SS", "NS", "BS") and isinstance(inner, list)
            else json.loads(_canonical(inner))
            for name, inner in value.items()
        }
        return json.dumps(members, sort_keys=True)
    if isinstance(value, list):
        return json.dumps([json.loads(_canonical(each)) for each in value])
    return json.dumps(value)


def changes_differences(table: Table) -> list[str]:
    """How `<model>_changes` differs from the reference; empty if it does not."""
    wanted: dict[str, list[Any]] = {}
    for key, states in expected_history(table).items():
        before: dict[str, Any] | None = None
        for state in states:
            row = state.row
            told = json.loads(row.old_image) if row and row.old_image else before
            if row is None or row.phase == 1 or row.epoch > min(table.live):
                wanted.setdefault(key, []).append(_change(state, told))
            before = state.item
    found: dict[str, list[Any]] = {}
    rows = query(table.con, f"FROM analytics.{table.model}_changes ORDER BY _key, _version")
    for row in rows:
        shown = tuple(_ordered(row[name]) for name in ("_before", "_after"))
        found.setdefault(row["_key"], []).append(
            (row["_op"], row["_by_ttl"], row["_changed"], *shown)
        )
    return [
        f"changes of {key}: {found.get(key)}, expected {wanted.get(key)}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]


def _change(state: State, before: dict[str, Any] | None) -> tuple[Any, ...]:
    after = state.item
    names = sorted({*(before or {}), *(after or {})}, key=str.encode)
    differing = [
        name
        for name in names
        if _canonical((before or {}).get(name)) != _canonical((after or {}).get(name))
    ]
    known = state.op != "MODIFY" or before is not None
    items = (None if each is None else plain({"M": each}) for each in (before, after))
    return (state.op, state.by_ttl, differing if known else None, *items)


def _ordered(text: str | None) -> Any:
    return None if text is None else loads(text)


def history_differences(table: Table) -> list[str]:
    """How `<model>_history`, `<model>_as_of` and `<model>_changes` differ from the reference; empty
    if they do not."""
    names = expected_names(table)
    types = {each: expected_type(table, *each) for each in names}

    def typed(item: dict[str, Any] | None, key: str) -> dict[str, Any]:
        shown = json.loads(key) if item is None else item
        return {
            column: expected_value(shown.get(each[0]), types[each], each[1])
            for each, column in names.items()
        }

    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {
            column: loads(row[column])
            if types[each] == "JSON" and isinstance(row[column], str)
            else row[column]
            for each, column in names.items()
        }

    wanted = expected_history(table)
    found: dict[str, list[tuple[State, dict[str, Any], bool]]] = {}
    for row in query(table.con, f"FROM analytics.{table.model}_history ORDER BY _key, _version"):
        state = State(row["_valid_from"], row["_valid_to"], row["_op"], row["_by_ttl"], None)
        found.setdefault(row["_key"], []).append((state, read(row), row["_is_current"]))
    told = {
        key: [
            (
                State(each.begins, each.ends, each.op, each.by_ttl, None),
                typed(each.item, key),
                each.ends is None and each.item is not None,
            )
            for each in states
        ]
        for key, states in wanted.items()
    }
    differences = [
        f"{key}: {found.get(key)}, expected {told.get(key)}"
        for key in sorted(found.keys() | told.keys())
        if found.get(key) != told.get(key)
    ]
    moments = sorted({each.begins for states in wanted.values() for each in states})
    for moment in moments[:: len(moments) // MOMENTS_LOOKED_AT + 1]:
        then = [
            typed(each.item, key) | {"_changed_at": each.begins.timestamp()}
            for key, states in wanted.items()
            for each in states
            if each.item is not None
            and each.begins <= moment
            and (each.ends is None or each.ends > moment)
        ]
        shown = [
            read(row) | {"_changed_at": row["_changed_at"].timestamp()}
            for row in query(table.con, f"FROM analytics.{table.model}_as_of('{moment}')")
        ]
        if sorted(map(repr, then)) != sorted(map(repr, shown)):
            differences.append(f"as of {moment}: {shown}, expected {then}")
    return differences + changes_differences(table)


def _json(value: Item) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
