"""`make demo`: a local AWS, two tables that never rest, and Tailrace with its UI over them;
`--once` proves that the warehouse equals the tables and exits. Everything it makes lies in .demo/,
and everything it starts ends with it. Tailrace is used as a person uses it: through its command
line and Dagster."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from sandbox.compare import Comparison, compare, render, render_differences
from sandbox.errors import SandboxError
from sandbox.server import Server, start_server
from sandbox.workload import CUSTOMERS, ORDERS, Writer, create_shop, seed_shop

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
CONFIG = HOME / "tailrace.yaml"
BUCKET = "tailrace-demo-exports"
WRITES_PER_SECOND = 40
DRAINS = 3
_UI_SECONDS = 120
_END_SECONDS = 10

_CONFIGURATION = f"""\
# The demo's own: the two tables of ../tailrace.yaml, in a warehouse that each demo starts anew.
aws: {{region: us-east-1}}
warehouse: {{catalog: "sqlite:warehouse/catalog.sqlite", data_path: warehouse/data}}
dbt: {{project_dir: ../dbt_project}}
tables:
  - name: {ORDERS}
    base: {{method: export, bucket: {BUCKET}, prefix: orders}}
  - name: {CUSTOMERS}
    base: {{method: scan, segments: 4}}
"""

_QUERIES = (
    "SELECT status, count(*) AS orders, sum(total) AS total FROM analytics.orders GROUP BY ALL",
    "SELECT name, count(*) AS orders FROM analytics.orders JOIN analytics.customers "
    "USING (customer_id) GROUP BY ALL ORDER BY orders DESC LIMIT 5",
    "SELECT op, count(*) AS changes, max(changed_at) AS newest FROM changes.orders GROUP BY op",
)

console = Console(stderr=False)


@dataclass(frozen=True)
class World:
    """What both kinds of demo run in: the server, a client, the writer, and the environment that
    a child process needs to be part of it."""

    server: Server
    dynamodb: Any
    writer: Writer
    environment: dict[str, str]


@contextmanager
def world() -> Iterator[World]:
    """A clean .demo/, a running local AWS, two full tables, and a writer at work."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    CONFIG.write_text(_CONFIGURATION, encoding="utf-8")
    with ExitStack() as stack:
        # A laptop's minute stands for AWS's hours: counts are fresh, exports quick and current.
        server = start_server(count_refresh_seconds=5, restore_lag_seconds=0, export_seconds=3)
        stack.callback(server.stop)
        console.print(f"A local AWS listens on [bold]{server.endpoint_url}[/].")
        server.client("s3").create_bucket(Bucket=BUCKET)
        dynamodb = server.client("dynamodb")
        create_shop(dynamodb)
        with console.status("Filling the tables orders and customers …"):
            seed_shop(dynamodb)
        writer = stack.enter_context(Writer(dynamodb, WRITES_PER_SECOND))
        console.print(
            f"Tables [bold]{ORDERS}[/] (20,000 items, base by export) and [bold]{CUSTOMERS}[/] "
            f"(2,000 items, base by scan); a writer makes {WRITES_PER_SECOND} changes a second."
        )
        yield World(server, dynamodb, writer, _environment(server))


def once() -> int:
    """Bootstraps and drains while the writer writes, catches up, compares. 0 only if equal."""
    with world() as demo:
        _tailrace(demo, "sync")
        for _ in range(DRAINS):
            time.sleep(2)
            _tailrace(demo, "sync")
        counts = demo.writer.stop()
        console.print(
            "The writer has stopped: " + ", ".join(f"{n:,} {w}" for w, n in counts.items())
        )
        _tailrace(demo, "sync", "--until-caught-up")
        _tailrace(demo, "status")
        found = _compare(demo)
    console.print(render(found))
    for comparison in found:
        if not comparison.equal:
            console.print(render_differences(comparison))
    if all(comparison.equal for comparison in found):
        console.print("[green]The warehouse equals the tables, item by item.[/]")
        return 0
    console.print("[red]The warehouse differs from the tables.[/]")
    return 1


def live(port: int) -> int:
    """Runs `dagster dev` over the demo's tables until Ctrl-C."""
    with world() as demo, _dagster(demo, port) as (process, address):
        with console.status("Waiting for Dagster …"):
            _wait_until_up(process, address)
        console.print(f"\nDagster's UI: [bold]{address}[/]  (the sensor runs every minute)")
        console.print("Three queries to try, in another terminal, once the first run is through:\n")
        script, *module = _tailrace_command()
        command = " ".join([os.path.relpath(script), *module])
        for query in _QUERIES:
            line = f'{command} sql --config {os.path.relpath(CONFIG)} "{query}"'
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        console.print("\nCtrl-C ends everything.")
        code = process.wait()
        raise SandboxError(
            f"dagster dev ended by itself with exit code {code}; "
            f"its output is in {HOME / 'dagster.log'}"
        )


@contextmanager
def _dagster(demo: World, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    home = HOME / "dagster"
    home.mkdir()
    settings = ROOT / "orchestration" / "dagster.yaml"
    shutil.copy(settings, home)
    port = _free_port(port)
    environment = {**demo.environment, "DAGSTER_HOME": str(home)}
    with (HOME / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *_command("dagster"),
                "dev",
                "-w",
                "workspace.yaml",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started: politely, then firmly."""
    # An impatient second Ctrl-C must not leave half of it running.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    console.print("\nEnding Dagster and the local AWS …")
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.1)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_up(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + _UI_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SandboxError(
        f"dagster dev did not serve {address} within {_UI_SECONDS} s; "
        f"its output is in {HOME / 'dagster.log'}"
    )


def _tailrace(demo: World, *arguments: str) -> None:
    console.rule(f"tailrace {' '.join(arguments)}", align="left")
    done = subprocess.run(
        [*_tailrace_command(), *arguments, "--config", str(CONFIG)], cwd=ROOT, env=demo.environment
    )
    if done.returncode != 0:
        raise SandboxError(f"tailrace {' '.join(arguments)} failed with code {done.returncode}")


def _compare(demo: World) -> list[Comparison]:
    from tailrace.config import load_config
    from tailrace.lake.attach import connect

    con = connect(load_config(CONFIG).warehouse, read_only=True)
    try:
        return [compare(demo.dynamodb, table, con, table) for table in (ORDERS, CUSTOMERS)]
    finally:
        con.close()


def _environment(server: Server) -> dict[str, str]:
    """The caller's, without its own AWS settings: the demo must never reach a real account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {
        **kept,
        **server.environment,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "TAILRACE_CONFIG": str(CONFIG),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DO_NOT_TRACK": "1",
    }


def _tailrace_command() -> list[str]:
    return _command("tailrace", "tailrace.cli")


def _command(name: str, module: str | None = None) -> list[str]:
    """The script beside this Python, else the module by this Python."""
    script = Path(sys.executable).parent / name
    return [str(script)] if script.exists() else [sys.executable, "-m", module or name]


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
            return wanted
        except OSError:
            console.print(f"Port {wanted} is taken; another one is used.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="prove equality and exit")
    parser.add_argument("--port", type=int, default=3000, help="of Dagster's UI")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return once() if options.once else live(options.port)
    except SandboxError as error:
        console.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("Everything the demo started has ended.")
        return 1 if options.once else 0


if __name__ == "__main__":
    sys.exit(main())
