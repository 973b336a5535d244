"""Free play: sessions that go on for as long as they are asked to, through the SDK or in torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from dsa_runtime.spec import ActionSpace
from exporters.evaluation.cases import Cases
from exporters.evaluation.playing import Player, Policy
from exporters.evaluation.trained import TrainedWorld

if TYPE_CHECKING:
    from dsa_runtime import World


@dataclass(frozen=True)
class Free:
    """One tick of S sessions: frames uint8[S, H, W, 3] and steps int64[S]."""

    frames: np.ndarray
    steps: np.ndarray


class FreePlay(Protocol):
    """S sessions in step with each other."""

    @property
    def frames(self) -> np.ndarray:
        """uint8[S, H, W, 3]: the newest frames."""
        ...

    @property
    def identity(self) -> str:
        """Names what is played, so that a run goes on with nothing else."""
        ...

    def step(self, actions: Sequence[Any]) -> Free:
        """One tick, an action for each session."""
        ...

    def film(self, action: Any, hold: int) -> np.ndarray:
        """uint8[S, 1 + hold, H, W, 3]: the newest frames and what follows under one action. The sessions stay put."""
        ...

    def snapshots(self) -> list[bytes] | None:
        """Of every session; None where that cannot be had."""
        ...

    def restore(self, snapshots: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


class SdkPlay:
    """Through `Session.step`, at the world's default threshold and without a budget."""

    def __init__(self, world: World, seeds: Sequence[int]) -> None:
        self._world = world
        self._sessions = [world.session(seed) for seed in seeds]
        self._frames = np.stack([session.reset(seed) for session, seed in zip(self._sessions, seeds, strict=True)])
        self._seeds = list(seeds)

    @property
    def frames(self) -> np.ndarray:
        return self._frames

    @property
    def identity(self) -> str:
        return f"{self._world.spec.fingerprint} {self._seeds}"

    def step(self, actions: Sequence[Any]) -> Free:
        ticks = [s.step(_plain(a), budget_ms=math.inf) for s, a in zip(self._sessions, actions, strict=True)]
        self._frames = np.stack([tick.pixels for tick in ticks])
        return Free(self._frames, np.asarray([tick.steps for tick in ticks]))

    def film(self, action: Any, hold: int) -> np.ndarray:
        films = []
        for session, newest in zip(self._sessions, self._frames, strict=True):
            (branch,) = session.fork()
            with branch:
                shown = [branch.step(_plain(action), budget_ms=math.inf).pixels for _ in range(hold)]
            films.append(np.stack([newest, *shown]))
        return np.stack(films)

    def snapshots(self) -> list[bytes] | None:
        return [session.snapshot() for session in self._sessions]

    def restore(self, snapshots: Sequence[bytes]) -> None:
        pairs = zip(self._sessions, snapshots, strict=True)
        self._frames = np.stack([session.restore(snapshot) for session, snapshot in pairs])

    def close(self) -> None:
        for session in self._sessions:
            session.close()


class TorchPlay:
    """The same without a package, one session per case; without a policy, all steps. Cannot be taken up again."""

    def __init__(
        self, trained: TrainedWorld, cases: Cases, seed: int, space: ActionSpace, policy: Policy | None
    ) -> None:
        self._trained, self._space, self._policy = trained, space, policy
        self._player = Player(trained, cases, seed)
        self._frames = cases.frames[:, cases.window - 1]

    @property
    def frames(self) -> np.ndarray:
        return self._frames

    @property
    def identity(self) -> str:
        return self._trained.checkpoint_sha256

    def step(self, actions: Sequence[Any]) -> Free:
        free = self._step(self._player, actions)
        self._frames = free.frames
        return free

    def film(self, action: Any, hold: int) -> np.ndarray:
        branch = copy.copy(self._player)  # a player changes by taking new tensors, never by writing to old ones
        everyone = [action] * len(self._frames)
        return np.stack([self._frames, *(self._step(branch, everyone).frames for _ in range(hold))], axis=1)

    def snapshots(self) -> list[bytes] | None:
        return None

    def restore(self, snapshots: Sequence[bytes]) -> None:
        raise ValueError("free play in torch cannot be taken up again; give --package")

    def close(self) -> None:
        pass

    def _step(self, player: Player, actions: Sequence[Any]) -> Free:
        encoded = torch.from_numpy(np.stack([self._space.encode(_plain(action)) for action in actions]))
        done = player.step(encoded, self._policy, full=False)
        return Free(self._trained.decode(done.latents[:, 0]), done.steps[:, 0].numpy())


def _plain(action: Any) -> Any:
    """An integer of numpy's as Python's, which every Discrete space takes; arrays as they are."""
    return int(action) if np.ndim(action) == 0 else action
