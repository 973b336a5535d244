"""What a server says about itself: its greeting, and what its worlds are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import __version__, strict_json
from ..errors import ServingError
from ..world import World
from . import fields as read
from .config import ServerConfig
from .fields import Fields
from .wire import HEADER_BYTES, VERSION, Buffer, Message, WireError, pack

SERVER = f"dsa-runtime {__version__}"
_MOST_CLIENT = 80


class About:
    """Replies to `hello` and `specs`. Constant."""

    def __init__(self, worlds: Mapping[str, World], config: ServerConfig, publish_address: str | None) -> None:
        """Raises `ServingError` for a world that is too large to be told of."""
        self._config, self._publish_address = config, publish_address
        offered = {"shm": config.is_local, "jpeg": True, "png": True, "publish": publish_address is not None}
        self._features = [feature for feature, is_offered in offered.items() if is_offered]
        self._worlds = [
            {"name": name, "version": world.spec.version, "fingerprint": world.spec.fingerprint}
            for name, world in worlds.items()
        ]
        self._specs = {name: _specs(name, world) for name, world in worlds.items()}

    def welcome(self, fields: Fields) -> Message:
        """Raises `WireError` where there is no common version."""
        low, high = read.uint64(fields, "min"), read.uint64(fields, "max")
        if not low <= VERSION <= high:
            problem = f"this server speaks version {VERSION} of the protocol, the client {low} to {high}"
            raise WireError("version", problem, extra={"min": VERSION, "max": VERSION})
        wanted = read.optional(read.texts, fields, "features") or []
        config = self._config
        limits = {
            "message_bytes": config.message_bytes,
            "header_bytes": HEADER_BYTES,
            "lease_ms": config.lease_ms,
            "lease_most_ms": config.lease_most_ms,
            "sessions": config.max_sessions,
            "history": config.history_most,
        }
        described = {
            "version": VERSION,
            "features": [feature for feature in self._features if feature in wanted],
            "server": SERVER,
            "limits": limits,
            "worlds": self._worlds,
        }
        if self._publish_address is not None:
            described["publish"] = self._publish_address
        return Message("welcome", 0, described)

    def world(self, fields: Fields) -> str:
        """The name of the world that is asked for; the first one if none is. Raises `WireError` if it is not there."""
        name = read.optional(read.text, fields, "world")
        if name is None:
            return next(iter(self._specs))
        if name not in self._specs:
            raise WireError("invalid", f"world: expected one of {', '.join(self._specs)}, got {name[:80]!r}")
        return name

    def specs(self, world: str) -> Message:
        """What there is to know about a world, by its name."""
        return self._specs[world]


def client_name(fields: Fields) -> str:
    """What a client calls itself, fit for a log."""
    name = read.optional(read.text, fields, "client") or "unnamed"
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_MOST_CLIENT])


def _specs(name: str, world: World) -> Message:
    spec = world.spec
    document = spec.to_dict()
    calibration: Mapping[str, Any] = document["calibration"]
    told = {
        "name": spec.name,
        "version": spec.version,
        "fingerprint": spec.fingerprint,
        "frame": document["frame"],
        "action_space": document["action_space"],
        "schedule": strict_json.encode(spec.schedule),
        "calibration": {key: calibration[key] for key in ("delta", "delta_unit", "default_threshold", "thresholds")},
    }
    if spec.text.width:
        told["text"] = strict_json.encode(spec.text)
    described = {"world": name, "contexts": world.contexts, "spec": told}
    reply = Message("specs", 0, described, (Buffer.of_bytes("spec", spec.to_json().encode()),))
    try:
        pack(Message(reply.type, 2**64 - 1, {"epoch": 2**64 - 1, **reply.fields}, reply.buffers))
    except ValueError as error:
        raise ServingError(f"world {name}: its description does not fit into a message ({error})") from None
    return reply
