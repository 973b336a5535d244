"""Registration of the installed worlds in Gymnasium's registry."""

from __future__ import annotations

import gymnasium

from ..package import bundled_worlds

NAMESPACE = "dsa"
ANY_WORLD = f"{NAMESPACE}/world"
"""The id under which any package can be made: `gymnasium.make(ANY_WORLD, world="path/to/package")`."""
MAX_EPISODE_STEPS = 300
"""Ticks until an episode is cut, unless `gymnasium.make(max_episode_steps=...)` says otherwise."""


def register_worlds() -> None:
    """Register `dsa/NAME` for every installed world, and `dsa/world` for any other. Idempotent."""
    known: dict[str, dict[str, str]] = {ANY_WORLD: {}} | {
        f"{NAMESPACE}/{name}": {"world": name} for name in bundled_worlds()
    }
    for name, arguments in known.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="dsa_runtime.gym.env:WorldEnv",
                vector_entry_point="dsa_runtime.gym.vector_env:WorldVectorEnv",
                max_episode_steps=MAX_EPISODE_STEPS,
                kwargs=arguments,
            )
