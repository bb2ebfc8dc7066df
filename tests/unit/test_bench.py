"""The benchmarks run at a tiny size and say what they measured. How fast anything is, is not
tested: machines differ. `minute` starts a Dagster of its own and is left to `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("export", {"rate, times by hand", "peak memory at twice the size"}),
        ("scan", {"client CPU per 100,000", "CPU of by hand"}),
        ("drain", {"client CPU per 100,000", "CPU of by hand"}),
        ("merge", {"many over few"}),
    ],
)
def test_a_benchmark_runs_and_prints_its_figures(
    name: str, figures: set[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--small", "--json", "--cache", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert figures <= set(found)
    assert all(each["value"] > 0 for each in found.values())
