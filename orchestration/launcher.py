"""Starts runs on this machine from a warm process, and notices when one of them is gone.

Half of a busy minute would be imports: Dagster, dbt, boto3 and DuckDB in a new process for each
run. Here a fork server, a child of the daemon, has them imported already, and a run begins as a
fork of it. Only libraries are warm; Tailrace's own code, the configuration and the dbt project are
read anew by every run, so a change needs no restart.

A run holds a lock on a file for as long as it lives. So anyone can tell whether it does, after a
kill -9, a crash of the daemon or a power cut too: run monitoring marks it as failed, its pools are
free again, and the sensor goes on with what it left. Where runs are launched elsewhere
(Kubernetes, ECS), the platform's launcher takes this one's place: see orchestration/dagster.yaml.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.launcher import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

# What a run needs of others' code. They start no thread when they are imported: a fork is safe.
WARM = [
    "dagster",
    "dagster._cli.api",
    "dagster._core.instance.factory",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "dagster._daemon.controller",
    "dagster_dbt",
    "dbt.cli.main",
    "dbt.task.run",
    "dbt.adapters.duckdb",
    "boto3",
    "duckdb",
    "msgspec",
    "numba",
    "sqlparse",
    "yaml",
]

LOCKS = "runs_alive"


class WarmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """A run launcher for one machine. POSIX only, as is the engine."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(WARM)
        self._children: list[BaseProcess] = []

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> WarmRunLauncher:
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Forks a process for a run. Called by the daemon."""
        run, origin = context.dagster_run, context.job_code_origin
        assert origin is not None
        arguments = ExecuteRunArgs(
            job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        child = self._context.Process(
            target=_execute,
            args=(serialize_value(arguments), str(self._lock_path(run.run_id))),
            name=f"run {run.run_id[:8]}",
            daemon=True,
        )
        child.start()
        self._children = [each for each in self._children if each.is_alive()] + [child]
        self._instance.report_engine_event(
            f"Started a process for this run (pid {child.pid}).", run, cls=self.__class__
        )

    def terminate(self, run_id: str) -> bool:
        """Asks a run to stop at its next step. Called by the web server as well."""
        run = self._instance.get_run_by_id(run_id)
        pid = self._holder(run_id)
        if run is None or run.is_finished or pid is None:
            return False
        self._instance.report_run_canceling(run)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives."""
        if self._holder(run.run_id) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            "its process is gone. What it committed stays: run it again, it goes on from there",
        )

    def _lock_path(self, run_id: str) -> Path:
        folder = Path(self._instance.root_directory) / LOCKS
        folder.mkdir(exist_ok=True)
        return folder / run_id

    def _holder(self, run_id: str) -> int | None:
        """The process that holds the run's lock, if one does."""
        try:
            with self._lock_path(run_id).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read())
        except FileNotFoundError:
            pass
        return None


def _execute(arguments: str, lock_path: str) -> None:
    """What a run's process does: `dagster api execute_run`, under the run's lock."""
    from dagster._cli.api import execute_run_command

    path = Path(lock_path)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        try:
            execute_run_command.main([arguments], standalone_mode=False)
        finally:
            path.unlink(missing_ok=True)
            sys.stdout.flush()
