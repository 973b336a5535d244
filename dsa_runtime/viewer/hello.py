"""Hello: what a page must know before it can show anything, as plain JSON values. `PAGE.md` has the keys."""

from __future__ import annotations

from typing import Any

from .. import strict_json
from ..spec import WorldSpec
from ..world import World
from .command import LEAST_BUDGET_MS
from .controls import Controls
from .lane import history_of
from .stops import stops_of

_PERIODS = 2.0
"""Where the budget slider ends; beyond it is no limit."""


def play_hello(world: World, machine: str) -> dict[str, Any]:
    """For a page that plays. `machine` in a few words."""
    spec = world.spec
    return {
        "mode": "play",
        "world": describe_world(spec),
        "machine": f"{machine}, {world.form} form",
        "history": history_of(spec),
        "controls": Controls.of(spec.action_space).describe(),
        **({"prompts": list(spec.text.prompts)} if spec.text.prompts else {}),
        "stops": [strict_json.encode(stop) for stop in stops_of(spec)],
        "budget": {"least": max(1.0, LEAST_BUDGET_MS), "most": round(_PERIODS * spec.frame.period_ms)},
    }


def watch_hello(spec: WorldSpec, address: str) -> dict[str, Any]:
    """For a page that looks on at a server; `spec` is that of its first world."""
    return {"mode": "watch", "world": describe_world(spec), "machine": address}


def describe_world(spec: WorldSpec) -> dict[str, Any]:
    """What is shown of a world, and how."""
    frame = spec.frame
    return {
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "height": frame.height,
        "width": frame.width,
        "aspect": list(frame.display_aspect),
        "fps": frame.fps,
        "period_ms": frame.period_ms,
        "steps": spec.schedule.steps,
    }
