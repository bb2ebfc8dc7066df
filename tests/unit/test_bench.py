"""The benchmarks run at a tiny size and say what they measured. How fast anything is, is not
tested: machines differ. `minute` starts a Dagster of its own and is left to `make bench`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import week
from bench.items import ATTRIBUTES, Items
from bench.minute import _role
from tailrace.lake import maintenance

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
    assert _role("python -m dagster api grpc --lazy-load-user-code") == "code server"
    forks = "python -c from multiprocessing.forkserver import main; main(['dagster._daemon'])"
    assert _role(forks) == "runs"


def test_after_many_minutes_there_is_no_more_than_after_one_day_of_them() -> None:
    found = week.lived(week.SMALL)
    first, last = found["first day"], found["end"]
    assert last["snapshots"] <= first["snapshots"] * 1.5
    assert last["files"] <= first["files"] + maintenance.LEVEL_FILES
    assert last["old files"] <= first["old files"] * 1.5 + maintenance.LEVEL_FILES


SERVING = """
import sys
from pathlib import Path
from bench import replay
Popen = replay.subprocess.Popen
def told(*args, **kwargs):
    process = Popen(*args, **kwargs)
    print(process.pid, flush=True)
    return process
replay.subprocess.Popen = told
with replay.serving(Path(sys.argv[1])):
    sys.stdin.read()
"""


def test_the_replay_server_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVING, str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert is_running(server)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    for _ in range(200):
        if not is_running(server):
            return
        time.sleep(0.05)
    os.kill(server, signal.SIGKILL)
    raise AssertionError("the replay server outlived its parent by 10 s")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"
