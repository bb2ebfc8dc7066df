"""The dbt macros without dbt: each a Python function that returns its SQL, or its value.

Good for macros that ask the warehouse nothing; what needs dbt's own context has tests over a real
dbt.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2

FOLDER = Path(__file__).parents[3] / "dbt_project" / "macros"


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


def load(**names: Any) -> SimpleNamespace:
    """Every macro of the project by its name, but for materializations and tests. `names` are what
    else they may ask for: `this`."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    macros: dict[str, Any] = {}
    environment.globals.update(
        adapter=SimpleNamespace(
            dispatch=lambda name: macros[f"duckdb__{name}"], quote=lambda name: f'"{name}"'
        ),
        modules=SimpleNamespace(re=re),
        tojson=json.dumps,
    )
    environment.globals.update(names)
    environment.globals["return"] = _return
    texts = "\n".join(file.read_text() for file in sorted(FOLDER.glob("*.sql")))
    found = re.findall(r"(?s)(\{%-? macro )(\w+)(\(.*?endmacro -?%\})", texts)
    environment.globals.update({name: _later(macros, name) for _, name, _ in found})
    # A template each, in which it has no name: any other call would go past `_called`.
    for opening, name, rest in found:
        module = environment.from_string(f"{opening}nameless{rest}").module
        macros[name] = _called(module.nameless)
    return SimpleNamespace(**macros)


def _later(macros: dict[str, Any], name: str) -> Any:
    return lambda *arguments, **named: macros[name](*arguments, **named)


def _return(value: Any) -> None:
    raise _Returned(value)


def _called(macro: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return str(macro(*arguments, **named))
        except _Returned as returned:
            return returned.value

    return call
