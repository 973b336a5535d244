"""Drawn: the frames of a session at a server, and those of one on its own."""

from __future__ import annotations

import math

import numpy as np

from dsa_runtime import Session, World
from tests.serving.peer import Peer, pixels

ACTIONS = [0, 1, 3, 2, 2, 0]


def frames(peer: Peer, sid: int, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    return [pixels(peer.step(sid, action)) for action in actions]


def lone_frames(session: Session, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    return [session.step(action, math.inf).pixels for action in actions]


def alone(world: World, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    """What a session in this process draws that starts from 7."""
    with world.session(7) as lone:
        return lone_frames(lone, actions)
