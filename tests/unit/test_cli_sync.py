"""`tailrace sync`: what is done in which order, and when it is enough, over a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tailrace.errors import Retryable, Terminal
from tailrace.model import BaseResult, DrainResult, Gap, TableStatus
from tailrace.sync import FRUITLESS_PASSES_MOST, Pace, SyncResult, synchronise

BASE = BaseResult("orders", 1, "scan", "base_complete", 100, 1_000, 8, 1.0)
BEHIND = DrainResult("orders", 1, "base_complete", rows=10)
TIP = DrainResult("orders", 1, "live", rows=3, reached_tip=True, went_live=True)
NONE = TableStatus("orders", "orders", None, "none", 0, 0, None, None, 0, 0, 0)
OPEN = replace(NONE, epoch=1, state="open")
LIVE = replace(NONE, epoch=1, state="live")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
GAP = Gap(NOON, NOON + timedelta(days=1), NOON + timedelta(days=2), "an outage")
TORN = replace(TIP, gaps=(GAP,))


class Script:
    """An engine that plays what each table has in store, and writes down what happened."""

    def __init__(
        self,
        tables: dict[str, TableStatus],
        passes: Iterable[Mapping[str, DrainResult | Exception]] = (),
        unmerged: Sequence[str] = (),
    ) -> None:
        self.tables = {name: replace(each, model=name) for name, each in tables.items()}
        self.passes = list(passes)
        self.due = list(unmerged)
        self.diary: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.stop = threading.Event()
        self.base_waits_for = threading.Event()
        self.base_waits_for.set()

    def base(self, model: str, *, restart: bool = False) -> BaseResult:
        self.tables[model] = replace(self.tables[model], epoch=1, state="open")
        while not self.base_waits_for.wait(0.01):
            if self.stop.is_set():
                raise Retryable("stopped")
        if model in self.failing:
            raise self.failing[model]
        self.diary.append(f"base {model}")
        self.tables[model] = replace(self.tables[model], epoch=1, state="base_complete")
        return replace(BASE, model=model)

    def repair(self, model: str) -> BaseResult | None:
        self.diary.append(f"repair {model}")
        self.tables[model] = replace(self.tables[model], state="base_complete")
        return replace(BASE, model=model)

    def drain(self, models: Sequence[str]) -> dict[str, DrainResult | Exception]:
        self.diary.append(f"drain {' '.join(models)}")
        played = self.passes.pop(0)
        return {name: played[name] for name in models}

    def status(self, models: Sequence[str] | None = None) -> list[TableStatus]:
        return [each for name, each in self.tables.items() if models is None or name in models]

    def unmerged(self, models: Sequence[str]) -> list[str]:
        return [name for name in self.due if name in models]


def run(
    engine: Script, *, until_caught_up: bool = False, seconds: float = 30, repairs: bool = True
) -> SyncResult:
    rests: list[float] = []
    return synchronise(
        engine,
        lambda models: engine.diary.append(f"build {' '.join(models)}"),
        list(engine.tables),
        until_caught_up=until_caught_up,
        repairs=repairs,
        pace=Pace(seconds, sleep=rests.append),
    )


def test_a_new_table_gets_base_pass_and_models_in_that_order() -> None:
    engine = Script({"orders": NONE}, [{"orders": TIP}], ["orders"])
    result = run(engine)
    assert engine.diary == ["base orders", "drain orders", "build orders"]
    assert result.built == ("orders",)
    assert result.rows == {"orders": 3}


def test_a_base_that_was_broken_off_is_resumed() -> None:
    engine = Script({"orders": OPEN}, [{"orders": TIP}])
    run(engine)
    assert engine.diary == ["base orders", "drain orders"]


def test_a_live_table_gets_one_pass_and_no_models_where_nothing_landed() -> None:
    engine = Script({"orders": LIVE}, [{"orders": replace(TIP, rows=0)}])
    result = run(engine)
    assert engine.diary == ["drain orders"]
    assert result.built == ()


def test_the_streams_are_drained_while_a_long_base_is_read() -> None:
    engine = Script(
        {"orders": NONE, "customers": LIVE},
        [{"orders": BEHIND, "customers": TIP}] * 3 + [{"orders": TIP, "customers": TIP}] * 1000,
    )
    engine.base_waits_for.clear()

    drain = engine.drain

    def third_drain_lets_the_base_end(
        models: Sequence[str],
    ) -> dict[str, DrainResult | Exception]:
        result = drain(models)
        if len([line for line in engine.diary if line.startswith("drain")]) == 3:
            engine.base_waits_for.set()
        return result

    engine.drain = third_drain_lets_the_base_end  # type: ignore[method-assign]
    run(engine, seconds=0.01)
    assert engine.diary[:4] == ["drain orders customers"] * 3 + ["base orders"]
    assert engine.diary[-1] == "drain orders customers"


def test_until_caught_up_goes_on_until_each_table_is_live_and_at_the_tip() -> None:
    live_but_behind = replace(TIP, reached_tip=False)
    engine = Script(
        {"orders": NONE, "customers": LIVE},
        [
            {"orders": BEHIND, "customers": live_but_behind},
            {"orders": BEHIND, "customers": TIP},
            {"orders": TIP},
        ],
        ["orders", "customers"],
    )
    result = run(engine, until_caught_up=True)
    assert engine.diary == [
        "base orders",
        "drain orders customers",
        "drain orders customers",
        "drain orders",
        "build orders customers",
    ]
    assert result.rows == {"orders": 23, "customers": 6}


def test_a_pass_beside_the_base_does_not_count_as_caught_up() -> None:
    engine = Script({"orders": NONE, "customers": LIVE})
    engine.base_waits_for.clear()

    def drain(models: Sequence[str]) -> dict[str, DrainResult | Exception]:
        engine.diary.append(f"drain {' '.join(models)}")
        engine.base_waits_for.set()
        orders = TIP if "base orders" in engine.diary else BEHIND
        return {name: TIP if name == "customers" else orders for name in models}

    engine.drain = drain  # type: ignore[method-assign]
    run(engine, until_caught_up=True, seconds=0.01)
    assert engine.diary[0] == "drain orders customers"
    assert engine.diary[-1] == "drain orders customers"


def test_a_retryable_failure_does_not_end_catching_up() -> None:
    engine = Script({"orders": LIVE}, [{"orders": Retryable("throttled")}, {"orders": TIP}])
    result = run(engine, until_caught_up=True)
    assert engine.diary == ["drain orders", "drain orders"]
    assert result.failures == {}


def test_a_failed_pass_does_not_hold_up_the_other_tables_and_their_models() -> None:
    passes = [{"orders": Terminal("lost"), "customers": BEHIND}, {"customers": TIP}]
    engine = Script({"orders": LIVE, "customers": LIVE}, passes, ["orders", "customers"])
    result = run(engine, until_caught_up=True)
    assert engine.diary == ["drain orders customers", "drain customers", "build customers"]
    assert [str(error) for error in result.failures.values()] == ["lost"]


def test_catching_up_repairs_a_gap_and_goes_on_until_it_is_closed() -> None:
    passes = [{"orders": TORN}, {"orders": TIP}]
    engine = Script({"orders": replace(LIVE, gaps=(GAP,))}, passes)
    assert run(engine, until_caught_up=True).failures == {}
    assert engine.diary == ["repair orders", "drain orders", "repair orders", "drain orders"]


def test_catching_up_gives_a_take_over_that_can_never_be_live_a_new_base() -> None:
    void = replace(BEHIND, reached_tip=True, gaps=(GAP,), void=True)
    closing = replace(BEHIND, gaps=(GAP,))
    passes = [{"orders": void}, {"orders": closing}, {"orders": TIP}]
    engine = Script({"orders": replace(LIVE, state="base_complete", gaps=(GAP,))}, passes)
    assert run(engine, until_caught_up=True).failures == {}
    again = ["repair orders", "drain orders"]
    assert engine.diary == [*again, *again, "drain orders"]


@pytest.mark.parametrize("until_caught_up", [True, False])
def test_a_gap_that_is_not_to_be_repaired_is_a_failure_that_says_what_is_missing(
    until_caught_up: bool,
) -> None:
    engine = Script({"orders": replace(LIVE, gaps=(GAP,))}, [{"orders": TORN}])
    result = run(engine, until_caught_up=until_caught_up, repairs=False)
    assert engine.diary == ["drain orders"]
    assert str(result.failures["orders"]) == (
        "orders: changes made from 2026-11-01 12:00:00 to 2026-11-02 12:00:00 UTC may be missing:"
        " an outage\nWhat to do: `tailrace repair orders` reads them again; what is newer is shown"
        " meanwhile."
    )


def test_a_failed_single_pass_is_a_failure_even_if_another_try_could_help() -> None:
    engine = Script({"orders": LIVE}, [{"orders": Retryable("throttled")}], ["orders"])
    result = run(engine)
    assert engine.diary == ["drain orders"]
    assert list(result.failures) == ["orders"]


def test_catching_up_gives_up_where_no_pass_gets_further() -> None:
    stuck = replace(BEHIND, rows=0, shards_open=4)
    engine = Script({"orders": LIVE}, [{"orders": stuck}] * 1000)
    result = run(engine, until_caught_up=True)
    assert "It is base_complete, with 4 open shards." in str(result.failures["orders"])
    assert len(engine.diary) == FRUITLESS_PASSES_MOST


def test_catching_up_waits_for_what_a_source_delivers_late() -> None:
    """A Firehose that holds its buffer for a quarter of an hour is not stuck."""
    waiting = replace(BEHIND, rows=0, reached_tip=True, delay_seconds=1200.0)
    engine = Script({"orders": LIVE}, [{"orders": waiting}] * 150 + [{"orders": TIP}])
    assert run(engine, until_caught_up=True).failures == {}
    assert len(engine.diary) == 151
    engine = Script({"orders": LIVE}, [{"orders": waiting}] * 1000)
    assert "orders" in run(engine, until_caught_up=True).failures


def test_what_any_pass_left_out_is_told() -> None:
    noted = [replace(BEHIND, notices=(each,)) for each in ("one", "two", "one")]
    engine = Script({"orders": LIVE}, [*({"orders": each} for each in noted), {"orders": TIP}])
    assert run(engine, until_caught_up=True).passes["orders"].notices == ("one", "two")


def test_one_table_whose_base_fails_does_not_hold_up_the_others() -> None:
    engine = Script({"orders": NONE, "customers": NONE}, [{"customers": TIP}], ["customers"])
    engine.failing["orders"] = Terminal("no such bucket", "make one")
    result = run(engine)
    assert engine.diary == ["base customers", "drain customers", "build customers"]
    assert str(result.failures["orders"]) == "no such bucket\nWhat to do: make one"


def test_nothing_is_drained_or_built_where_every_base_failed() -> None:
    engine = Script({"orders": NONE})
    engine.failing["orders"] = Terminal("no")
    run(engine, until_caught_up=True)
    assert engine.diary == []


def test_a_bug_in_the_base_is_not_swallowed() -> None:
    engine = Script({"orders": NONE})
    engine.failing["orders"] = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        run(engine)


def test_a_failed_pass_beside_a_base_is_told_and_mended_by_the_next() -> None:
    engine = Script({"orders": NONE}, [{"orders": Terminal("no")}, {"orders": TIP}])
    engine.base_waits_for.clear()
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        engine.base_waits_for.set()

    result = synchronise(engine, lambda _: None, ["orders"], tell=tell, pace=Pace(0.01))
    assert told[0] == "orders: a pass beside the base failed, the next is in a minute: no"
    assert result.failures == {}


def test_an_interruption_stops_the_base_before_it_goes_on_its_way() -> None:
    engine = Script({"orders": NONE})
    engine.base_waits_for.clear()

    def interrupted(models: Sequence[str]) -> dict[str, DrainResult | Exception]:
        raise KeyboardInterrupt

    engine.drain = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(engine, seconds=0.01)
    assert engine.stop.is_set()
    assert "bases" not in [thread.name for thread in threading.enumerate()]
