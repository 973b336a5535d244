"""Columns: what a table of ticks holds. One row is one tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..actions import ActionSpace, Box, Discrete
from ..spec import FrameSpec, WorldSpec
from .redraw import Redrawn

Kind = Literal["int", "float", "text", "bool"]
Value = int | float | str | bool | None
ACTION = "action"
"""Name of the column with a discrete action's index, and of what comes before the dot in the others' columns."""


@dataclass(frozen=True)
class Column:
    """`unit` is empty where there is none."""

    name: str
    kind: Kind
    unit: str
    meaning: str


def action_columns(space: ActionSpace) -> list[Column]:
    """The columns of an action: two for a discrete one, otherwise one per component."""
    if isinstance(space, Discrete):
        return [
            Column(ACTION, "int", "", "index of the action taken"),
            Column(f"{ACTION}_name", "text", "", "its name in the world's action space"),
        ]
    if isinstance(space, Box):
        named = zip(space.names, space.units, strict=True)
        return [Column(f"{ACTION}.{name}", "float", unit, f"the action's {name}") for name, unit in named]
    return [Column(f"{ACTION}.{name}", "int", "", f"1 while {name} was held, else 0") for name in space.names]


def columns(spec: WorldSpec) -> list[Column]:
    """All columns for recordings of a world, in order."""
    numbers = range(1, spec.schedule.steps + 1)
    return [
        Column("tick", "int", "", "index of the tick since reset, from 0"),
        Column("time_s", "float", "s", "when it begins: tick divided by the world's own ticks per second"),
        *action_columns(spec.action_space),
        Column("steps", "int", "", "denoising steps taken"),
        *(Column(f"confidence_{k}", "float", "", f"after step {k}, as drawn now; empty if not taken") for k in numbers),
        Column("confidence", "float", "", "after the last step taken"),
        Column("threshold", "float", "", "confidence that was enough; empty if the policy had none"),
        Column("stopped_by", "text", "", "why no further step was run: confidence, budget, ceiling, ..."),
        Column("status", "text", "", "ok, late, repeated or skipped"),
        Column("budget_ms", "float", "ms", "wall time allowed from call to return; inf for no limit"),
        Column("credit_ms", "float", "ms", "allowed on top by the controller"),
        Column("slack_ms", "float", "ms", "budget and credit left at return; negative when late"),
        Column("wait_ms", "float", "ms", "until the worker was free: the commit of the frame before"),
        *(Column(f"denoise_{k}_ms", "float", "ms", f"step {k}; empty if not taken") for k in numbers),
        Column("abandoned_ms", "float", "ms", "on a step that the deadline cut short"),
        Column("decode_ms", "float", "ms", "latent to picture"),
        Column("sdk_ms", "float", "ms", "everything else inside the call"),
        Column("total_ms", "float", "ms", "from call to return, the sum of the stages"),
        Column("digest", "text", "", "BLAKE2b-128 of the frame's pixels, as recorded"),
        Column("same_frame", "bool", "", "whether the frame drawn now is the recorded one, bit for bit"),
    ]


def time_s(frame: FrameSpec, tick: int, picture: int = 0) -> float:
    """When a picture of a tick is due, in the world's own time."""
    return (tick * frame.frames_per_tick + picture) / frame.fps


def row(spec: WorldSpec, redrawn: Redrawn) -> dict[str, Value]:
    """The values of one tick by column name; None where nothing is known or nothing was measured."""
    tick, decision = redrawn.tick, redrawn.decision
    values: dict[str, Value] = {
        "tick": tick.tick,
        "time_s": time_s(spec.frame, tick.tick),
        **_action(spec.action_space, decision.action),
        "steps": tick.steps,
        "confidence": tick.confidence,
        "threshold": tick.threshold,
        "digest": decision.digest,
        "same_frame": redrawn.same,
    }
    for k, confidence in enumerate(tick.confidences, 1):
        values[f"confidence_{k}"] = confidence
    if decision.played is not None:  # otherwise the tick's times are those of drawing it now, which nobody asks for
        latency = tick.latency_ms
        values |= {
            "stopped_by": tick.stopped_by,
            "status": tick.status,
            "budget_ms": tick.budget_ms,
            "credit_ms": tick.credit_ms,
            "slack_ms": tick.slack_ms,
            "wait_ms": latency["wait"],
            "abandoned_ms": latency["abandoned"],
            "decode_ms": latency["decode"],
            "sdk_ms": latency["sdk"],
            "total_ms": latency["total"],
        }
        for k, cost_ms in enumerate(latency["denoise"], 1):
            values[f"denoise_{k}_ms"] = cost_ms
    return {column.name: values.get(column.name) for column in columns(spec)}


def _action(space: ActionSpace, action: Any) -> dict[str, Value]:
    if isinstance(space, Discrete):
        return {ACTION: int(action), f"{ACTION}_name": space.names[int(action)]}
    kind = float if isinstance(space, Box) else int
    return {f"{ACTION}.{name}": kind(value) for name, value in zip(space.names, action, strict=True)}
