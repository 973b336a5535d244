"""What a client makes of a server's replies: the errors that a local session would raise, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..errors import (
    ActionError,
    BudgetError,
    BusyError,
    CancelledError,
    DeadlineError,
    DsaError,
    EngineError,
    PromptError,
    QualityError,
    ServerError,
    ServerGoneError,
    SessionError,
    SnapshotError,
    WorldError,
)
from ..spec import FrameSpec
from .fields import Fields, mapping, optional, text, uint64
from .frame_ring import FrameReader
from .pictures import Encoding, decode_picture
from .wire import Message, WireError

_BY_KIND: Mapping[str, type[DsaError]] = {
    kind.__name__: kind
    for kind in (
        ActionError,
        BudgetError,
        CancelledError,
        DeadlineError,
        EngineError,
        PromptError,
        QualityError,
        SessionError,
        SnapshotError,
        WorldError,
    )
}
_BY_CODE: Mapping[str, type[DsaError]] = {"cancelled": CancelledError, "deadline": DeadlineError}
GONE = ("session", "draining")
"""Codes of errors that say that a session is not at its server any more. The server itself may be well."""


def code_of(reply: Message) -> str | None:
    """The code of an error; None for any other reply."""
    return text(reply.fields, "code") if reply.type == "error" else None


def error_of(reply: Message) -> DsaError:
    """The exception that stands for an error."""
    fields = reply.fields
    code, message = text(fields, "code"), text(fields, "msg")
    kind = _BY_KIND.get(optional(text, fields, "kind") or "") or _BY_CODE.get(code)
    if kind is not None:
        return kind(message)
    if code == "session" or (code == "draining" and "sid" in fields):
        return ServerGoneError(message, code=code, snapshot=snapshot_of(reply))
    kind = BusyError if code in ("busy", "capacity", "draining") else ServerError
    return kind(message, code=code, retry=fields.get("retry") is True)


def snapshot_of(reply: Message) -> bytes | None:
    """The snapshot in a message, if there is one."""
    for buffer in reply.buffers:
        if buffer.name == "snapshot" and buffer.data is not None:
            return bytes(buffer.data)
    return None


class FrameSource:
    """Takes the pictures of one session out of its replies, wherever they are. Close it."""

    def __init__(self, frame: FrameSpec) -> None:
        """`frame` is the world's."""
        self._shape = frame.shape
        self._tick_shape = frame.tick_shape if frame.frames_per_tick > 1 else frame.shape
        self._ring: FrameReader | None = None

    def attach(self, ring: Fields) -> bool:
        """Map the ring that a reply tells of, instead of the one before. False if it is not on this machine."""
        path, token = text(ring, "path"), uint64(ring, "token")
        self.close()
        try:
            self._ring = FrameReader(path, token)
        except (OSError, ValueError):  # another machine, another container, or a file of the same name
            return False
        return True

    def take(self, reply: Message) -> np.ndarray:
        """The picture that a session stands at, `uint8[height, width, 3]`, fresh. Raises `WireError` if there is no
        such one."""
        return self._take(reply, self._shape)

    def take_tick(self, reply: Message) -> np.ndarray:
        """The pictures of a tick, `uint8[F, height, width, 3]`, fresh; `uint8[height, width, 3]` where F is 1. Raises
        `WireError` if there are no such ones."""
        return self._take(reply, self._tick_shape)

    def close(self) -> None:
        """Idempotent."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _take(self, reply: Message, shape: tuple[int, ...]) -> np.ndarray:
        buffer = reply.buffer("frame")
        if buffer.dtype != "u1" or buffer.shape != shape:
            raise WireError("malformed", f"bufs.frame: expected u1 {shape}, got {buffer.dtype} {buffer.shape}")
        if buffer.data is None:
            frame = None if self._ring is None else self._ring.read(buffer.slot, buffer.seq, shape)
            if frame is None:
                raise WireError("malformed", "bufs.frame: the ring does not hold it (any more)")
            return frame
        if buffer.encoding == "raw":
            pixels: np.ndarray = np.frombuffer(buffer.data, np.uint8).reshape(shape).copy()
            return pixels
        try:
            return decode_picture(cast(memoryview, buffer.data), cast(Encoding, buffer.encoding), shape)
        except ValueError as error:
            raise WireError("malformed", f"bufs.frame: {error}") from None


def ring_of(reply: Message) -> dict[str, Any] | None:
    """What a reply says about the session's ring."""
    return optional(mapping, reply.fields, "ring")
