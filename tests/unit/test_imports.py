"""The layers' arrows point one way: read from the imports, so that a wrong arrow fails here."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Arrow:
    """Modules under `of` may not import `never`, save those under `save`, because of `why`."""

    of: str
    never: tuple[str, ...]
    why: str
    save: tuple[str, ...] = ()


# All that values may not know: everything but what is read.
ABOVE_VALUES = tuple(
    f"tailrace.{path.stem}"
    for path in (ROOT / "tailrace").iterdir()
    if path.stem.isidentifier() and path.stem not in ("__init__", "changes", "lines", "model")
)

ARROWS = (
    Arrow(
        "tailrace",
        ("dagster", "dagster_dbt", "dagster_aws", "assets", "orchestration", "sandbox", "bench"),
        "the engine is plain Python and knows nothing of what runs it",
    ),
    Arrow("tailrace", ("dbt",), "dbt lives only in transform/", save=("tailrace.transform",)),
    Arrow(
        "tailrace",
        ("boto3", "botocore", "s3transfer"),
        "boto3 lives only in sources/",
        save=("tailrace.sources",),
    ),
    Arrow(
        "tailrace",
        ("duckdb",),
        "DuckDB lives only in lake/",
        save=("tailrace.lake", "tailrace.transform"),
    ),
    Arrow(
        "tailrace",
        ("tailrace.transform",),
        "only the command line and the assets build models",
        save=("tailrace.cli", "tailrace.transform"),
    ),
    Arrow(
        "tailrace",
        ("tailrace.cli", "tailrace.sync"),
        "the command line is the top",
        save=("tailrace.cli",),
    ),
    Arrow(
        "tailrace",
        ("tailrace.engine",),
        "the engine is put together in one place, for those above it",
        save=("tailrace.cli", "tailrace.engine"),
    ),
    Arrow(
        "tailrace.capture",
        ("tailrace.sources", "tailrace.lake", "tailrace.transform"),
        "the algorithms see the world through capture/ports.py",
    ),
    Arrow(
        "tailrace.sources",
        ("tailrace.lake", "tailrace.capture", "tailrace.transform"),
        "a source knows AWS and nothing else",
    ),
    Arrow(
        "tailrace.lake",
        ("tailrace.sources", "tailrace.capture", "tailrace.transform"),
        "the warehouse knows DuckDB and nothing else",
    ),
    Arrow("tailrace.lines", ("tailrace",), "where texts lie depends on nothing"),
    Arrow(
        "tailrace.changes",
        (*ABOVE_VALUES, "tailrace.model"),
        "what a record says depends on nothing but where texts lie",
    ),
    Arrow("tailrace.model", ABOVE_VALUES, "values depend on nothing but what is read"),
    Arrow("tailrace.errors", ("tailrace",), "errors depend on nothing"),
    Arrow("assets", ("orchestration", "sandbox", "boto3", "duckdb"), "assets stand below the jobs"),
    Arrow("orchestration", ("sandbox",), "the sandbox is for the demo and the tests"),
)


# Single arrows that may go against the rule, each with its reason.
EXCEPTIONS = {
    # DuckDB reads and writes S3 with the credentials that boto3's chain finds.
    ("tailrace.lake.attach", "tailrace.sources.aws.s3_access"),
}


@dataclass(frozen=True)
class Import:
    """`module` imports `name`, in a line of a file."""

    module: str
    name: str
    file: Path
    line: int


def imports_of(root: Path) -> list[Import]:
    """Every import in the packages that stand directly under `root`, wherever in a file it is."""
    return [
        each
        for package in ("tailrace", "assets", "orchestration")
        for file in sorted((root / package).rglob("*.py"))
        for each in _imports_in(file, root)
    ]


def _imports_in(file: Path, root: Path) -> Iterator[Import]:
    parts = file.relative_to(root).with_suffix("").parts
    package = parts[:-1]
    module = ".".join(package if parts[-1] == "__init__" else parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module or "") if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            names = [_dynamic(node)] if _dynamic(node) else []
        for name in names:
            yield Import(module, name, file, getattr(node, "lineno", 0))


def _dynamic(node: ast.AST) -> str:
    """What importlib.import_module("…") or __import__("…") imports."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in ("import_module", "__import__"):
            return str(node.args[0].value)
    return ""


def wrong_arrows(root: Path) -> list[str]:
    """Each import that goes against the layers, in words."""
    return [
        f"{each.file.relative_to(root)}:{each.line}: {each.module} imports {each.name}; {arrow.why}"
        for each in imports_of(root)
        for arrow in ARROWS
        if (each.module, each.name) not in EXCEPTIONS
        and _under(each.module, arrow.of)
        and not any(_under(each.module, save) for save in arrow.save)
        and any(_under(each.name, never) for never in arrow.never)
    ]


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def test_no_import_goes_against_the_layers() -> None:
    assert wrong_arrows(ROOT) == []


def test_the_imports_are_really_read() -> None:
    found = {(each.module, each.name.split(".")[0]) for each in imports_of(ROOT)}
    assert ("tailrace.lake.attach", "duckdb") in found
    assert ("tailrace.sources.aws", "boto3") in found


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("tailrace/engine.py", "import dagster", True),
        ("tailrace/engine.py", "from assets.tables import build", True),
        ("tailrace/engine.py", "from sandbox import server", True),
        ("tailrace/cli.py", "def f():\n    from dbt.cli.main import dbtRunner", True),
        ("tailrace/transform/runner.py", "from dbt.cli.main import dbtRunner", False),
        ("tailrace/engine.py", "if True:\n    import boto3", True),
        ("tailrace/sources/aws.py", "import boto3", False),
        ("tailrace/capture/drain.py", "from botocore.exceptions import ClientError", True),
        ("tailrace/capture/drain.py", "from tailrace.lake import log", True),
        ("tailrace/capture/drain.py", "from tailrace import sources", True),
        ("tailrace/capture/drain.py", "from ..sources import streams", True),
        ("tailrace/capture/drain.py", "from .ports import Clock", False),
        ("tailrace/capture/drain.py", "from tailrace.model import Shard", False),
        ("tailrace/capture/drain.py", "import importlib; importlib.import_module('duckdb')", True),
        ("tailrace/sources/streams.py", "import tailrace.lake.log", True),
        ("tailrace/lake/log.py", "from tailrace.sources.aws import Aws", True),
        ("tailrace/lake/log.py", "import duckdb", False),
        ("tailrace/lake/attach.py", "from tailrace.sources.aws import s3_access", False),
        ("tailrace/lake/attach.py", "from tailrace.sources.aws import Aws", True),
        ("tailrace/cli.py", "import duckdb", True),
        ("tailrace/cli.py", "from tailrace.engine import Engine", False),
        ("tailrace/engine.py", "from tailrace.transform import runner", True),
        ("tailrace/model.py", "from tailrace.errors import Gap", True),
        ("tailrace/model.py", "import duckdb_extension_like_name", False),
        ("assets/tables.py", "from orchestration.jobs import job", True),
        ("assets/tables.py", "from tailrace.engine import Engine", False),
        ("orchestration/definitions.py", "from assets.tables import build", False),
    ],
)
def test_a_wrong_arrow_is_seen_and_a_right_one_is_not(
    tmp_path: Path, file: str, code: str, wrong: bool
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    found = wrong_arrows(tmp_path)
    assert bool(found) == wrong, found
    assert all(text.startswith(f"{file}:") for text in found)


# ------------------------------------------------------------------------------------ packaging


def test_the_lock_pins_everything_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    asked += project["build-system"]["requires"]
    wanted = {re.split(r"[^A-Za-z0-9_.-]", each)[0].lower().replace("_", "-") for each in asked}
    pinned = {line.split("==")[0] for line in _lock() if "==" in line}
    assert wanted - pinned == set()


def test_the_lock_holds_pins_alone_and_says_nothing_of_where_it_was_made() -> None:
    pin = re.compile(r"[a-z0-9-]+==[\w.+!]+( ; [\w.<>=!'\" ]+)?")
    assert [line for line in _lock() if not pin.fullmatch(line)] == []
    assert "://" not in (ROOT / "requirements.lock").read_text()


def _lock() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
