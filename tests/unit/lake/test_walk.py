"""Which items are familiar, and their keys: against Python's json, and however a text is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.changes import Changes, records_of
from tailrace.lake import walk as walk_module
from tailrace.lake.discovery import EXPONENT_DIGITS, Attribute
from tailrace.lake.walk import Form, walk, walk_all
from tailrace.lines import Lines
from tailrace.model import KeyAttribute

KEY = (KeyAttribute("pk", "S"), KeyAttribute("sk", "N"))
ITEM: dict[str, Any] = {
    "sk": {"N": "-12.50"},
    "pk": {"S": "a é 漢 😀"},
    "text": {"S": 'line\nbreak "quoted" \\ \u0001'},
    "count": {"N": "123"},
    "numbers": {"NS": ["1", "-2.5"]},
    "bytes": {"B": "aGk="},
    "paid": {"BOOL": True},
    "nothing": {"NULL": True},
    "tags": {"SS": ["x", "y"]},
    "list": {"L": [{"S": "x"}, {"L": []}, {"M": {}}, {"BOOL": False}, {"N": "1E400"}]},
    "map": {"M": {"inner": {"M": {"n": {"N": "1"}}}, 'q"\\': {"S": "}"}}},
    'hostile "; --': {"S": "{"},
}


def known_of(*items: dict[str, Any]) -> list[Attribute]:
    """What `items` teach: their attributes, types and digits."""
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    for item in items:
        for name, value in item.items():
            ((kind, content),) = value.items()
            digits = [digits_of(each) for each in numbers_of(kind, content)]
            whole, scale = seen.get((name, kind), (0, 0))
            seen[name, kind] = (
                max([whole, *(each for each, _ in digits)]),
                max([scale, *(each for _, each in digits)]),
            )
    return [Attribute(*each, *digits) for each, digits in seen.items()]


def numbers_of(kind: str, content: Any) -> list[str]:
    return content if kind == "NS" else [content] if kind == "N" else []


def digits_of(number: str) -> tuple[int, int]:
    if "E" in number.upper():
        return EXPONENT_DIGITS, 0
    whole, _, fraction = number.lstrip("-").partition(".")
    return len(whole), len(fraction)


def compact(item: Any, *, ascii_only: bool = False) -> bytes:
    return json.dumps(item, ensure_ascii=ascii_only, separators=(",", ":")).encode()


def key_of(item: dict[str, Any]) -> bytes:
    return compact({each.name: item[each.name] for each in KEY})


def look(text: bytes, known: list[Attribute]) -> tuple[bool, bytes]:
    familiar, keys = walk(Lines.joined([text]), Form.of(known, KEY))
    return bool(familiar[0]), next(iter(keys))


KNOWN = known_of(ITEM)


# ------------------------------------------------------------------------------------ familiar


def test_an_item_of_every_type_is_familiar_and_its_key_canonical() -> None:
    assert look(compact(ITEM), KNOWN) == (True, key_of(ITEM))


def test_attributes_may_come_in_any_order_and_be_missing() -> None:
    items = [dict(reversed(ITEM.items())), {name: ITEM[name] for name in ("map", "sk", "pk")}, ITEM]
    familiar, keys = walk(Lines.joined(map(compact, items)), Form.of(KNOWN, KEY))
    assert familiar.all()
    assert list(keys) == [key_of(ITEM)] * 3


def test_escapes_are_familiar() -> None:
    assert look(compact(ITEM | {"text": {"S": "é\t/"}}, ascii_only=False), KNOWN)[0]
    assert look(compact({"text": {"S": "é\t\u2028"}}, ascii_only=True), KNOWN)[0]
    assert look(rb'{"text":{"S":"\/"}}', KNOWN)[0]


@pytest.mark.parametrize("key", ["\\/", '\\"', "\\u0041", "\\n", "\\\\"])
def test_a_key_with_an_escape_is_left_to_duckdb(key: str) -> None:
    text = f'{{"pk":{{"S":"{key}"}},"sk":{{"N":"1"}}}}'.encode()
    assert look(text, KNOWN) == (True, b"")


def test_an_item_without_its_key_has_none() -> None:
    assert look(compact({"pk": {"S": "a"}}), KNOWN) == (True, b"")
    assert look(b"{}", KNOWN) == (True, b"")
    assert look(b"{}", []) == (True, b"")


def test_the_digits_of_exponents_do_not_matter() -> None:
    known = known_of({"n": {"N": "1E2"}, "ns": {"NS": ["1E2"]}})
    assert look(compact({"n": {"N": "1.234567E-100"}, "ns": {"NS": ["1.5", "2E3"]}}), known)[0]


def test_a_thousand_attributes() -> None:
    item = {f"a{number}": {"N": str(number)} for number in range(1_000)}
    known = known_of(item)
    assert look(compact(item), known)[0]
    assert not look(compact(item | {"b": {"S": ""}}), known)[0]


# ---------------------------------------------------------------------------------- unfamiliar


@pytest.mark.parametrize(
    "more",
    [
        {"new": {"S": ""}},
        {"": {"S": ""}},
        {"count": {"S": "123"}},
        {"count": {"N": "1234"}},
        {"count": {"N": "1.5"}},
        {"count": {"N": "1."}},
        {"count": {"N": "1E2"}},
        {"count": {"N": "+1"}},
        {"count": {"N": 1}},
        {"sk": {"N": "1.234"}},
        {"numbers": {"NS": ["1", "1234"]}},
        {"numbers": {"NS": ["1", "2.25"]}},
        {"numbers": {"NS": "1"}},
        {"numbers": {"NS": []}},
        {"text": {"S": True}},
        {"text": {"S": None}},
        {"list": {"L": [{"S": None}]}},
        {"list": {"L": [1]}},
        {"text": {"S": "x", "N": "1"}},
        {"text": {}},
        {"text": "x"},
    ],
)
def test_what_brings_something_new_is_not_familiar(more: dict[str, Any]) -> None:
    assert not look(compact(ITEM | more), KNOWN)[0]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"}", b"[]", b"null", b'"pk"', b"{}}", b"{{}", b"{,}", b'{"text"}',
        b' {"text":{"S":"x"}}', b'{"text":{"S":"x"}} ', b'{"text": {"S":"x"}}',
        b'{"text":{"S":"x"},}', b'{"text":{"S":"x"}"paid":{"BOOL":true}}', b'{"text":{"S":"x"}',
        b'{"text":{"S":"x}}', b'{"text":{"S":"x"}}{}', b'{"text":{"S":"x"},"text":{"S":"y"}}',
        b'{"text":{"S":"\xff"}}', b'{"text":{"S":"\xc0\xaf"}}', b'{"text":{"S":"\xe0\x80\xaf"}}',
        b'{"text":{"S":"\xed\xa0\x80"}}', b'{"text":{"S":"\xf4\x90\x80\x80"}}',
        b'{"text":{"S":"\xf0\x8f\x80\x80"}}', b'{"text":{"S":"\xc3"}}',
        b'{"text":{"S":"\xe6\xbc"}}',
        b'{"text":{"S":"\n"}}', b'{"text":{"S":"\\x"}}', b'{"text":{"S":"\\u12"}}',
        b'{"text":{"S":"\\u12g4"}}', b'{"text":{"S":"\\ud83d\\ude00"}}',
        b'{"text":{"S":"\\uD800"}}',
        b'{"text":{"S":"x\\"}}', b'{"paid":{"BOOL":tru}}', b'{"paid":{"BOOL":trux}}',
        b'{"paid":{"BOOL":falsy}}', b'{"paid":{"BOOL":fals}}', b'{"paid":{"BOOL":null}}',
        b'{"list":{"L":[,]}}', b'{"list":{"L":[{"S":"x"},]}}', b'{"list":{"L":[{"S":"x"]}}',
        b'{"list":{"L":[}}', b'{"list":{"L":]}}', b'{"map":{"M":{"a"}}}', b'{"map":{"M":{"a":}}}',
        b'{"map":{"M":{"a":"x",}}}', b'{"map":{"M":{true:"x"}}}', b'{"map":{"M":["x"}}}',
        b'{"count":{"N":"--1"}}', b'{"count":{"N":"1-"}}', b'{"count":{"N":"1}}',
        b'{"count":{"N":"}}',
        b'{"list":{"L":' + b"[" * 63 + b"]" * 63 + b"}}",
    ],
)  # fmt: skip
def test_what_is_no_json_of_dynamodbs_is_not_familiar(text: bytes) -> None:
    assert look(text, KNOWN) == (False, b"")


# ------------------------------------------------------------------------------- whatever comes

NAMES = st.text(max_size=5)
TEXTS = st.fixed_dictionaries({"S": st.text(max_size=8)})
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str)
VALUES = st.recursive(
    st.one_of(
        TEXTS,
        st.fixed_dictionaries({"N": NUMBERS}),
        st.fixed_dictionaries({"NS": st.lists(NUMBERS, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"BOOL": st.booleans()}),
        st.just({"NULL": True}),
        st.fixed_dictionaries({"SS": st.lists(st.text(max_size=4), min_size=1, max_size=3)}),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"L": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"M": st.dictionaries(NAMES, inner, max_size=3)}),
    ),
    max_leaves=6,
)
ITEMS = st.builds(
    lambda key, more: more | key,
    st.fixed_dictionaries({"pk": TEXTS, "sk": st.fixed_dictionaries({"N": NUMBERS})}),
    st.dictionaries(NAMES, VALUES, max_size=5),
)


@given(st.lists(ITEMS, min_size=1, max_size=4))
def test_items_are_familiar_to_who_has_seen_them(items: list[dict[str, Any]]) -> None:
    familiar, keys = walk(Lines.joined(map(compact, items)), Form.of(known_of(*items), KEY))
    assert familiar.all()
    for item, key in zip(items, keys, strict=True):
        assert key == key_of(item) or (key == b"" and b"\\" in key_of(item))


@settings(max_examples=300)
@given(ITEMS, ITEMS, st.data())
def test_nothing_else_ever_is(item: dict[str, Any], other: dict[str, Any], data: Any) -> None:
    """However a text is altered: what is familiar is JSON, holds what is known, and has its key."""
    known = known_of(item)
    text = bytearray(compact(data.draw(st.sampled_from([item, item | other, other]))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        some = data.draw(
            st.sampled_from([b'"', b"\\", b"}", b"{", b",", b":", b"\x80", b"9", b"e"])
        )
        match data.draw(st.sampled_from(["insert", "replace", "cut", "delete", "double"])):
            case "insert":
                text[at:at] = some
            case "replace":
                text[at : at + 1] = some
            case "cut":
                del text[at:]
            case "delete":
                del text[at : at + data.draw(st.integers(1, 5))]
            case "double":
                text[at:at] = text[at : at + data.draw(st.integers(1, 20))]
    familiar, key = look(bytes(text), known)
    if not familiar:
        assert key == b""
        return
    found = json.loads(text)
    digits = {(each.path, each.type): each for each in known}
    for name, value in found.items():
        ((kind, content),) = value.items()
        most = digits[name, kind]
        for number in numbers_of(kind, content):
            if (most.integer_digits or 0) < EXPONENT_DIGITS:
                assert re.fullmatch(r"-?[0-9]*(\.[0-9]*)?", number)
                whole, scale = digits_of(number)
                assert (whole, scale) <= (most.integer_digits, scale)
                assert scale <= (most.scale or 0)
    if key:
        assert key == key_of(found)


def test_no_byte_outside_of_a_text_is_read(tmp_path: Path) -> None:
    """Every beginning of an item, alone in its buffer, with numba's own checks on."""
    script = (
        "import sys; from tests.unit.lake.test_walk import ITEM, KNOWN, compact, look\n"
        "text = compact(ITEM)\n"
        "for end in range(len(text)):\n"
        "    for tail in (b'', b'}', b'\"}', b'\"}}', b'\\\\}', b't}', b'f}', b'\\xe6}', b'[}'):\n"
        "        look(text[:end] + tail, KNOWN)\n"
        "print(end)"
    )
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | checked,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(len(compact(ITEM)) - 1)


# ------------------------------------------------------------------------------------- records


def test_records_are_familiar_by_their_images_and_have_their_keys() -> None:
    keys = {name: ITEM[name] for name in ("sk", "pk")}
    images = [ITEM, None, ITEM | {"new": {"S": ""}}]
    records = [
        {"eventName": "MODIFY", "dynamodb": {"Keys": keys} | ({"NewImage": each} if each else {})}
        for each in images
    ]
    columns = [Changes.of_stream(records_of(compact(each))) for each in records]
    for texts, expected in ((columns[:2], True), (columns, False)):
        walked = walk_all(texts, KNOWN, KEY, threads=2)
        assert walked.familiar == expected
        assert [list(each) for each in walked.keys] == [[key_of(ITEM)]] * len(texts)


def test_a_buffer_that_can_be_written_is_walked_like_one_that_cannot() -> None:
    text = compact(ITEM)
    for data in (text, memoryview(bytearray(text))):
        familiar, _ = walk(Lines.of(data), Form.of(KNOWN, KEY))
        assert familiar.all()


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[[Any], Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available for file")
        return lambda function: function

    monkeypatch.setattr(walk_module, "njit", njit)
    assert walk_module._compiled(len) is len
    assert asked == [{"nogil": True, "cache": True}, {"nogil": True}]
