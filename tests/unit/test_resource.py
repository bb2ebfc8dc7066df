"""The engine that the sensor keeps open from one look to the next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from assets.resource import TailraceResource
from tailrace.engine import Engine


@pytest.fixture
def resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TailraceResource:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    path = tmp_path / "tailrace.yaml"
    path.write_text("tables:\n  - name: orders\n")
    return TailraceResource(config_path=str(path))


def seen(resource: TailraceResource) -> Engine:
    return resource.look(lambda engine: engine)


def states(engine: Engine) -> dict[str, str]:
    return engine.states(["orders"])


def test_a_look_finds_the_engine_of_the_look_before(resource: TailraceResource) -> None:
    assert seen(resource) is seen(resource)


def test_a_replaced_warehouse_is_opened_anew(resource: TailraceResource) -> None:
    first = seen(resource)
    shutil.rmtree(Path(resource.config_path).parent / "warehouse")
    assert resource.look(states) == {"orders": "none"}
    assert seen(resource) is not first


def test_what_broke_since_the_last_look_is_opened_anew_and_unnoticed(
    resource: TailraceResource,
) -> None:
    first = seen(resource)
    first.close()
    assert resource.look(states) == {"orders": "none"}
    assert seen(resource) is not first


def test_what_fails_on_a_new_engine_is_raised_and_the_engine_closed(
    resource: TailraceResource,
) -> None:
    met = []

    def fails(engine: Engine) -> None:
        met.append(engine)
        raise RuntimeError("the catalog is gone")

    with pytest.raises(RuntimeError, match="the catalog is gone"):
        resource.look(fails)
    assert len(met) == 1
    assert met[0].stop.is_set()
    assert seen(resource) is not met[0]


def test_an_engine_is_kept_open_for_an_hour_at_most(
    resource: TailraceResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seen(resource)
    monkeypatch.setattr("assets.resource.KEPT_OPEN_SECONDS", -1.0)
    assert seen(resource) is not first
