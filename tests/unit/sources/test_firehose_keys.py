"""Where a list of delivered objects begins: before every key of that time, whatever the prefix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.sources.firehose import ZONES, _is_of, first_key, static_prefix

AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("prefix", "static", "first"),
    [
        ("", "", "2026/03/01/09/"),
        ("orders", "orders", "orders2026/03/01/09/"),
        ("cdc/orders/", "cdc/orders/", "cdc/orders/2026/03/01/09/"),
        ("o/!{timestamp:yyyy/MM/dd}/", "o/", "o/2026/03/01/"),
        (
            "o/year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/h=!{timestamp:HH}/",
            "o/year=",
            "o/year=2026/month=03/day=01/h=09/",
        ),
        ("dt=!{timestamp:yyyy'-'MM'-'dd'T'HH}/", "dt=", "dt=2026-03-01T09/"),
        # From what does not rise with time on, everything is listed.
        ("o/!{timestamp:yyyy}/!{firehose:random-string}/", "o/", "o/2026/"),
        ("o/!{partitionKeyFromQuery:t}/!{timestamp:yyyy/MM/dd}/", "o/", "o/"),
        ("o/!{timestamp:dd}/!{timestamp:yyyy}/", "o/", "o/"),
        ("o/!{timestamp:yyyy-MMM}/", "o/", "o/2026-"),
        ("o/!{timestamp:YYYY}/", "o/", "o/"),
        ("o/!{firehose:random-string}/x", "o/", "o/"),
    ],
)
def test_a_list_begins_at_the_time_as_far_as_the_prefix_follows_it(
    prefix: str, static: str, first: str
) -> None:
    assert static_prefix(prefix) == static
    assert first_key(prefix, AT + ZONES) == first


def test_keys_in_a_time_zone_behind_utc_are_not_missed() -> None:
    at = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    local = at - timedelta(hours=11)  # Pacific/Midway
    assert first_key("o/", at) <= f"o/{local:%Y/%m/%d/%H}/stream-1"
    assert first_key("o/", at) == "o/2026/02/28/21/"


def test_a_key_is_told_by_its_form() -> None:
    form = first_key("orders", AT)
    assert _is_of(form, "orders2024/12/31/00/a-1.gz")
    for other in ("orders/2024/12/31/00/a-1.gz", "orders2024/", "orders-failed/2024/12/31/00/"):
        assert not _is_of(form, other)
