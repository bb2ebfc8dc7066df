"""The documentation against the code: what it links to, shows and lists has to be there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from tailrace.cli import app
from tailrace.config import Config, load_config

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/**/*.md"),
    ]
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MENTION = re.compile(r"\bdocs/[\w./-]+\.md\b")
INLINE = re.compile(r"`([^`\n]+)`")
ACTION = re.compile(r"\b(?:dynamodb|kinesis|s3):[A-Z]\w+")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    links = [link for link in LINK.findall(prose) if "://" not in link]
    broken = [link for link in links if not _resolves(page, link)]
    assert not broken


def test_pages_that_the_code_names_exist() -> None:
    sources = [
        path
        for folder in ("tailrace", "assets", "orchestration", "sandbox", "dbt_project")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sql", ".yml", ".yaml") and "target" not in path.parts
    ]
    named = {page for path in sources for page in MENTION.findall(path.read_text())}
    assert named
    assert not [page for page in named if not (ROOT / page).exists()]


@every_page
def test_every_tailrace_command_on_a_page_can_be_typed(page: Path) -> None:
    for command in _commands(page.read_text(), "tailrace"):
        problem = _misfit(command)
        assert problem is None, f"tailrace {' '.join(command)}: {problem}"


@every_page
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {words[0] for words in _commands(page.read_text(), "make") if words}
    assert used <= targets


def test_the_pages_show_commands() -> None:
    """So that the tests above do not pass by finding nothing."""
    shown = {words[0] for words in _commands((ROOT / "README.md").read_text(), "tailrace")}
    assert shown == {
        "init",
        "generate",
        "sync",
        "reconcile",
        "status",
        "sql",
        "init-sql",
        "export",
    }


def test_every_setting_is_in_the_configuration_page() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    sections = set(re.findall(r"^##+ `(\w+)`", text, re.MULTILINE))
    settings = set(_settings(Config)) - {"path"}
    assert settings - rows - sections == set()


def test_every_default_in_the_configuration_page_is_the_codes() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    shown = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    assert shown
    defaults = _defaults()
    assert {name: shown[name] for name in shown if name in defaults} == {
        name: defaults[name] for name in shown if name in defaults
    }


def test_the_configurations_on_the_pages_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STAGE", raising=False)
    shown = [
        body
        for page in PAGES
        for language, body in FENCE.findall(page.read_text())
        if language == "yaml" and "tables:" in body
    ]
    assert shown
    for body in shown:
        file = tmp_path / "tailrace.yaml"
        file.write_text(body)
        assert load_config(file).tables


def test_every_variable_the_code_reads_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    read = {
        name
        for folder in ("tailrace", "assets", "orchestration")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'"(TAILRACE_[A-Z_]+)"', path.read_text())
    }
    assert read
    assert not [name for name in read if f"`{name}`" not in text]


# Not in the policies: it is for KEYS_ONLY streams, as the page says.
LOOKING_UP = {"dynamodb:BatchGetItem"}
# For changes that do not come from the table's own stream.
ELSEWHERE = {"dynamodb:DescribeKinesisStreamingDestination", "s3:ListBucket"}


def test_the_policies_allow_what_the_sources_ask_for_and_no_more() -> None:
    asked = {
        action
        for path in (ROOT / "tailrace/sources").glob("*.py")
        for action in ACTION.findall(path.read_text())
    }
    policies = [_actions(policy) for policy in _policies("docs/iam.md")]
    scan, export, reconcile, kinesis, firehose, _lake = policies
    assert reconcile == {"dynamodb:Scan"} | LOOKING_UP
    assert firehose == {"s3:GetObject"} | ELSEWHERE
    of_kinesis = {action for action in asked if action.startswith("kinesis:")}
    assert kinesis == of_kinesis | {"dynamodb:DescribeKinesisStreamingDestination"}
    assert scan | export | reconcile | kinesis | firehose == asked
    elsewhere = ELSEWHERE | of_kinesis
    assert scan == {action for action in asked if _for_scans(action)} - LOOKING_UP - elsewhere
    assert export == asked - reconcile - elsewhere


def test_the_readmes_policy_is_the_one_for_scans() -> None:
    [policy] = _policies("README.md")
    assert _actions(policy) == _actions(_policies("docs/iam.md")[0])


def test_every_action_says_why() -> None:
    text = (ROOT / "docs/iam.md").read_text()
    explained = set(re.findall(r"^\| `([\w:]+)` \|", text, re.MULTILINE))
    *asked, _lake = (_actions(policy) for policy in _policies("docs/iam.md"))
    assert explained == set().union(*asked)


# ------------------------------------------------------------------------------------- reading


def _resolves(page: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    file = (page.parent / target).resolve() if target else page
    if not file.exists():
        return False
    return not anchor or anchor in {_anchor(title) for title in HEADING.findall(file.read_text())}


def _anchor(title: str) -> str:
    """As GitHub makes it: lower-case, without punctuation, spaces as dashes."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after `program` in every shell block and every inline command of a page."""
    shell = [
        body for language, body in FENCE.findall(text) if language in ("sh", "bash", "console")
    ]
    lines = [line for body in shell for line in _lines(body)]
    for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
        head, _, rest = line.partition(" ")
        if head.rpartition("/")[2] == program and rest:
            words = shlex.split(rest.replace("`", ""), comments=True)
            yield list(takewhile(lambda word: word not in (">", "|"), words))


def _lines(body: str) -> list[str]:
    """Commands of a block: lines joined where they are continued, by `\\` or an open quote."""
    joined: list[str] = []
    for line in body.splitlines():
        if joined and (joined[-1].endswith("\\") or joined[-1].count('"') % 2):
            joined[-1] = f"{joined[-1].rstrip(chr(92))} {line.strip()}"
        else:
            joined.append(line)
    return joined


def _misfit(words: list[str]) -> str | None:
    """What is wrong with a command line, if anything: parsed by the program's own parser."""
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-"):
        known = {option for each in group.params for option in each.opts} | {"--help"}
        return None if words[0] in known else f"no option {words[0]}"
    if words[0] not in group.commands:
        return "no such command"
    command = group.commands[words[0]]
    known = {option for each in command.params for option in each.opts}
    used = {word.partition("=")[0] for word in words[1:] if word.startswith("-") and word != "-"}
    if used - known:
        return f"no option {', '.join(sorted(used - known))}"
    if len(words) == 1:
        return None  # the command's bare name, in prose
    try:
        command.make_context(words[0], list(words[1:]), resilient_parsing=False)
    except Exception as error:  # typer's own kind of click's, which has no public name
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return None


def _settings(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for nested in _models_in(field.annotation):
            yield from _settings(nested)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _defaults() -> dict[str, str]:
    """Plain defaults by key, as a person writes them."""
    found: dict[str, str] = {}
    for model in {Config, *_all_models(Config)}:
        for written, field in model.model_fields.items():
            name, value = field.alias or written, field.default
            if isinstance(value, bool):
                found[name] = str(value).lower()
            elif name == "pass_bytes":
                found[name] = f"{value // 2**20}MiB"
            elif isinstance(value, int | float):
                found[name] = f"{value:g}"
            elif isinstance(value, str | Path) and str(value):
                found[name] = str(value)
    # Of a table without `base:` or `stream:`.
    return found | {"method": "scan", "source": "dynamodb_streams"}


def _all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for nested in _models_in(field.annotation):
            yield nested
            yield from _all_models(nested)


def _policies(page: str) -> list[dict[str, Any]]:
    text = (ROOT / page).read_text()
    return [json.loads(body) for language, body in FENCE.findall(text) if language == "json"]


def _actions(policy: dict[str, Any]) -> set[str]:
    actions: set[str] = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        given = statement["Action"]
        actions |= {given} if isinstance(given, str) else set(given)
    return actions


def _for_scans(action: str) -> bool:
    return action.startswith("dynamodb:") and "Export" not in action


def test_the_committed_configuration_is_what_its_comments_say() -> None:
    """The root tailrace.yaml is documentation as well: it loads, and shows both kinds of base."""
    raw = yaml.safe_load((ROOT / "tailrace.yaml").read_text())
    assert {table["base"]["method"] for table in raw["tables"]} == {"scan", "export"}
