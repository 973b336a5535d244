"""One message of each type, as `tests/golden/dsa1.json` holds their bytes.

python -m tests.serving.golden_messages     # writes the file anew: to add one. The others' bytes stay as they are
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsa_runtime.serving.wire import Buffer, Message, pack

FILE = Path(__file__).parents[1] / "golden" / "dsa1.json"
EPOCH, SID, KEY = 0x1122334455667788, 0x8877665544332211, 0x0102030405060708
ABOUT = {"epoch": EPOCH, "sid": SID}
FRAME = Buffer("frame", "u1", (2, 2, 3), bytes(range(12)))
SNAPSHOT = Buffer.of_bytes("snapshot", b"DSASNAP\n")
LATENCY = {"queue": 40, "wait": 10, "denoise": [2100, 2050], "abandoned": 0, "decode": 300, "sdk": 90, "total": 4590}
FRAME_FIELDS = {
    "tick": 41,
    "frame_tick": 41,
    "status": "ok",
    "steps": 2,
    "confidence": 0.9375,
    "threshold": 0.75,
    "stopped_by": "confidence",
    "budget_us": 33333,
    "credit_us": 0,
    "slack_us": 28743,
    "latency_us": LATENCY,
}
WORLDS = [{"name": "tiny", "version": "0.0.1", "fingerprint": "00112233445566778899aabbccddeeff"}]
LIMITS = {
    "message_bytes": 67108864,
    "header_bytes": 65536,
    "lease_ms": 10000,
    "lease_most_ms": 600000,
    "sessions": 64,
    "history": 256,
}
SPEC: dict[str, Any] = {
    "name": "tiny",
    "version": "0.0.1",
    "fingerprint": "00112233445566778899aabbccddeeff",
    "frame": {"height": 2, "width": 2, "channels": 3, "fps": 20.0, "frames_per_tick": 1, "display_aspect": [4, 3]},
    "action_space": {"type": "Discrete", "n": 2, "names": ["noop", "fire"]},
    "schedule": {"levels": [1.0, 0.5], "context_level": 0.0},
    "calibration": {
        "delta": 0.5,
        "delta_unit": "rms",
        "default_threshold": 0.5,
        "thresholds": [{"threshold": 0.5, "mean_steps": 1.5}],
    },
}
PROMPT = Buffer("prompt", "f4", (1, 2), bytes.fromhex("0000803f000000bf"))
TEXT = {"width": 2, "tokens": 4, "encoder": "none", "prompts": ["a calm sea", "a storm"]}
RING = {"path": "/dev/shm/dsa-runtime-1000/0011223344556677.ring", "token": 5, "bytes": 576, "slots": 4}
STATS = {
    "sessions": 1,
    "opened": 2,
    "reaped": 1,
    "refused": 0,
    "requests": 300,
    "errors": 3,
    "ticks": 290,
    "late": 4,
    "repeated": 0,
    "skipped": 0,
    "load": 0.125,
    "slots": 9,
    "uptime_ms": 60000,
    "draining": False,
}

MESSAGES = {
    "hello": Message("hello", 1, {"min": 1, "max": 1, "features": ["shm", "jpeg"], "client": "golden 1"}),
    "welcome": Message(
        "welcome",
        1,
        {
            "epoch": EPOCH,
            "version": 1,
            "features": ["shm", "jpeg"],
            "server": "dsa-runtime 0.1.0",
            "limits": LIMITS,
            "worlds": WORLDS,
        },
    ),
    "specs": Message("specs", 2, {"epoch": EPOCH, "world": "tiny"}),
    "specs reply": Message(
        "specs",
        2,
        {"epoch": EPOCH, "world": "tiny", "contexts": 2, "spec": SPEC},
        (Buffer.of_bytes("spec", b"{}"),),
    ),
    "specs reply, several pictures and text": Message(
        "specs",
        2,
        {
            "epoch": EPOCH,
            "world": "tiny",
            "contexts": 2,
            "spec": {**SPEC, "frame": {**SPEC["frame"], "frames_per_tick": 2}, "text": TEXT},
        },
        (Buffer.of_bytes("spec", b"{}"),),
    ),
    "open": Message(
        "open",
        3,
        {
            "epoch": EPOCH,
            "key": KEY,
            "world": "tiny",
            "seed": 7,
            "threshold": 0.75,
            "controller": {"policy": "gain", "min_steps": 1},
            "on_miss": "best_effort",
            "history": 8,
            "lease_ms": 5000,
            "frames": "part",
        },
    ),
    "open, prompt": Message("open", 3, {"epoch": EPOCH, "key": KEY, "prompt": "a storm"}),
    "open, embeddings": Message("open", 3, {"epoch": EPOCH, "key": KEY}, (PROMPT,)),
    "opened": Message(
        "opened", 3, {**ABOUT, "tick": 0, "seed": 7, "world": "tiny", "lease_ms": 5000}, (FRAME,)
    ),
    "opened, shared memory": Message(
        "opened",
        3,
        {**ABOUT, "tick": 0, "seed": 7, "world": "tiny", "lease_ms": 5000, "ring": RING, "topic": bytes(range(8))},
        (Buffer("frame", "u1", (2, 2, 3), None, "raw", 1, 1),),
    ),
    "step": Message("step", 42, {**ABOUT, "action": 1, "budget_us": 33333}),
    "step, box": Message("step", 42, {**ABOUT, "action": [0.5, -0.25], "budget_us": -1, "steps": 2}),
    "frame": Message("frame", 42, {**ABOUT, **FRAME_FIELDS}, (FRAME,)),
    "frame, confidences": Message("frame", 42, {**ABOUT, **FRAME_FIELDS, "confidences": [0.5, 0.9375]}, (FRAME,)),
    "frame, jpeg": Message(
        "frame", 42, {**ABOUT, **FRAME_FIELDS}, (Buffer("frame", "u1", (2, 2, 3), b"\xff\xd8\xff\xd9", "jpeg"),)
    ),
    "frame, several pictures": Message(
        "frame", 42, {**ABOUT, **FRAME_FIELDS}, (Buffer("frame", "u1", (2, 2, 2, 3), bytes(range(24))),)
    ),
    "reset": Message("reset", 43, {**ABOUT, "seed": 8}),
    "picture": Message("picture", 43, {**ABOUT, "tick": 0, "seed": 8}, (FRAME,)),
    "picture, prompt": Message("picture", 43, {**ABOUT, "tick": 0, "seed": 8, "prompt": "a storm"}, (FRAME,)),
    "restore": Message("restore", 44, ABOUT, (SNAPSHOT,)),
    "rewind": Message("rewind", 45, {**ABOUT, "ticks": 3}),
    "snapshot": Message("snapshot", 46, ABOUT),
    "snapshot reply": Message("snapshot", 46, {**ABOUT, "tick": 41, "seed": 7}, (SNAPSHOT,)),
    "fork": Message("fork", 47, {**ABOUT, "n": 2, "key": KEY}),
    "forked": Message("forked", 47, {**ABOUT, "sids": [1, 2]}),
    "configure": Message("configure", 48, {**ABOUT, "controller": {"policy": "fixed"}, "frames": "jpeg"}),
    "configured": Message("configured", 48, ABOUT),
    "prompt": Message("prompt", 49, {**ABOUT, "prompt": "a storm"}),
    "prompt, embeddings": Message("prompt", 49, ABOUT, (PROMPT,)),
    "prompted": Message("prompted", 49, {**ABOUT, "tick": 41}),
    "close": Message("close", 49, ABOUT),
    "closed": Message("closed", 49, ABOUT),
    "cancel": Message("cancel", 50, ABOUT),
    "cancelled": Message("cancelled", 50, {**ABOUT, "cancelled": True}),
    "ping": Message("ping", 51, ABOUT),
    "pong": Message("pong", 51, ABOUT),
    "stats": Message("stats", 52, {"epoch": EPOCH}),
    "stats reply": Message("stats", 52, {"epoch": EPOCH, **STATS}),
    "handover": Message("handover", 0, {**ABOUT, "tick": 42}, (SNAPSHOT,)),
    "error": Message(
        "error",
        42,
        {
            "epoch": EPOCH,
            "code": "invalid",
            "num": 7,
            "msg": "expected an integer in 0..1, got 9",
            "retry": False,
            "ran": "no",
            "kind": "ActionError",
        },
    ),
}  # fmt: skip


def hexadecimal() -> dict[str, list[str]]:
    """The parts of every message."""
    return {name: [bytes(part).hex() for part in pack(message)] for name, message in MESSAGES.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(hexadecimal(), indent=1) + "\n")
