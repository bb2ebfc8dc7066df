"""Numbers that are to become moments: the macro's SQL in a plain DuckDB."""

from __future__ import annotations

import duckdb
import macros
import pytest

MACROS = macros.load()


@pytest.mark.parametrize(
    ("unit", "text", "moment"),
    [
        ("epoch_seconds", "1764150000", "2025-11-26 09:40:00+00"),
        ("epoch_seconds", "0", "1970-01-01 00:00:00+00"),
        ("epoch_seconds", "-1", "1969-12-31 23:59:59+00"),
        ("epoch_seconds", "1764150000.25", "2025-11-26 09:40:00.25+00"),
        ("epoch_seconds", "1.76415E9", "2025-11-26 09:40:00+00"),
        ("epoch_seconds", "999999999999", "33658-09-27 01:46:39+00"),
        ("epoch_seconds", "1000000000000", "33658-09-27 01:46:40+00"),
        ("epoch_seconds", "99999999999999999999999999999999999999", None),
        ("epoch_seconds", "soon", None),
        ("epoch_seconds", "", None),
        ("epoch_milliseconds", "1764150000123", "2025-11-26 09:40:00.123+00"),
        ("epoch_milliseconds", "-1", "1969-12-31 23:59:59.999+00"),
        ("epoch_milliseconds", "1764150000123.5", "2025-11-26 09:40:00.1235+00"),
        ("epoch_milliseconds", "999999999999999", "33658-09-27 01:46:39.999+00"),
        ("epoch_milliseconds", "1e30", None),
    ],
)
def test_a_number_is_the_moment_it_counts_to_or_none(
    unit: str, text: str, moment: str | None
) -> None:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        sql = f"SELECT ({MACROS.instant('text', unit)})::VARCHAR FROM (SELECT ? AS text)"
        assert con.execute(sql, [text]).fetchall() == [(moment,)]
