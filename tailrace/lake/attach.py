"""Opening the warehouse: extensions from the pinned wheels, then the DuckLake attached as `lake`.

Nothing is downloaded: the extensions come as signed binaries in PyPI wheels of DuckDB's own
version and are loaded with signature checks on.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import tempfile
from pathlib import Path

import duckdb

from tailrace.config import Warehouse
from tailrace.errors import Terminal
from tailrace.lake.sql import ident, literal

CATALOG = "lake"
BUSY_TIMEOUT_MS = 5_000
SQLITE_PREFIX = "sqlite:"
POSTGRES_PREFIX = "postgres:"

_connections = itertools.count(1)


def extension_path(name: str) -> str:
    """The file of a DuckDB extension in its wheel, e.g. for `ducklake`."""
    try:
        package = importlib.import_module(f"duckdb_extension_{name}")
    except ModuleNotFoundError as error:
        raise Terminal(
            f"The DuckDB extension {name} is not installed.",
            f"pip install duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}",
        ) from error
    path = (
        Path(str(package.__file__)).parent
        / "extensions"
        / f"v{duckdb.__version__}"
        / f"{name}.duckdb_extension"
    )
    if not path.exists():
        raise Terminal(
            f"duckdb-extension-{name} holds no build for DuckDB {duckdb.__version__}.",
            "Install the wheels of the same version as duckdb (see requirements.lock).",
        )
    return str(path)


def sqlite_path(warehouse: Warehouse) -> Path | None:
    """The catalog's file, or None where the catalog is in PostgreSQL."""
    if warehouse.catalog.startswith(SQLITE_PREFIX):
        return Path(warehouse.catalog.removeprefix(SQLITE_PREFIX))
    return None


def catalog_file(warehouse: Warehouse) -> tuple[int, int] | None:
    """Which file the catalog is now (device and inode); None where there is none. As long as
    somebody has it open, no other file is the same."""
    path = sqlite_path(warehouse)
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def extensions(warehouse: Warehouse) -> list[str]:
    """The extensions this warehouse needs, in the order to load them."""
    names = ["sqlite_scanner" if sqlite_path(warehouse) else "postgres_scanner"]
    if warehouse.data_path.startswith("s3://"):
        names.append("httpfs")
    return [*names, "ducklake"]


def attach_sql(warehouse: Warehouse, *, read_only: bool = False) -> str:
    """The ATTACH statement of the warehouse as catalog `lake`."""
    options = [f"DATA_PATH {literal(warehouse.data_path)}"]
    if sqlite_path(warehouse):
        options += ["META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}"]
    if read_only:
        options.append("READ_ONLY")
    return (
        f"ATTACH {literal('ducklake:' + warehouse.catalog)} AS {ident(CATALOG)}"
        f" ({', '.join(options)})"
    )


def init_sql(warehouse: Warehouse, *, local_extensions: bool) -> str:
    """The statements that attach the warehouse to any DuckDB of this version, read-only. They
    download the extensions, or load the files of this environment; the keys to S3 are those that
    DuckDB finds itself, and no password is among them."""
    names = extensions(warehouse)
    lines = [f"-- Attaches the warehouse, read-only, to DuckDB {duckdb.__version__}."]
    if local_extensions:
        lines += [f"LOAD {literal(extension_path(name))};" for name in names]
    else:
        names += ["aws"] if warehouse.is_remote_data else []
        lines += [f"INSTALL {name}; LOAD {name};" for name in names]
    if warehouse.is_remote_data and local_extensions:
        lines.append("-- CREATE SECRET (TYPE s3, KEY_ID '…', SECRET '…', REGION '…');")
    elif warehouse.is_remote_data:
        lines.append("CREATE SECRET (TYPE s3, PROVIDER credential_chain);")
    lines += [
        f"{attach_sql(warehouse, read_only=True)};",
        "SET TimeZone = 'UTC';",
        f"USE {ident(CATALOG)}.analytics;",
    ]
    return "\n".join([*lines, ""])


def load_extensions(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
    """LOADs what the warehouse needs, with the key to S3 where its files are there."""
    for name in extensions(warehouse):
        con.execute(f"LOAD {literal(extension_path(name))}")
    renew_s3_secret(con, warehouse)


def renew_s3_secret(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
    """Gives DuckDB boto3's credentials of this moment, in memory only. Roles' credentials expire:
    a writer that lives for hours renews them. Nothing to do where the files are local."""
    if not warehouse.is_remote_data:
        return
    # The one place where lake/ asks sources/: whose credentials these are is boto3's business.
    from tailrace.sources.aws import s3_access

    access = s3_access(warehouse.aws)
    options = {
        "KEY_ID": literal(access.key_id),
        "SECRET": literal(access.secret),
        "REGION": literal(access.region),
    }
    if access.token:
        options["SESSION_TOKEN"] = literal(access.token)
    if access.endpoint:
        scheme, _, host = access.endpoint.partition("://")
        options["ENDPOINT"] = literal(host.rstrip("/"))
        options["URL_STYLE"] = "'path'"
        options["USE_SSL"] = "true" if scheme == "https" else "false"
    values = ", ".join(f"{name} {value}" for name, value in options.items())
    con.execute(f"CREATE OR REPLACE SECRET tailrace (TYPE s3, {values})")


def connect(warehouse: Warehouse, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the warehouse attached as `lake` and in use.

    Raises Terminal where the warehouse does not exist (read_only), or cannot be opened."""
    catalog = sqlite_path(warehouse)
    if catalog is not None and not catalog.exists():
        if read_only:
            raise Terminal(
                f"There is no warehouse yet: {catalog} does not exist.",
                "Run `tailrace sync`, or materialize a table's base in Dagster, first.",
            )
        catalog.parent.mkdir(parents=True, exist_ok=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "memory_limit": warehouse.memory_limit,
        "temp_directory": _spill_folder(),
    }
    if warehouse.threads:
        config["threads"] = str(warehouse.threads)
    con = duckdb.connect(config=config)
    try:
        con.execute("SET preserve_insertion_order = false")
        con.execute("SET TimeZone = 'UTC'")
        load_extensions(con, warehouse)
        con.execute(attach_sql(warehouse, read_only=read_only))
        con.execute(f"USE {ident(CATALOG)}")
    except duckdb.Error as error:
        con.close()
        raise Terminal(
            f"The warehouse {without_password(warehouse.catalog)} could not be opened:"
            f" {without_password(str(error))}",
            "Check warehouse.catalog and warehouse.data_path in tailrace.yaml, and that this"
            " user may read and write both.",
        ) from error
    return con


def _spill_folder() -> str:
    """A folder of this connection alone: two that put their files into one crash the process."""
    name = f"tailrace-{os.getpid()}-{next(_connections)}"
    return os.path.join(tempfile.gettempdir(), name)


def without_password(text: str) -> str:
    """The text with any connection-string password blanked out."""
    return re.sub(r"(password\s*=\s*)('[^']*'|\S+)|(://[^:/@\s]+:)[^@\s]+@", _blank, text)


def _blank(match: re.Match[str]) -> str:
    return f"{match[1]}***" if match[1] else f"{match[3]}***@"
