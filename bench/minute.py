"""A busy and an idle minute of a real `dagster dev` over a local AWS: from the sensor's tick to
queryable rows, in wall and CPU seconds, and where they go.

Wall times are Dagster's own, from its tick and event storage. CPU is that of Dagster's processes
by role, from /proc; the local AWS and the writer are not in it. The pieces are measured apart, in
one fresh process that does what a run does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import ROOT, in_child, median, stopwatch
from bench.report import Figure

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
WAIT_SECONDS = 240.0
ORDERS, CUSTOMERS = "orders", "customers"
CODE_SERVER = "code server"

# A run has told that it ended before its process has: its CPU is its parent's soon after.
SETTLED_SECONDS = 3.0
IDLE_TICKS_MOST = 20


@dataclass(frozen=True)
class Size:
    """Items of the two tables, changes in a busy minute (four in five are orders), how many busy
    and idle minutes are measured, and the sensor's interval."""

    orders: int = 10_000
    customers: int = 2_000
    changes: int = 1_000
    minutes: int = 3
    idle_minutes: int = 3
    interval_seconds: int = 60


SMALL = Size(200, 50, 40, 1, 2, 30)


def run(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """Runs the busy minutes and the idle one, then the pieces."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    tell("minute: filling two tables of a local AWS, reading their bases")
    try:
        with _world(folder, size) as world:
            with _dagster(world):
                tell("minute: starting dagster dev, one busy minute to warm up")
                _busy(world, size, 0)
                busy = []
                for number in range(1, size.minutes + 1):
                    tell(f"minute: busy minute {number} of {size.minutes}")
                    busy.append(_busy(world, size, number))
                idle = _idle(world, size, tell)
            pieces = _pieces(world, size, tell)
            _require_equal(world)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*_busy_figures(busy, size), *_idle_figures(idle, size), *_piece_figures(pieces)]


def idle(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """The idle minutes alone: what a `dagster dev` costs in which nothing happens."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    tell("idle: filling two tables of a local AWS, reading their bases")
    try:
        with _world(folder, size) as world, _dagster(world):
            return _idle_figures(_idle(world, size, tell), size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------- figures


def _busy_figures(minutes: list[dict[str, Any]], size: Size) -> list[Figure]:
    def column(kind: str, name: str) -> tuple[float, ...]:
        return tuple(minute[kind].get(name, 0.0) for minute in minutes)

    walls = tuple(minute["queryable"] for minute in minutes)
    figures = [
        Figure(
            "busy minute", "tick to queryable rows", median(list(walls)), "s", walls, "< 15",
            median(list(walls)) < 15, f"{size.changes:,} changes in 2 tables",
        )
    ]  # fmt: skip
    for name in dict.fromkeys(name for minute in minutes for name in minute["wall"]):
        values = column("wall", name)
        figures.append(Figure("busy minute", f"wall: {name}", median(list(values)), "s", values))
    for name in dict.fromkeys(name for minute in minutes for name in minute["cpu"]):
        values = column("cpu", name)
        figures.append(Figure("busy minute", f"CPU: {name}", median(list(values)), "s", values))
    return figures


def _idle_figures(minutes: list[dict[str, float]], size: Size) -> list[Figure]:
    figures = []
    for name in minutes[0]:
        values = tuple(minute[name] for minute in minutes)
        spent, is_ours = median(list(values)), name == CODE_SERVER
        figures.append(
            Figure(
                "idle minute", f"CPU: {name}", spent, "s", values,
                "< 1 CPU s" if is_ours else "", spent < 1 if is_ours else None,
                f"tick to tick, every {size.interval_seconds} s" if is_ours else "",
            )
        )  # fmt: skip
    return figures


def _piece_figures(pieces: dict[str, Any]) -> list[Figure]:
    return [
        Figure("a run's pieces", f"CPU: {name}", spent["cpu"], "s", note=f"{spent['wall']:.2f} s")
        for name, spent in pieces.items()
        if isinstance(spent, dict)
    ]


# ------------------------------------------------------------------------------------- the world


@dataclass(frozen=True)
class _World:
    folder: Path
    dynamodb: Any
    environment: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "tailrace.yaml"


@contextmanager
def _world(folder: Path, size: Size) -> Iterator[_World]:
    from sandbox.server import start_server
    from sandbox.workload import create_shop, seed_shop

    server = start_server(count_refresh_seconds=5, restore_lag_seconds=0, export_seconds=1)
    try:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            **server.environment,
            "AWS_EC2_METADATA_DISABLED": "true",
            "TAILRACE_CONFIG": str(folder / "tailrace.yaml"),
            "TAILRACE_SENSOR_SECONDS": str(size.interval_seconds),
            "DAGSTER_HOME": str(folder / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "DO_NOT_TRACK": "1",
        }
        world = _World(folder, server.client("dynamodb"), environment)
        shutil.copytree(
            ROOT / "dbt_project",
            folder / "dbt_project",
            ignore=shutil.ignore_patterns("target", "logs"),
        )
        world.config.write_text(
            "aws: {region: us-east-1}\n"
            "warehouse: {catalog: 'sqlite:catalog.sqlite', data_path: data}\n"
            f"tables: [{{name: {ORDERS}}}, {{name: {CUSTOMERS}}}]\n"
        )
        (folder / "dagster").mkdir()
        shutil.copy(ROOT / "orchestration/dagster.yaml", folder / "dagster/dagster.yaml")
        create_shop(world.dynamodb)
        seed_shop(world.dynamodb, order_count=size.orders, customer_count=size.customers)
        subprocess.run(
            [sys.executable, "-m", "tailrace.cli", "sync", "--until-caught-up"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        yield world
    finally:
        server.stop()


def _write(world: _World, size: Size, seed: int) -> None:
    """Overwrites items and adds some: `changes` in two tables."""
    from sandbox.workload import customer, order, put_all

    dice = random.Random(seed)
    orders = size.changes * 4 // 5
    numbers = dice.sample(range(size.orders + orders), orders)
    put_all(world.dynamodb, ORDERS, (order(n, size.customers, dice) for n in numbers))
    numbers = dice.sample(range(size.customers + size.changes), size.changes - orders)
    put_all(world.dynamodb, CUSTOMERS, (customer(n, dice) for n in numbers))


def _require_equal(world: _World) -> None:
    """What was measured has to be right as well."""
    from sandbox.compare import compare
    from tailrace.config import load_config
    from tailrace.lake.attach import connect

    con = connect(load_config(world.config).warehouse, read_only=True)
    try:
        for table in (ORDERS, CUSTOMERS):
            assert compare(world.dynamodb, table, con, table).equal, f"{table} differs"
    finally:
        con.close()


@contextmanager
def _dagster(world: _World) -> Iterator[None]:
    with _instance(world) as instance:  # two processes may not both make Dagster's storage
        instance.get_runs(limit=1)
        instance.all_instigator_state()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (world.folder / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            f"{sys.executable} -m dagster dev -w workspace.yaml -h 127.0.0.1 -p {port}".split(),
            cwd=ROOT,
            env=world.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(15)


# ------------------------------------------------------------------------------------- a minute


def _busy(world: _World, size: Size, seed: int) -> dict[str, Any]:
    """Writes right after a tick, waits for the run that the next one asks for, and takes it
    apart."""
    instance = _instance(world)
    last = _await_tick(instance, time.time() - 2 * size.interval_seconds)
    _await_no_run(instance)
    _write(world, size, seed)
    written = time.time()
    before = _cpu(world)
    run = _await_run(instance, max(last, written))
    time.sleep(SETTLED_SECONDS)
    spent = {name: at - before.get(name, 0.0) for name, at in _cpu(world).items()}
    return _taken_apart(instance, run) | {"cpu": spent | {"all": sum(spent.values())}}


def _idle(world: _World, size: Size, tell: Callable[[str], None]) -> list[dict[str, float]]:
    """CPU by role from one tick that asks for nothing to the next, of some minutes; the first tick
    of a code server, which imports the engine, and minutes with a run are left out."""
    instance = _instance(world)
    last = _await_tick(instance, time.time())  # none of before: they would be past in no time
    found: list[dict[str, float]] = []
    began = before = None
    for _ in range(IDLE_TICKS_MOST):
        last = _await_tick(instance, last)
        _await_no_run(instance)
        time.sleep(SETTLED_SECONDS)
        after, runs = _cpu(world), len(instance.get_runs())
        if before is not None and runs == began:
            found.append({name: at - before.get(name, 0.0) for name, at in after.items()})
            tell(f"minute: {len(found)} of {size.idle_minutes} idle minutes")
        if len(found) == size.idle_minutes:
            return found
        began, before = runs, after
    raise TimeoutError(f"{IDLE_TICKS_MOST} ticks, of which {len(found)} were idle")


def _instance(world: _World) -> Any:
    from dagster import DagsterInstance

    return DagsterInstance.from_config(str(world.folder / "dagster"))


def _await_tick(instance: Any, after: float) -> float:
    """The time of the first finished tick after `after`."""
    for _ in _patience("a tick of the sensor"):
        ticks = [
            tick.timestamp
            for state in instance.all_instigator_state()
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
            if tick.timestamp > after and tick.status.value != "STARTED"
        ]
        if ticks:
            return float(min(ticks))
    raise AssertionError


def _await_no_run(instance: Any) -> None:
    for _ in _patience("the end of a run"):
        if all(run.is_finished for run in instance.get_runs()):
            return


def _await_run(instance: Any, after: float) -> Any:
    """The run that was created after `after`, once it has ended well."""
    for _ in _patience("a run of the minute"):
        for record in instance.get_run_records(limit=3):
            if record.create_timestamp.timestamp() > after and record.dagster_run.is_finished:
                assert record.dagster_run.is_success, f"run {record.dagster_run.run_id} failed"
                return record
    raise AssertionError


def _patience(what: str) -> Iterator[None]:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.5)
    raise TimeoutError(f"waited {WAIT_SECONDS:.0f} s for {what}")


def _taken_apart(instance: Any, record: Any) -> dict[str, Any]:
    """Wall seconds of a run's stages, and from its tick to its last step: queryable rows."""
    at: dict[str, float] = {}
    steps: dict[str, float] = {}
    begun: dict[str, float] = {}
    last_step = 0.0
    for entry in instance.all_logs(record.dagster_run.run_id):
        kind = entry.dagster_event_type.value if entry.dagster_event_type else ""
        at.setdefault(kind, entry.timestamp)
        if kind == "STEP_START":
            begun[entry.step_key] = entry.timestamp
        if kind == "STEP_SUCCESS":
            steps[f"step {entry.step_key}"] = entry.timestamp - begun[entry.step_key]
            last_step = entry.timestamp
    tick = max(
        tick.timestamp
        for state in instance.all_instigator_state()
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
        if tick.timestamp <= at["PIPELINE_ENQUEUED"]
    )
    wall = {
        "tick": at["PIPELINE_ENQUEUED"] - tick,
        "dequeue": at["PIPELINE_STARTING"] - at["PIPELINE_ENQUEUED"],
        "process and imports": at["PIPELINE_START"] - at["PIPELINE_STARTING"],
        **steps,
    }
    rest = last_step - tick - sum(wall.values())
    return {"queryable": last_step - tick, "wall": wall | {"between steps": rest}}


def _cpu(world: _World) -> dict[str, float]:
    """CPU seconds so far of `dagster dev` and all below it, by role. The time of a process that
    has ended is its parent's: a run's is the fork server's, or the code server's."""
    spent: dict[str, float] = {}
    mark = f"DAGSTER_HOME={world.folder / 'dagster'}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            if mark not in (process / "environ").read_bytes().split(b"\0"):
                continue
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            own, ended = (
                sum(map(int, pair)) / CLOCK_TICKS for pair in (fields[11:13], fields[13:15])
            )
            role = _role(command)
            spent[role] = spent.get(role, 0.0) + own
            heir = "runs" if role == CODE_SERVER else role
            spent[heir] = spent.get(heir, 0.0) + ended
    return spent


def _role(command: str) -> str:
    if "multiprocessing" in command or "execute_run" in command:
        return "runs"
    if "dagster._daemon" in command:
        return "daemon"
    if "dagster_webserver" in command:
        return "webserver"
    if "api grpc" in command:
        return CODE_SERVER
    return "dagster dev"


# ------------------------------------------------------------------------------------ the pieces


def _pieces(world: _World, size: Size, tell: Callable[[str], None]) -> dict[str, Any]:
    tell("minute: what a run does, in one process")
    in_child(pieces, environment=world.environment)  # warm: dbt's partial parse
    _write(world, size, -1)
    return in_child(pieces, environment=world.environment)


def pieces(environment: dict[str, str]) -> dict[str, Any]:
    """What a run of the minute does, one thing after the other, and a tick's look."""
    os.environ.update(environment)
    spent: dict[str, Any] = {}
    with stopwatch() as spent["import Dagster and the definitions"]:
        import orchestration.definitions  # noqa: F401
    from tailrace.config import load_config

    config = load_config(environment["TAILRACE_CONFIG"])
    models = [table.model for table in config.tables]
    with stopwatch() as spent["import the engine"]:
        from tailrace.engine import Engine
    with stopwatch() as spent["open the warehouse"]:
        engine = Engine.open(config)
    with engine:
        with stopwatch() as spent["look whether anything is due"]:
            engine.peek(models)
        with stopwatch() as spent["drain both tables"]:
            engine.drain(models)
        with stopwatch() as spent["look again, nothing is new"]:
            engine.status(models)
            engine.peek(models)
        with stopwatch() as spent["which are unmerged"]:
            engine.unmerged(models)
    with stopwatch() as spent["import dbt"]:
        import dbt.cli.main  # noqa: F401

        from tailrace.transform import runner
    with stopwatch() as spent["dbt: first table"]:
        runner.build(config, models[:1]).raise_failures()
    with stopwatch() as spent["dbt: second table"]:
        runner.build(config, models[1:]).raise_failures()
    return spent
