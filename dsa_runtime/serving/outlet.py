"""Outlet: how a session's frames reach those who look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np

from ..spec import FrameSpec
from . import fields as read
from .config import ServerConfig
from .fields import Fields
from .frame_ring import SLOTS, FrameRing
from .pictures import MOST_JPEG_SIDE, QUALITY, encode_picture
from .spectator import Publisher
from .wire import Buffer, WireError
from .wire_tick import picture_buffer

Mode = Literal["part", "shm", "jpeg", "png"]
MODES = ("part", "shm", "jpeg", "png")


class Outlet:
    """Frames as buffers of replies, and to spectators. One thread at a time; close it."""

    def __init__(self, frame: FrameSpec, config: ServerConfig, mode: Mode = "part", quality: int = QUALITY) -> None:
        """Raises `WireError`: shared memory is not offered, or there is no room in it; or a tick fits no JPEG."""
        self.mode: Mode = mode
        self.quality = quality
        """Of JPEG."""
        self._ring: FrameRing | None = None
        self._publisher: Publisher | None = None
        self.topic = b""
        if mode == "jpeg" and frame.frames_per_tick * frame.height > MOST_JPEG_SIDE:
            raise WireError("unsupported", "frames: the pictures of a tick do not fit into a JPEG; take part or png")
        if mode == "shm":
            if not config.is_local:
                raise WireError("unsupported", "frames: shm is offered on the server's machine only; take part or jpeg")
            try:
                self._ring = FrameRing.create(config.ring_folder, math.prod(frame.tick_shape), SLOTS)
            except OSError as error:
                problem = f"frames: no shared memory ({error.strerror or error}); take part or jpeg"
                raise WireError("capacity", problem) from error

    @classmethod
    def asked(cls, fields: Fields, frame: FrameSpec, config: ServerConfig, default: Mode = "part") -> Outlet:
        """As the fields `frames` and `quality` of a request ask."""
        mode = default
        if fields.get("frames") is not None:
            mode = cast(Mode, read.choice(fields, "frames", MODES))
        quality = QUALITY
        if fields.get("quality") is not None:
            quality = read.integer(fields, "quality", 1, 95)
        return cls(frame, config, mode, quality)

    def publish_on(self, publisher: Publisher | None, topic: bytes) -> None:
        """Show frames to spectators from now on. None, and none are shown."""
        self._publisher, self.topic = publisher, topic

    def succeed(self, other: Outlet) -> None:
        """Take over the spectators of the outlet used so far, and close that."""
        self._publisher, self.topic = other._publisher, other.topic
        other.close()

    def fields(self) -> dict[str, Any]:
        """What the client must know about it."""
        described: dict[str, Any] = {}
        if self._ring is not None:
            ring = self._ring
            described["ring"] = {
                "path": str(ring.path),
                "token": ring.token,
                "bytes": ring.bytes,
                "slots": ring.slots,
            }
        if self.topic:
            described["topic"] = self.topic
        return described

    def buffer(self, pixels: np.ndarray) -> Buffer:
        """A picture, `uint8[height, width, 3]`, or several, `[n, height, width, 3]`, for a reply; raw ones are not
        copied."""
        if self._ring is not None:
            slot, seq = self._ring.write(pixels)
            return Buffer("frame", "u1", pixels.shape, None, "raw", slot, seq)
        if self.mode == "jpeg" or self.mode == "png":
            data = encode_picture(pixels, self.mode, self.quality)
            return Buffer("frame", "u1", pixels.shape, data, self.mode)
        return picture_buffer(pixels)

    def publish(self, tick: int, pixels: np.ndarray, decision: Mapping[str, Any] | None = None) -> None:
        """Show `uint8[height, width, 3]`, and what was decided for it, to the spectators, if it is published."""
        if self._publisher is not None:
            self._publisher.publish(self.topic, tick, pixels, decision)

    def close(self) -> None:
        """Give the shared memory back. Idempotent."""
        if self._ring is not None:
            self._ring.close()
