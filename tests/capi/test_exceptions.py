"""Python errors in the middle of a call never look like success, and leave the session usable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Session, World
from dsa_runtime.capi import embedded
from dsa_runtime.capi.build import NAME
from tests.capi.library import CSession, CWorld, Library

E_INTERNAL, E_MEMORY = -6, -19


@pytest.fixture(scope="module")
def world(prefix: Path, tiny_package: Path, tiny_world: World) -> Iterator[CWorld]:
    with closing(CWorld(Library(prefix / "lib" / NAME), tiny_package, tiny_world.spec)) as opened:
        yield opened


@pytest.fixture
def session(world: CWorld) -> Iterator[CSession]:
    with world.session(7) as opened:
        yield opened


def status_of_a_step(session: CSession) -> tuple[int, str, np.ndarray]:
    """Status, message and frame."""
    library = session._library
    pixels, frame = session._place(session.spec.frame.shape)
    pixels[:] = 77
    status = library.lib.dsa_session_step(session._handle, b"\1\0\0\0", 4, 0, frame, pixels.nbytes, library.ffi.NULL)
    return status, library.ffi.string(library.lib.dsa_last_error()).decode(), pixels


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("no such thing"), E_INTERNAL, "ValueError: no such thing"),
        (SystemExit(3), E_INTERNAL, "SystemExit: 3"),
        (KeyboardInterrupt(), E_INTERNAL, "KeyboardInterrupt: "),
        (MemoryError(), E_MEMORY, "MemoryError"),
        (RuntimeError("é" * 4000), E_INTERNAL, "RuntimeError: éé"),
    ],
)
def test_an_exception_in_the_middle_of_a_step(
    session: CSession, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_step", fail)
        found, message, pixels = status_of_a_step(session)
    assert (found, message[: len(words)]) == (status, words)
    assert (pixels == 77).all()
    assert session.step(1).tick == 0


def test_a_python_half_that_cannot_even_answer(
    session: CSession, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_step", fail)
        patch.setattr(embedded, "_reported", fail)
        found, message, pixels = status_of_a_step(session)
    assert (found, message) == (E_INTERNAL, "Python did not answer; is the installed package dsa_runtime damaged?")
    assert (pixels == 77).all()
    assert capfd.readouterr() == ("", "")
    assert session.step(1).tick == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "AttributeError: "),
        ({"status": "new"}, "ValueError: status: unknown: 'new'"),
        ({"status": "ok", "frames": b"pictures"}, "TypeError: frames: no array"),
    ],
)
def test_a_tick_that_is_none(
    session: CSession, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_step", lambda *_: SimpleNamespace(**fields))
        found, message, pixels = status_of_a_step(session)
    assert (found, message[: len(words)]) == (E_INTERNAL, words)
    assert (pixels == 77).all()


@pytest.mark.parametrize("answer", [None, "ok", 2**40, -(2**31), 0x44534100])
def test_an_answer_that_is_none(session: CSession, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_step", lambda *_: None)
        patch.setattr(embedded, "_reported", lambda error: (answer, ""))
        found, message, _ = status_of_a_step(session)
    assert (found, message) == (E_INTERNAL, "Python did not answer; is the installed package dsa_runtime damaged?")
