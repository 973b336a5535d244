"""ViZDoom `defend_the_line` with Freedoom art, as an environment to record from.

The player stands at the end of a corridor, turns and shoots; monsters come closer and throw fireballs. The
scenario hands out ammunition all the time (it climbs to 200 and stays there), so "fire" keeps its meaning for a
whole recording; the recorder refuses one where it ran out.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .environment import Observation, Target, Transition

ACTION_NAMES = ("noop", "left", "right", "fire", "left+fire", "right+fire")
# Buttons in the order (TURN_LEFT, TURN_RIGHT, ATTACK), one row per action.
_BUTTONS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1))
STATE_NAMES = ("angle_deg", "x", "y", "visible_monsters", "ammo", "health", "kills", "attack_ready")
MONSTERS = frozenset({"Demon", "DoomImp"})
TICS_PER_SECOND = 35.0
LICENCE = "BSD-3-Clause (Freedoom art; see NOTICE). Recorded through ViZDoom (MIT); no game file is passed on."


@dataclass(frozen=True)
class VizdoomConfig:
    """How the scenario is shown and stepped. `height`, `width` in pixels, box-downsampled from 320x240."""

    scenario: str = "defend_the_line"
    height: int = 64
    width: int = 64
    tics_per_step: int = 2

    def __post_init__(self) -> None:
        if not (8 <= self.height <= 240 and 8 <= self.width <= 320):
            raise ValueError(f"frame size {self.height}x{self.width} must lie between 8x8 and 240x320")
        if self.tics_per_step < 1:
            raise ValueError(f"tics_per_step must be at least 1, got {self.tics_per_step}")


def frame_spec(config: VizdoomConfig) -> dict[str, Any]:
    """The `frame` object of a WorldSpec or dataset recorded with this configuration."""
    return {
        "height": config.height,
        "width": config.width,
        "channels": 3,
        "fps": TICS_PER_SECOND / config.tics_per_step,
        "display_aspect": [4, 3],
    }


def action_space() -> dict[str, Any]:
    """The `action_space` object of a WorldSpec or dataset."""
    return {"type": "Discrete", "n": len(ACTION_NAMES), "names": list(ACTION_NAMES)}


class VizdoomWorld:
    """Implements `Environment`. Owns one headless game process; `close()` ends it."""

    state_names: tuple[str, ...] = STATE_NAMES

    def __init__(self, config: VizdoomConfig = VizdoomConfig()):
        self.config = config
        self.frame = frame_spec(config)
        self.action_space = action_space()
        self._scratch = tempfile.TemporaryDirectory(prefix="vizdoom-")
        self._game = _start_game(config, self._scratch.name)

    def reset(self, seed: int) -> Observation:
        """Starts a new life; everything that follows is a function of `seed` and the actions."""
        self._game.set_seed(seed)
        self._game.new_episode()
        return self._observe()

    def step(self, action: int) -> Transition:
        """Holds the action's buttons for `tics_per_step` tics. A death resets at once and is marked `cut`."""
        reward = self._game.make_action(list(_BUTTONS[action]), self.config.tics_per_step)
        cut = self._game.is_episode_finished()
        if cut:
            self._game.new_episode()
        return Transition(self._observe(), float(reward), cut)

    def close(self) -> None:
        self._game.close()
        self._scratch.cleanup()

    def _observe(self) -> Observation:
        state = self._game.get_state()
        screen = state.screen_buffer
        picture = Image.fromarray(screen).resize((self.config.width, self.config.height), Image.Resampling.BOX)
        screen_height, screen_width = screen.shape[:2]
        targets = tuple(
            Target(
                name=label.object_name,
                offset=(label.x + label.width / 2) / screen_width - 0.5,
                width=label.width / screen_width,
                area=label.width * label.height / (screen_width * screen_height),
            )
            for label in state.labels
            if label.object_name in MONSTERS
        )
        angle, x, y, ammo, health, kills, ready = state.game_variables
        values = np.array([angle, x, y, len(targets), ammo, health, kills, ready], dtype=np.float32)
        return Observation(np.array(picture), values, targets)


def _start_game(config: VizdoomConfig, scratch: str) -> Any:
    import vizdoom  # heavy and only needed here, so that the dataset readers work without it

    scenario = os.path.join(vizdoom.scenarios_path, config.scenario + ".cfg")
    if not os.path.isfile(scenario):
        raise ValueError(f"ViZDoom {vizdoom.__version__} has no scenario named {config.scenario!r}")
    variable = vizdoom.GameVariable
    game = vizdoom.DoomGame()
    game.load_config(scenario)
    game.set_doom_config_path(os.path.join(scratch, "settings.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_labels_buffer_enabled(True)
    game.set_render_weapon(True)
    # Small, short-lived or textual details are below what 64 pixels can hold and would only be noise to a model.
    game.set_render_hud(False)
    game.set_render_crosshair(False)
    game.set_render_decals(False)
    game.set_render_particles(False)
    game.set_render_messages(False)
    game.set_render_screen_flashes(False)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT, vizdoom.Button.TURN_RIGHT, vizdoom.Button.ATTACK])
    game.set_available_game_variables(
        [
            variable.ANGLE,
            variable.POSITION_X,
            variable.POSITION_Y,
            variable.SELECTED_WEAPON_AMMO,
            variable.HEALTH,
            variable.KILLCOUNT,
            variable.ATTACK_READY,
        ]
    )
    # The engine inherits the working directory and litters it, so it is started from the scratch folder.
    before = os.getcwd()
    os.chdir(scratch)
    try:
        game.init()
    finally:
        os.chdir(before)
    return game
