"""What the wire is compared with: a server of the kind that robot policies are often served by.

REQ/REP, one msgpack map `{endpoint, data}` each way, arrays inside it as the bytes of .npy files. Written for the
comparison: it plays the same worlds as the other side, one session each, and is given nothing to do besides.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import zmq

from dsa_runtime import Session, World


class NpyServer:
    """One thread that receives, steps and replies, as REP demands."""

    def __init__(self, worlds: Mapping[str, World]) -> None:
        self._worlds, self._sessions = worlds, dict[str, Session]()
        self._socket = zmq.Context.instance().socket(zmq.REP)
        self._socket.bind("tcp://127.0.0.1:*")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._endpoints = {"reset": self._reset, "step": self._step}

    def run(self) -> None:
        """Serve until the process is ended."""
        while True:
            request = unpack(self._socket.recv())
            try:
                reply = self._endpoints[request["endpoint"]](request["data"])
            except Exception as error:  # as such servers do
                reply = {"error": str(error)}
            self._socket.send(pack(reply))

    def _reset(self, data: dict[str, Any]) -> dict[str, Any]:
        name = data["world"]
        if name in self._sessions:
            self._sessions[name].close()
        self._sessions[name] = session = self._worlds[name].session(data["seed"], batched=True)
        return {"frame": session.reset(data["seed"])}

    def _step(self, data: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions[data["world"]]
        tick = session.step(int(data["action"]), math.inf, steps=data["steps"])
        return {
            "frame": tick.pixels,
            "tick": tick.tick,
            "steps": tick.steps,
            "confidence": tick.confidence,
            "status": tick.status,
            "total_ms": tick.latency_ms["total"],
        }


class NpyClient:
    """Its client. Use it in a `with` statement."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def ask(self, endpoint: str, **data: Any) -> dict[str, Any]:
        """The reply to a request."""
        self._socket.send(pack({"endpoint": endpoint, "data": data}))
        reply: dict[str, Any] = unpack(self._socket.recv())
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def __enter__(self) -> NpyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def pack(value: Any) -> bytes:
    """Maps, lists and numbers, with arrays anywhere in them."""
    packed: bytes = msgpack.packb(value, default=_file)
    return packed


def unpack(packed: bytes) -> Any:
    """What `pack` was given; the arrays are fresh."""
    return msgpack.unpackb(packed, object_hook=_array)


def _file(value: Any) -> dict[str, bytes]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"no message holds a {type(value).__name__}")
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return {"npy": stream.getvalue()}


def _array(value: dict[str, Any]) -> Any:
    return np.load(io.BytesIO(value["npy"]), allow_pickle=False) if value.keys() == {"npy"} else value
