"""Policies of `dsa record`: who chooses the actions. Each is an iterator of actions that are valid in the world."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..actions import ActionSpace, Box, Discrete, MultiBinary
from ..errors import ActionError, DsaError
from .player import ScriptedPlayer

NAMES = ("demo", "random", "hold", "script")
_NOTHING = {"noop", "none", "idle", "nothing", "stay"}
_ACTION = "action"  # as in the tables of `dsa export`


def actions_of(policy: Sequence[str], space: ActionSpace, ticks: int, seed: int) -> list[Any]:
    """The actions of a policy as it is written on the command line: its name, and for `script` a file.

    demo      the player of `dsa demo`
    random    another action every tick, each equally likely; a function of the seed
    hold      nothing: the action named noop, no button, no velocity
    script    the rows of a CSV file, which may be a table of `dsa export`

    Raises `DsaError` for a policy that does not exist or does not fit the world, naming row and column.
    """
    name, *rest = policy
    if name == "script":
        if len(rest) != 1:
            raise DsaError(f"--policy: script takes one CSV file, got {len(rest)}: --policy script FILE.csv")
        return _script(Path(rest[0]), space, ticks)
    if name not in NAMES or rest:
        raise DsaError(f"--policy: expected one of {', '.join(NAMES)} FILE.csv, got {' '.join(policy)!r}")
    if name == "demo":
        player = ScriptedPlayer(space)
        return [player.action(tick) for tick in range(ticks)]
    if name == "random":
        return list(itertools.islice(_random(space, np.random.default_rng(seed)), ticks))
    return [_nothing(space)] * ticks


def rows_of_script(path: Path) -> int:
    """How many actions a script has."""
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _random(space: ActionSpace, rng: np.random.Generator) -> Iterator[Any]:
    while True:
        if isinstance(space, Discrete):
            yield int(rng.integers(space.n))
        elif isinstance(space, MultiBinary):
            yield rng.integers(0, 2, space.n, np.uint8)
        else:
            low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
            # Clipped, because rounding to float32 may leave the bounds.
            yield np.clip(rng.uniform(low, high).astype(np.float32), low, high)


def _nothing(space: ActionSpace) -> Any:
    if isinstance(space, Discrete):
        return next((index for index, name in enumerate(space.names) if name.lower() in _NOTHING), 0)
    if isinstance(space, MultiBinary):
        return np.zeros(space.n, np.uint8)
    return np.clip(
        np.zeros(space.width, np.float32), np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    )


def _script(path: Path, space: ActionSpace, ticks: int) -> list[Any]:
    names = [_ACTION] if isinstance(space, Discrete) else [f"{_ACTION}.{name}" for name in space.names]
    actions = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in names if name not in (reader.fieldnames or ())]
        if missing:
            raise DsaError(f"{path}: no column {missing[0]!r}; a script for this world has {', '.join(names)}")
        for number, line in enumerate(itertools.islice(reader, ticks), 2):  # the header is line 1
            try:
                actions.append(space.validate(_parse(space, [line[name] for name in names])))
            except (ActionError, ValueError) as error:
                raise DsaError(f"{path}: line {number}: {error}") from None
    if len(actions) < ticks:
        raise DsaError(f"--ticks: {path} has {len(actions)} rows, {ticks} were asked for")
    return actions


def _parse(space: ActionSpace, texts: list[str]) -> Any:
    if isinstance(space, Discrete):
        return space.names.index(texts[0]) if texts[0] in space.names else int(texts[0])
    return [(float if isinstance(space, Box) else int)(text) for text in texts]
