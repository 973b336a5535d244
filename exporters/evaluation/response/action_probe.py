"""Reads from two consecutive frames what the player did: inverse dynamics of a world that turns and shoots.

Trained on real recordings, used on generated ones: where it reads the action that was asked for, the world obeyed.
It reads the turn (right, none, left) and its size, and whether the second frame shows the muzzle flash. The flash
comes two steps after the trigger, stays for three pictures and repeats every seven steps while the trigger is held:
no pair of frames shows the trigger itself, so the response to "fire" is read as the flash it causes.

Run `python -m exporters.evaluation.response.action_probe DATA --out FILE` to train, check and keep one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from exporters.recording.dataset import Dataset, DatasetSpec
from exporters.recording.episode import DatasetError, Episode

# Pictures from a trigger pull with the weapon ready to the first flash, at 2 tics a step.
_FLASH_DELAY = 3
# Where the muzzle is in a 64x64 picture, and how far (mean absolute difference, 8-bit levels) a picture may be from
# the flash: real ones lie below 8 or above 20.
_FLASH_PATCH = (slice(None), slice(36, 42), slice(30, 35))
_FLASH_DISTANCE = 14.0
_DEGREES = 7.0  # the largest turn of one step; scales the regression


@dataclass(frozen=True)
class ProbeConfig:
    """Training of the probe. About a minute on one core."""

    pairs: int = 24_000
    epochs: int = 2
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """What the probe sees in B pairs.

    turn: int64[B], -1 right, 0 none, +1 left. turn_deg: float32[B], left positive.
    shot: bool[B], the second frame shows a muzzle flash.
    """

    turn: np.ndarray
    turn_deg: np.ndarray
    shot: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Real frame pairs with the truth about them. previous, current: uint8[B, H, W, 3]."""

    previous: np.ndarray
    current: np.ndarray
    truth: Reading


@dataclass(frozen=True)
class ProbeReport:
    """How well the probe reads real, held-out pairs. Accuracies in [0, 1]."""

    pairs: int
    turn_accuracy: float
    turn_recall: tuple[float, float, float]  # of right, none, left
    turn_error_deg: float  # median absolute
    shot_accuracy: float
    shot_recall: float


class ActionProbe:
    """A small convolutional network on two stacked frames."""

    def __init__(self, network: nn.Module):
        self._network = network.eval()

    def read(self, previous: np.ndarray, current: np.ndarray, *, batch: int = 256) -> Reading:
        """previous, current: uint8[B, 64, 64, 3]."""
        for name, frames in (("previous", previous), ("current", current)):
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (64, 64, 3):
                raise ValueError(f"{name} must be uint8[B, 64, 64, 3], got {frames.dtype}{list(frames.shape)}")
        if len(previous) != len(current):
            raise ValueError(f"{len(previous)} previous frames for {len(current)} current ones")
        outputs = [np.empty((0, 5), dtype=np.float32)]
        with torch.no_grad():
            for start in range(0, len(current), batch):
                pair = _stack(previous[start : start + batch], current[start : start + batch])
                outputs.append(self._network(pair).numpy())
        output = np.concatenate(outputs)
        return Reading(output[:, :3].argmax(axis=1).astype(np.int64) - 1, output[:, 3] * _DEGREES, output[:, 4] > 0)

    def evaluate(self, pairs: Pairs) -> ProbeReport:
        """Reads real pairs and compares with the simulator."""
        reading, truth = self.read(pairs.previous, pairs.current), pairs.truth
        right = reading.turn == truth.turn
        recall = [float(right[truth.turn == turn].mean()) for turn in (-1, 0, 1)]
        return ProbeReport(
            pairs=len(right),
            turn_accuracy=float(right.mean()),
            turn_recall=(recall[0], recall[1], recall[2]),
            turn_error_deg=float(np.median(np.abs(reading.turn_deg - truth.turn_deg))),
            shot_accuracy=float((reading.shot == truth.shot).mean()),
            shot_recall=float(reading.shot[truth.shot].mean()),
        )

    def save(self, path: str | Path) -> None:
        """Writes the weights as `.npz`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: value.numpy() for name, value in self._network.state_dict().items()}
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)

    @staticmethod
    def load(path: str | Path) -> ActionProbe:
        """Reads what `save` wrote. Raises ValueError for a file of another network."""
        network = _network()
        with np.load(path, allow_pickle=False) as arrays:
            weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a probe of this version ({error})") from None
        return ActionProbe(network)


def train_probe(dataset: Dataset, config: ProbeConfig = ProbeConfig(), *, split: str = "train") -> ActionProbe:
    """Trains on pairs of one split, mirrored at random (a mirrored left turn is a right turn). Seeded."""
    pairs = real_pairs(dataset, split, config.pairs, seed=config.seed)
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    network = _network()
    count = len(pairs.current)
    total = config.epochs * (count // config.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=total)
    with tqdm(total=total, desc="action probe", unit="step", disable=None) as bar:
        for _ in range(config.epochs):
            order = rng.permutation(count)
            for start in range(0, count - config.batch + 1, config.batch):
                chosen = np.sort(order[start : start + config.batch])
                mirror = bool(rng.random() < 0.5)
                loss = _loss(network, pairs, chosen, mirror)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
    return ActionProbe(network)


def load_or_train(
    dataset: Dataset, path: str | Path = "runs/action_probe.npz", config: ProbeConfig = ProbeConfig()
) -> ActionProbe:
    """The probe kept at `path`, or a new one that is then kept there."""
    if Path(path).is_file():
        return ActionProbe.load(path)
    probe = train_probe(dataset, config)
    probe.save(path)
    return probe


def real_pairs(dataset: Dataset, split: str, count: int, *, seed: int = 0) -> Pairs:
    """Up to `count` random continuous pairs of a split, with what the simulator says about them."""
    rng = np.random.default_rng(seed)
    turns = np.asarray([turn for turn, _ in buttons(dataset.spec)])
    angle_column = _column(dataset.spec, "angle_deg")
    episodes = len(dataset.paths(split))
    share = -(-count // max(episodes, 1))
    template = flash_template(dataset.episodes(split), dataset.spec)
    parts: list[tuple[np.ndarray, ...]] = []
    for episode in dataset.episodes(split):
        starts = episode.window_starts(2)
        starts = np.sort(rng.permutation(starts)[:share])
        assert episode.state is not None
        angle = episode.state[:, angle_column]
        turned_deg = (angle[starts + 1] - angle[starts] + 180.0) % 360.0 - 180.0
        previous, current = episode.frames[starts], episode.frames[starts + 1]
        shot = shot_visible(current, template)
        parts.append((previous, current, turns[episode.actions[starts]], turned_deg, shot))
    if not parts:
        raise DatasetError(f"{dataset.folder}: split {split!r} holds no episode")
    previous, current, turn, degrees, shot = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(previous, current, Reading(turn.astype(np.int64), degrees.astype(np.float32), shot))


def buttons(spec: DatasetSpec) -> list[tuple[int, bool]]:
    """(turn, fire) of every action, from the action names: turn -1 right, 0 none, +1 left."""
    names = spec.action_space.get("names")
    if not names:
        raise DatasetError(f"dataset {spec.name!r} does not name its actions")
    return [(("left" in name) - ("right" in name), "fire" in name) for name in names]


def flash_template(episodes: Iterable[Episode], spec: DatasetSpec) -> np.ndarray:
    """float32[h, w, 3]: the muzzle flash as it looks, the median over shots that the simulator vouches for.

    Raises DatasetError when nobody fires in these episodes.
    """
    fires = np.asarray([pressed for _, pressed in buttons(spec)])
    patches = []
    for episode in episodes:
        assert episode.state is not None
        ready = episode.state[:, _column(spec, "attack_ready")] > 0.5
        triggers = np.flatnonzero(fires[episode.actions] & ready[:-1] & ~ready[1:])
        continuous = np.isin(triggers, episode.window_starts(_FLASH_DELAY + 1))
        patches.append(episode.frames[triggers[continuous] + _FLASH_DELAY][_FLASH_PATCH])
    if not sum(map(len, patches)):
        raise DatasetError(f"dataset {spec.name!r} holds no shot to learn the muzzle flash from")
    return np.asarray(np.median(np.concatenate(patches), axis=0), dtype=np.float32)


def shot_visible(frames: np.ndarray, template: np.ndarray) -> np.ndarray:
    """bool[B]: the REAL pictures that show a muzzle flash. frames: uint8[B, 64, 64, 3].

    The flash is an opaque, fully lit sprite at a fixed place, so a picture either matches it or is far away. The
    trigger would be a poorer witness: a shot leaves late when the weapon is still coming up or being cocked.
    """
    distance = np.abs(frames[_FLASH_PATCH].astype(np.float32) - template).mean(axis=(1, 2, 3))
    return np.asarray(distance < _FLASH_DISTANCE)


def _column(spec: DatasetSpec, name: str) -> int:
    if name not in spec.state:
        raise DatasetError(f"dataset {spec.name!r} has no state column {name!r}")
    return spec.state.index(name)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(6, 24, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * 8 * 8, 64),
        nn.ReLU(),
        nn.Linear(64, 5),  # right, none, left; degrees; flash
    )


def _stack(previous: np.ndarray, current: np.ndarray) -> torch.Tensor:
    """float32[B, 6, H, W]: the second frame and its difference from the first."""
    before, after = (
        torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255.0
        for frames in (previous, current)
    )
    return torch.cat([after - 0.5, (after - before) * 2.0], dim=1)


def _loss(network: nn.Module, pairs: Pairs, chosen: np.ndarray, mirror: bool) -> torch.Tensor:
    sign = -1 if mirror else 1
    previous, current = (frames[chosen][:, :, ::sign] for frames in (pairs.previous, pairs.current))
    output = network(_stack(previous, current))
    turn = torch.from_numpy(pairs.truth.turn[chosen] * sign + 1)
    degrees = torch.from_numpy(pairs.truth.turn_deg[chosen] * np.float32(sign / _DEGREES))
    shot = torch.from_numpy(pairs.truth.shot[chosen].astype(np.float32))
    return (
        functional.cross_entropy(output[:, :3], turn)
        + functional.smooth_l1_loss(output[:, 3], degrees)
        + functional.binary_cross_entropy_with_logits(output[:, 4], shot)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m exporters.evaluation.response.action_probe", description=__doc__)
    parser.add_argument("data", nargs="?", default="data/defend-the-line")
    parser.add_argument("--out", default="runs/action_probe.npz")
    options = parser.parse_args(arguments)
    dataset = Dataset(options.data)
    started = time.perf_counter()
    probe = train_probe(dataset)
    probe.save(options.out)
    print(f"trained in {time.perf_counter() - started:.0f} s -> {options.out}")
    for split in ("validation", "test"):
        print(split, probe.evaluate(real_pairs(dataset, split, 8_000)))


if __name__ == "__main__":
    main()
