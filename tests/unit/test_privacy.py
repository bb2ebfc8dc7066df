"""Private attributes: left out, hashed or masked in every shape that AWS sends, equal values alike
wherever they come from, and nothing that tells the plain value."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.capture import bootstrap, drain
from tailrace.capture.bootstrap import Bootstrap
from tailrace.capture.privacy import require_same
from tailrace.capture.private import PrivateScan, PrivateStream
from tailrace.errors import ConfigError, CorruptExport, Terminal
from tailrace.model import (
    Epoch,
    ExportFile,
    ItemPage,
    KeyAttribute,
    RecordPage,
    ScanPage,
    TableDescription,
)
from tailrace.privacy import SALT_VARIABLE, Privacy
from tailrace.sources.delivered import take_apart
from tailrace.sources.export import unpack
from tests.unit.capture.fakes import (
    NOW,
    STREAM,
    TABLE,
    FakeClock,
    FakeShard,
    FakeStream,
    open_log,
    reach,
)

SALT = "0123456789abcdef-salt"
RULES = {"email": "hash", "phone": "exclude", "name": "mask"}

ITEM = {
    "id": {"S": "42"},
    "email": {"S": "ann@example.com"},
    "phone": {"S": "555-1234"},
    "name": {"S": "Ann"},
    "city": {"S": "Zürich"},
}


def privacy(rules: dict[str, str] = RULES, key: tuple[str, ...] = ("id",), salt: str = SALT) -> Any:
    return Privacy("people", rules, key, salt)


def hashed(value: dict[str, Any], salt: str = SALT) -> dict[str, str]:
    """As the documentation tells how to find a value again."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return {"S": hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()}


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in objects)


def parsed(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def hash_of(value: dict[str, Any]) -> Any:
    [item] = parsed(privacy({"a": "hash"}).items(lines({"id": {"S": "1"}, "a": value})))
    return item["a"]


def test_an_attribute_is_left_out_hashed_or_masked_and_all_else_stays_in_its_place() -> None:
    [item] = parsed(privacy().items(lines(ITEM)))
    assert item == {
        "id": {"S": "42"},
        "email": hashed({"S": "ann@example.com"}),
        "name": {"S": "***"},
        "city": {"S": "Zürich"},
    }
    assert list(item) == ["id", "email", "name", "city"]


def test_items_records_and_changes_are_treated_alike_in_keys_and_both_images() -> None:
    rules = {"id": "hash", "email": "hash", "phone": "exclude"}
    keys, old = {"id": {"S": "42"}}, ITEM | {"email": {"S": "old@example.com"}}
    change = {"Keys": keys, "NewImage": ITEM, "OldImage": old}
    record = {"eventName": "MODIFY", "dynamodb": change | {"SequenceNumber": "1"}}
    line = {"Metadata": {"WriteTimestampMicros": {"N": "1"}}, **change}
    private = privacy(rules)
    [item] = parsed(private.items(lines(ITEM)))
    [recorded] = parsed(private.records(lines(record)))
    [changed] = parsed(private.changes(lines(line)))
    assert recorded["eventName"] == "MODIFY"
    assert recorded["dynamodb"]["SequenceNumber"] == "1"
    assert changed["Metadata"] == line["Metadata"]
    for each in (recorded["dynamodb"], changed):
        assert each["Keys"] == {"id": hashed({"S": "42"})} == {"id": item["id"]}
        assert each["NewImage"] == item
        assert each["OldImage"]["email"] == hashed({"S": "old@example.com"})
        assert "phone" not in each["OldImage"]


def test_lines_without_images_or_items_stay_lines() -> None:
    removed = {"eventName": "REMOVE", "dynamodb": {"Keys": {"id": {"S": "1"}}}}
    private = privacy()
    assert parsed(private.records(lines(removed, removed))) == [removed, removed]
    assert private.items(b"") == b""
    assert private.items(b'{"id":{"S":"1"}}') == b'{"id":{"S":"1"}}\n'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"N": "1"}, {"N": "1.0"}),
        ({"N": "100"}, {"N": "1E2"}),
        ({"N": "0"}, {"N": "-0.00"}),
        ({"SS": ["b", "a"]}, {"SS": ["a", "b"]}),
        ({"NS": ["10", "9.0"]}, {"NS": ["9", "1E1"]}),
        ({"BS": ["AQ==", "Ag=="]}, {"BS": ["Ag==", "AQ=="]}),
        ({"M": {"x": {"N": "1"}, "y": {"L": []}}}, {"M": {"y": {"L": []}, "x": {"N": "1.0"}}}),
        (
            {"L": [{"M": {"a": {"S": "1"}, "b": {"S": "2"}}}]},
            {"L": [{"M": {"b": {"S": "2"}, "a": {"S": "1"}}}]},
        ),
    ],
)
def test_equal_values_have_one_hash_however_they_are_written(one: Any, other: Any) -> None:
    assert hash_of(one) == hash_of(other)


def test_different_values_have_different_hashes_also_of_different_types() -> None:
    values = [
        {"S": "1"},
        {"N": "1"},
        {"N": "-1"},
        {"N": "10"},
        {"N": "12345678901234567890123456789012345678"},
        {"N": "12345678901234567890123456789012345679"},
        {"B": "MQ=="},
        {"BOOL": True},
        {"BOOL": False},
        {"S": ""},
        {"SS": ["1"]},
        {"L": [{"S": "1"}, {"S": "2"}]},
        {"L": [{"S": "2"}, {"S": "1"}]},
        {"M": {}},
    ]
    assert len({hash_of(each)["S"] for each in values}) == len(values)


@pytest.mark.parametrize(
    "text", ["", "plain", 'a"b\\c', "Zürich 🚚", "".join(map(chr, range(32))), "\u2028/\x7f", "{}"]
)
def test_a_text_hashes_as_documented_whether_or_not_it_is_escaped(text: str) -> None:
    raw = json.dumps(text, ensure_ascii=False)
    escaped = json.dumps(text)  # other programs write \\u00fc
    expected = hashed({"S": text})
    for each in (raw, escaped):
        line = f'{{"id":{{"S":"1"}},"a":{{"S":{each}}}}}\n'.encode()
        [item] = parsed(privacy({"a": "hash"}).items(line))
        assert item["a"] == expected


def test_a_known_value_is_found_again_as_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    [snippet] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv(SALT_VARIABLE, SALT)
    exec(snippet, {})
    assert capsys.readouterr().out.strip() == hash_of({"S": "ann@example.com"})["S"]


def test_null_is_no_value_and_stays() -> None:
    assert hash_of({"NULL": True}) == {"NULL": True}
    [item] = parsed(privacy({"a": "mask"}).items(lines({"a": {"NULL": True}})))
    assert item == {"a": {"NULL": True}}


@pytest.mark.parametrize(
    "value", [{"N": "1"}, {"BOOL": True}, {"B": "AQ=="}, {"SS": ["S"]}, {"M": {"S": {"S": "x"}}}]
)
def test_what_is_no_text_is_masked_to_null(value: Any) -> None:
    [item] = parsed(privacy({"a": "mask"}).items(lines({"a": value})))
    assert item == {"a": {"NULL": True}}


HOSTILE = (
    "Keys",
    "dynamodb",
    'a"b',
    "it's",
    "a.b",
    "größe",
    "🚚",
    "",
    " ",
    "\\",
    "tab\t",
    "$",
    "*",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_found(name: str) -> None:
    item = {"id": {"S": "1"}, name: {"S": "secret"}}
    for text in (lines(item), json.dumps(item).encode()):
        assert parsed(privacy({name: "exclude"}).items(text)) == [{"id": {"S": "1"}}]
        assert b"secret" not in privacy({name: "hash"}).items(text)


def test_another_salt_gives_other_hashes() -> None:
    one, other = privacy(), privacy(salt=SALT + "!")
    assert one.items(lines(ITEM)) != other.items(lines(ITEM))
    assert one.noted["salt"] != other.noted["salt"]
    assert SALT not in json.dumps(one.noted)


@pytest.mark.parametrize("content", [b"{", b'{"email":{"N":"secret"}}', b'{"email":{}}'])
def test_what_is_no_item_is_refused_without_being_shown(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as refused:
        privacy().items(content)
    assert "secret" not in str(refused.value)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("rule", ["exclude", "mask"])
def test_a_key_attribute_can_only_be_hashed(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"part of the table.s key.*would become one"):
        privacy({"id": rule})
    assert privacy({"id": "hash"}).hashes_key


@pytest.mark.parametrize(
    ("salt", "why"), [(None, "it is not set"), ("", "not set"), ("short", "guessed")]
)
def test_a_missing_or_short_salt_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, salt: str | None, why: str
) -> None:
    monkeypatch.delenv(SALT_VARIABLE, raising=False)
    if salt is not None:
        monkeypatch.setenv(SALT_VARIABLE, salt)
    with pytest.raises(ConfigError, match=why) as refused:
        Privacy.of("people", RULES, ["id"])
    assert SALT_VARIABLE in str(refused.value)
    assert "openssl rand" in refused.value.remedy
    assert not salt or salt not in str(refused.value)


def test_without_a_hash_no_salt_is_needed() -> None:
    assert Privacy("people", {"phone": "exclude"}, ["id"], None).noted == {
        "attributes": {"phone": "exclude"},
        "key": [],
    }
    assert Privacy.of("people", {}, ["id"]) is None


def test_a_misspelled_attribute_is_told() -> None:
    private = privacy({"email": "hash", "Phone": "exclude"})
    private.items(lines(ITEM))
    assert private.never_found() == ["Phone"]


# ------------------------------------------------------------------------------------- positions

POSITION = '{"id":{"S":"ann@example.com"},"n":{"N":"7"}}'


def test_a_position_is_sealed_where_the_key_is_hashed_and_comes_back_to_the_letter() -> None:
    private = privacy({"id": "hash"})
    for position in (POSITION, "{}", "", "x" * 10_000, "ü"):
        sealed = private.seal(position)
        assert sealed == private.seal(position)
        assert private.unseal(sealed) == position
    sealed = private.seal(POSITION)
    assert "ann" not in sealed
    assert b"ann" not in base64.b64decode(sealed.removeprefix("sealed:"))
    assert private.seal(None) is private.unseal(None) is None
    assert privacy().seal(POSITION) == POSITION


def test_a_sealed_position_that_was_altered_or_is_another_salts_is_refused() -> None:
    sealed = privacy({"id": "hash"}).seal(POSITION)
    with pytest.raises(Terminal, match="another salt"):
        privacy({"id": "hash"}, salt=SALT + "!").unseal(sealed)
    with pytest.raises(Terminal, match="another salt"):
        privacy({"id": "hash"}).unseal(sealed[:-8] + "AAAAAAA=")


class FakeScan:
    """Two pages; notes where it was asked to go on."""

    def __init__(self) -> None:
        self.starts: list[str | None] = []

    def page(self, segment: int, segments: int, start: str | None, limit: int | None = None) -> Any:
        self.starts.append(start)
        return ScanPage(lines(ITEM), 1, None if start else POSITION, 1.0, NOW)

    def items(self, keys: Any) -> ItemPage:
        return ItemPage(lines(ITEM), 1, (), 1.0)


def test_a_private_scan_goes_on_from_what_it_sealed_and_shows_nothing_plain() -> None:
    plain = FakeScan()
    scan = PrivateScan(plain, privacy({"id": "hash", "email": "hash"}))  # type: ignore[arg-type]
    first = scan.page(0, 1, None)
    second = scan.page(0, 1, first.next_key)
    assert plain.starts == [None, POSITION]
    for page in (first, second):
        assert b"ann" not in page.lines
        assert "ann" not in str(page.next_key)
    with pytest.raises(Terminal, match="hashed key"):
        scan.items([POSITION])
    assert b"ann" not in PrivateScan(plain, privacy()).items([POSITION]).lines  # type: ignore[arg-type]


def test_a_private_stream_shows_whole_pages_only_in_private() -> None:
    record = {"eventName": "INSERT", "dynamodb": {"Keys": {"id": {"S": "42"}}, "NewImage": ITEM}}
    page = RecordPage(lines(record), 1, "1", NOW, NOW, None)
    stream = PrivateStream(FakeStream(), privacy())  # type: ignore[arg-type]
    whole = stream.whole(page)
    assert b"ann@" not in whole.lines
    assert replace(whole, lines=page.lines) == page


@pytest.mark.parametrize("incremental", [False, True])
def test_a_file_of_an_export_is_private_before_it_is_written(
    tmp_path: Path, incremental: bool
) -> None:
    rows = [{"Keys": {"id": {"S": "1"}}, "NewImage": ITEM} if incremental else {"Item": ITEM}] * 3
    body = gzip.compress(lines(*rows))
    file = ExportFile("data/f.json.gz", 3, None, incremental)
    found = unpack(io.BytesIO(body), file, "s3://b/f", tmp_path, privacy())
    content = b"".join(each.data for each in found)
    assert content.count(hashed(ITEM["email"])["S"].encode()) == sum(map(len, found)) == 3
    assert b"ann@" not in content
    cut = ExportFile("data/f.json.gz", 1, None)
    wrong = gzip.compress(b'{"Item":{"email":{"N":"ann@example.com"}}}\n')
    with pytest.raises(CorruptExport, match="line that is not") as refused:
        unpack(io.BytesIO(wrong), cut, "s3://b/f", tmp_path, privacy())
    assert "ann@" not in str(refused.value)


def test_what_firehose_delivered_is_private_before_it_is_written() -> None:
    change = {"ApproximateCreationDateTime": 1, "Keys": {"id": {"S": "42"}}, "NewImage": ITEM}
    record = {"eventID": "1", "eventName": "INSERT", "tableName": "people", "dynamodb": change}
    whole = json.dumps(record).encode()
    found = take_apart("people", [whole + whole + whole[:-40]], privacy())
    content = repr([list(each) for each in found.changes]).encode()
    assert content.count(hashed(ITEM["email"])["S"].encode()) == sum(map(len, found.changes)) == 2
    assert b"ann@" not in content
    assert found.damage == "holds a record that cannot be read"


def test_a_hashed_key_attribute_is_a_text_to_the_warehouse() -> None:
    table = TableDescription("t", "arn", "id", (KeyAttribute("id", "N"), KeyAttribute("at", "N")))
    described = privacy({"id": "hash"}, ("id", "at")).described(table)
    assert described.key == (KeyAttribute("id", "S"), KeyAttribute("at", "N"))


# ------------------------------------------------------------------------------------- epochs


def epoch(**detail: Any) -> Epoch:
    return Epoch(1, "full", "scan", "live", "id", STREAM, NOW, NOW, detail)


def test_rows_under_another_privacy_are_refused_and_told_what_differs() -> None:
    noted = privacy().noted
    before = epoch(privacy=noted)
    require_same("people", before, json.loads(json.dumps(noted)))
    require_same("people", epoch(), {})
    for now, what in (
        (privacy(salt=SALT + "!").noted, "the salt is another one"),
        ({}, "email was hash and is plain, name was mask and is plain"),
        (privacy(RULES | {"city": "mask"}).noted, "city was plain and is mask"),
    ):
        with pytest.raises(Terminal, match=what) as refused:
            require_same("people", before, now)
        assert "tailrace base people" in refused.value.remedy
    with pytest.raises(Terminal, match="email was plain"):
        require_same("people", epoch(), noted)


def test_a_pass_over_an_epoch_of_another_privacy_lands_nothing(tmp_path: Any) -> None:
    log, _ = open_log(segments=1, consistent=True)
    stream = FakeStream(FakeShard("s", [1, 2, 3]))
    before = log.head("orders").batch
    with pytest.raises(Terminal, match="privacy has changed"):
        drain.drain(
            log,
            stream,
            FakeClock(),
            "orders",
            drain.Budget(10, 10**6),
            tmp_path,
            privacy={"attributes": {"v": "hash"}},
        )
    assert log.head("orders").batch == before
    assert not stream.reads


def test_a_base_goes_on_only_under_its_own_privacy(tmp_path: Any) -> None:
    log, _ = open_log(segments=1, consistent=True)
    run = Bootstrap(log, FakeClock(), "orders", tmp_path, privacy=privacy().noted)
    with pytest.raises(Terminal, match="privacy has changed"):
        bootstrap.read_scan(run, FakeScan(), TABLE, None)


def test_an_epoch_notes_its_privacy_and_waits_for_its_base_where_keys_differ(tmp_path: Any) -> None:
    log, _ = open_log(segments=1, consistent=True)
    reach(log, "base_complete", "live")

    def opened(noted: dict[str, Any]) -> dict[str, Any]:
        run = Bootstrap(log, FakeClock(), "orders", tmp_path, privacy=noted)
        return bootstrap.open_scan_epoch(run, TABLE, 1, True).detail

    plain_keys, hashed_keys = privacy().noted, privacy({"id": "hash"}).noted
    assert opened(plain_keys)["privacy"] == plain_keys
    assert "overlaps" not in opened(plain_keys)
    assert opened(hashed_keys)["overlaps"]
    # Given up for another one: what readers see has still plain keys.
    assert opened(hashed_keys)["overlaps"]
    reach(log, "base_complete", "live")
    assert "overlaps" not in opened(hashed_keys)
    assert opened(privacy({"id": "hash"}, salt=SALT + "!").noted)["overlaps"]
    assert opened({})["overlaps"]
    assert "privacy" not in opened({})
