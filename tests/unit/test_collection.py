"""The pause of Python's garbage collector: on in every tick, off outside, and never in the program's way."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dsa_runtime import ActionError, CancelledError, DeadlineError, EngineError, SessionError, World
from dsa_runtime.collection import CollectionPause
from tests.stages import WAIT_S, Gate, patch_stage


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """As a program has it that has not touched it."""
    assert gc.isenabled(), "an earlier test has left the collector off"
    yield
    enabled = gc.isenabled()
    gc.enable()
    assert enabled


def watch(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the collector is on, at every run of a stage inside a tick."""
    seen: list[bool] = []
    for stage in ("denoise", "decode"):
        patch_stage(monkeypatch, stage, lambda *_: seen.append(gc.isenabled()))
    return seen


def test_it_is_off_inside_a_tick_and_on_after_it(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(0) as session:
        seen = watch(monkeypatch)
        for _ in range(3):
            session.step(0, math.inf, steps=2)
            assert gc.isenabled()
        assert seen == [False] * 9


def test_a_collection_cannot_begin_inside_a_tick(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[str] = []

    def note(phase: str, _: dict[str, Any]) -> None:
        collections.append(phase)

    def litter(*_: Any) -> None:
        kept = [[number] for number in range(5000)]  # outside a tick this starts several
        assert kept

    with tiny_world.session(0) as session:
        patch_stage(monkeypatch, "decode", litter)
        gc.collect()
        gc.callbacks.append(note)
        try:
            litter()
            assert collections
            gc.collect()
            with monkeypatch.context() as patch:
                patch.setattr("dsa_runtime.reply.finished", lambda *_: collections.copy())
                collections.clear()
                assert session.step(0, math.inf) == []
        finally:
            gc.callbacks.remove(note)


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_it_is_on_again_after_an_error(tiny_world: World, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    def fail(*_: Any) -> None:
        raise EngineError("made to fail")

    with tiny_world.session(0) as session:
        with monkeypatch.context() as patch:
            patch_stage(patch, stage, fail)
            with pytest.raises(EngineError):
                session.step(0)
        assert gc.isenabled()
        with pytest.raises(ActionError):
            session.step(99)
        assert gc.isenabled()
    with pytest.raises(SessionError, match="closed"):
        session.step(0)
    assert gc.isenabled()


def test_it_is_on_again_after_a_deadline_and_a_cancel(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(0, on_miss="raise") as session, ThreadPoolExecutor(1) as pool:
        gate = Gate(monkeypatch, "denoise")
        with pytest.raises(DeadlineError):
            session.step(0, 20.0)
        assert gc.isenabled()
        gate.inside.clear()
        step = pool.submit(session.step, 0, math.inf)
        assert gate.inside.wait(WAIT_S)
        assert not gc.isenabled()
        session.cancel()
        with pytest.raises(CancelledError):
            step.result(WAIT_S)
        assert gc.isenabled()


def test_it_is_on_while_a_late_tick_goes_on(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has its frame and goes its way; that the tick may take a little longer is all right."""
    with tiny_world.session(0, on_miss="repeat") as session:
        gate = Gate(monkeypatch, "denoise")
        assert session.step(0, 20.0).status == "repeated"
        assert gc.isenabled()
        gate.open.set()


def test_a_program_that_has_it_off_keeps_it_off(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(0) as session:
        seen = watch(monkeypatch)
        gc.disable()
        try:
            session.step(0)
            assert not gc.isenabled()
            with pytest.raises(ActionError):
                session.step(99)
            assert not gc.isenabled()
        finally:
            gc.enable()
        session.step(0)
        assert gc.isenabled()
        assert not any(seen)


def test_the_last_of_several_ticks_turns_it_on(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_world.session(0) as one, tiny_world.session(1) as other, ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            gate = Gate(patch, "denoise")
            long = pool.submit(one.step, 0, math.inf)
            assert gate.inside.wait(WAIT_S)
        other.step(0, math.inf)
        assert not gc.isenabled()  # the first one's tick is still running
        with pytest.raises(SessionError, match="another thread"):
            one.step(0)
        assert not gc.isenabled()
        gate.open.set()
        long.result(WAIT_S)
        assert gc.isenabled()


def test_many_sessions_on_many_threads(tiny_world: World) -> None:
    def play(seed: int) -> None:
        with tiny_world.session(seed) as session:
            for _ in range(100):
                session.step(0, math.inf)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(play, range(6)))
    assert gc.isenabled()


def test_the_pause_counts() -> None:
    pause, inside, leave = CollectionPause(), threading.Barrier(3), threading.Event()

    def tick() -> None:
        with pause:
            inside.wait(WAIT_S)
            leave.wait(WAIT_S)

    with pause:
        with pause:
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    threads = [threading.Thread(target=tick) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(WAIT_S)
    assert not gc.isenabled()
    leave.set()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
