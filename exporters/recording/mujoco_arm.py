"""A MuJoCo arm that pushes three blocks off a table: continuous actions, exact state, and one kind of surprise.

Two velocity-controlled joints move a pusher over a table, seen straight from above. Blocks slide with dry friction and
do not turn. A block whose centre leaves the table is put back at a random free place, which nothing in the picture
foretells: on such frames only a model that decides, rather than averages, draws a block. Scene, players and pictures
are this project's own, the physics MuJoCo's.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .environment import Observation, Transition

BLOCKS = ("red", "green", "blue")
STATE_NAMES = (
    "shoulder_rad",
    "elbow_rad",
    "tip_x_m",
    "tip_y_m",
    *(f"{block}_{what}" for block in BLOCKS for what in ("x_m", "y_m")),
    "dropped",
)
LICENCE = "Apache-2.0. Recorded in a scene of this project with MuJoCo (Apache-2.0)."

TABLE_X_M, TABLE_Y_M = (-0.5, 0.5), (-0.4, 0.44)
BASE_Y_M = 0.54
UPPER_M, FORE_M = 0.5, 0.42
_BLOCK_HALF_M = 0.1
_SPAWN_X_M, _SPAWN_Y_M = (-0.36, 0.36), (-0.26, 0.24)
_COLOURS = {"red": "0.86 0.16 0.14", "green": "0.13 0.62 0.22", "blue": "0.13 0.32 0.85"}


@dataclass(frozen=True)
class ArmConfig:
    """How the scene is shown and stepped. `height`, `width` in pixels."""

    height: int = 64
    width: int = 64
    fps: float = 15.0
    shoulder_rad_s: float = 0.9
    """Largest commanded velocity of each joint."""
    elbow_rad_s: float = 1.4
    supersampling: int = 3
    """The picture is rendered this much larger and box-averaged: smooth edges, and cheaper than multisampling here."""

    def __post_init__(self) -> None:
        if not (16 <= self.height <= 256 and 16 <= self.width <= 256):
            raise ValueError(f"frame size {self.height}x{self.width} must lie between 16x16 and 256x256")
        if not 5.0 <= self.fps <= 60.0:
            raise ValueError(f"fps must lie in 5..60, got {self.fps}")
        if min(self.shoulder_rad_s, self.elbow_rad_s) <= 0 or self.supersampling < 1:
            raise ValueError("shoulder_rad_s and elbow_rad_s must be positive, supersampling at least 1")


def frame_spec(config: ArmConfig) -> dict[str, Any]:
    """The `frame` object of a WorldSpec or dataset recorded with this configuration."""
    return {"height": config.height, "width": config.width, "channels": 3, "fps": config.fps}


def action_space(config: ArmConfig) -> dict[str, Any]:
    """The `action_space` object of a WorldSpec or dataset: joint velocities."""
    limits = [config.shoulder_rad_s, config.elbow_rad_s]
    return {
        "type": "Box",
        "low": [-limit for limit in limits],
        "high": limits,
        "names": ["shoulder", "elbow"],
        "units": ["rad/s", "rad/s"],
    }


class MujocoArm:
    """Implements `Environment`. Renders off screen through Mesa's software renderer unless MUJOCO_GL says otherwise."""

    state_names: tuple[str, ...] = STATE_NAMES

    def __init__(self, config: ArmConfig = ArmConfig()):
        os.environ.setdefault("MUJOCO_GL", "osmesa")
        import mujoco  # heavy, and only needed here

        self.config = config
        self.frame = frame_spec(config)
        self.action_space = action_space(config)
        self._mujoco = mujoco
        self._model = mujoco.MjModel.from_xml_string(_scene(config))
        self._data = mujoco.MjData(self._model)
        self._substeps = _substeps(config)
        self._tip = self._model.site("tip").id
        scale = config.supersampling
        self._renderer = mujoco.Renderer(self._model, config.height * scale, config.width * scale)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False  # half the cost, and half of what to learn
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int) -> Observation:
        """A new arrangement; everything that follows is a function of `seed` and the actions."""
        # A stream of its own: players are seeded with the same number (`record.play`).
        self._rng = np.random.default_rng([seed, 1])
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[0] = self._rng.uniform(-0.7, 0.7)
        self._data.qpos[1] = self._rng.uniform(-1.8, 1.8)
        for index in range(len(BLOCKS)):  # out of each other's way before places are drawn
            self._block(index)[:] = (10.0 + index, 10.0)
        self._mujoco.mj_forward(self._model, self._data)
        for index in range(len(BLOCKS)):
            self._put(index)
        return self._observe(dropped=False)

    def step(self, action: np.ndarray) -> Transition:
        """Command joint velocities (rad/s) for one frame. Never cut: the scene mends itself."""
        self._data.ctrl[:] = action
        for _ in range(self._substeps):
            self._mujoco.mj_step(self._model, self._data)
        self._mujoco.mj_forward(self._model, self._data)  # a step ends with joints moved and everything else behind
        dropped = False
        for index in range(len(BLOCKS)):
            if not _on_table(self._block(index)[:2]):
                self._put(index)
                dropped = True
        return Transition(self._observe(dropped), float(dropped), False)

    def close(self) -> None:
        self._renderer.close()

    def _block(self, index: int) -> np.ndarray:
        """View of a block's x and y, in metres."""
        start = 2 + 2 * index
        view: np.ndarray = self._data.qpos[start : start + 2]
        return view

    def _put(self, index: int) -> None:
        """Put a block at rest at a random place that nothing else touches."""
        velocity = slice(2 + 2 * index, 4 + 2 * index)
        best, best_room = None, -np.inf
        for _ in range(60):
            place = np.array([self._rng.uniform(*_SPAWN_X_M), self._rng.uniform(*_SPAWN_Y_M)])
            room = self._room(index, place)
            if room > best_room:
                best, best_room = place, room
            if room > 0.03:
                break
        assert best is not None
        self._block(index)[:] = best
        self._data.qvel[velocity] = 0.0
        self._mujoco.mj_forward(self._model, self._data)

    def _room(self, index: int, place: np.ndarray) -> float:
        """Distance in metres from a block at `place` to whatever is nearest, its corners counted in."""
        reach = _BLOCK_HALF_M * np.sqrt(2.0)
        others = [self._block(other)[:2] for other in range(len(BLOCKS)) if other != index]
        rooms = [float(np.linalg.norm(place - other)) - 2 * reach for other in others]
        base, elbow, tip = self._links()
        rooms += [_distance(place, start, end) - reach - 0.05 for start, end in ((base, elbow), (elbow, tip))]
        return min(rooms)

    def _links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Base, elbow and tip on the table's plane, metres."""
        shoulder, elbow = self._data.qpos[:2]
        base = np.array([0.0, BASE_Y_M])
        # At zero the arm points away from the base, towards the viewer.
        joint = base + UPPER_M * np.array([np.sin(shoulder), -np.cos(shoulder)])
        tip = joint + FORE_M * np.array([np.sin(shoulder + elbow), -np.cos(shoulder + elbow)])
        return base, joint, tip

    def _observe(self, dropped: bool) -> Observation:
        self._renderer.update_scene(self._data, camera="view")
        size = (self.config.width, self.config.height)
        picture = Image.fromarray(self._renderer.render()).resize(size, Image.Resampling.BOX)
        tip = self._data.site_xpos[self._tip][:2]
        blocks = np.concatenate([self._block(index) for index in range(len(BLOCKS))])
        values = np.concatenate([self._data.qpos[:2], tip, blocks, [float(dropped)]]).astype(np.float32)
        return Observation(np.array(picture), values)


def _on_table(place: np.ndarray) -> bool:
    (left, right), (front, back) = TABLE_X_M, TABLE_Y_M
    return bool(left <= place[0] <= right and front <= place[1] <= back)


def _distance(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = np.clip((point - start) @ (end - start) / ((end - start) @ (end - start)), 0.0, 1.0)
    return float(np.linalg.norm(point - start - along * (end - start)))


def _substeps(config: ArmConfig) -> int:
    """Physics steps per picture: none longer than 1/180 s."""
    return math.ceil(180.0 / config.fps)


def _scene(config: ArmConfig) -> str:
    blocks = "".join(
        f"""
    <body name="{name}" pos="0 0 {_BLOCK_HALF_M}">
      <joint name="{name}_x" type="slide" axis="1 0 0" frictionloss="1.5" damping="0.8"/>
      <joint name="{name}_y" type="slide" axis="0 1 0" frictionloss="1.5" damping="0.8"/>
      <geom type="box" size="{_BLOCK_HALF_M} {_BLOCK_HALF_M} {_BLOCK_HALF_M}" mass="0.3" rgba="{_COLOURS[name]} 1"/>
    </body>"""
        for name in BLOCKS
    )
    width, depth = TABLE_X_M[1] - TABLE_X_M[0], TABLE_Y_M[1] - TABLE_Y_M[0]
    return f"""
<mujoco model="push-blocks">
  <compiler angle="radian"/>
  <option timestep="{1.0 / (config.fps * _substeps(config)):.9f}" gravity="0 0 0" integrator="implicitfast"/>
  <visual>
    <global offwidth="{config.width * config.supersampling}" offheight="{config.height * config.supersampling}"/>
    <quality shadowsize="512" offsamples="0"/>
    <headlight ambient="0.42 0.42 0.42" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
    <map znear="0.1" zfar="20"/>
  </visual>
  <default><geom condim="3" friction="0.5 0.005 0.0001" solref="0.01 1"/></default>
  <worldbody>
    <light pos="-1.2 1.2 2.6" dir="0.42 -0.42 -0.9" directional="true" diffuse="0.5 0.5 0.5" castshadow="true"/>
    <camera name="view" pos="0 0.08 6" xyaxes="1 0 0 0 1 0" fovy="10.4"/>
    <geom name="floor" type="box" size="3 3 0.01" pos="0 0 -0.4" rgba="0.20 0.22 0.26 1" contype="0" conaffinity="0"/>
    <geom name="table" type="box" size="{width / 2} {depth / 2} 0.02" pos="0 {sum(TABLE_Y_M) / 2} -0.02"
          rgba="0.80 0.74 0.64 1" contype="0" conaffinity="0"/>
    <geom name="foot" type="cylinder" size="0.1 0.06" pos="0 {BASE_Y_M} 0" rgba="0.28 0.29 0.32 1"
          contype="0" conaffinity="0"/>
    <body name="upper" pos="0 {BASE_Y_M} {_BLOCK_HALF_M}">
      <joint name="shoulder" type="hinge" axis="0 0 1" range="-0.75 0.75" limited="true" damping="0.4" armature="0.05"/>
      <geom type="capsule" fromto="0 0 0 0 {-UPPER_M} 0" size="0.05" mass="0.5" rgba="0.93 0.93 0.95 1"/>
      <geom type="cylinder" size="0.065 0.06" pos="0 {-UPPER_M} 0" mass="0.1" rgba="0.95 0.66 0.10 1"/>
      <body name="fore" pos="0 {-UPPER_M} 0">
        <joint name="elbow" type="hinge" axis="0 0 1" range="-2.1 2.1" limited="true" damping="0.2" armature="0.02"/>
        <geom type="capsule" fromto="0 0 0 0 {-FORE_M} 0" size="0.045" mass="0.3" rgba="0.93 0.93 0.95 1"/>
        <geom type="cylinder" size="0.075 0.07" pos="0 {-FORE_M} 0" mass="0.1" rgba="0.36 0.20 0.45 1"/>
        <site name="tip" pos="0 {-FORE_M} 0"/>
      </body>
    </body>{blocks}
  </worldbody>
  <contact>
    <exclude body1="upper" body2="fore"/>
  </contact>
  <actuator>
    <velocity joint="shoulder" kv="12" ctrllimited="true" ctrlrange="-{config.shoulder_rad_s} {config.shoulder_rad_s}"/>
    <velocity joint="elbow" kv="8" ctrllimited="true" ctrlrange="-{config.elbow_rad_s} {config.elbow_rad_s}"/>
  </actuator>
</mujoco>"""
