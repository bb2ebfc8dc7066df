"""What one seed tells: a table, a replication of it through all weathers, and the calm after.

In the end the weather clears, runs go on until they have caught up, and readers must see exactly
what the table holds.
"""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from typing import Any

from tailrace.engine import Engine
from tailrace.errors import Retryable, SourceMissing, Stale, Terminal
from tailrace.model import BASE_COMPLETE, LIVE, DrainResult
from tests.simulation.models import Models
from tests.simulation.truth import Truth, Violation, micros
from tests.simulation.world import (
    HOUR,
    MODEL,
    REGION,
    STEPS_OF_WEATHER,
    STREAM,
    Crash,
    Stuck,
    Weather,
    World,
    calm,
)

SETTLE_ROUNDS = 30
REPLACED = ("replaced", "recreated", "switched off", "deleted", "did not stream", "is gone")
VIEWS = ("NEW_IMAGE", "NEW_IMAGE", "NEW_AND_OLD_IMAGES", "KEYS_ONLY")

# How likely each kind of weather is at one moment, when the seed has it at all.
STORMS = {
    "write": (0.05, 0.3),
    "pause": (0.02, 0.2),
    "divide": (0.005, 0.05),
    "vanish": (0.002, 0.02),
    "process": (0.01, 0.05),
    "crash": (0.003, 0.03),
    "stop": (0.002, 0.01),
    "fault": (0.02, 0.1),
    "fatal": (0.0005, 0.003),
    "empty": (0.1, 0.5),
    "stale_scan": (0.3, 1.0),
}

# What AWS promises not to do is left out of most stories.
RARE = {"vanish": 0.1}


class Story:
    """One seed, told once. With `models` dbt's own SQL is asked after some commits what readers
    see."""

    def __init__(
        self, seed: int, *, kinesis: bool = False, firehose: bool = False, models: bool = False
    ) -> None:
        self.world = World(seed, kinesis=kinesis or firehose, firehose=firehose)
        self.truth = Truth(self.world)
        self.world.on_commit = self._check
        self.models = Models(self.world.store, seed) if models else None
        self.world.nested = self._somebody_else
        self.world.sensor = self._sensor
        self._drained_at = 0.0
        self._judged_gaps = 0

    def tell(self) -> None:
        """Runs the story. Raises Violation where a law breaks."""
        with self.world as world:
            self._begin()
            world.quiet = False
            for _ in range(world.random.randint(4, 18)):
                if world.steps < STEPS_OF_WEATHER:
                    self._step()
                    self._judge_gaps()
            world.quiet = True
            self._settle()
            self.truth.check_equal()
        if self.models is not None:
            self.models.rebuild()

    def _check(self) -> None:
        self.truth.check()
        if self.models is not None:
            self.models.maybe_merge()

    # ----------------------------------------------------------------------------------- scenes

    def _begin(self) -> None:
        world, rng = self.world, self.world.random
        world.weather = _weather(rng, kinesis=world.kinesis, firehose=world.firehose)
        dynamo = world.dynamo
        dynamo.set(
            shards=rng.randint(1, 3),
            export_seconds=rng.choice((1.0, 600.0, 600.0, 30 * HOUR)),
            export_files=rng.randint(2, 5),
        )
        world.create(rng.choice(VIEWS))
        world.clock.advance(rng.choice((60.0, HOUR, 30 * HOUR)))
        for _ in range(rng.randint(0, 10)):
            world.write()
        if world.kinesis:
            main = "firehose" if world.firehose else "kinesis"
            world.source = rng.choice((main, main, main, "dynamodb_streams"))
        method = rng.choice(("scan", "scan", "export"))
        world.configure(method, self._adopted() if method == "export" else None)
        self._drained_at = world.clock.seconds()

    def _adopted(self) -> str | None:
        """Now and then somebody has exported the table already."""
        world, rng = self.world, self.world.random
        if rng.random() < 0.6:
            return None
        asked = {
            "TableArn": world.table.arn,
            "S3Bucket": "exports",
            "ExportTime": int(world.clock.seconds() - 301),
            "ClientToken": "by hand",
        }
        try:
            answer = json.loads(world.dynamo.answer("ExportTableToPointInTime", REGION, asked))
        except Exception:
            return None
        arn: str = answer["ExportDescription"]["ExportArn"]
        for _ in range(rng.randint(0, 10)):
            world.write()
        world.clock.advance(rng.choice((1.0, 700.0, 5 * HOUR, 22 * HOUR)))
        return arn

    def _step(self) -> None:
        rng = self.world.random
        state = self._state()
        choice = rng.random()
        if state in ("none", "open") and choice < 0.45:
            self._base(restart=rng.random() < 0.05)
        elif choice < 0.08:
            self._reconfigured()
            if rng.random() < 0.5:  # what has just landed, the new base must not take back
                self.world.write()
                self._drain()
            self._base(restart=rng.random() < 0.3)
        elif choice < 0.75:
            self._drain()
        elif choice < 0.85:
            for _ in range(rng.randint(1, 12)):
                self.world.write()
        elif choice < 0.88:
            self._peek()
        elif choice < 0.91:
            self._repair()
        elif choice < 0.93:
            self._another_stream()
        elif choice < 0.94:
            self._another_table()
        else:
            self._time_passes()

    def _reconfigured(self) -> None:
        if self.world.kinesis:
            sources = ("kinesis", "dynamodb_streams", *(["firehose"] * self.world.firehose))
            self.world.source = self.world.random.choice(sources)
        self.world.configure(self.world.random.choice(("scan", "scan", "export")))

    def _time_passes(self) -> None:
        world, rng = self.world, self.world.random
        hours = rng.choice((0.02, 0.3, 4, 4, 10, 22.5, 30, 70, 480))
        world.say(f"{hours} hours pass")
        for _ in range(4):
            world.clock.advance(hours * HOUR / 4)
            if rng.random() < 0.5:
                world.write()

    def _another_stream(self) -> None:
        """Somebody switches the stream off, and on again with some view."""
        world, rng = self.world, self.world.random
        chance = rng.random() if world.kinesis else 1.0
        if chance < 0.6:
            self._another_kinesis()
            return
        if chance < 0.8:
            self._keep(rng.choice((24, 48, 168)))
            return
        world.say("the stream is switched off and on")
        world.disable_stream()
        for _ in range(rng.randint(0, 3)):
            world.clock.advance(rng.choice((0.1, 60.0, 5 * HOUR)))
            world.write()
        if rng.random() < 0.3:
            self._drain()
        world.enable_stream(rng.choice(VIEWS))

    def _another_kinesis(self) -> None:
        """The table streams nowhere for a while; perhaps the stream is made anew meanwhile. Not
        while no pass could see it: once a take-over's base is complete, only that is drained."""
        world, rng = self.world, self.world.random
        newest = next(reversed(world.store.newest().values()), None)
        if newest and newest.state == BASE_COMPLETE and "beside" in newest.detail:
            return
        anew = rng.random() < 0.4
        world.say("the table does not stream" + (", and its stream is made anew" if anew else ""))
        world.disable_kinesis()
        if anew:
            world.delete_kinesis()
        for _ in range(rng.randint(0, 3)):
            world.clock.advance(rng.choice((0.1, 60.0, 5 * HOUR)))
            world.write()
        with calm(world):  # of a stream that is on again before any pass nobody could know
            self._drain()
        if anew:
            world.create_kinesis()
        world.enable_kinesis()

    def _keep(self, hours: int) -> None:
        """Somebody lets the Kinesis stream keep its records for so long."""
        self.world.say(f"the Kinesis stream keeps its records for {hours} hours")
        asked = {"StreamName": STREAM, "RetentionPeriodHours": hours}
        self.world.dynamo.kinesis.answer("IncreaseStreamRetentionPeriod", REGION, asked)

    def _another_table(self) -> None:
        """Somebody deletes the table and makes another one of its name."""
        world, rng = self.world, self.world.random
        world.say("the table is deleted and made anew")
        world.delete()
        world.clock.advance(rng.choice((1.0, 300.0, 2 * HOUR)))
        if rng.random() < 0.3:
            self._drain()
        world.create(rng.choice(VIEWS))

    def _somebody_else(self) -> None:
        """Another process, in the middle of the one that runs."""
        world = self.world
        if len(world.processes) > 2:
            return
        choice = world.random.random()
        if choice < 0.6:
            self._drain("other drain")
        elif choice < 0.7:
            self._repair("other repair")
        elif choice < 0.95:
            self._base("other base")
        else:
            self._base("other base anew", restart=True)

    def _sensor(self) -> None:
        """Where there is a sensor, it drains while a base takes its hours."""
        world, wait = self.world, self.world.weather.sensor_seconds
        silent = world.clock.seconds() - self._drained_at
        if not wait or silent < wait or len(world.processes) != 1:
            return
        if world.processes[0].name.endswith("drain"):
            return
        with calm(world):
            self._drain("sensor's drain")

    # ------------------------------------------------------------------------------------- runs

    def _base(self, name: str = "base", *, restart: bool = False) -> Any:
        def run(engine: Engine) -> Any:
            return engine.base(MODEL, restart=restart)

        return self._judged(self.world.process(name + (" anew" if restart else ""), run))

    def _drain(self, name: str = "drain") -> Any:
        thrifty = self.world.random.random() < 0.5
        found = self._judged(
            self.world.process(name, lambda engine: engine.drain_table(MODEL, thrifty=thrifty))
        )
        if isinstance(found, DrainResult):
            self._drained_at = self.world.clock.seconds()
        return found

    def _repair(self, name: str = "repair") -> Any:
        return self._judged(self.world.process(name, lambda engine: engine.repair(MODEL)))

    def _peek(self) -> None:
        found = self.world.process("peek", lambda engine: engine.peek([MODEL])[MODEL])
        if isinstance(found, Exception):
            raise Violation(f"Peeking raised {found!r}") from found

    def _state(self) -> str:
        newest = list(self.world.store.newest().values())
        return newest[-1].state if newest else "none"

    def _judged(self, found: Any) -> Any:
        """Raises Violation for an error that a person would call a bug."""
        fine = isinstance(found, Crash | Retryable | Stale) or not isinstance(found, Exception)
        if isinstance(found, Terminal) and (self.world.fatal or isinstance(found, SourceMissing)):
            fine = True
        if isinstance(found, Terminal) and "has no stream" in found.message:
            fine = True
        if isinstance(found, Terminal) and "Remove base.export_arn" in found.remedy:
            self._reconfigured()
            fine = True
        if not fine:
            raise Violation(f"An error nobody expects: {found!r}") from found
        return found

    def _judge_gaps(self) -> None:
        """A gap is stored only where the stream was replaced or may have lost something."""
        world, store = self.world, self.world.store
        for number, gap in enumerate(store.gaps[self._judged_gaps :], start=self._judged_gaps):
            # A gap begins where the one before it ends: what both lost may lie in either.
            before = store.gaps[number - 1] if number else None
            if before and gap.since <= before.until:
                gap = replace(gap, since=min(gap.since, before.since))
            hours = (gap.found_at - gap.since).total_seconds() / HOUR
            lost = any(
                micros(gap.since) - 1_000_000 <= change.micros < micros(gap.found_at)
                and not self.truth.landed(arn, sequence)
                for arn, sequence, change in world.records
            )
            replaced = any(word in gap.reason for word in REPLACED)
            # A process that sleeps for hours may note shards that are long gone when it wakes.
            asleep = world.slept / HOUR
            unsure = replaced or world.weather.vanish
            if hours + asleep < 22 and not lost and not unsure:
                raise Violation(f"A gap where there is none, {hours:.1f} hours unproven: {gap}")
        self._judged_gaps = len(store.gaps)

    def _settle(self) -> None:
        """Fair weather: the runs a sensor would start, until everything is proven and live."""
        world = self.world
        world.say("the weather clears")
        assert world.config is not None
        world.configure(world.config.tables[0].base.method, pass_seconds=600)
        world.weather.sensor_seconds = 4 * HOUR
        if world.kinesis:  # AWS tells its time in whole seconds
            world.clock.advance(world.weather.delivery_seconds)
        found: Any = None
        for number in range(SETTLE_ROUNDS):
            if number == SETTLE_ROUNDS // 2 and world.weather.vanish:
                # A shard whose child vanished waits for it until it is gone itself.
                world.clock.advance(26 * HOUR)
            if self._state() in ("none", "open"):
                self._base()
            found = self._drain()
            self._judge_gaps()
            if isinstance(found, DrainResult):
                if found.gaps:
                    self._repair()
                elif found.reached_tip and found.state == LIVE:
                    return
            world.clock.advance(max(60, world.weather.delivery_seconds / 5))
        raise Violation(f"Never caught up in fair weather: the last run said {found!r}")


def _weather(rng: random.Random, *, kinesis: bool, firehose: bool) -> Weather:
    weather = Weather()
    if kinesis:
        weather.late = rng.choice((0.0, 0.1, 0.5))
        weather.late_seconds = rng.choice((0.0, 5.0, 240.0))
        weather.twice = rng.choice((0.0, 0.2))
    if firehose:
        weather.buffer_seconds = rng.choice((0.0, 60.0, 900.0))
    few = rng.random() < 0.6
    for name, (low, high) in STORMS.items():
        if rng.random() < RARE.get(name, 0.35 if few else 0.8):
            setattr(weather, name, rng.uniform(low, high))
    if rng.random() < 0.8:
        weather.write = weather.write or 0.15
    weather.pause_seconds = rng.choice((0.5, 2.0, 20.0, 2000.0))
    weather.listing_lag_seconds = 0.0 if weather.vanish else rng.choice((0.0, 0.0, 5.0, 90.0))
    if rng.random() < 0.1:
        weather.slow_base_seconds = rng.choice((0.5, 3.0)) * HOUR
    weather.sensor_seconds = rng.choice((0.0, 2.0, 4.0, 15.0)) * HOUR
    return weather


def tell(
    seed: int, *, kinesis: bool = False, firehose: bool = False, models: bool = False
) -> str | None:
    """Tells a seed's story: None if every law held, else what broke and how to see it again. With
    `kinesis` the table streams to a Kinesis stream as well, and is read from either; with
    `firehose` a Firehose behind that delivers to S3, and it is read from any of the three.
    `models` as in Story."""
    story = Story(seed, kinesis=kinesis, firehose=firehose, models=models)
    try:
        story.tell()
    except (Violation, Stuck) as broken:
        world = story.world
        weather = ", ".join(
            f"{each.name}={getattr(world.weather, each.name):.3g}"
            for each in fields(Weather)
            if getattr(world.weather, each.name)
        )
        return "\n".join(
            [
                f"seed {seed}: {broken}",
                f"Replay it: python -m tests.simulation --seed {seed}"
                + (" --kinesis" if kinesis else "")
                + (" --firehose" if firehose else "")
                + (" --models" if models else ""),
                f"Weather: {weather or 'calm'}",
                "What happened last:",
                *(f"  {line}" for line in world.trace),
            ]
        )
    return None
