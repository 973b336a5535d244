"""What Prometheus is told, read back with its own parser."""

from __future__ import annotations

import inspect
import json
import logging
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsa_runtime import World
from dsa_runtime.serving.log import Log
from dsa_runtime.serving.metrics import Metrics
from dsa_runtime.serving.observer import Observer, label
from dsa_runtime.serving.observers import Observers


def read(metrics: Metrics) -> dict[str, float]:
    """Values by "name" or "name{label,label}", labels in the order of their names."""
    kind, text = metrics.text()
    assert kind.startswith("text/plain")
    values = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(str(value) for _, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def test_everything_is_there_before_anything_happens() -> None:
    values = read(Metrics())
    names = [
        "dsa_sessions",
        "dsa_sessions_opened_total",
        "dsa_sessions_closed_total{reaped}",
        "dsa_opens_refused_total{busy}",
        "dsa_ticks_total{late}",
        "dsa_steps_total",
        "dsa_tick_seconds_count",
        "dsa_batch_rounds_total",
        "dsa_batch_rows_total",
        "dsa_failures_total",
    ]
    for name in names:
        assert values[name] == 0, name
    assert values["process_resident_memory_bytes"] > 0


def test_sessions_come_and_go() -> None:
    metrics = Metrics()
    for sid in range(3):
        metrics.opened(sid, "tiny")
    metrics.closed(0, "closed")
    metrics.reaped(1)
    metrics.closed(1, "reaped")
    metrics.refused("capacity", "full")
    values = read(metrics)
    assert values["dsa_sessions"] == 1
    assert values["dsa_sessions_opened_total"] == 3
    assert values["dsa_sessions_closed_total{closed}"] == values["dsa_sessions_closed_total{reaped}"] == 1
    assert values["dsa_opens_refused_total{capacity}"] == 1


def test_ticks_by_status_steps_and_time(tiny_world: World) -> None:
    metrics = Metrics()
    with tiny_world.session(3) as session:
        ticks = [session.step(1, math.inf, steps=2), session.step(1, 1e-6), session.step(2, math.inf, steps=3)]
    for tick in ticks:
        metrics.tick(tick)
    values = read(metrics)
    assert values["dsa_ticks_total{ok}"] == 2
    assert values["dsa_ticks_total{late}"] == 1
    assert values["dsa_steps_total"] == sum(tick.steps for tick in ticks) == 6
    assert values["dsa_tick_seconds_sum"] == pytest.approx(sum(tick.latency_ms["total"] for tick in ticks) / 1000)
    assert values["dsa_tick_seconds_bucket{+Inf}"] == 3


def test_requests_by_type_and_code() -> None:
    metrics = Metrics()
    metrics.request("step", "ok", 0.004)
    metrics.request("step", "busy", 0.0)
    metrics.failed("something", 1, ValueError())
    values = read(metrics)
    assert values["dsa_requests_total{ok,step}"] == values["dsa_requests_total{busy,step}"] == 1
    assert values["dsa_request_seconds_bucket{0.005,step}"] == 2
    assert values["dsa_failures_total"] == 1


def test_batches_of_the_worlds(tiny_world: World) -> None:
    metrics = Metrics([tiny_world])
    before = read(metrics)
    with tiny_world.session(0, batched=True) as session:
        session.step(0, math.inf, steps=3)
    after = read(metrics)
    assert after["dsa_batch_rounds_total"] - before["dsa_batch_rounds_total"] == 3
    assert after["dsa_batch_rows_total"] - before["dsa_batch_rows_total"] == 3


def test_types_that_peers_make_up_do_not_pile_up() -> None:
    metrics = Metrics()
    before = len(read(metrics))
    for index in range(1000):
        metrics.request(f"made up {index}", "unsupported", 0.0)
    values = read(metrics)
    assert values["dsa_requests_total{unsupported,other}"] == 1000
    assert len(values) < before + 50


def test_two_servers_in_a_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.opened(1, "tiny")
    assert (read(one)["dsa_sessions"], read(other)["dsa_sessions"]) == (1, 0)


def test_observers_pass_everything_on() -> None:
    """Also what is added to `Observer` later: then this fails until `Observers` knows it."""
    told: list[tuple[str, tuple[object, ...]]] = []
    names = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")]

    class Ear(Observer):
        pass

    for name in names:
        setattr(Ear, name, lambda self, *arguments, name=name: told.append((name, arguments)))
    several = Observers(Ear(), Ear())
    for name in names:
        count = len(inspect.signature(getattr(Observer, name)).parameters) - 1
        getattr(several, name)(*range(count))
        assert told == [(name, tuple(range(count)))] * 2
        told.clear()


def test_the_log_tells_who_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    log, sid = Log(), 0x0123456789ABCDEF
    caplog.set_level(logging.INFO, logger="dsa_runtime")
    log.greeted("x" * 10_000)
    log.opened(sid, "tiny")
    log.closed(sid, "reaped")
    log.refused("capacity", "full")
    log.failed("a step", 7, ValueError("broken"))
    fields = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert fields[1:] == [
        {"session": label(sid), "world": "tiny"},
        {"session": label(sid), "reason": "reaped"},
        {"code": "capacity", "problem": "full"},
        {"incident": 7},
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING", "WARNING", "ERROR"]
    assert "ValueError: broken" in caplog.text
    assert f"{sid:x}" not in caplog.text + json.dumps(fields), "it is what gives access to the session"
    assert len(fields[0]["client"]) <= 200
