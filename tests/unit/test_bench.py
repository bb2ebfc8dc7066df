"""The benchmarks run at a tiny size and say what they measured. How fast anything is, is not
tested: machines differ. `minute` starts a Dagster of its own and is left to `make bench`."""

from __future__ import annotations

import json
from pathlib import Path

from bench.items import ATTRIBUTES, Items
from bench.minute import _role

ROOT = Path(__file__).resolve().parents[2]


def test_items_are_valid_json_of_about_a_kilobyte_and_all_different() -> None:
    made = Items()
    texts = [made.item(number) for number in range(100)]
    assert all(len(json.loads(text)) == ATTRIBUTES for text in texts)
    assert 900 < sum(map(len, texts)) / len(texts) < 1_200
    assert len(set(texts)) == len(texts)


def test_a_record_has_the_images_that_its_event_has() -> None:
    made = Items()
    images = {
        event: {
            name for name in json.loads(made.record(1, 2, event))["dynamodb"] if "Image" in name
        }
        for event in ("INSERT", "MODIFY", "REMOVE")
    }
    assert images == {
        "INSERT": {"NewImage"},
        "MODIFY": {"NewImage", "OldImage"},
        "REMOVE": {"OldImage"},
    }


def test_processes_are_told_apart_by_what_they_run() -> None:
    assert _role("python -m dagster._daemon run") == "daemon"
    assert _role("python -m dagster api grpc --lazy-load-user-code") == "code server, its ticks"
    forks = "python -c from multiprocessing.forkserver import main; main(['dagster._daemon'])"
    assert _role(forks) == "runs"
