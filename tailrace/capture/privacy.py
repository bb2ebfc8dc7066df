"""An epoch has one privacy: the rules, and the salt, under which all its rows were changed.

It is noted when the epoch is opened. Rows that another privacy changed would not fit to those that
are there: hashed keys would be other keys, and what was private would be plain again after a slip
in the configuration. So they are refused until a base is read anew. What the changes are is left
to tailrace.privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.errors import Terminal
from tailrace.model import Epoch

NOTED = "privacy"


def noted_in(epoch: Epoch) -> dict[str, Any]:
    """The privacy that an epoch was opened with; empty where it has none."""
    return dict(epoch.detail.get(NOTED) or {})


def require_same(model: str, epoch: Epoch, noted: Mapping[str, Any]) -> None:
    """Raises Terminal where `noted` is not the privacy of the epoch."""
    before = noted_in(epoch)
    if before == noted:
        return
    was, now = before.get("attributes", {}), noted.get("attributes", {})
    if was == now:
        what = "the salt is another one"
    else:
        names = sorted(name for name in was | now if was.get(name) != now.get(name))
        what = ", ".join(
            f"{name} was {was.get(name, 'plain')} and is {now.get(name, 'plain')}" for name in names
        )
    raise Terminal(
        f"{model}: its privacy has changed since epoch {epoch.number} was opened: {what}.",
        f"Take the change back, or read the table anew under it: `tailrace base {model}`. What is"
        " in the warehouse already stays as it is until then, and in the history for good:"
        " docs/operations.md says how to be rid of it.",
    )


def has_other_keys(earlier: Epoch, noted: Mapping[str, Any]) -> bool:
    """True where keys of rows under `noted` are not those of the earlier epoch."""
    return _keys(noted_in(earlier)) != _keys(noted)


def _keys(noted: Mapping[str, Any]) -> tuple[list[str], str]:
    hashed = noted.get("key", [])
    return hashed, noted.get("salt", "") if hashed else ""
