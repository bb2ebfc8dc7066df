"""A whole AWS, its clock, and the machines that talk to it, in one thread and from one seed.

Real boto3 clients send to `World.wire` (botocore's `before-send` event), which asks the sandbox's
Dynamo. Everything that could differ between two runs of one seed is the world's: clocks, sleeps,
random waits, ids, timers and the order of threads. At every wire call, sleep and commit the world
may let something happen: a write, a fault, a split, a jump of the clock, another process's whole
run, a crash. What happens, and how often, is `Weather`, drawn from the seed.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import botocore
import botocore.endpoint
import msgspec
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
from botocore.retries.quota import RetryQuota
from botocore.useragent import UserAgentString

import sandbox.exports
import sandbox.kinesis
import sandbox.streams
import sandbox.tables
import tailrace.capture.ahead
import tailrace.capture.bootstrap
import tailrace.capture.deliveries
import tailrace.capture.drain
import tailrace.capture.retry
import tailrace.capture.stage
import tailrace.engine
import tailrace.sources.aws
import tailrace.sources.lookup
from sandbox.clock import Clock
from sandbox.dynamodb import Dynamo
from sandbox.errors import AwsError
from sandbox.exports import NoSuchBucketError
from sandbox.firehose import DeliveryStream
from sandbox.streams import Change, Shard, Stream, parse_iterator
from sandbox.tables import Table
from tailrace.config import (
    Config,
    DynamoDbStreamsConfig,
    ExportBase,
    FirehoseConfig,
    KinesisConfig,
    RepairConfig,
    ScanBase,
    Warehouse,
)
from tailrace.config import Table as TableConfig
from tailrace.engine import Engine
from tailrace.model import DrainResult
from tailrace.sources.aws import Aws
from tests.simulation.memory_log import MemoryLog, Store

REGION, TABLE, MODEL, BUCKET = "us-east-1", "orders", "orders", "exports"
STREAM = "changes"
DELIVERED, DELIVERED_PREFIX = "delivered", "cdc/"
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1_000_000)
HOUR = 3600.0
STEPS_MAX = 20_000
NESTING_MAX = 2
SHARDS_MAX = 6
WRITES_MAX = 250
DIVIDES_MAX = 60
STEPS_OF_WEATHER = 800
TRACE_LINES = 40

THROTTLES = ("ThrottlingException", "ProvisionedThroughputExceededException")
FATAL = "ExpiredTokenException"


class Crash(BaseException):  # nothing may catch it as an error
    """The process is killed here: `kill -9` runs no handler that could still do something."""


class Stuck(BaseException):
    """More steps than any story needs: something goes round in circles."""


@dataclass
class Weather:
    """How likely what is, at each moment. Most seeds leave most of it out: a storm of everything
    hides what two things do to each other."""

    write: float = 0.0
    pause: float = 0.0
    pause_seconds: float = 2.0
    divide: float = 0.0
    vanish: float = 0.0
    process: float = 0.0
    crash: float = 0.0
    stop: float = 0.0
    fault: float = 0.0
    fatal: float = 0.0
    empty: float = 0.0
    stale_scan: float = 0.0
    listing_lag_seconds: float = 0.0
    slow_base_seconds: float = 0.0
    sensor_seconds: float = 0.0
    late: float = 0.0
    late_seconds: float = 0.0
    twice: float = 0.0
    buffer_seconds: float = 0.0

    @property
    def delivery_seconds(self) -> float:
        """Within which time Firehose delivers a change, by AWS's time in whole seconds."""
        return self.late_seconds + self.buffer_seconds + 2


@dataclass
class Sent:
    """A change that a table sent to Kinesis: to which stream, when it first came there (None: not
    yet), and the sequence numbers that it has there. `number` is its own, and its record's id."""

    change: Change
    number: int = 0
    stream: str = ""
    arrived: int | None = None
    sequences: list[int] = field(default_factory=list)


class WorldClock(Clock):
    """The sandbox's clock, standing still unless it is moved; timers fire on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.micros = START
        self.timers: list[tuple[int, Callable[[], None]]] = []

    def now(self) -> int:
        return self.micros

    def advance(self, seconds: float) -> None:
        target = self.micros + int(seconds * 1_000_000)
        while due := [each for each in self.timers if each[0] <= target]:
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.micros = max(self.micros, first[0])
            first[1]()
        self.micros = target

    def seconds(self) -> float:
        return self.micros / 1_000_000


@dataclass
class Process:
    """One run of the engine. A dead one does nothing any more."""

    name: str
    depth: int
    engine: Engine | None = None
    dead: bool = False


class _Body(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.read()


@dataclass
class World:
    """One seed's universe. Enter it before use; `on_commit` sees every commit take effect."""

    seed: int
    on_commit: Callable[[], None] = lambda: None
    weather: Weather = field(default_factory=Weather)
    quiet: bool = True
    store: Store = field(default_factory=Store)
    trace: deque[str] = field(default_factory=lambda: deque(maxlen=TRACE_LINES))
    records: list[tuple[str, int, Change]] = field(default_factory=list)
    steps: int = 0
    written: int = 0
    divided: int = 0
    fatal: int = 0
    kinesis: bool = False
    firehose: bool = False
    list_page: int = 1_000
    source: str = "dynamodb_streams"
    microseconds: bool = True
    sent: list[Sent] = field(default_factory=list)
    unsent: list[Change] = field(default_factory=list)
    slept: float = 0.0
    nested: Callable[[], None] = lambda: None
    sensor: Callable[[], None] = lambda: None
    config: Config | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = WorldClock()
        self.objects: dict[tuple[str, str], bytes] = {}
        self.put_at: dict[tuple[str, str], int] = {}
        self.buffer: list[tuple[int, bytes]] = []
        self.hose = DeliveryStream("hose", DELIVERED_PREFIX)
        self.past_journals: list[list[Change]] = []
        self.deleted = True
        self.processes: list[Process] = []
        self.keys = [f"k{number}" for number in range(self.random.randint(2, 10))]
        self._faults: dict[str, tuple[str, int]] = {}
        self._empties: dict[tuple[int, str], int] = {}
        self._hidden: dict[str, int] = {}
        self._listings: dict[int, int] = {}
        self._stack = ExitStack()

    # ------------------------------------------------------------------------- coming and going

    def __enter__(self) -> World:
        stack = self._stack
        folder = stack.enter_context(TemporaryDirectory(prefix="simulation-"))
        self.folder = Path(folder)
        state = random.getstate()
        stack.callback(random.setstate, state)
        random.seed(self.seed)
        _MACHINES.world = self
        for patched in self._patches():
            stack.enter_context(patched)
        self.dynamo = Dynamo(self.clock, self._put_object)
        if self.kinesis:
            self.dynamo._send = self._to_kinesis  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _patches(self) -> Iterator[Any]:
        time = SimpleNamespace(monotonic=self.clock.seconds, sleep=self.sleep)
        ids = random.Random(self.seed)
        wrong = timedelta(hours=self.random.choice((-30, -1, 0, 5)))
        secrets = SimpleNamespace(
            token_hex=lambda size=32: ids.randbytes(size).hex(), randbelow=ids.randrange
        )
        # The clock of a machine may be wrong; only AWS's counts.
        machine = SimpleNamespace(now=lambda zone: self.clock_time() + wrong)
        yield patch.object(tempfile, "tempdir", str(self.folder))
        yield patch.object(tailrace.engine, "time", time)
        yield patch.object(tailrace.engine, "ChangeLog", self._open_log)
        yield patch.object(tailrace.engine, "Aws", self._open_aws)
        yield patch.object(tailrace.sources.aws, "time", time)
        yield patch.object(tailrace.sources.aws, "datetime", machine)
        yield patch.object(botocore.endpoint, "time", time)
        yield patch.object(UserAgentString, "to_string", lambda _: "simulation")
        yield patch.object(RetryQuota, "acquire", lambda quota, amount: True)
        for module in (tailrace.capture.retry, tailrace.sources.lookup):
            yield patch.object(module, "random", random.Random(self.seed))
        yield patch.object(tailrace.sources.lookup, "time", time)
        for module in (tailrace.capture.drain, tailrace.capture.bootstrap):
            yield patch.object(module, "ThreadPoolExecutor", self._pool)
            yield patch.object(module, "wait", self._wait)
        yield patch.object(tailrace.capture.ahead, "ThreadPoolExecutor", self._pool)
        yield patch.object(sandbox.streams, "secrets", secrets)
        yield patch.object(sandbox.exports, "secrets", secrets)
        yield patch.object(sandbox.exports, "threading", SimpleNamespace(Timer=self._timer))
        yield patch.object(Stream, "add", self._recorded(Stream.add))
        choose = self.random.choice
        yield patch.object(sandbox.tables, "PAGE_BYTES", choose((120, 400, 10_000)))
        yield patch.object(sandbox.streams, "MAX_RECORD_BYTES", choose((500, 1500, 100_000)))
        yield patch.object(sandbox.streams, "SHARDS_PER_PAGE", choose((2, 5, 100)))
        if self.kinesis:
            yield patch.object(sandbox.kinesis, "MAX_BYTES", choose((800, 3000, 10**7)))
            yield patch.object(sandbox.kinesis, "SHARDS_PER_PAGE", choose((2, 5, 1000)))
        if self.firehose:
            self.hose.random = random.Random(self.seed)
            self.hose.compression = choose(("GZIP", "ZIP", "UNCOMPRESSED"))
            self.hose.newlines = choose((False, True))
            self.list_page = choose((2, 5, 1_000))
            yield patch.object(tailrace.capture.deliveries, "BATCH_OBJECTS", choose((1, 2, 256)))
        yield patch.object(tailrace.capture.stage, "FLUSH_SECONDS", choose((0.0, 0.5, 30.0)))
        yield patch.object(tailrace.capture.bootstrap, "EXPORT_BATCH_FILES", choose((1, 2, 64)))
        # Thirty hours of polls would be all that a story tells.
        yield patch.object(tailrace.capture.bootstrap, "EXPORT_POLL_SECONDS", 3600.0)

    def _recorded(self, add: Callable[..., None]) -> Callable[..., None]:
        def recorded(stream: Stream, change: Change, digest: int) -> None:
            add(stream, change, digest)
            last = max(
                shard.records[-1].sequence for shard in stream.open_shards() if shard.records
            )
            self.records.append((stream.arn, last, change))

        return recorded

    # -------------------------------------------------------------------------------- processes

    def process(self, name: str, work: Callable[[Engine], Any]) -> Any:
        """Runs one process to its end: returns what `work` returned or the error it died of."""
        process = Process(name, len(self.processes))
        self.say(f"{name} starts")
        self.processes.append(process)
        engine = None
        try:
            assert self.config is not None
            process.engine = engine = Engine.open(self.config)
            found = work(engine)
        except Crash:
            found = Crash()
        except Stuck:
            raise
        except Exception as error:
            found = error
        finally:
            process.dead = True
            if engine is not None:
                engine.close()
            self.processes.pop()
        self.say(f"{name}: {_short(found)}")
        return found

    def configure(
        self, method: str, export_arn: str | None = None, pass_seconds: float | None = None
    ) -> None:
        """A new tailrace.yaml; what an open epoch has frozen may differ from it."""
        base: ScanBase | ExportBase
        if method == "scan":
            base = ScanBase(
                segments=self.random.randint(1, 4),
                max_rcu=self.random.choice((None, None, 5.0)),
                consistent=self.random.random() < 0.3,
            )
        else:
            base = ExportBase(bucket=BUCKET, prefix="p", export_arn=export_arn)
        repair = RepairConfig(bucket=self.random.choice((None, BUCKET)))
        seconds = pass_seconds or self.random.choice((1.0, 5.0, 40.0, 40.0))
        stream: DynamoDbStreamsConfig | KinesisConfig | FirehoseConfig
        stream = DynamoDbStreamsConfig(pass_seconds=seconds)
        if self.source == "kinesis":
            stream = KinesisConfig(pass_seconds=seconds, late_seconds=self.weather.late_seconds)
        if self.source == "firehose":
            stream = FirehoseConfig(
                bucket=DELIVERED,
                prefix=DELIVERED_PREFIX,
                pass_seconds=seconds,
                delivery_seconds=self.weather.delivery_seconds,
            )
        self.config = Config(
            warehouse=Warehouse(
                catalog=f"sqlite:{self.folder}/none.sqlite", data_path=str(self.folder)
            ),
            tables=(TableConfig(name=TABLE, model=MODEL, base=base, stream=stream, repair=repair),),
        )

    def _open_log(self, _: Warehouse) -> MemoryLog:
        process = self.processes[-1]

        def hook(moment: str) -> None:
            self._alive(process)
            if moment == "before commit":
                self.happen(moment)
                self._alive(process)
            else:
                self.say(f"{process.name} committed batch {self.store.batch}")
                self.on_commit()
                self._maybe_crash(moment)

        return MemoryLog(self.store, hook)

    def _open_aws(self, _: object) -> Aws:
        return _MACHINES.boot(self.processes[-1].depth)

    def _alive(self, process: Process) -> None:
        if process.dead:
            raise Crash

    # ------------------------------------------------------------------------------- what happens

    def happen(self, moment: str) -> None:
        """Lets the weather do what it does between two steps of a process."""
        if self.quiet or self.steps > STEPS_OF_WEATHER:
            return
        roll, weather = self.random.random, self.weather
        if roll() < weather.write and self.written < WRITES_MAX:
            for _ in range(self.random.randint(1, 4)):
                self.write()
        if roll() < weather.pause:
            self.clock.advance(self.random.expovariate(1 / weather.pause_seconds))
        if roll() < weather.divide and self.divided < DIVIDES_MAX:
            self.divide()
        if roll() < weather.vanish:
            self.vanish()
        if roll() < weather.process and len(self.processes) <= NESTING_MAX:
            asleep_since = self.clock.seconds()
            self.nested()
            self.slept = max(self.slept, self.clock.seconds() - asleep_since)
        if self.processes and roll() < weather.stop and self.processes[-1].engine:
            self.say(f"{self.processes[-1].name} is told to stop at {moment}")
            self.processes[-1].engine.stop.set()
        self._maybe_crash(moment)

    def _maybe_crash(self, moment: str) -> None:
        if self.quiet or not self.processes or self.random.random() >= self.weather.crash:
            return
        self.processes[-1].dead = True
        self.say(f"{self.processes[-1].name} is killed at {moment}")
        raise Crash

    def sleep(self, seconds: float) -> None:
        """time.sleep of every process."""
        self.clock.advance(seconds + 1e-6)
        self._bound()
        if self.processes:
            self._alive(self.processes[-1])
            self.sensor()
            self.happen("sleep")

    def _bound(self) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"Never caught up: {STEPS_MAX} calls and sleeps are more than any need.")

    def write(self) -> None:
        """One write of the application: an insert, an update, a delete, or one that changes
        nothing. None on a table that is gone."""
        if self.deleted:
            return
        key = {"pk": {"S": self.random.choice(self.keys)}}
        found = msgspec.json.decode(
            self.dynamo.answer("GetItem", REGION, {"TableName": TABLE, "Key": key})
        ).get("Item")
        chance = self.random.random()
        if found and chance < 0.3:
            self.dynamo.answer("DeleteItem", REGION, {"TableName": TABLE, "Key": key})
        elif found and chance < 0.4:
            self.dynamo.answer("PutItem", REGION, {"TableName": TABLE, "Item": found})
        else:
            self.written += 1
            value = self.written if chance < 0.9 else self.random.randint(0, 2)
            item = {**key, "v": {"N": str(value)}, "pad": {"S": "x" * self.random.randint(0, 90)}}
            self.dynamo.answer("PutItem", REGION, {"TableName": TABLE, "Item": item})
        self.clock.advance(self.random.choice((0.0, 0.001, 0.3)))
        if self.kinesis and not self.microseconds:
            # Of two changes in one millisecond no order is promised, and a change's time may be
            # microseconds ahead of the clock.
            self.clock.advance(0.002)

    def create(self, view_type: str) -> None:
        """A table with point-in-time recovery and a stream."""
        self._ask(
            "CreateTable",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        )
        self.deleted = False
        recovery = {"PointInTimeRecoveryEnabled": True}
        self._ask("UpdateContinuousBackups", PointInTimeRecoverySpecification=recovery)
        for _ in range(self.random.randint(0, 30)):
            self.write()
        self.enable_stream(view_type)
        if self.kinesis:
            if ("us-east-1", STREAM) not in self.dynamo.kinesis.streams:
                self.create_kinesis()
            self.enable_kinesis()

    def create_kinesis(self) -> None:
        """A Kinesis stream; perhaps another one than before, of the same name."""
        self.clock.advance(1.0)  # streams are told apart by the second
        shards = self.random.randint(1, 3)
        asked = {"StreamName": STREAM, "ShardCount": shards}
        self.dynamo.kinesis.answer("CreateStream", REGION, asked)

    def delete_kinesis(self) -> None:
        """The Kinesis stream is gone, with all that it held."""
        self.dynamo.kinesis.answer("DeleteStream", REGION, {"StreamName": STREAM})

    def kinesis_stream(self) -> sandbox.kinesis.Stream:
        """The Kinesis stream that there is."""
        return self.dynamo.kinesis.streams[REGION, STREAM]

    def enable_kinesis(self) -> None:
        """The table's changes go to Kinesis from now on."""
        self.microseconds = self.random.random() < 0.5
        precision = "MICROSECOND" if self.microseconds else "MILLISECOND"
        setting = {"ApproximateCreationDateTimePrecision": precision}
        arn = f"arn:aws:kinesis:{REGION}:123456789012:stream/{STREAM}"
        self._ask(
            "EnableKinesisStreamingDestination",
            StreamArn=arn,
            EnableKinesisStreamingConfiguration=setting,
        )

    def disable_kinesis(self) -> None:
        """The table's changes go there no more."""
        self._ask("DisableKinesisStreamingDestination", StreamArn=self.kinesis_stream().arn)

    def _to_kinesis(self, table: Table, change: Change) -> None:
        """Sends a change to Kinesis as AWS may: late, out of order, twice."""
        if not any(each.status == "ACTIVE" for each in table.destinations.values()):
            self.unsent.append(change)
        for arn, destination in table.destinations.items():
            if destination.status != "ACTIVE":
                continue
            sent = Sent(change, len(self.sent) + 1)
            self.sent.append(sent)
            data = sandbox.kinesis.data_of(
                change,
                table.name,
                REGION,
                microseconds=destination.microseconds,
                event_id=f"{sent.number:032}",
            )
            key = sandbox.kinesis.partition_key_of(change)
            roll = self.random.random
            copies = 1 if self.quiet or roll() >= self.weather.twice else 2
            for _ in range(copies):
                late = 0.0 if self.quiet or roll() >= self.weather.late else roll()
                wait = int(late * self.weather.late_seconds * 1_000_000)

                def arrive(sent: Sent = sent, data: bytes = data, key: str = key) -> None:
                    stream = self.dynamo.kinesis.by_arn(arn)  # noqa: B023
                    if stream is None:
                        return
                    put = self.dynamo.kinesis.put(stream, data, key)
                    sent.stream = _known_as(stream)
                    sent.arrived = sent.arrived or self.clock.now()
                    sent.sequences.append(int(put["SequenceNumber"]))
                    if self.firehose:
                        self._to_firehose(data)

                if wait:
                    self.clock.timers.append((self.clock.now() + wait, arrive))
                else:
                    arrive()

    def _to_firehose(self, data: bytes) -> None:
        """Buffers a record and delivers what has gathered, later."""
        self.buffer.append((self.clock.now(), data))
        if len(self.buffer) == 1:
            self._later(self.weather.buffer_seconds / 2, self._deliver)

    def _later(self, most: float, do: Callable[[], None]) -> None:
        wait = 0 if self.quiet else int(self.random.random() * most * 1_000_000)
        if wait:
            self.clock.timers.append((self.clock.now() + wait, do))
        else:
            do()

    def _deliver(self) -> None:
        """Puts the buffer into one or two objects, each when it may come: under the hour of its
        oldest record, out of order, and now and then again an hour later under another name."""
        buffer, self.buffer = self.buffer, []
        for half in (buffer[::2], buffer[1::2]) if self.random.random() < 0.3 else (buffer,):
            if not half:
                continue
            body, oldest = self.hose.packed([data for _, data in half]), half[0][0]
            for copy in range(1 + (self.random.random() < self.weather.twice)):

                def put(body: bytes = body, oldest: int = oldest) -> None:
                    place = (DELIVERED, self.hose.key(oldest))
                    self.objects[place] = body
                    self.put_at[place] = self.clock.now()

                self._later(HOUR if copy else self.weather.buffer_seconds / 2, put)

    def enable_stream(self, view_type: str) -> None:
        """A stream from now on; its ARN ends in this time."""
        self.clock.advance(1.0)
        stream = {"StreamEnabled": True, "StreamViewType": view_type}
        self._ask("UpdateTable", StreamSpecification=stream)

    def disable_stream(self) -> None:
        """No stream from now on; the old one can be read for a day."""
        self._ask("UpdateTable", StreamSpecification={"StreamEnabled": False})

    def delete(self) -> None:
        """The table is gone, and all its items."""
        table, now = self.table, self.clock.tick()
        gone = [
            Change(now, position, table._key_of(image), image, None)
            for position, image in table.items.items()
        ]
        self.past_journals.append([*table.journal, *gone])
        self._ask("DeleteTable")
        self.deleted = True

    def _ask(self, operation: str, **arguments: Any) -> None:
        self.dynamo.answer(operation, REGION, {"TableName": TABLE, **arguments})

    def reshard(self) -> None:
        """Some shard of the Kinesis stream is split, or two are merged into one."""
        kinesis, stream = self.dynamo.kinesis, self.kinesis_stream()
        shards = sorted(stream.open_shards(), key=lambda shard: shard.low)
        self.divided += 1
        body: dict[str, Any] = {"StreamName": STREAM}
        if len(shards) > 1 and (len(shards) >= SHARDS_MAX or self.random.random() < 0.5):
            number = self.random.randrange(len(shards) - 1)
            one, other = shards[number].id, shards[number + 1].id
            merged = {"ShardToMerge": one, "AdjacentShardToMerge": other}
            kinesis.answer("MergeShards", REGION, body | merged)
            self.say(f"{one} and {other} are merged")
        else:
            shard = self.random.choice(shards)
            middle = str((shard.low + shard.high) // 2)
            split = {"ShardToSplit": shard.id, "NewStartingHashKey": middle}
            kinesis.answer("SplitShard", REGION, body | split)
            self.say(f"{shard.id} is split")

    def divide(self) -> None:
        """Some open shard closes; one or two take its place."""
        if self.kinesis and self.random.random() < 0.7:
            self.reshard()
            return
        stream = None if self.deleted else self.table.stream
        if stream is None:
            return
        stream.settle(self.clock.now())
        shards = stream.open_shards()
        shard = self.random.choice(shards)
        self.divided += 1
        children = self.random.choice((1, 1, 2)) if len(shards) < SHARDS_MAX else 1
        stream.divide(shard, children, self.clock.tick())
        self.say(f"{shard.id[-13:]} divides into {children}")

    def vanish(self) -> None:
        """A closed shard is gone before its day is over, which AWS does not do: if it held what
        nobody has read yet, that is lost."""
        stream = None if self.deleted else self.table.stream
        if stream is None:
            return
        closed = [shard for shard in stream.shards.values() if shard.closed_at is not None]
        if closed:
            shard = self.random.choice(closed)
            del stream.shards[shard.id]
            self.say(f"{shard.id[-13:]} vanishes, with {len(shard.records)} records")

    def journals(self) -> list[list[Change]]:
        """What was ever written, table after table: truth, too."""
        return [*self.past_journals, *([] if self.deleted else [self.table.journal])]

    @property
    def table(self) -> Table:
        """The sandbox's table: truth, never shown to the code under test."""
        return self.dynamo._tables[REGION, TABLE]

    def clock_time(self) -> datetime:
        """The world's true time."""
        return datetime.fromtimestamp(self.clock.seconds(), UTC)

    def say(self, what: str) -> None:
        """Notes an event for the trace."""
        indent = "  " * max(0, len(self.processes) - 1)
        self.trace.append(f"{self.clock_time():%d %H:%M:%S.%f} {indent}{what}")

    # ------------------------------------------------------------------------------------ the wire

    def wire(self, request: Any) -> AWSResponse:
        """Answers one HTTP request."""
        process = self.processes[-1]
        self._alive(process)
        self._bound()
        target = request.headers.get("X-Amz-Target")
        called = target.decode() if isinstance(target, bytes) else target or ""
        operation = called.rpartition(".")[2] or "GetObject"
        if not called and "list-type=2" in request.url:
            operation = "ListObjects"
        if called.startswith("Kinesis"):
            operation = f"kinesis:{operation}"
        self.clock.advance(0.001 + 0.03 * self.random.random())
        if operation in ("Scan", "GetObject") and self.weather.slow_base_seconds and not self.quiet:
            self.clock.advance(self.random.random() * self.weather.slow_base_seconds)
        self.sensor()
        self.happen(operation)
        self._alive(process)
        fault = self._fault(operation)
        reads = operation != "ExportTableToPointInTime"  # which nothing is lost with
        if fault in ("closed", "timeout") or (fault == "lost" and reads):
            self._break(fault, request.url)
        status, content, kind = self._answer(operation, request, fault)
        date = formatdate(int(self.clock.seconds()), usegmt=True)
        self.happen(f"the answer to {operation}")
        self._alive(process)
        if fault == "lost":
            self._break("timeout", request.url)
        headers = {
            "Date": date,
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "x-amz-crc32": str(zlib.crc32(content)),
        }
        return AWSResponse(request.url, status, headers, _Body(content))

    def _break(self, fault: str, url: str) -> NoReturn:
        error = ConnectionClosedError if fault == "closed" else ReadTimeoutError
        raise error(endpoint_url=url)

    def _fault(self, operation: str) -> str:
        if self.quiet or self.steps > STEPS_OF_WEATHER:
            return ""
        kind, left = self._faults.get(operation, ("", 0))
        if left:
            self._faults[operation] = (kind, left - 1)
            return kind
        if self.random.random() < self.weather.fatal:
            self.fatal += 1
            return FATAL
        if self.random.random() >= self.weather.fault:
            return ""
        kinds = ["InternalServerError", "closed", "timeout", "lost", *THROTTLES]
        if operation.endswith("GetRecords"):
            kinds += ["ExpiredIteratorException"] * 3
        if operation == "kinesis:GetRecords":
            kinds += ["KMSThrottlingException", "InternalFailureException"]
        if operation in ("GetObject", "ListObjects"):
            kinds = ["SlowDown", "InternalError", "closed", "timeout"]
        kind = self.random.choice(kinds)
        if kind != "ExpiredIteratorException":
            self._faults[operation] = (kind, self.random.choice((0, 0, 0, 1, 5, 40)))
        self.say(f"fault: {operation} {kind}")
        return kind

    def _answer(self, operation: str, request: Any, fault: str) -> tuple[int, bytes, str]:
        if operation in ("GetObject", "ListObjects"):
            return self._from_s3(operation, request.url, fault)
        kind = "application/x-amz-json-1.0"
        try:
            if fault and fault not in ("lost", "closed", "timeout"):
                raise AwsError(fault, "injected", 500 if fault.startswith("Internal") else 400)
            body = msgspec.json.decode(request.body)
            if operation.startswith("kinesis:"):
                return 200, self._kinesis(operation.partition(":")[2], body), kind
            return 200, self._dynamo(operation, body), kind
        except AwsError as error:
            content = {"__type": f"com.amazonaws.dynamodb#{error.code}", "message": error.message}
            return error.status, msgspec.json.encode(content), kind

    def _kinesis(self, operation: str, body: dict[str, Any]) -> bytes:
        if operation == "GetRecords" and not self.quiet:
            reader = (len(self.processes), "kinesis")
            if self._empties.get(reader, 0) < 2 and self.random.random() < self.weather.empty:
                self._empties[reader] = self._empties.get(reader, 0) + 1
                self.dynamo.kinesis_answer(operation, REGION, body)  # for its errors
                again = {"Records": [], "NextShardIterator": body["ShardIterator"]}
                return msgspec.json.encode(again | {"MillisBehindLatest": 1000})
            self._empties[reader] = 0
        return self.dynamo.kinesis_answer(operation, REGION, body)

    def _dynamo(self, operation: str, body: dict[str, Any]) -> bytes:
        if operation == "Scan" and not body.get("ConsistentRead") and not self.quiet:
            return self._scan(body)
        if operation == "GetRecords" and not self.quiet:
            shard = parse_iterator(body["ShardIterator"], 0)[1]
            reader = (len(self.processes), shard)
            if self._empties.get(reader, 0) < 2 and self.random.random() < self.weather.empty:
                self._empties[reader] = self._empties.get(reader, 0) + 1
                self.dynamo.answer(operation, REGION, body)  # for its errors
                again = {"Records": [], "NextShardIterator": body["ShardIterator"]}
                return msgspec.json.encode(again)
            self._empties[reader] = 0
        answer = self.dynamo.answer(operation, REGION, body)
        if operation == "BatchGetItem" and not self.quiet:
            return self._partly(answer, body)
        if operation == "DescribeStream":
            if "ExclusiveStartShardId" not in body:
                self._listings[len(self.processes)] = self.clock.now()
            answer = self._late_listing(answer, body["StreamArn"])
        return answer

    def _partly(self, answer: bytes, body: dict[str, Any]) -> bytes:
        """A batch of which some keys were not looked at: they come back unprocessed."""
        asked = body["RequestItems"][TABLE]["Keys"]
        left = [key for key in asked if self.random.random() < self.weather.fault]
        found = msgspec.json.decode(answer)
        items = found["Responses"].get(TABLE, [])
        found["Responses"][TABLE] = [item for item in items if {"pk": item["pk"]} not in left]
        found["UnprocessedKeys"] = {TABLE: {"Keys": left}} if left else {}
        return msgspec.json.encode(found)

    def _scan(self, body: dict[str, Any]) -> bytes:
        """An eventually consistent page: sometimes as the table was up to a second ago."""
        table = self.table
        if self.random.random() >= self.weather.stale_scan:
            return self.dynamo.answer("Scan", REGION, body)
        ago = self.clock.now() - int(self.random.random() * 1_000_000)
        items, order = table.items, table.order
        table.items = table.state_at(ago)
        table.order = sorted(table.items)
        try:
            return self.dynamo.answer("Scan", REGION, body)
        finally:
            table.items, table.order = items, order

    def _late_listing(self, answer: bytes, arn: str) -> bytes:
        """A listing that lags: a child not there yet, a closed parent that still reads as open.
        All its pages lag alike, and both halves of a split appear at once: of a half that is not
        listed no reader could know."""
        lag = int(self.weather.listing_lag_seconds * 1_000_000)
        if not lag or self.quiet:
            return answer
        stream = self.dynamo._stream(REGION, arn)
        body = msgspec.json.decode(answer)
        listed: list[dict[str, Any]] = []
        for each in body["StreamDescription"]["Shards"]:
            shard = stream.shards[each["ShardId"]]
            family = shard.parent or shard.id
            if family not in self._hidden:
                self._hidden[family] = shard.created + int(self.random.random() * lag)
            if self._unlisted(stream, shard):
                continue
            if shard.closed_at and self._listing() < shard.closed_at + lag // 2:
                each["SequenceNumberRange"].pop("EndingSequenceNumber", None)
            listed.append(each)
        body["StreamDescription"]["Shards"] = listed
        return msgspec.json.encode(body)

    def _listing(self) -> int:
        """When the listing began whose pages the running process reads."""
        return self._listings.get(len(self.processes), 0)

    def _unlisted(self, stream: Stream, shard: Shard | None) -> bool:
        """A child that no listing shows yet; nor its own children, then."""
        if shard is None or shard.parent is None:
            return False
        late = self._listing() < self._hidden.get(shard.parent, 0)
        return late or self._unlisted(stream, stream.shards.get(shard.parent))

    def _from_s3(self, operation: str, url: str, fault: str) -> tuple[int, bytes, str]:
        parts = urlsplit(url)
        place = (parts.netloc.partition(".")[0], unquote(parts.path).lstrip("/"))
        status = {"": 200, "SlowDown": 503, "InternalError": 500, FATAL: 400}[fault]
        if fault:
            code = "ExpiredToken" if fault == FATAL else fault
        elif operation == "ListObjects":
            return 200, self._list_objects(place[0], parse_qs(parts.query)), "application/xml"
        elif place in self.objects:
            return 200, self.objects[place], "binary/octet-stream"
        else:
            status, code = 404, "NoSuchKey"
        content = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
        return status, content.encode(), "application/xml"

    def _list_objects(self, bucket: str, asked: dict[str, list[str]]) -> bytes:
        """A page of a bucket's list, from `start-after` or the token, a key, on."""
        prefix = asked.get("prefix", [""])[0]
        after = asked.get("continuation-token", asked.get("start-after", [""]))[0]
        keys = sorted(
            key
            for place, key in self.objects
            if place == bucket and key.startswith(prefix) and key > after
        )
        page, size = keys[: self.list_page], len(keys)
        listed = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.objects[bucket, key])}</Size>"
            f"<LastModified>{_iso_second(self.put_at[bucket, key])}</LastModified></Contents>"
            for key in page
        )
        more = size > len(page)
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{listed}"
            "</ListBucketResult>"
        ).encode()

    def _put_object(self, bucket: str, key: str, content: bytes) -> None:
        if bucket != BUCKET:
            raise NoSuchBucketError(bucket)
        self.objects[bucket, key] = content

    # ------------------------------------------------------------------------- timers and threads

    def _timer(self, seconds: float, function: Callable[..., None], args: list[Any]) -> Any:
        due = self.clock.now() + int(seconds * 1_000_000)

        def start() -> None:
            self.clock.timers.append((due, lambda: function(*args)))

        return SimpleNamespace(start=start)

    def _pool(self, *_: object, **__: object) -> _Pool:
        return _Pool(self)

    def _wait(self, futures: Any, return_when: str) -> tuple[list[_Task], list[_Task]]:
        tasks: list[_Task] = list(futures)
        pending = [task for task in tasks if not task.done]
        while pending:
            task = self.random.choice(pending)
            pending.remove(task)
            task.run()
            if return_when == "FIRST_COMPLETED" or task.error is not None:
                break
        done = [task for task in tasks if task.done]
        return done, [task for task in tasks if not task.done]


def _iso_second(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros // 1_000_000, UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _known_as(stream: sandbox.kinesis.Stream) -> str:
    """How an epoch calls a Kinesis stream."""
    created = datetime.fromtimestamp(stream.created / 1_000_000, UTC)
    return f"{stream.arn}@{created:%Y-%m-%dT%H:%M:%S}"


class _Task:
    """A future whose work runs when somebody waits for it, in an order that the seed chose."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done = False
        self.error: Exception | None = None
        self._result: Any = None

    def run(self) -> None:
        self.done = True
        try:
            self._result = self._work()
        except Exception as error:
            self.error = error

    def result(self) -> Any:
        if not self.done:
            self.run()
        if self.error is not None:
            raise self.error
        return self._result

    def cancel(self) -> bool:
        cancelled, self.done = not self.done, True
        return cancelled


class _Pool:
    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: list[_Task] = []

    def __enter__(self) -> _Pool:
        return self

    def submit(self, work: Callable[..., Any], *arguments: Any) -> _Task:
        task = _Task(lambda: work(*arguments))
        self._tasks.append(task)
        return task

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Crash):
            return
        self._world._wait(self._tasks, return_when="ALL_COMPLETED")


class _Machines:
    """The clients: made once, because making them costs more than a whole story; each nesting
    depth has its own, so that two processes do not share what they know of AWS's time."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._aws: dict[int, Aws] = {}

    def boot(self, depth: int) -> Aws:
        """A machine just started: it has not seen AWS's time yet."""
        if depth not in self._aws:
            self._aws[depth] = self._make()
        aws = self._aws[depth]
        aws._seen = None
        return aws

    def _make(self) -> Aws:
        session = boto3.Session("AKIASIMULATION", "simulation", region_name=REGION)
        with patch.object(tailrace.sources.aws.boto3, "Session", lambda **_: session):
            aws = Aws()
        clean = {name: value for name, value in os.environ.items() if "AWS_" not in name}
        with patch.dict(os.environ, clean, clear=True):
            self._connect(aws)
        return aws

    def _connect(self, aws: Aws) -> None:
        for service in ("dynamodb", "dynamodbstreams", "kinesis", "s3"):
            events = aws.client(service).meta.events
            events.register("before-send", self._send)
            # Nobody checks the signatures, and they cost as much as all the rest.
            events.register("choose-signer", lambda **_: botocore.UNSIGNED)

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        assert self.world is not None
        return self.world.wire(request)


_MACHINES = _Machines()


def _short(found: object) -> str:
    if isinstance(found, Crash):
        return "killed"
    if isinstance(found, Exception):
        return f"{type(found).__name__}: {str(found).splitlines()[0] if str(found) else ''}"
    if isinstance(found, DrainResult):
        tip = "tip" if found.reached_tip else "end" if found.ended else "not the tip"
        gaps = "".join(f", gap: {gap.reason}" for gap in found.gaps)
        return f"epoch {found.epoch} {found.state}, {found.rows} rows, {tip}{gaps}"
    return str(found)


@contextmanager
def calm(world: World) -> Iterator[None]:
    """Nothing happens inside."""
    before, world.quiet = world.quiet, True
    try:
        yield
    finally:
        world.quiet = before
