"""What page and server say to each other: read strictly, packed as documented, decisions in words."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from dsa_runtime import RiskBound, ServingError, Tick, World
from dsa_runtime.calibration import CheckedRisk, Curve
from dsa_runtime.viewer import packing
from dsa_runtime.viewer.command import Hold, Play, Prompt, Reset, Rewind, Settings, read_command
from dsa_runtime.viewer.stops import stops_of
from dsa_runtime.viewer.words import sentence

TICK = Tick(
    pixels=np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3), tick=7, frame_tick=7, steps=2, confidence=0.934,
    threshold=0.762, stopped_by="confidence", budget_ms=33.0, credit_ms=0.0, slack_ms=18.8, status="ok",
    latency_ms={"wait": 1.0, "denoise": (4.0, 5.0), "abandoned": 0.0, "decode": 3.0, "sdk": 1.2, "total": 14.2},
    confidences=(0.41234567, 0.934),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"do": "play"}', Play()),
        ('{"do": "rewind", "tick": 12}', Rewind(12)),
        ('{"do": "reset", "seed": "18446744073709551615"}', Reset("18446744073709551615")),
        ('{"do": "hold", "held": ["left"], "moved": [0, -0.5], "stamp": 12.5}', Hold(("left",), (0.0, -0.5), 12.5)),
        ('{"do": "prompt", "lane": 1, "prompt": "a storm"}', Prompt(1, "a storm")),
        ('{"do": "set", "lane": 1, "budget_ms": 20, "threshold": 0.5, "steps": 0}', Settings(1, 20, 0.5, 0)),
    ],
)
def test_commands_are_read(text: str, command: object) -> None:
    assert read_command(text) == command


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"do": "quit"}', "message.do: expected one of hold"),
        ('{"do": ["play"]}', "message.do"),
        ('{"do": "play", "fast": true}', "play.fast: unknown field"),
        ('{"do": "rewind"}', "rewind.tick: missing field"),
        ('{"do": "rewind", "tick": 1.5}', "rewind.tick: expected an integer"),
        ('{"do": "reset", "seed": "-1"}', "reset.seed: must lie in"),
        ('{"do": "reset", "seed": "18446744073709551616"}', "reset.seed: must lie in"),
        ('{"do": "hold", "held": "left", "moved": [], "stamp": 0}', "hold.held: expected an array"),
        ('{"do": "hold", "held": [], "moved": [NaN], "stamp": 0}', "NaN is not a JSON number"),
        ('{"do": "set", "lane": 0, "budget_ms": 0, "threshold": 0.5, "steps": 0}', "set.budget_ms: must lie in"),
        ('{"do": "set", "lane": 0, "budget_ms": "9", "threshold": 0.5, "steps": 0}', "set.budget_ms: must lie in"),
        ('{"do": "set", "lane": 0, "budget_ms": null, "threshold": 1.5, "steps": 0}', "set.threshold: must lie in"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_command_is_refused_by_its_field(text: str, problem: str) -> None:
    with pytest.raises(ServingError) as refused:
        read_command(text)
    assert problem in str(refused.value)


def test_ticks_lie_in_a_message_as_documented() -> None:
    pixels = 255 - TICK.pixels
    other = dataclasses.replace(TICK, pixels=pixels, frames=pixels[np.newaxis], budget_ms=math.inf, slack_ms=math.inf)
    message = packing.pack_ticks([TICK, other], 3, 12.25)
    head_bytes = int.from_bytes(message[8:12], "little")
    assert message[:8] == b"DSAV\x01\x01\x02\x00"
    assert message[12:16] == b"\x02\x00\x03\x00"
    head = json.loads(message[16 : 16 + head_bytes])
    assert message[16 + head_bytes :] == TICK.pixels.tobytes() + other.pixels.tobytes()
    assert head["stamp"] == 12.25
    assert head["lanes"][0] == {
        "tick": 7, "steps": 2, "confidence": 0.934, "confidences": [0.4123, 0.934], "threshold": 0.762,
        "stopped_by": "confidence", "budget": 33.0, "slack": 18.8, "status": "ok",
        "words": "2 of 3 steps: confidence .93 ≥ .76; 14.2 ms of 33; ok",
        "latency": {"wait": 1.0, "denoise": [4.0, 5.0], "abandoned": 0.0, "decode": 3.0, "sdk": 1.2, "total": 14.2},
    }  # fmt: skip
    assert (head["lanes"][1]["budget"], head["lanes"][1]["slack"]) == (None, None)


def test_all_pictures_of_a_tick_lie_in_its_message() -> None:
    frames = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
    one, other = (dataclasses.replace(TICK, pixels=each[-1], frames=each) for each in (frames, 255 - frames))
    message = packing.pack_ticks([one, other], 3, None)
    assert (message[:8], message[12:16]) == (b"DSAV\x01\x01\x02\x00", b"\x02\x00\x03\x00")
    head_bytes = int.from_bytes(message[8:12], "little")
    assert json.loads(message[16 : 16 + head_bytes])["pictures"] == 4
    assert message[16 + head_bytes :] == frames.tobytes() + (255 - frames).tobytes()
    assert b'"pictures"' not in packing.pack_ticks([TICK], 3, None)


def test_pictures_and_files_have_the_same_header() -> None:
    assert packing.pack_pictures([TICK.pixels], {"tick": 8})[16:] == b'{"tick":8}' + TICK.pixels.tobytes()
    assert packing.pack_file("a.dsarec", b"content") == (
        b"DSAV\x01\x03\x00\x00" + (19).to_bytes(4, "little") + bytes(4) + b'{"name":"a.dsarec"}' + b"content"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "2 of 3 steps: confidence .93 ≥ .76; 14.2 ms of 33; ok"),
        ({"stopped_by": "budget", "confidence": 0.41}, "2 of 3 steps: confidence .41 < .76, no time for another; *"),
        (
            {"stopped_by": "deadline", "confidence": 0.0},
            "2 of 3 steps: confidence .00 < .76, the next was cut short; *",
        ),
        ({"stopped_by": "ceiling", "steps": 3}, "3 of 3 steps: the whole schedule; *"),
        ({"stopped_by": "ceiling", "steps": 1}, "1 of 3 steps: no more were allowed; *"),
        ({"stopped_by": "request"}, "2 of 3 steps, as asked for; *"),
        ({"confidence": 0.9999, "threshold": None}, "2 of 3 steps: confidence .99; *"),
        ({"budget_ms": math.inf}, "2 of 3 steps: confidence .93 ≥ .76; 14.2 ms, no limit; ok"),
        ({"status": "late", "slack_ms": -3.14}, "2 of 3 steps: confidence .93 ≥ .76; 14.2 ms of 33; late by 3.1 ms"),
        (
            {"status": "repeated", "steps": 0, "frame_tick": 6},
            "not ready in time, so the frame of tick 6 again; 14.2 ms of 33; repeated",
        ),
        (
            {"status": "skipped", "steps": 0, "frame_tick": -1},
            "the tick before was not ready, so the first picture again; 14.2 ms of 33; skipped",
        ),
    ],
)
def test_a_decision_in_words(changes: dict[str, Any], words: str) -> None:
    assert sentence(dataclasses.replace(TICK, **changes), 3) == words.replace("*", "14.2 ms of 33; ok")


def test_the_quality_slider_stands_at_the_default_at_both_ends_and_at_what_is_promised(tiny_world: World) -> None:
    plain = stops_of(tiny_world.spec)
    assert [(stop.threshold, stop.mean_steps, stop.is_default) for stop in plain] == [
        (0.0, 1.0, False), (0.5, 2.0, True), (1.0, 4.0, False),
    ]  # fmt: skip
    checked = CheckedRisk(0.01, (0.0, 0.05), 20, 5, 2.5)
    bound = RiskBound(0.05, 2.61, 0.8, 2.5, 0.02, 200, 40, 0.01, checked)
    curves = (Curve((0.0,), (0.5,)),) * 3
    calibration = dataclasses.replace(tiny_world.spec.calibration, bounds=(bound,), within_delta=curves)
    promised = stops_of(dataclasses.replace(tiny_world.spec, calibration=calibration))
    assert [stop.threshold for stop in promised] == [0.0, 0.5, 0.8, 1.0]
    assert promised[2].promise == "at most 0.05 of the frames further than 2.61 from the whole schedule's"
    assert promised[2].mean_steps == pytest.approx(2 + 2 * 0.3 / 0.5), "between the table's points"
