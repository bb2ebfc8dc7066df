"""What a writer may rely on: a commit is whole or nothing, and never two from one position."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tailrace.capture.stage import texts_of
from tailrace.config import Warehouse
from tailrace.errors import Retryable, Stale, Terminal
from tailrace.lake import attach, discovery
from tailrace.lake import log as log_module
from tailrace.lake.log import ChangeLog
from tailrace.lines import Lines
from tailrace.model import (
    OPEN,
    Commit,
    Epoch,
    KeyAttribute,
    Part,
    PartProgress,
    Position,
    Shape,
    Staged,
    TableDescription,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TABLE = TableDescription(
    "orders",
    "arn:table",
    "id-1",
    (KeyAttribute("pk", "S"), KeyAttribute("sk", "N")),
    "arn:stream",
    "NEW_IMAGE",
)
SEGMENT = Part("base", "scan", "arn:table", "0")
SHARD = Part("stream", "dynamodb_streams", "arn:stream", "shard-1")


def epoch(number: int = 1, state: str = OPEN) -> Epoch:
    return Epoch(number, "full", "scan", state, "id-1", "arn:stream", NOW, NOW, {"segments": 1})


def warehouse_in(folder: Path) -> Warehouse:
    return Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLog]:
    with ChangeLog(warehouse_in(tmp_path_factory.mktemp("warehouse"))) as log:
        yield log


class Orders:
    """A table of its own in the warehouse that all tests share, its first epoch open."""

    def __init__(self, log: ChangeLog) -> None:
        self.log, self.model = log, f"orders_{uuid.uuid4().hex}"
        log.open_epoch(self.model, TABLE, epoch())

    def commit(self, staged: Staged, start: str | None, end: str | None, part: Part) -> None:
        parts = (moved(part, start, end, staged.rows),)
        self.log.commit(self.model, Commit(epoch(), parts, staged))

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        return self.log.query(f"SELECT {columns} FROM changes.{self.model} ORDER BY version, key")

    def attributes(self) -> set[tuple[Any, ...]]:
        return set(
            self.log.query(
                "SELECT path, type, max(integer_digits), max(scale) FROM tailrace.attributes"
                " WHERE model = ? GROUP BY ALL",
                [self.model],
            )
        )


@pytest.fixture
def orders(warehouse: ChangeLog) -> Orders:
    return Orders(warehouse)


def item(number: int, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": f"p{number}"}, "sk": {"N": str(number)}} | attributes


def staged(items: list[dict[str, Any]], shape: Shape = Shape.ITEMS) -> Staged:
    text = "\n".join(map(json.dumps, items))
    return Staged(shape, (texts_of(shape, text.encode()),), len(items), NOW)


def moved(part: Part, start: str | None, end: str | None, rows: int = 0) -> PartProgress:
    return PartProgress(part, start, end, end is None, rows, 0)


def test_rows_and_checkpoint_become_true_together(orders: Orders) -> None:
    orders.commit(staged([item(1), item(2)]), None, "k2", SEGMENT)
    assert orders.log.head(orders.model).positions[SEGMENT] == Position("k2")
    assert orders.rows("key, op, version") == [
        ('{"pk":{"S":"p1"},"sk":{"N":"1"}}', "READ", "0000010" + "0" * 40),
        ('{"pk":{"S":"p2"},"sk":{"N":"2"}}', "READ", "0000010" + "0" * 40),
    ]


def record(number: int, sequence: str, event: str = "MODIFY", **more: Any) -> dict[str, Any]:
    change: dict[str, Any] = {
        "ApproximateCreationDateTime": 1.7e9,
        # The other order than the key schema's, and white space: the key text is canonical.
        "Keys": {"sk": {"N": str(number)}, "pk": {"S": f"p{number}"}},
        "SequenceNumber": sequence,
    }
    if event != "REMOVE":
        change["NewImage"] = item(number)
    return {"eventName": event, "dynamodb": change} | more


def test_stream_records_keep_order_tombstones_and_the_ttl_mark(orders: Orders) -> None:
    ttl = {"userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"}}
    other = {"userIdentity": {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}}
    rows = staged(
        [
            record(1, "9" * 21),
            record(1, "1" + "0" * 21, "REMOVE", **ttl),
            record(2, "5", "REMOVE"),
            record(3, "1" + "0" * 22, "REMOVE", **other),
        ],
        Shape.STREAM_RECORDS,
    )
    orders.commit(rows, None, "1", SHARD)
    found = orders.rows("op, ttl_expired, image IS NULL, key")
    key = '{{"pk":{{"S":"p{0}"}},"sk":{{"N":"{0}"}}}}'.format
    assert found == [
        ("REMOVE", False, True, key(2)),
        ("MODIFY", False, False, key(1)),
        ("REMOVE", True, True, key(1)),
        ("REMOVE", True, True, key(3)),
    ]


def test_what_was_read_is_kept_to_the_letter(orders: Orders) -> None:
    deep: dict[str, Any] = {"S": "é\u2028\U0001f600\"\\'"}
    for _ in range(32):
        deep = {"M": {"x": deep}}
    big = item(
        1,
        **{
            'select "x"; --': {"S": ""},
            "n38": {"N": "1234567890123456789012345678901234567.8"},
            "deep": deep,
            "blob": {"S": "x" * 400_000},
            "bytes": {"B": ""},
            "tiny": {"N": "1E-130"},
        },
    )
    orders.commit(staged([big]), None, "k", SEGMENT)
    ((image,),) = orders.rows("image::VARCHAR")
    assert json.loads(image) == big
    assert image == json.dumps(big)


def test_keys_may_be_called_anything(warehouse: ChangeLog) -> None:
    names = ("a/b~c", 'x"y')
    table = TableDescription(
        "t", "arn:t", "i", tuple(KeyAttribute(each, "S") for each in names), "arn:s", "NEW_IMAGE"
    )
    warehouse.open_epoch('we"ird; --', table, epoch())
    rows = staged([{names[1]: {"S": "2"}, names[0]: {"S": "1"}}])
    warehouse.commit('we"ird; --', Commit(epoch(), (moved(SEGMENT, None, "k", 1),), rows))
    assert warehouse.query('SELECT key FROM changes."we""ird; --"') == [
        ('{"a/b~c":{"S":"1"},"x\\"y":{"S":"2"}}',)
    ]


def test_a_row_without_its_key_is_refused_and_nothing_lands(orders: Orders) -> None:
    rows = staged([item(1), {"pk": {"S": "p"}}])
    with pytest.raises(Terminal, match="lack a key attribute"):
        orders.commit(rows, None, "k", SEGMENT)
    assert orders.rows("key") == []
    assert SEGMENT not in orders.log.head(orders.model).positions


def test_attributes_are_found_with_their_types_and_digits(orders: Orders) -> None:
    first = [item(1, n={"N": "-12.345"}, a={"S": "x"}), item(2, a={"NULL": True})]
    orders.commit(staged(first), None, "k1", SEGMENT)
    second = [item(30, n={"N": "1"}), item(4, n={"N": "1E+40"}, new={"L": []})]
    orders.commit(staged(second), "k1", "k2", SEGMENT)
    assert orders.attributes() == {
        ("a", "NULL", None, None),
        ("a", "S", None, None),
        ("n", "N", 1000, 3),
        ("new", "L", None, None),
        ("pk", "S", None, None),
        ("sk", "N", 2, 0),
    }


def compact(items: list[dict[str, Any]], shape: Shape = Shape.ITEMS) -> Staged:
    """What AWS writes: without white space, in UTF-8."""
    text = (json.dumps(each, separators=(",", ":"), ensure_ascii=False) for each in items)
    return Staged(shape, (texts_of(shape, "\n".join(text).encode()),), len(items), NOW)


KNOWN = item(1, n={"N": "12.5"}, e={"N": "-1E+9"}, a={"S": "x"}, m={"M": {"x": {"S": ""}}})

# What an item brings, and the attributes that are new then.
NEWS = [
    ({}, set()),
    ({"a": {"S": 'é\u2028"\\\n'}, "n": {"N": "-99.9"}, "m": {"M": {}}}, set()),
    ({"e": {"N": "1234567890.5"}}, set()),  # its column is text already: it had an exponent
    ({"n": {"N": "123"}}, {("n", "N", 3, 1)}),
    ({"n": {"N": "-123"}}, {("n", "N", 3, 1)}),
    ({"n": {"N": "1.25"}}, {("n", "N", 2, 2)}),
    ({"n": {"N": "1E2"}}, {("n", "N", 1000, 1)}),
    ({"sk": {"N": "1.5"}}, {("sk", "N", 1, 1)}),
    ({"a": {"N": "7"}}, {("a", "N", 1, 0)}),
    ({"a": {"NULL": True}}, {("a", "NULL", None, None)}),
    ({"": {"S": ""}}, {("", "S", None, None)}),
    ({'q"/~': {"BOOL": False}}, {('q"/~', "BOOL", None, None)}),
    ({"é\u0001": {"L": []}}, {("é\u0001", "L", None, None)}),
    ({"M": {"M": {"n": {"N": "12345"}}}}, {("M", "M", None, None)}),
]


def wrapped(number: int, shape: Shape, image: dict[str, Any]) -> dict[str, Any]:
    """The image in a line of this shape."""
    if shape is Shape.ITEMS:
        return image
    keys = {name: image[name] for name in ("pk", "sk")}
    if shape is Shape.INCREMENTAL_LINES:
        written = {"WriteTimestampMicros": {"N": str(1_700_000_000_000_000 + number)}}
        return {"Metadata": written, "Keys": keys, "NewImage": image}
    told = record(number, str(100 + number), eventID=f"{number:032x}")
    return told | {"dynamodb": told["dynamodb"] | {"Keys": keys, "NewImage": image}}


@pytest.mark.parametrize(("more", "new"), NEWS)
def test_whatever_an_image_brings_is_found_while_it_lands(
    orders: Orders, more: dict[str, Any], new: set[tuple[Any, ...]]
) -> None:
    orders.commit(compact([KNOWN]), None, "1", SEGMENT)
    before = orders.attributes()
    orders.commit(compact([KNOWN, KNOWN | more, item(3)]), "1", "2", SEGMENT)
    assert orders.attributes() - before == new


@pytest.mark.parametrize("shape", list(Shape))
def test_it_is_found_in_lines_of_every_shape(orders: Orders, shape: Shape) -> None:
    start, before = None, set[tuple[Any, ...]]()
    part = SEGMENT if shape in (Shape.ITEMS, Shape.INCREMENTAL_LINES) else SHARD
    for images in ([KNOWN], [KNOWN, *(KNOWN | more for more, _ in NEWS), item(3)]):
        before = orders.attributes()
        rows = compact([wrapped(at, shape, each) for at, each in enumerate(images)], shape)
        end = str(len(images))
        orders.commit(rows, start, end, part)
        start = end
    assert orders.attributes() - before == {
        ("", "S", None, None),
        ("M", "M", None, None),
        ("a", "N", 1, 0),
        ("a", "NULL", None, None),
        ("e", "N", 1000, 1),
        ("n", "N", 1000, 2),
        ("sk", "N", 1, 1),
        ('q"/~', "BOOL", None, None),
        ("é\u0001", "L", None, None),
    }


@pytest.mark.parametrize("line", [b'{"OldImage":{"a":{"S":"\xff"}}}', b'{"Keys":', b'{"Keys":1'])
def test_a_line_of_an_incremental_export_that_is_no_json_is_refused(
    orders: Orders, line: bytes
) -> None:
    shape = Shape.INCREMENTAL_LINES
    with pytest.raises(Terminal, match="is no JSON"):
        orders.commit(Staged(shape, (texts_of(shape, line),), 1, NOW), None, "1", SEGMENT)


def test_an_item_of_a_thousand_attributes_lands_again_and_again(orders: Orders) -> None:
    wide = item(1, **{f"n{number}": {"N": str(number)} for number in range(1_000)})
    orders.commit(compact([wide]), None, "1", SEGMENT)
    before = orders.attributes()
    assert len(before) == 1_002
    orders.commit(compact([wide]), "1", "2", SEGMENT)
    more = wide | {"n999": {"N": "1.5"}, "new": {"S": ""}}
    orders.commit(compact([more]), "2", "3", SEGMENT)
    assert orders.attributes() - before == {("n999", "N", 3, 1), ("new", "S", None, None)}


def test_only_what_is_not_known_is_read_again(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compact([KNOWN])
    orders.commit(first, None, "1", SEGMENT)
    monkeypatch.setattr(discovery, "discover", refuse)
    same = compact([KNOWN, item(2)])
    orders.commit(same, "1", "2", SEGMENT)
    other = compact([KNOWN | {"b": {"S": ""}}])
    with pytest.raises(AssertionError, match="read again"):
        orders.commit(other, "2", "3", SEGMENT)


def refuse(*_: object) -> None:
    raise AssertionError("read again")


NO_OBJECTS = [
    '{"pk":{"S":"a"},"sk":{"N":"1"}',
    '{"pk":{"S":"a"},"sk":{"N":"1"}},"x":1',
    '{"pk":{"S":"a"},"sk":{"N":"1"}}{}',
    "1",
]


@pytest.mark.parametrize("line", NO_OBJECTS)
def test_a_line_that_is_no_json_object_is_refused(orders: Orders, line: str) -> None:
    text = json.dumps(item(1)) + "\n" + line + "\n"
    rows = Staged(Shape.ITEMS, (Lines.of(text.encode(), "s3://bucket/f.gz"),), 2, NOW)
    with pytest.raises(Terminal):
        orders.commit(rows, None, "k", SEGMENT)
    assert orders.rows("key") == []


def test_what_brings_nothing_new_adds_no_attribute(orders: Orders) -> None:
    for start, end in ((None, "k1"), ("k1", "k2")):
        rows = staged([item(1, a={"S": "x"})])
        orders.commit(rows, start, end, SEGMENT)
    count = "SELECT count(*), max(batch) FROM tailrace.attributes WHERE model = ?"
    assert orders.log.query(count, [orders.model]) == [(3, 2)]


def test_a_rolled_back_batch_teaches_no_attribute(orders: Orders) -> None:
    bad = staged([item(1, a={"S": "x"}), {"pk": {"S": "no sort key"}}])
    with pytest.raises(Terminal):
        orders.commit(bad, None, "k", SEGMENT)
    good = staged([item(1, a={"S": "x"})])
    orders.commit(good, None, "k", SEGMENT)
    assert {path for path, *_ in orders.attributes()} == {"a", "pk", "sk"}


@pytest.mark.parametrize("writers", [4])
def test_of_writers_at_one_position_one_wins_however_they_race(
    writers: int, tmp_path: Path
) -> None:
    logs = [ChangeLog(warehouse_in(tmp_path)) for _ in range(writers)]
    logs[0].open_epoch("orders", TABLE, epoch())
    won: list[int] = []
    start = threading.Barrier(writers)

    def write(number: int) -> None:
        for step in range(5):
            rows = staged([item(step)])
            start.wait()
            before = f"k{step - 1}" if step else None
            try:
                logs[number].commit(
                    "orders", Commit(epoch(), (moved(SEGMENT, before, f"k{step}", 1),), rows)
                )
            except Stale:
                continue
            won.append(step)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0, 1, 2, 3, 4]
    assert logs[0].query("SELECT count(*), count(DISTINCT batch) FROM changes.orders") == [(5, 5)]
    for log in logs:
        log.close()


# In a process of its own: a process does not see its own locks.
HOLD_CATALOG = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_commit_waits_for_a_locked_catalog_and_gives_up_in_bounded_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr(log_module, "COMMIT_ATTEMPTS", 3)
    with ChangeLog(warehouse_in(tmp_path)) as log:
        orders = Orders(log)
        rows = staged([item(1)])
        command = [sys.executable, "-c", HOLD_CATALOG, str(tmp_path / "catalog.sqlite")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Retryable, match="stayed busy: 3 commits lost the race"):
                orders.commit(rows, None, "k", SEGMENT)
            monkeypatch.setattr(log_module, "COMMIT_ATTEMPTS", 1_000)
            threading.Timer(0.2, holder.stdin.close).start()
            orders.commit(rows, None, "k", SEGMENT)
        assert len(orders.rows("key")) == 1
        assert log.head(orders.model).positions == {SEGMENT: Position("k")}


def fill_the_disk(disk: Path) -> None:
    """What the next test does in a file system of a megabyte, in a process of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    with ChangeLog(warehouse_in(disk)) as log:
        orders = Orders(log)
        noise = [base64.b64encode(os.urandom(2_250)).decode() for _ in range(1_000)]
        rows = staged([item(n, x={"B": text}) for n, text in enumerate(noise)])
        with pytest.raises(Terminal, match="The disk is full"):
            orders.commit(rows, None, "k", SEGMENT)
        assert log.head(orders.model).positions == {}
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        orders.commit(rows, None, "k", SEGMENT)
        assert len(orders.rows("key")) == 1_000
        assert log.head(orders.model).positions == {SEGMENT: Position("k")}


def test_a_full_disk_is_called_that_and_the_same_commit_succeeds_once_there_is_room(
    tmp_path: Path,
) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("a file system of its own needs user namespaces")
    script = (
        "import sys; from pathlib import Path; from tests.unit.lake.test_log import fill_the_disk;"
        " fill_the_disk(Path(sys.argv[1]))"
    )
    subprocess.run(
        [*alone, sys.executable, "-c", script, tmp_path],
        cwd=Path(__file__).parents[3],
        check=True,
    )


BROKEN_OFF = """
import os, signal, sys, threading
from tailrace.config import Warehouse
from tailrace.lake.log import ChangeLog

def stop(*_):
    raise KeyboardInterrupt

folder = sys.argv[1]
signal.signal(signal.SIGTERM, stop)
catalog, data = f"sqlite:{folder}/catalog.sqlite", f"{folder}/data"
log = ChangeLog(Warehouse(catalog=catalog, data_path=data, threads=4))
endless = "SELECT count(*) FROM range(10_000_000_000_000) WHERE range % 7 = 3"
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
try:
    log._in_transaction(log._con, lambda: log._con.execute(endless).fetchall())
except RuntimeError:
    print(log.head("orders").batch)
log.close()
"""


def test_a_commit_that_a_signal_breaks_off_waits_for_no_other_thread_of_duckdb(
    tmp_path: Path,
) -> None:
    """The part that another thread has begun here has no end."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
