"""Visual model-predictive control: choose actions by imagining, in the running world, what they would come to.

    python examples/mpc.py                    # aim: look down the corridor again, after having been turned away
    python examples/mpc.py --task push        # an arm pushes the red block to a place (needs the world push-blocks)

Before each move the session is forked. Every branch plays one candidate plan, all of them in common batches, and is
judged by its pictures alone. The best plans are varied and tried again (cross-entropy method); the first move of the
best one is made; then everything is planned anew. No state is read and no gradient taken: what is needed is
`Session.fork` and a measure of what is wanted. At the end the same is played with random moves.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsa_runtime import Session, load_world
from dsa_runtime.actions import ActionSpace

Cost = Callable[[np.ndarray], np.ndarray]
"""What plans came to, lower is better: pictures `uint8[plans, ticks, H, W, 3]` -> `float[plans]`."""


@dataclass(frozen=True)
class Task:
    """What is wanted, in which world."""

    world: str
    unit: str
    """Of what is measured."""
    actions: Callable[[ActionSpace], Callable[[np.ndarray], Any]]
    """From a move, `float[width]` in [-1, 1], to an action."""
    width: int
    begin: Callable[[Session, int], tuple[Cost, Callable[[np.ndarray], float]]]
    """Start an episode from a seed: the cost of plans in it, and the measure of one picture; lower is better."""


@dataclass(frozen=True)
class PlannerConfig:
    """How much is imagined. A plan is a few moves, each held for some ticks."""

    plans: int = 16
    """Per round, each a branch of the session."""
    rounds: int = 2
    elites: int = 4
    """Plans of a round that the next one is drawn around."""
    moves: int = 4
    hold: int = 4
    """Ticks that a move is held for; after the first move everything is planned anew."""
    steps: int | None = 1
    """Denoising steps in imagination: it need not be as sharp as the world itself. None for the world's choice."""


def imagine(session: Session, plans: Sequence[Sequence[Any]], steps: int | None) -> np.ndarray:
    """Play each plan, a sequence of actions, in a branch of its own: `uint8[plans, ticks, H, W, 3]`.

    The branches of a batched session share engine calls if they step at the same time: on a thread each.
    """

    def play(branch: Session, actions: Sequence[Any]) -> list[np.ndarray]:
        with branch:
            return [branch.step(action, math.inf, steps=steps).pixels for action in actions]

    with ThreadPoolExecutor(len(plans)) as pool:
        return np.array(list(pool.map(play, session.fork(len(plans)), plans)))


class Planner:
    """Chooses the next move. Keeps the rest of the last plan to begin the next one with."""

    def __init__(
        self, judge: Callable[[np.ndarray], np.ndarray], width: int, config: PlannerConfig, seed: int = 0
    ) -> None:
        """`judge`: what plans, `float[plans, moves, width]` in [-1, 1], would cost from here, `float[plans]`."""
        self._judge, self._config = judge, config
        self._rng = np.random.default_rng(seed)
        self._mean = np.zeros((config.moves, width))

    def next_move(self) -> np.ndarray:
        """`float[width]` in [-1, 1]."""
        config, mean = self._config, self._mean
        spread, best, best_cost = np.ones_like(mean), mean, math.inf
        for _ in range(config.rounds):
            plans = np.clip(mean + spread * self._rng.normal(size=(config.plans, *mean.shape)), -1.0, 1.0)
            plans[0] = best  # what is known to be good stays in the race
            costs = self._judge(plans)
            order = np.argsort(costs)
            if costs[order[0]] < best_cost:
                best, best_cost = plans[order[0]], costs[order[0]]
            elites = plans[order[: config.elites]]
            mean, spread = elites.mean(0), elites.std(0) + 0.1
        self._mean = np.concatenate([best[1:], np.zeros_like(best[:1])])
        move: np.ndarray = best[0]
        return move


def play(
    session: Session, task: Task, seed: int, ticks: int, config: PlannerConfig, planned: bool = True
) -> list[float]:
    """The measure after every tick. Not `planned`: with random moves, held as long."""
    cost, measure = task.begin(session, seed)
    action_of = task.actions(session.spec.action_space)

    def judge(plans: np.ndarray) -> np.ndarray:
        actions = [[action_of(move) for move in plan for _ in range(config.hold)] for plan in plans]
        return cost(imagine(session, actions, config.steps))

    planner, rng = Planner(judge, task.width, config, seed), np.random.default_rng(seed)
    measured = []
    for tick in range(ticks):
        if tick % config.hold == 0:
            action = action_of(planner.next_move() if planned else rng.uniform(-1.0, 1.0, task.width))
        picture = session.step(action, math.inf).pixels
        measured.append(measure(picture))
    return measured


# Aim: the bundled world. As little wall as possible in either half of the view.

_GUN_ROWS = 40  # of 64: the rows above the gun
_SHOVE_TICKS = 6


def wall(pictures: np.ndarray) -> np.ndarray:
    """How much of the fuller half is brown wall: `uint8[..., H, W, 3]` -> `float[...]` in [0, 1]."""
    red, green, blue = np.moveaxis(pictures[..., :_GUN_ROWS, :, :].astype(np.int16), -1, 0)
    brown = (red > green + 10) & (green > blue + 5) & (red < 170)
    return np.maximum(*(half.mean((-2, -1)) for half in np.split(brown, 2, axis=-1)))


def turn(space: ActionSpace) -> Callable[[np.ndarray], int]:
    """A wheel with three positions."""
    left, ahead, right = (space.names.index(name) for name in ("left", "noop", "right"))
    return lambda move: left if move[0] < -1 / 3 else right if move[0] > 1 / 3 else ahead


def turned_away(session: Session, seed: int) -> tuple[Cost, Callable[[np.ndarray], float]]:
    """The start context, and a shove to one side."""
    session.reset(seed)
    shove = turn(session.spec.action_space)(np.array([1.0 if seed % 2 else -1.0]))
    for _ in range(_SHOVE_TICKS):
        session.step(shove, math.inf)
    return lambda pictures: wall(pictures).mean(1) + wall(pictures[:, -1]), lambda picture: float(wall(picture))


# Push: the arm's world. The red block to a place, read from where colours are.

_ON_THE_WAY, _APPROACH, _BEHIND_PX = 0.5, 0.5, 8.0
_PUSH_PX, _EDGE_PX, _FAR_PX = 12.0, 10, 64.0


def find(pictures: np.ndarray, colour: str) -> np.ndarray:
    """Where a colour is in pictures `uint8[..., H, W, 3]`: its mean place (x, y) in pixels, `float[..., 2]`, or NaN.

    Colours are told apart by differences of channels, which light and shadow change little.
    """
    red, green, blue = np.moveaxis(pictures.astype(np.int16), -1, 0)
    mask = {
        "red": (red > green + 50) & (red > blue + 50) & (green < 110),
        "tip": (red > green + 12) & (blue > green + 15) & (red < 150) & (abs(red - blue) < 50),
    }[colour].astype(np.float64)
    mass = mask.sum((-2, -1))
    height, width = mask.shape[-2:]
    places = np.stack([(mask.sum(-2) * np.arange(width)).sum(-1), (mask.sum(-1) * np.arange(height)).sum(-1)], -1)
    return np.where(mass[..., None] > 3, places / np.maximum(mass, 1)[..., None], np.nan)


def push_cost(pictures: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Pixels: the block's distance to the goal, at the end and on the way, and a little for the tip.

    A tip that is not yet where it can push should get there: behind the block, as seen from the goal. A plan that
    loses sight of the block is never chosen.
    """
    places = find(pictures, "red")
    distance = np.linalg.norm(places - goal, axis=-1)
    last, tip = places[:, -1], find(pictures[:, -1], "tip")
    away = last - goal
    behind = last + _BEHIND_PX * away / (np.linalg.norm(away, axis=-1, keepdims=True) + 1e-6)
    reach = np.nan_to_num(np.linalg.norm(tip - behind, axis=-1), nan=_FAR_PX)
    return np.nan_to_num(distance[:, -1] + _ON_THE_WAY * distance.mean(1) + _APPROACH * reach, nan=np.inf)


def to_be_pushed(session: Session, seed: int) -> tuple[Cost, Callable[[np.ndarray], float]]:
    """The goal lies on the far side of the block, as the arm stands now, so that a push in time is possible."""
    picture = session.reset(seed)
    place, tip = find(picture, "red"), find(picture, "tip")
    tip = np.where(np.isnan(tip), [len(picture) / 2, 0.0], tip)  # out of the picture: then from the arm's base
    away = (place - tip) / (np.linalg.norm(place - tip) + 1e-6)
    goal = np.clip(place + _PUSH_PX * away, _EDGE_PX, len(picture) - _EDGE_PX)

    def measure(picture: np.ndarray) -> float:
        return float(np.nan_to_num(np.linalg.norm(find(picture, "red") - goal), nan=_FAR_PX))

    return lambda pictures: push_cost(pictures, goal), measure


def velocities(space: ActionSpace) -> Callable[[np.ndarray], np.ndarray]:
    """A share of each joint's largest velocity."""
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    return lambda move: np.clip(low + (high - low) * (0.5 + 0.5 * move), low, high).astype(np.float32)


TASKS = {
    "aim": Task("defend-the-line", "share of wall in view", turn, 1, turned_away),
    "push": Task("push-blocks", "pixels from the goal", velocities, 2, to_be_pushed),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="aim")
    parser.add_argument("--world", help="its package, where that is not a bundled one")
    parser.add_argument("--ticks", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=4, help="start contexts 0, 1, ... (default: %(default)s)")
    parser.add_argument("--plans", type=int, default=PlannerConfig.plans, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=PlannerConfig.rounds)
    options = parser.parse_args(arguments)
    task, config = TASKS[options.task], PlannerConfig(plans=options.plans, rounds=options.rounds)
    print(f"{task.unit}, mean over the second half of {options.ticks} ticks\n\nseed  planned  random")
    ends = []
    with load_world(options.world or task.world) as world, world.session(batched=world.batchable) as session:
        for seed in range(options.seeds):
            both = [play(session, task, seed, options.ticks, config, planned) for planned in (True, False)]
            ends.append([float(np.mean(one[options.ticks // 2 :])) for one in both])
            print(f"{seed:4}  {ends[-1][0]:7.2f}  {ends[-1][1]:6.2f}", flush=True)
    print("mean  {:7.2f}  {:6.2f}".format(*np.mean(ends, axis=0)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
