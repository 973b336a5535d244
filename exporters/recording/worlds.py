"""The worlds that can be recorded: for each, its adapter, its player, and what the dataset says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite
import numpy as np

from .arm_policies import arm_policy
from .environment import Environment
from .episode import DatasetError, Episode
from .gymnasium_policies import gymnasium_policy
from .gymnasium_world import GymnasiumConfig, GymnasiumWorld, check_unbroken
from .mujoco_arm import FORE_M, UPPER_M, ArmConfig, MujocoArm
from .mujoco_arm import LICENCE as ARM_LICENCE
from .policies import MixedPolicy, default_policy
from .vizdoom_world import LICENCE as VIZDOOM_LICENCE
from .vizdoom_world import VizdoomConfig, VizdoomWorld


@dataclass(frozen=True)
class WorldKind:
    """One kind of environment. `settings` is the class of its configuration, which all others take."""

    settings: type
    make: Callable[[Any], Environment]
    policy: Callable[[Any, Any], MixedPolicy]
    """Gets the configuration and the environment that the player will play."""
    licence: Callable[[Any], str]
    source: Callable[[Any], str]
    check: Callable[[Environment, Episode, str], None]
    """Raises DatasetError for a recording that must not be kept; gets the environment, the episode and its path."""


def _enough_ammunition(environment: Environment, episode: Episode, where: str) -> None:
    assert episode.state is not None
    if (episode.state[:, environment.state_names.index("ammo")] <= 0).any():
        raise DatasetError(f"{where}: the player ran out of ammunition, so 'fire' would mean nothing")


def _steady(environment: Environment, episode: Episode, where: str) -> None:
    assert episode.state is not None
    first = environment.state_names.index("tip_x_m")
    speed = (
        np.linalg.norm(np.diff(episode.state[:, first : first + 2], axis=0), axis=1).max() * environment.frame["fps"]
    )
    high = environment.action_space["high"]
    fastest = (UPPER_M + FORE_M) * high[0] + FORE_M * high[1]
    if speed > 2.0 * fastest:
        raise DatasetError(
            f"{where}: the tip moved at {speed:.1f} m/s, commanded {fastest:.1f} at most: physics diverged"
        )


def _unbroken(environment: Environment, episode: Episode, where: str) -> None:
    """Start contexts, and what a package is verified on, come from held-out recordings; to train on, any will do."""
    if Path(where).parent.name != "train":
        check_unbroken(episode, where)


KINDS: Mapping[str, WorldKind] = {
    "vizdoom": WorldKind(
        VizdoomConfig,
        VizdoomWorld,
        lambda settings, environment: default_policy(),
        lambda settings: VIZDOOM_LICENCE,
        lambda settings: f"ViZDoom scenario {settings.scenario}, Freedoom art",
        _enough_ammunition,
    ),
    "mujoco-arm": WorldKind(
        ArmConfig,
        MujocoArm,
        lambda settings, environment: arm_policy(settings),
        lambda settings: ARM_LICENCE,
        lambda settings: "MuJoCo, the arm scene of exporters/recording/mujoco_arm.py",
        _steady,
    ),
    "gymnasium": WorldKind(
        GymnasiumConfig,
        GymnasiumWorld,
        gymnasium_policy,
        lambda settings: settings.licence,
        lambda settings: f"Gymnasium environment {settings.id}",
        _unbroken,
    ),
}


def world_settings(kind: str, table: Mapping[str, Any]) -> Any:
    """The configuration of a kind from a table of a recipe. Raises ValueError naming what does not fit."""
    if kind not in KINDS:
        raise ValueError(f"recording.environment: {kind!r} is unknown; choose from {', '.join(KINDS)}")
    try:
        return dacite.from_dict(KINDS[kind].settings, dict(table), dacite.Config(strict=True, cast=[tuple, float]))
    except (dacite.DaciteError, TypeError) as error:
        raise ValueError(f"recording.settings: {error}") from error
