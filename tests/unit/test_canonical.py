"""What it means that two items are equal, beyond what the comparison's own tests show."""

from __future__ import annotations

import pytest

from tailrace.canonical import canonical, same_item


@pytest.mark.parametrize(
    "text", ["", "{", "null", "5", '{"a": 5}', '{"a": {}}', '{"a": {"N": "one"}}', "[" * 5_000]
)
def test_what_is_no_item_equals_no_item_and_fails_nothing(text: str) -> None:
    assert not same_item(text, '{"a": {"N": "1"}}')
    assert not same_item('{"a": {"N": "1"}}', text)


def test_json_that_is_no_item_equals_the_same_json() -> None:
    assert same_item('{"a": 5, "b": 6}', '{"b": 6,"a":5}')


def test_the_largest_and_the_smallest_numbers_are_exact() -> None:
    digits = "9" * 38
    assert canonical({"N": f"{digits}E+87"}) == canonical({"N": digits + "0" * 87})
    assert canonical({"N": "1E-130"}) != canonical({"N": "0"})
    assert canonical({"N": "-0"}) == canonical({"N": "0"})


def test_members_of_sets_keep_their_type() -> None:
    assert canonical({"SS": ["1"]}) != canonical({"NS": ["1"]})
    assert canonical({"NS": ["1", "2.0"]}) == canonical({"NS": ["2", "1.0"]})


def test_binaries_are_compared_as_bytes() -> None:
    assert canonical({"B": b"\x00\xff"}) == canonical({"B": "AP8="})
    assert same_item('{"a": {"BS": ["AP8=", "AQ=="]}}', '{"a":{"BS":["AQ==","AP8="]}}')
