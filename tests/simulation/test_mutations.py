"""The mutations fit the code as it is; that they are caught, `make mutations` shows."""

from __future__ import annotations

from tests.simulation.mutations import MUTATIONS, ROOT


def test_every_mutation_can_be_made() -> None:
    misfits = [
        each.name for each in MUTATIONS if (ROOT / each.file).read_text().count(each.old) != 1
    ]
    assert misfits == []
