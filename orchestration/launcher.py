"""Dagster's own run launcher for one machine, which also notices that a run's process is gone.

Dagster's code server marks a run as failed when its process dies. When the server dies with it
(kill -9, power, a closed laptop), nobody would, and the run would hold its pools for ever. Where
runs are launched elsewhere (Kubernetes, ECS), the platform's launcher knows and this one is not
used: see orchestration/dagster.yaml.
"""

from __future__ import annotations

import json
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._serdes import ConfigurableClassData


class LocalRunLauncher(DefaultRunLauncher):
    """DefaultRunLauncher, with the health check that run monitoring asks for."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Any
    ) -> LocalRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the code server that launched the run still runs it."""
        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "no code server is on record")
        if _is_running(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            "its process is gone. What it committed stays: run it again, it goes on from there",
        )


def _is_running(run: DagsterRun) -> bool:
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    server = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(
        port=server.get("port"), socket=server.get("socket"), host=server.get("host")
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), 10)
    except DagsterUserCodeUnreachableError:
        return False
    return bool(deserialize_value(answer, CanCancelExecutionResult).can_cancel)
