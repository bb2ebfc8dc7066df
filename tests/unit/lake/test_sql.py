"""Values written into statements come back as they were."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest

from tailrace.lake.sql import Value, bound

VALUES: list[Value] = [
    "it's",
    'say "?" or $name; -- \\ \n é 🌊',
    "",
    None,
    True,
    False,
    0,
    -(2**62),
    1.5,
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_as_it_was(value: Value) -> None:
    assert duckdb.sql(bound("SELECT ?", [value])).fetchone() == (value,)
    assert duckdb.sql(bound("SELECT $it", {"it": value})).fetchone() == (value,)


def test_a_time_is_the_same_instant() -> None:
    at = datetime(2026, 3, 29, 2, 30, 0, 123456, UTC)
    found = duckdb.sql(bound("SELECT epoch_us(?)", [at])).fetchone()
    assert found == (int(at.timestamp()) * 1_000_000 + 123456,)


def test_too_few_and_too_many_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 places for 1 values"):
        bound("SELECT ?, ?", ["one"])
    with pytest.raises(ValueError, match="0 places for 1 values"):
        bound("SELECT 1", ["one"])


def test_a_name_without_a_value_is_refused() -> None:
    with pytest.raises(KeyError):
        bound("SELECT $model", {"other": "x"})
