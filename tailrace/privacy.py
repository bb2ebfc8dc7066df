"""What must not be seen: attributes that are left out, hashed or masked before anything is written.

The sources change what AWS sent while it is in memory (tailrace.capture.private), so nothing behind
them, no file, table, log or error, ever holds the plain value. This is the change itself, of bytes;
which attributes it is for stands in tailrace.yaml, and that it stays the same within an epoch is
left to capture/. Names are those of an item's top level.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from tailrace.canonical import canonical_text
from tailrace.errors import ConfigError, Terminal
from tailrace.model import TableDescription

EXCLUDE, HASH, MASK = "exclude", "hash", "mask"

SALT_VARIABLE = "TAILRACE_HASH_SALT"
SALT_MIN_CHARACTERS = 16

NULL = b'{"NULL":true}'
MASKED_TEXT = b'{"S":"***"}'

# Texts and whole numbers that are their own canonical text already, as nearly all are.
_CANONICAL = re.compile(rb'\{"(?:S":"[^"\\]*|N":"(?:0|-?[1-9][0-9]*))"\}')

# What is made of the salt beside hashes of values, which begin with a brace.
_FINGERPRINT, _SEAL_TAG, _SEAL_STREAM = b"fingerprint", b"position: tag", b"position: stream"
SEALED = "sealed:"
TAG_BYTES, DIGEST_BYTES = 16, 32

_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)
_text = msgspec.json.Encoder().encode


class Privacy:
    """What becomes of the private attributes of one table. Thread-safe.

    `rules` says of each of them exclude, hash or mask; `key` names the table's key attributes.
    Raises ConfigError where a rule cannot be kept: a key attribute that would be left out or
    masked, or no salt to hash with."""

    def __init__(
        self, model: str, rules: Mapping[str, str], key: Collection[str], salt: str | None
    ) -> None:
        self._model = model
        self._rules = dict(rules)
        _refuse_merging(model, rules, key)
        self._hashed_key = [name for name in key if rules.get(name) == HASH]
        self._salt = _salt(model, rules, salt) if HASH in rules.values() else b""
        self._found: set[str] = set()
        self._changes: dict[str, Callable[[bytes], bytes]] = {HASH: self.hashed, MASK: masked}

    @classmethod
    def of(cls, model: str, rules: Mapping[str, str], key: Collection[str]) -> Privacy | None:
        """The privacy of a table, with the environment's salt; None where it has none."""
        return cls(model, rules, key, os.environ.get(SALT_VARIABLE)) if rules else None

    @property
    def hashes_key(self) -> bool:
        """Whether a key attribute is hashed: items cannot be looked up by the log's keys then."""
        return bool(self._hashed_key)

    @property
    def noted(self) -> dict[str, Any]:
        """What an epoch notes of it, as JSON values: the rules, the hashed attributes of the key,
        and what tells this salt from another one, but not which it is."""
        noted: dict[str, Any] = {"attributes": self._rules, "key": self._hashed_key}
        return noted | ({"salt": self._keyed(_FINGERPRINT).hex()[:16]} if self._salt else {})

    def never_found(self) -> list[str]:
        """The private attributes that nothing had so far: misspelled, perhaps."""
        return sorted(self._rules.keys() - self._found)

    def described(self, table: TableDescription) -> TableDescription:
        """The table as the warehouse knows it: a hashed key attribute is a text."""
        key = tuple(
            replace(each, type="S") if each.name in self._hashed_key else each for each in table.key
        )
        return replace(table, key=key)

    # ---------------------------------------------------------------------------------- lines

    def items(self, lines: bytes) -> bytes:
        """Items, one a line. Raises msgspec.DecodeError for what is none; so do the others."""
        return self._each(lines, self._item)

    def changes(self, lines: bytes) -> bytes:
        """Lines of an incremental export."""
        return self._each(lines, self._change)

    def records(self, lines: bytes) -> bytes:
        """Stream records."""
        return self._each(lines, self._record)

    def _each(self, lines: bytes, private: Callable[[bytes], bytes]) -> bytes:
        return b"".join(private(line) + b"\n" for line in lines.split(b"\n") if line)

    def _record(self, line: bytes) -> bytes:
        record = _members.decode(line)
        if "dynamodb" in record:
            record["dynamodb"] = msgspec.Raw(self._change(record["dynamodb"]))
        return _text(record)

    def _change(self, line: bytes) -> bytes:
        change = _members.decode(line)
        for name in ("Keys", "NewImage", "OldImage"):
            if name in change:
                change[name] = msgspec.Raw(self._item(change[name]))
        return _text(change)

    def _item(self, item: bytes) -> bytes:
        members = _members.decode(item)
        for name, rule in self._rules.items():
            if name not in members:
                continue
            self._found.add(name)
            if rule == EXCLUDE:
                del members[name]
            else:
                members[name] = msgspec.Raw(self._changes[rule](bytes(members[name])))
        return _text(members)

    # ---------------------------------------------------------------------------------- values

    def hashed(self, value: bytes) -> bytes:
        """The HMAC-SHA-256 of an attribute value's canonical text (see canonical_text), keyed with
        the salt, in hex, as a DynamoDB text. Equal values have equal hashes, wherever they come
        from; NULL is no value and stays."""
        if value == NULL:
            return NULL
        if not _CANONICAL.fullmatch(value):
            try:
                value = canonical_text(msgspec.json.decode(value))
            except (ArithmeticError, AttributeError, TypeError, ValueError):
                # Whatever it is, it is not shown.
                raise msgspec.DecodeError("an attribute that is to be hashed is no value") from None
        return NULL if value == NULL else b'{"S":"' + self._keyed(value).hex().encode() + b'"}'

    def _keyed(self, text: bytes) -> bytes:
        return hmac.digest(self._salt, text, "sha256")

    # ---------------------------------------------------------------------------------- positions

    def seal(self, position: str | None) -> str | None:
        """A scan's position, which is a plain key, so that it may stand in the ledger: encrypted
        under the salt where a key attribute is hashed. The same position is the same text."""
        if position is None or not self.hashes_key:
            return position
        plain = position.encode()
        tag = self._tag(plain)
        return SEALED + base64.b64encode(tag + self._mixed(plain, tag)).decode()

    def unseal(self, sealed: str | None) -> str | None:
        """The position that was sealed. Raises Terminal where this salt did not seal it."""
        if sealed is None or not self.hashes_key:
            return sealed
        text = base64.b64decode(sealed.removeprefix(SEALED))
        tag, mixed = text[:TAG_BYTES], text[TAG_BYTES:]
        plain = self._mixed(mixed, tag)
        if not hmac.compare_digest(self._tag(plain), tag):
            raise Terminal(
                f"{self._model}: the position of its scan was sealed with another salt.",
                f"Set {SALT_VARIABLE} to what it was, or begin anew:"
                f" `tailrace base {self._model} --restart`.",
            )
        return plain.decode()

    def _tag(self, plain: bytes) -> bytes:
        return hmac.digest(self._keyed(_SEAL_TAG), plain, "sha256")[:TAG_BYTES]

    def _mixed(self, text: bytes, tag: bytes) -> bytes:
        """The text with a stream of pseudo-random bytes, given by the tag, added to it: twice is
        once too many."""
        key, blocks = self._keyed(_SEAL_STREAM), range(len(text) // DIGEST_BYTES + 1)
        stream = b"".join(hmac.digest(key, tag + n.to_bytes(4, "big"), "sha256") for n in blocks)
        return bytes(a ^ b for a, b in zip(text, stream, strict=False))


def masked(value: bytes) -> bytes:
    """A text becomes ***, any other value NULL: nobody takes it for a number, or counts it."""
    return MASKED_TEXT if value.lstrip(b"{ \t").startswith(b'"S"') else NULL


def _refuse_merging(model: str, rules: Mapping[str, str], key: Collection[str]) -> None:
    for name in key:
        if rules.get(name, HASH) != HASH:
            raise ConfigError(
                f"{model}: attributes.{name}.privacy is {rules[name]}, but {name} is part of the"
                f" table's key ({', '.join(key)}): different items would become one.",
                "Make it `privacy: hash`, which keeps them apart, or take it out.",
            )


def _salt(model: str, rules: Mapping[str, str], salt: str | None) -> bytes:
    names = ", ".join(name for name, rule in rules.items() if rule == HASH)
    remedy = (
        f"Set {SALT_VARIABLE} to a long random text, such as `openssl rand -hex 32` prints; the"
        " same for every process and for good. Keep it safe, and away from the warehouse."
    )
    if not salt:
        raise ConfigError(
            f"{model}: {names} is to be hashed, which needs the environment variable"
            f" {SALT_VARIABLE}; it is not set.",
            remedy,
        )
    if len(salt) < SALT_MIN_CHARACTERS:
        raise ConfigError(
            f"{model}: the salt in {SALT_VARIABLE} has less than {SALT_MIN_CHARACTERS} characters:"
            " it could be guessed, and then what it hashes.",
            remedy,
        )
    return salt.encode()
