"""Work for the demo's and the tests' tables: two tables that look like a shop's, a writer that goes
on changing them, and `churn`, an exact number of changes at full speed on any table. All of it
follows from a seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]

ORDERS, CUSTOMERS = "orders", "customers"
_CITIES = ("Bern", "Graz", "Łódź", "São Paulo", "Zürich", "東京", "Aix-en-Provence", "O'Fallon")
_STATES = ("new", "paid", "packed", "shipped", "returned")
_WORDS = ("turbine", "penstock", "sluice", "weir", "spillway", "headrace", "forebay", "draft tube")
_BATCH = 25


@dataclass(frozen=True)
class Churned:
    """What `churn` did; `puts` + `deletes` = the writes asked for."""

    puts: int
    deletes: int
    seconds: float


def create_table(
    dynamodb: Any,
    name: str,
    key: dict[str, str],
    *,
    view_type: str | None = "NEW_AND_OLD_IMAGES",
    pitr: bool = False,
) -> None:
    """An on-demand table. `key` maps attribute names to S, N or B, the hash key first; no stream
    if `view_type` is None."""
    stream = (
        {"StreamSpecification": {"StreamEnabled": True, "StreamViewType": view_type}}
        if view_type
        else {}
    )
    dynamodb.create_table(
        TableName=name,
        KeySchema=[
            {"AttributeName": attribute, "KeyType": kind}
            for attribute, kind in zip(key, ("HASH", "RANGE"), strict=False)
        ],
        AttributeDefinitions=[
            {"AttributeName": attribute, "AttributeType": tag} for attribute, tag in key.items()
        ],
        BillingMode="PAY_PER_REQUEST",
        **stream,
    )
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    if pitr:
        dynamodb.update_continuous_backups(
            TableName=name,
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )


def create_shop(
    dynamodb: Any, orders: str = ORDERS, customers: str = CUSTOMERS, *, pitr: bool = True
) -> None:
    """The two tables, empty, with streams, and with PITR where the endpoint has it."""
    create_table(dynamodb, orders, {"customer_id": "S", "order_id": "N"}, pitr=pitr)
    create_table(dynamodb, customers, {"customer_id": "S"}, pitr=pitr)


def seed_shop(
    dynamodb: Any,
    orders: str = ORDERS,
    customers: str = CUSTOMERS,
    *,
    order_count: int = 20_000,
    customer_count: int = 2_000,
    seed: int = 1,
) -> None:
    """Fills both tables."""
    dice = random.Random(seed)
    put_all(dynamodb, customers, (customer(number, dice) for number in range(customer_count)))
    put_all(
        dynamodb, orders, (order(number, customer_count, dice) for number in range(order_count))
    )


def order(number: int, customer_count: int, dice: random.Random) -> Item:
    """An order of about 0.7 KB: every attribute type, lines as a list of maps, gaps here and
    there."""
    lines = [
        {
            "M": {
                "sku": {"S": f"{dice.choice(_WORDS)}-{dice.randrange(1000)}"},
                "quantity": {"N": str(dice.randint(1, 9))},
                "price": {"N": f"{dice.randrange(1, 99_999) / 100:.2f}"},
                "gift": {"BOOL": dice.random() < 0.1},
            }
        }
        for _ in range(dice.randint(1, 4))
    ]
    item: Item = {
        **order_key(number, customer_count),
        "status": {"S": dice.choice(_STATES)},
        "total": {"N": f"{dice.randrange(1, 10**7) / 100:.2f}"},
        "paid": {"BOOL": dice.random() < 0.7},
        "placed_at": {"S": f"2026-{dice.randint(1, 11):02d}-{dice.randint(1, 28):02d}T09:30:00Z"},
        "lines": {"L": lines},
        "address": {
            "M": {
                "city": {"S": dice.choice(_CITIES)},
                "street": {"S": f"{dice.choice(_WORDS).title()} Road {dice.randint(1, 200)}"},
                "geo": {"M": {"lat": {"N": f"{dice.uniform(-90, 90):.6f}"}}},
            }
        },
        "tags": {"SS": dice.sample(_WORDS, dice.randint(1, 3))},
        "ratings": {"NS": [str(n) for n in dice.sample(range(100), dice.randint(1, 3))]},
        "checksum": {"B": dice.randbytes(16)},
        "version": {"N": "1"},
    }
    if dice.random() < 0.3:
        item["note"] = {"S": "" if dice.random() < 0.2 else " ".join(dice.choices(_WORDS, k=12))}
    if dice.random() < 0.2:
        item["discount"] = {"NULL": True}
    return item


def order_key(number: int, customer_count: int) -> Item:
    return {
        "customer_id": {"S": f"c-{number % customer_count:05d}"},
        "order_id": {"N": str(10**9 + number)},
    }


def customer(number: int, dice: random.Random) -> Item:
    return {
        "customer_id": {"S": f"c-{number:05d}"},
        "name": {"S": f"{dice.choice(_WORDS).title()} {dice.choice(_CITIES)} Ltd"},
        "active": {"BOOL": dice.random() < 0.9},
        "credit": {"N": str(dice.randrange(-1000, 100_000))},
        "city": {"S": dice.choice(_CITIES)},
        "emails": {"SS": [f"{part}{number}@example.com" for part in dice.sample(_WORDS[:4], 2)]},
        "version": {"N": "1"},
    }


def put_all(dynamodb: Any, table: str, items: Iterable[Item], threads: int = 2) -> int:
    """Puts items, whose keys must differ, in batches from `threads` threads. Returns how many."""
    puts = [{"PutRequest": {"Item": item}} for item in items]
    batches = [puts[start : start + _BATCH] for start in range(0, len(puts), _BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_write_batch, dynamodb, table, batch) for batch in batches]:
            done.result()
    return len(puts)


def churn(
    dynamodb: Any,
    table: str,
    writes: int = 20_000,
    keys: int = 2_000,
    seed: int = 1,
    *,
    threads: int = 2,
    pause: Callable[[], None] | None = None,
) -> Churned:
    """Makes exactly `writes` writes over `keys` keys of any table, each of which changes an item:
    inserts, updates, deletes of existing items, and re-inserts. The table must not hold these
    keys before. Each key is written by one thread, so the last write of a key is defined.

    `pause` is called between batches."""
    schema = _key_types(dynamodb, table)
    started = time.monotonic()
    shares = [writes // threads + (index < writes % threads) for index in range(threads)]

    def work(index: int) -> Counter[str]:
        dice = random.Random(f"{seed}/{index}")
        own = range(index, keys, threads)
        alive: set[int] = set()
        counts: Counter[str] = Counter()
        while counts.total() < shares[index]:
            room = min(_BATCH, len(own), shares[index] - counts.total())
            requests = []
            for number in dice.sample(own, room):
                delete = number in alive and dice.random() < 0.25
                requests.append(_churn_request(schema, number, delete, counts.total(), dice))
                counts["deletes" if delete else "puts"] += 1
                (alive.discard if delete else alive.add)(number)
            _write_batch(dynamodb, table, requests)
            if pause is not None:
                pause()
        return counts

    with ThreadPoolExecutor(threads) as pool:
        counts = sum(pool.map(work, range(threads)), Counter())
    return Churned(counts["puts"], counts["deletes"], time.monotonic() - started)


class Writer:
    """Changes the shop's tables at about `rate` writes a second until stopped: inserts, updates,
    deletes and re-inserts over the seeded keys and a tenth more. `counts` says what was done."""

    def __init__(
        self,
        dynamodb: Any,
        rate: float = 50,
        seed: int = 1,
        *,
        orders: str = ORDERS,
        customers: str = CUSTOMERS,
        order_count: int = 20_000,
        customer_count: int = 2_000,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.error: Exception | None = None
        self._dynamodb = dynamodb
        self._rate = rate
        self._dice = random.Random(seed)
        self._orders, self._customers = orders, customers
        self._order_count, self._customer_count = order_count, customer_count
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def start(self) -> Writer:
        self._thread.start()
        return self

    def stop(self) -> Counter[str]:
        """Stops after the write in progress. Raises what ended the writer early, if anything."""
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.counts

    def __enter__(self) -> Writer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                self._write_one()
                due = max(due + 1 / self._rate, time.monotonic() - 1)
        except Exception as error:
            self.error = error

    def _write_one(self) -> None:
        dice = self._dice
        if dice.random() < 0.8:
            number = dice.randrange(self._order_count + self._order_count // 10)
            item = order(number, self._customer_count, dice)
            key = order_key(number, self._customer_count)
            table = self._orders
        else:
            number = dice.randrange(self._customer_count + self._customer_count // 10)
            item = customer(number, dice)
            key = {"customer_id": item["customer_id"]}
            table = self._customers
        chance = dice.random()
        if chance < 0.35:
            self._dynamodb.put_item(TableName=table, Item=item)
            self.counts["puts"] += 1
        elif chance < 0.8:
            self._dynamodb.update_item(
                TableName=table,
                Key=key,
                UpdateExpression="SET touched = :word ADD #version :one",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={
                    ":word": {"S": dice.choice(_WORDS)},
                    ":one": {"N": "1"},
                },
            )
            self.counts["updates"] += 1
        else:
            self._dynamodb.delete_item(TableName=table, Key=key)
            self.counts["deletes"] += 1


def _key_types(dynamodb: Any, table: str) -> list[tuple[str, str]]:
    description = dynamodb.describe_table(TableName=table)["Table"]
    types = {a["AttributeName"]: a["AttributeType"] for a in description["AttributeDefinitions"]}
    return [(key["AttributeName"], types[key["AttributeName"]]) for key in description["KeySchema"]]


def _churn_request(
    schema: list[tuple[str, str]], number: int, delete: bool, turn: int, dice: random.Random
) -> Item:
    key = {name: _key_value(tag, number) for name, tag in schema}
    if delete:
        return {"DeleteRequest": {"Key": key}}
    body = order(number, 100, dice)
    for name in ("customer_id", "order_id"):
        del body[name]
    return {"PutRequest": {"Item": {**body, "turn": {"N": str(turn)}, **key}}}


def _key_value(tag: str, number: int) -> Item:
    if tag == "N":
        return {"N": str(number)}
    text = f"k-{number:06d}"
    return {"S": text} if tag == "S" else {"B": text.encode() + bytes([number % 256])}


def _write_batch(dynamodb: Any, table: str, requests: list[Item]) -> None:
    pending = {table: requests}
    for attempt in range(20):
        pending = dynamodb.batch_write_item(RequestItems=pending)["UnprocessedItems"]
        if not pending:
            return
        time.sleep(min(2.0, 0.05 * 2**attempt))
    raise RuntimeError(f"{table} did not take {len(pending[table])} writes in 20 attempts")
