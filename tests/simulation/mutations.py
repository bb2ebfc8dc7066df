"""Bugs that the tests must notice: each is put into a copy of the tree; something must turn red.

`make mutations`, or `python -m tests.simulation.mutations [name …]`. First the simulation hunts;
what it lets pass, the unit tests of capture and the log's contract have to catch. Exit code 1 if a
mutation survives, 2 if one no longer fits the code, or what is to catch it is red without it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREES = ("tailrace", "sandbox", "dbt_project", "tests")
EXPORT_TESTS = ("tests/unit/sources/test_export_files.py",)
UNIT_TESTS = (
    "tests/unit/capture",
    "tests/simulation/test_scenes.py",
    "tests/simulation/test_log_contract.py",
)
SEEDS = 300

DRAIN = "tailrace/capture/drain.py"
BOOTSTRAP = "tailrace/capture/bootstrap.py"
COVERAGE = "tailrace/capture/coverage.py"
STAGE = "tailrace/capture/stage.py"
SHARDS = "tailrace/capture/shards.py"
EXPORT = "tailrace/sources/export.py"
STREAMS = "tailrace/sources/streams.py"
LOG = "tailrace/lake/log.py"
WALK = "tailrace/lake/walk.py"
WALK_TESTS = ("tests/unit/lake/test_walk.py",)
DELIVERIES = "tailrace/capture/deliveries.py"
DELIVERED = "tailrace/sources/delivered.py"
DELIVERY_TESTS = (
    "tests/unit/capture/test_deliveries.py",
    "tests/unit/sources/test_delivered.py",
    "tests/simulation/test_source_contract.py",
)
STAGED = "dbt_project/macros/staged_changes.sql"
LATEST = "dbt_project/macros/latest_state.sql"
MODELS = ("tests/integration/test_models.py",)
CHANGES = "tailrace/changes.py"
CHANGES_TESTS = ("tests/unit/test_changes.py", "tests/unit/sources/test_delivered.py")
CONTRACTS = ("tests/simulation/test_log_contract.py",)
SQL = (
    "tests/simulation/test_simulation.py::test_dbts_own_sql_shows_readers_what_the_laws_are_checked_against",
)
SCENES = ("tests/simulation/test_scenes.py",)


@dataclass(frozen=True)
class Mutation:
    """`file`'s only `old` becomes `new`; `law` is what breaks then. What breaks in the models is
    looked for by their own `tests`, not by the simulation."""

    name: str
    law: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


MUTATIONS = (
    Mutation(
        "checkpoint before data",
        "No loss",
        STAGE,
        "            self._log.commit(\n                self._model,\n",
        "            if rows and pass_record is None and state is None:\n"
        "                self._log.commit(self._model, Commit(self._epoch, moved))\n"
        "                moved = ()\n"
        "            self._log.commit(\n                self._model,\n",
    ),
    Mutation(
        "child before parent",
        "Order",
        SHARDS,
        "or parent in finished for parent in each.parents)\n",
        "or parent in known for parent in each.parents)\n",
    ),
    Mutation(
        "LATEST on a new shard",
        "No loss",
        STREAMS,
        '"ShardIteratorType": "TRIM_HORIZON"',
        '"ShardIteratorType": "LATEST"',
    ),
    Mutation(
        "an empty page taken for the end of a closed shard",
        "No loss",
        DRAIN,
        "        iterator = page.next_iterator\n",
        "        iterator = page.next_iterator if page.count or not shard.closed else None\n",
    ),
    Mutation(
        "an empty page taken for the tip",
        "No loss",
        DRAIN,
        "EMPTY_PAGES_AT_TIP = 3",
        "EMPTY_PAGES_AT_TIP = 1",
    ),
    Mutation(
        "an expired iterator taken for the tip",
        "No loss",
        DRAIN,
        "            iterators += 1\n",
        "            return _End.TIP\n            iterators += 1\n",
    ),
    Mutation(
        "an expired iterator renewed at the oldest record",
        "Once",
        DRAIN,
        "            iterator = _iterator(run, part)\n            continue\n",
        "            iterator = run.stream.iterator(run.epoch.stream_arn, part.id, None)\n"
        "            continue\n",
    ),
    Mutation(
        "fence ignored",
        "Once",
        LOG,
        "        if stands.finished or stands.at != each.position_from:\n",
        "        if False:\n",
    ),
    Mutation(
        "fence blind to the epoch",
        "Once, No step back",
        LOG,
        "    if newest is None or newest.number != epoch.number or (bound and moved_on):\n",
        "    if newest is None:\n",
    ),
    Mutation(
        "fence blind to another run's plan",
        "Once",
        LOG,
        "(newest.state, newest.detail) != (epoch.state, epoch.detail)",
        "newest.state != epoch.state",
    ),
    Mutation(
        "base rows beat stream rows",
        "No step back",
        "tailrace/lake/version.py",
        'BASE_PHASE = "0"\nSTREAM_PHASE = "1"\n',
        'BASE_PHASE = "1"\nSTREAM_PHASE = "0"\n',
    ),
    Mutation(
        "records older than the base beat it",
        "No loss",
        "tailrace/model.py",
        "        return self.base_at - PRIOR_MARGIN if self.kind == FULL else None\n",
        "        return None\n",
        tests=("tests/simulation/test_log_contract.py",),
    ),
    Mutation(
        "positions compared as they are written",
        "No step back",
        "tailrace/lake/version.py",
        "POSITION_DIGITS = 40",
        "POSITION_DIGITS = 21",
    ),
    Mutation(
        "an export time before the positions",
        "No step back",
        BOOTSTRAP,
        "        return now + CLOCK_SECOND\n",
        "        return now - timedelta(hours=1)\n",
    ),
    Mutation(
        "a scan right after its epoch was opened",
        "No step back",
        BOOTSTRAP,
        "SCAN_MARGIN_SECONDS = 10.0",
        "SCAN_MARGIN_SECONDS = 0.0",
    ),
    Mutation(
        "the configured segment count instead of the frozen one",
        "No loss",
        BOOTSTRAP,
        '    segments = int(epoch.detail["segments"])\n',
        '    segments = int(epoch.detail["segments"]) + len(head.positions) % 2\n',
    ),
    Mutation(
        "live with a pass that began before the base was complete",
        "No step back",
        DRAIN,
        "    live = record.complete and ripe and not coverage.is_void(log.head(model))\n",
        "    newest = log.head(model).epoch\n"
        "    live = record.complete and newest.state == BASE_COMPLETE\n"
        "    run.stage._epoch = newest\n",
    ),
    Mutation(
        "live with an incomplete pass",
        "No loss",
        DRAIN,
        "    live = record.complete and ripe and not coverage.is_void(log.head(model))\n",
        "    live = epoch.state == BASE_COMPLETE\n",
    ),
    Mutation(
        "gap check off",
        "No silent gap",
        DRAIN,
        "    if gap is None and not lost:\n        return head\n",
        "    gap = None\n    if not lost:\n        return head\n",
    ),
    Mutation(
        "an outage of days forgiven",
        "No silent gap",
        COVERAGE,
        "    if since is None or now - since <= in_time:\n",
        "    if True:\n",
    ),
    Mutation(
        "outage measured from passes that proved nothing",
        "No silent gap",
        COVERAGE,
        "    if head.last_proof:\n        known.append(head.last_proof.proves_until)\n",
        "    if head.last_pass:\n        known.append(head.last_pass.ended_at)\n",
    ),
    Mutation(
        "an expired position forgiven",
        "No silent gap",
        DRAIN,
        "        if not coverage.expired_by_age(run.head, position, run.began_at):\n",
        "        if False:\n",
    ),
    Mutation(
        "what vanished before its time hidden by an outage",
        "No silent gap",
        COVERAGE,
        "    return is_parent and shard not in closed_before(shards, gap.until)\n",
        "    return False\n",
        tests=("tests/unit/capture/test_drain.py",),
    ),
    Mutation(
        "a stopped base that leaves a replaced stream behind",
        "No silent gap",
        "tailrace/engine.py",
        "            if self.stop.is_set():\n                raise Retryable(\n"
        '                    f"{config.model}: stopped before the end',
        "            if self.stop.is_set():\n                return\n"
        "                raise Retryable(\n"
        '                    f"{config.model}: stopped before the end',
        tests=("tests/simulation/test_scenes.py",),
    ),
    Mutation(
        "shards that a new epoch has seen left to the old one",
        "No silent gap",
        LOG,
        "            if not stands.finished and stands.epoch < number:\n",
        "            if part not in head.positions:\n",
        tests=("tests/simulation/test_log_contract.py",),
    ),
    Mutation(
        "a shard that vanished forgiven",
        "No silent gap",
        DRAIN,
        "    if unread:\n",
        "    if False:\n",
    ),
    Mutation(
        "a generation that nobody saw forgiven",
        "No silent gap",
        DRAIN,
        "    elif unseen:\n",
        "    elif False:\n",
    ),
    Mutation(
        "the shards of the opening not noted",
        "No silent gap",
        BOOTSTRAP,
        "    run.log.open_epoch(run.model, table, epoch, seen, ",
        "    run.log.open_epoch(run.model, table, epoch, {}, ",
    ),
    Mutation(
        "a gap stored after what lies behind it",
        "No silent gap",
        DRAIN,
        "        if not coverage.expired_by_age(run.head, position, run.began_at):\n"
        "            _lose_records(run, part, position)\n",
        "        if not coverage.expired_by_age(run.head, position, run.began_at):\n"
        "            run.stage._on_commit = lambda *_: _lose_records(run, part, position)\n",
    ),
    Mutation(
        "any live epoch closes a gap",
        "No silent gap",
        COVERAGE,
        "    if epoch.base_at < gap.until:\n        return False\n",
        "",
    ),
    Mutation(
        "an incremental base that begins with the end of the gap",
        "No loss",
        BOOTSTRAP,
        "    return (since - REPAIR_MARGIN).replace(microsecond=0)\n",
        "    return (since + timedelta(hours=12)).replace(microsecond=0)\n",
    ),
    Mutation(
        "an incremental base that ends before its epoch was opened",
        "No step back",
        BOOTSTRAP,
        "    end = whole_second(coverage_begin(earlier, epoch.stream_arn, run.clock.aws_now()))\n",
        "    end = whole_second(epoch.opened_at - timedelta(hours=3))\n",
    ),
    Mutation(
        "only the first window of a repair",
        "No loss",
        BOOTSTRAP,
        "    for number, window in enumerate(_windows(epoch)):\n",
        "    for number, window in enumerate(_windows(epoch)[:1]):\n",
    ),
    Mutation(
        "a replaced stream unnoticed",
        "No silent gap",
        "tailrace/engine.py",
        "        if (is_its and not result.ended) or not is_newest:\n",
        "        if True:\n",
    ),
    Mutation(
        "children read while the listing lacks their parent",
        "Order",
        DRAIN,
        "    shards = unrelated(shards, held)\n",
        "",
    ),
    Mutation(
        "looked-up items that do not wait for their epoch",
        "No step back",
        BOOTSTRAP,
        "    waits = waited or head.view_of(shown) == KEYS_ONLY\n",
        "    waits = waited\n",
    ),
    Mutation(
        "complete without the children of a closed leaf",
        "No loss",
        DRAIN,
        "complete=proven and not childless(shards, finished),",
        "complete=proven,",
    ),
    Mutation(
        "complete without the shards that were left unread",
        "No loss",
        DRAIN,
        "    is_over = is_lost and not unread\n",
        "    is_over, unread = is_lost, []\n",
    ),
    Mutation(
        "a re-bootstrap that replays the stream",
        "Once",
        DRAIN,
        'head.positions.items() if part.kind == "stream"}',
        'head.positions.items() if part.kind == "nothing"}',
    ),
    Mutation(
        "what is staged dropped when a commit fails",
        "No loss",
        STAGE,
        "            self._log.commit(\n                self._model,\n",
        "            self._pending, self._lines = {}, []\n"
        "            self._log.commit(\n                self._model,\n",
    ),
    Mutation(
        "an adopted export of any age",
        "No loss",
        BOOTSTRAP,
        "    if taken is not None and taken < not_before:\n",
        "    if False:\n",
    ),
    Mutation(
        "a damaged export file loaded as far as it goes",
        "No loss",
        EXPORT,
        '        fault = f"is not a whole gzip file: {error}."\n',
        "        pass\n",
        tests=EXPORT_TESTS,
    ),
    Mutation(
        "an export file that lacks items loaded",
        "No loss",
        EXPORT,
        "    elif fault is None and found != file.items:\n",
        "    elif False:\n",
        tests=EXPORT_TESTS,
    ),
    Mutation(
        "an export file with another MD5 loaded",
        "No loss",
        EXPORT,
        "    if file.md5 and md5 != file.md5:\n",
        "    if False:\n",
        tests=EXPORT_TESTS,
    ),
    Mutation(
        "lines that are no items of an export skipped",
        "No loss",
        EXPORT,
        "Lines.joined(map(_item, lines), name) if items is None",
        'Lines.of(b"", name) if items is None',
        tests=EXPORT_TESTS,
    ),
    Mutation(
        "a removed item's new image kept",
        "No phantom",
        CHANGES,
        "        if REMOVE in ops:\n",
        "        if False:\n",
        tests=CHANGES_TESTS,
    ),
    Mutation(
        "times of Kinesis' records in the wrong unit",
        "Order",
        CHANGES,
        "np.where(precise, 1.0, 1_000.0)",
        "np.where(precise, 1_000.0, 1.0)",
        tests=CHANGES_TESTS,
    ),
    Mutation(
        "an old image that is no text taken",
        "Lossless",
        CHANGES,
        '        str(data, "utf-8")\n',
        "        pass\n",
        tests=CHANGES_TESTS,
    ),
    Mutation(
        "records that repeat taken for new ones",
        "Exactly once",
        LOG,
        "    if is_alone:",
        "    if True:",
        tests=CONTRACTS,
    ),
    Mutation(
        "attributes that no image was searched for",
        "Lossless",
        LOG,
        "            if not walked.familiar:\n",
        "            if False:\n",
        tests=("tests/unit/lake/test_log.py",),
    ),
    Mutation(
        "numbers of more digits than are known taken for familiar",
        "Lossless",
        WALK,
        "            return at if digits <= most else -1\n",
        "            return at\n",
        tests=WALK_TESTS,
    ),
    Mutation(
        "an attribute that stands in an item twice taken for familiar",
        "Lossless",
        WALK,
        "            if this < 0 or found_in[this] == row:\n",
        "            if this < 0:\n",
        tests=WALK_TESTS,
    ),
    Mutation(
        "keys with escapes taken for canonical",
        "Lossless",
        WALK,
        "                        found_parts -= 1\n",
        "",
        tests=WALK_TESTS,
    ),
    Mutation(
        "a text walked over beyond its end",
        "Any kill point",
        WALK,
        "                while at < last and not _STOPS[data[at]]:\n",
        "                while not _STOPS[data[at]]:\n",
        tests=WALK_TESTS,
    ),
    Mutation(
        "retries that swallow an expired iterator",
        "bounded",
        "tailrace/capture/retry.py",
        "        except IteratorExpired:\n            raise\n",
        "",
    ),
    Mutation(
        "base rows visible before their epoch is live",
        "No step back",
        STAGED,
        "        when {{ version_is_base('log.version') }} then live.batch\n",
        "        when {{ version_is_base('log.version') }} then log.batch\n",
        MODELS,
    ),
    Mutation(
        "tombstones dropped",
        "No phantom",
        LATEST,
        "    where ranked.place = 1 or ranked.place is null\n",
        "    where (ranked.place = 1 or ranked.place is null) and visible.op <> 'REMOVE'\n",
        MODELS,
    ),
    Mutation(
        "a watermark by time in place of batch",
        "No loss",
        LATEST,
        "        and visible_batch > {{ plan.watermark }}\n",
        "        and changed_at > (select max(_changed_at) from {{ this }})\n",
        MODELS,
    ),
    Mutation(
        "numbers through float",
        "Lossless",
        "dbt_project/macros/attribute_values.sql",
        "            then {{ text }}::decimal({{ digits }},{{ scale }})::{{ type }}\n",
        "            then {{ text }}::double::{{ type }}\n",
        MODELS,
    ),
    Mutation(
        "keys that a new base does not hold stay",
        "No phantom",
        LATEST,
        "    {%- if full and not plan.rebuild and full.batch > plan.watermark %}\n",
        "    {%- if false %}\n",
        MODELS,
    ),
    Mutation(
        "objects that were read not remembered",
        "Once",
        DELIVERIES,
        "each.key not in read and each.at >= first]",
        "each.at >= first]",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "a proof that does not wait for the delivery",
        "No silent gap",
        DELIVERIES,
        "        delay_seconds=delay.delivery.total_seconds(),\n",
        "        delay_seconds=0.0,\n",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "live before what the base met is delivered",
        "No step back",
        DELIVERIES,
        "        and record.proves_until > epoch.changed_at + CLOCK_SECOND\n",
        "",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "a list from the newest object on",
        "No loss",
        DELIVERIES,
        "max(first, newest or first) - delay.late\n",
        "max(first, newest or first)\n",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "a damaged object unnoticed",
        "No silent gap",
        DELIVERIES,
        "staged, gap=gap))",
        "staged))",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "objects that a lifecycle took unnoticed",
        "No silent gap",
        DELIVERIES,
        "    is_out = listed_at - since > coverage.IN_TIME\n",
        "    is_out = False\n",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "records that are told apart by two braces",
        "Lossless",
        DELIVERED,
        'text.replace(b"}" + head, b"}\\n" + head)',
        'text.replace(b"}{", b"}\\n{")',
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "records that come again land again",
        "Once",
        LOG,
        "        if staged.repeats and again is None:\n",
        "        if False:\n",
        tests=("tests/simulation/test_log_contract.py",),
    ),
    Mutation(
        "only what has the time of a batch's first record is looked for in the log",
        "Once",
        LOG,
        "max(int(each.max()) for each in times)",
        "min(int(each.min()) for each in times)",
        tests=CONTRACTS,
    ),
    Mutation(
        "a late record counts to the epoch in which it lands",
        "No step back",
        "tailrace/model.py",
        "                eras[-1] = replace(eras[-1], epoch=each.number, prior=False)\n",
        "                eras.pop()\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "the old source drained on when the new base is complete",
        "No step back",
        "tailrace/model.py",
        " and newest and newest.state == OPEN else None\n",
        " else None\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "what the old source proved counts for the new one",
        "No silent gap",
        "tailrace/model.py",
        "        last, proof = self.passes.get(newest.stream_arn, (None, None))\n",
        "        last, proof = self.last_pass, self.last_proof\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "the tip of a page that was fetched before the pass",
        "No loss",
        "tailrace/sources/kinesis.py",
        "            at_tip=page.at_tip if is_fresh else False,\n",
        "            at_tip=page.at_tip,\n",
        tests=("tests/unit/sources/test_kinesis.py",),
    ),
    Mutation(
        "an epoch opened though something has landed since its time was asked for",
        "No step back",
        LOG,
        "        if after is not None and head.batch != after:\n",
        "        if False:\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "a take-over that lost changes goes live",
        "No step back",
        COVERAGE,
        '    if epoch is None or epoch.state == LIVE or "beside" not in epoch.detail:\n',
        "    if True:\n",
        tests=SCENES,
    ),
    Mutation(
        "what a source tells that takes over counts at once",
        "No step back",
        STAGED,
        "left join overlapping on overlapping.epoch = {{ version_epoch('log.version') }}\n",
        "left join overlapping on false\n",
        tests=SQL,
    ),
    Mutation(
        "what a source lost beside the one that takes over is forgotten",
        "No silent gap",
        DRAIN,
        "    lost = log.head(model).lost_beside(epoch) or lost\n",
        "",
        tests=SCENES,
    ),
    Mutation(
        "a destination that is off in a pass is no loss beside another source",
        "No silent gap",
        DELIVERIES,
        'NOT_ITS if is_lost else ""',
        '""',
        tests=SCENES,
    ),
    Mutation(
        "a stream that is off in a pass is no loss beside another source",
        "No silent gap",
        DRAIN,
        'NOT_ITS if is_lost else ""',
        '""',
        tests=SCENES,
    ),
    Mutation(
        "a shard that vanishes is no loss beside another source",
        "No silent gap",
        DRAIN,
        "        note_loss(log, model, epoch, gap, is_newest, ends)\n",
        "        is_newest and note_loss(log, model, epoch, gap, is_newest, ends)\n",
        tests=SCENES,
    ),
    Mutation(
        "an object that is damaged is no loss beside another source",
        "No silent gap",
        DELIVERIES,
        "        note_loss(run.log, run.model, run.epoch, gap, is_newest=False)\n",
        "",
        tests=SCENES,
    ),
    Mutation(
        "objects that a lifecycle removed are no loss beside another source",
        "No silent gap",
        DELIVERIES,
        "        note_loss(run.log, run.model, run.epoch, gap, run.is_newest)\n",
        "        run.is_newest and note_loss(run.log, run.model, run.epoch, gap, run.is_newest)\n",
        tests=SCENES,
    ),
    Mutation(
        "a bucket that was gone is no loss beside another source",
        "No silent gap",
        DELIVERIES,
        "    lose(run.log, run.clock, run.model, head, reason, is_newest=run.is_newest)\n",
        "    run.is_newest and lose(run.log, run.clock, run.model, head, reason)\n",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "records that expired are no loss beside another source",
        "No silent gap",
        DRAIN,
        "        lose(\n            run.log,",
        "        run.is_newest and lose(\n            run.log,",
        tests=("tests/unit/capture/test_drain.py",),
    ),
    Mutation(
        "a loss that another run has found beside is not looked for in a commit",
        "No silent gap",
        LOG,
        " and head.lost_beside(beside):\n",
        " and False:\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "what a source lost is no gap once it is followed again",
        "No silent gap",
        COVERAGE,
        "not (reason := head.lost_beside(epoch)):\n",
        "(reason := head.lost_beside(epoch)):\n",
        tests=SCENES,
    ),
    Mutation(
        "what vanished since an export is not looked for",
        "No silent gap",
        COVERAGE,
        " or shard.id in young\n",
        "\n",
        tests=SCENES,
    ),
    Mutation(
        "the gap of a take-over that was given up accounts for the source before",
        "No silent gap",
        "tailrace/model.py",
        "        gaps = tuple(gap for gap in self.gaps if gap.epoch in seen)\n",
        "        gaps = self.gaps\n",
        tests=CONTRACTS,
    ),
    Mutation(
        "a list that took its time holds up all objects",
        "No loss",
        DELIVERIES,
        "(run.objects > 0 and run.exhausted())",
        "run.exhausted()",
        tests=DELIVERY_TESTS,
    ),
    Mutation(
        "what had to wait for an epoch counts at once after it was given up",
        "No step back",
        BOOTSTRAP,
        '        return noted | ({"overlaps": True} if waited else {})\n',
        "        return noted\n",
        tests=SCENES,
    ),
    Mutation(
        "a repair goes on with a base of another kind",
        "Any kill point",
        "tailrace/engine.py",
        "            unfinished = bootstrap.continues(head, table, config.base.method, adopted)\n",
        "            unfinished = bootstrap.continues(head, table, head.epoch.method, adopted)\n",
        tests=SCENES,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations")
    parser.add_argument("names", nargs="*", help="only these (parts of names)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="stories told for each")
    options = parser.parse_args()
    chosen = [
        each
        for each in MUTATIONS
        if not options.names or any(name in each.name for name in options.names)
    ]
    if red := _red_as_it_is(chosen, options.seeds):
        print(f"RED WITHOUT ANY MUTATION: {red}")
        return 2
    survivors, misfits = [], []
    for mutation in chosen:
        started = time.monotonic()
        verdict = _verdict(mutation, options.seeds)
        if verdict is None:
            misfits.append(mutation.name)
            verdict = f"NO LONGER FITS {mutation.file}"
        elif not verdict:
            survivors.append(mutation.name)
            verdict = "SURVIVED"
        seconds = time.monotonic() - started
        print(f"{mutation.name} [{mutation.law}]: {verdict} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen)} mutations, {len(survivors)} survived, {len(misfits)} did not fit")
    return 2 if misfits else 1 if survivors else 0


def _red_as_it_is(chosen: Sequence[Mutation], seeds: int) -> str:
    """What fails already: it would seem to catch whatever it is asked to."""
    hunts = any(not each.tests for each in chosen)
    with _copied() as copy:
        found = _simulated(copy, seeds) if hunts else ""
        for tests in sorted({each.tests or UNIT_TESTS for each in chosen}):
            found = found or _tested(copy, tests)
    return found


@contextmanager
def _copied() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for tree in TREES:
            shutil.copytree(ROOT / tree, copy / tree, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        yield copy


def _verdict(mutation: Mutation, seeds: int) -> str | None:
    """What caught the mutation; empty if nothing did, None if it could not be made."""
    with _copied() as copy:
        path = copy / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            return None
        path.write_text(text.replace(mutation.old, mutation.new))
        found = "" if mutation.tests else _simulated(copy, seeds)
        found = found or _tested(copy, mutation.tests or UNIT_TESTS)
        # What cannot even run was not caught, it no longer fits.
        return None if re.search(r"\b(Name|Attribute|Import|Syntax)Error\b", found) else found


def _simulated(copy: Path, seeds: int) -> str:
    run = _run(copy, "-m", "tests.simulation", "--seeds", str(seeds))
    if run.returncode == 0:
        return ""
    said = run.stdout.splitlines() or run.stderr.splitlines()[-1:]
    return said[0][:140] if said else f"exit code {run.returncode}"


def _tested(copy: Path, tests: Sequence[str]) -> str:
    run = _run(copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:140] if failed else ""


def _run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
