"""Reads simulator state from one picture: where things are, how joints are bent, and whether each thing is there.

Trained on real recordings that carry the state, used on generated frames. Its own error on real, held-out frames is
the floor of everything that is measured with it.

Run `python -m exporters.evaluation.state.probe CONFIG --out FILE` to train, check and keep one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from exporters.evaluation.config import StateColumns
from exporters.evaluation.state.frames import Frames, real_frames, wrapped
from exporters.evaluation.state.network import Seen, StateNetwork, pasted
from exporters.recording.dataset import Dataset
from exporters.recording.episode import DatasetError

FORMAT = "dsa-state-probe-1"
# A thing is called missing where the network is less sure of it than in all but this share of pictures that show it.
_RARE = 0.02


@dataclass(frozen=True)
class StateProbeConfig:
    """Training of the probe. About a minute on one core."""

    frames: int = 16_000
    epochs: int = 2
    batch: int = 32
    learning_rate: float = 3e-3
    blur: float = 0.3
    """Share of the batches that are blurred a little, as generated pictures are."""
    noise: float = 0.02
    """Standard deviation, of the range of a channel."""
    presence_frames: int = 4_000
    """Frames from which things are taken away, or to which a second one is added."""
    seed: int = 0


@dataclass(frozen=True)
class StateReading:
    """What the probe sees in B pictures; P points and A angles, in the order of the columns.

    points_m: float32[B, P, 2]. present: bool[B, P], the picture shows that thing there, and once. angles_rad:
    float32[B, A]. certainty: float32[B, A], about 1 where the arm looks like a real one.
    """

    points_m: np.ndarray
    present: np.ndarray
    angles_rad: np.ndarray
    certainty: np.ndarray


class StateProbe:
    """A trained `StateNetwork` with its scales, and how sure it usually is of what is there."""

    def __init__(self, columns: StateColumns, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> None:
        """`size`: height and width. arrays: the network's weights as `net.*`, `middle_m`, `scale_m`, `least`."""
        self.columns, self._size = columns, size
        self._arrays = arrays
        self._network = StateNetwork(len(columns.points), len(columns.angles), *size).eval()
        weights = {name[4:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("net.")}
        self._network.load_state_dict(weights)

    @property
    def names(self) -> tuple[str, ...]:
        """The points' names."""
        return tuple(self.columns.points)

    @property
    def digest(self) -> str:
        """Of its weights, scales, measures of presence and columns: of all that its readings depend on."""
        about = {"format": FORMAT, "columns": asdict(self.columns), "size": list(self._size)}
        found = hashlib.sha256(json.dumps(about).encode())
        for name, value in sorted(self._arrays.items()):
            found.update(f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        return found.hexdigest()

    def read(self, pictures: np.ndarray, *, batch: int = 256) -> StateReading:
        """pictures: uint8[B, H, W, 3], of the size that the probe was trained on."""
        seen = self._see(pictures, batch)
        turns = seen.turns.numpy()
        return StateReading(
            seen.points.numpy() * self._arrays["scale_m"] + self._arrays["middle_m"],
            self._presence(seen) >= self._arrays["least"],
            np.arctan2(turns[..., 0], turns[..., 1]),
            np.linalg.norm(turns, axis=2),
        )

    def used_to(self, pictures: np.ndarray) -> StateProbe:
        """The same probe with pictures of another make, as a decoder's, as its measure of what is there."""
        # Never below even odds, or a decoder that draws nothing would pass for one that draws everything.
        least = np.maximum(np.quantile(self._presence(self._see(pictures, 256)), _RARE, axis=0), 0.0)
        return StateProbe(self.columns, self._size, {**self._arrays, "least": least})

    def evaluate(self, frames: Frames) -> dict[str, Any]:
        """Median and 90 % quantile of its errors on real frames, and how often it sees what is there.

        `noticed`: of the things that were taken away from such frames, or doubled, the share that it calls missing.
        """
        reading = self.read(frames.pictures)
        distance = np.linalg.norm(reading.points_m - frames.points_m, axis=2)
        turned = np.abs(wrapped(reading.angles_rad - frames.angles_rad))
        report: dict[str, Any] = {"frames": len(frames.pictures), "points_m": {}, "angles_rad": {}}
        noticed = self._noticed(frames.pictures) if self.names else []
        for index, name in enumerate(self.names):
            seen = {"present": float(reading.present[:, index].mean()), "noticed": noticed[index]}
            report["points_m"][name] = {**_quantiles(distance[:, index]), **seen}
        for index, name in enumerate(self.columns.angles):
            report["angles_rad"][name] = _quantiles(turned[:, index])
        return report

    def save(self, path: str | Path) -> None:
        """Writes everything as `.npz`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "columns": asdict(self.columns), "size": list(self._size)}
        with open(path, "wb") as stream:
            np.savez(stream, about=np.array(json.dumps(about)), **self._arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: str | Path, columns: StateColumns) -> StateProbe:
        """Reads what `save` wrote. Raises ValueError for something else, or a probe of other columns."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about", np.array("{}"))))
        if about.get("format") != FORMAT:
            raise ValueError(f"{path}: not a state probe of this version; delete it to train one")
        if about["columns"] != json.loads(json.dumps(asdict(columns))):
            raise ValueError(f"{path}: a probe of other columns than evaluation.state; delete it to train one")
        try:
            return StateProbe(columns, tuple(about["size"]), arrays)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a state probe of this version ({error})") from None

    @torch.no_grad()
    def _see(self, pictures: np.ndarray, batch: int) -> Seen:
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (*self._size, 3):
            wanted = f"uint8[B, {self._size[0]}, {self._size[1]}, 3]"
            raise ValueError(f"pictures must be {wanted}, got {pictures.dtype}{list(pictures.shape)}")
        # An empty batch is read too, so that it has the right shapes.
        starts = range(0, max(len(pictures), 1), batch)
        parts = [self._network(_pictures(pictures[start : start + batch])) for start in starts]
        return Seen(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @torch.no_grad()
    def _presence(self, seen: Seen) -> np.ndarray:
        return np.asarray(self._network.presence(seen.evidence).numpy())

    @torch.no_grad()
    def _noticed(self, pictures: np.ndarray) -> list[float]:
        """Per point; NaN where no picture was changed so."""
        missing, wrong = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for start in range(0, len(pictures), 256):
                real = _pictures(pictures[start : start + 256])
                changed, once, told = pasted(real, self._network(real).spots)
                missing.append(self._presence(self._network(changed)) < self._arrays["least"])
                wrong.append((told & ~once).numpy())
        called, gone = np.concatenate(missing), np.concatenate(wrong)
        return [float(called[rows, i].mean()) if rows.any() else float("nan") for i, rows in enumerate(gone.T)]


def train_state_probe(
    dataset: Dataset, columns: StateColumns, config: StateProbeConfig = StateProbeConfig(), *, split: str = "train"
) -> StateProbe:
    """Trains on frames of one split. Seeded."""
    frames = real_frames(dataset, columns, split, config.frames, seed=config.seed)
    count, height, width = frames.pictures.shape[:3]
    if height % 8 or width % 8:
        raise DatasetError(
            f"dataset {dataset.spec.name!r}: the probe needs frames of a multiple of 8, not {height}x{width}"
        )
    # One scale per point, so that x and y weigh the same.
    middle, scale = frames.points_m.mean(axis=0), frames.points_m.std(axis=(0, 2))[:, None] + 1e-6
    points = torch.from_numpy((frames.points_m - middle) / scale).float()
    turns = torch.from_numpy(np.stack([np.sin(frames.angles_rad), np.cos(frames.angles_rad)], axis=2)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = StateNetwork(len(columns.points), len(columns.angles), height, width)
        optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        steps = max(config.epochs * (count // config.batch), 1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=steps)
        order = torch.cat([torch.randperm(count) for _ in range(config.epochs + 1)])
        for chosen in tqdm(order.split(config.batch)[:steps], desc="state probe", unit="step", disable=None):
            pictures = _worn(_pictures(frames.pictures[chosen.numpy()]), config)
            seen = network(pictures)
            loss = functional.smooth_l1_loss(seen.points, points[chosen], beta=0.1)
            if columns.angles:
                loss = loss + functional.mse_loss(seen.turns, turns[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        network.eval().requires_grad_(False)
        if columns.points:
            _train_presence(network, frames.pictures, config)
    arrays = {f"net.{name}": value.detach().numpy() for name, value in network.state_dict().items()}
    scales = {"middle_m": middle.astype(np.float32), "scale_m": scale.astype(np.float32)}
    probe = StateProbe(columns, (height, width), {**arrays, **scales, "least": np.zeros(len(columns.points))})
    return probe.used_to(frames.pictures[:: max(count // 4000, 1)])


def _train_presence(network: StateNetwork, pictures: np.ndarray, config: StateProbeConfig) -> None:
    """The last part, on a finished network: does a picture show each thing, once?"""
    parts: list[tuple[Tensor, ...]] = []
    for _ in range(config.presence_frames // 64):
        real = _pictures(pictures[torch.randint(len(pictures), (64,)).numpy()])
        changed, once, told = pasted(real, network(real).spots)
        evidence = network(_worn(torch.cat([real, changed]), config)).evidence
        parts.append((evidence, torch.cat([once | True, once]).float(), torch.cat([told | True, told]).float()))
    evidence, wanted, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    optimiser = torch.optim.Adam(network.presence.requires_grad_(True).parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(300):
        chosen = torch.randint(len(evidence), (256,))
        judged = network.presence(evidence[chosen])
        loss = functional.binary_cross_entropy_with_logits(judged, wanted[chosen], weight[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def load_or_train_state(
    dataset: Dataset, columns: StateColumns, path: str | Path, config: StateProbeConfig = StateProbeConfig()
) -> StateProbe:
    """The probe kept at `path`, or a new one that is then kept there."""
    if Path(path).is_file():
        return StateProbe.load(path, columns)
    probe = train_state_probe(dataset, columns, config)
    probe.save(path)
    return probe


def _pictures(pictures: np.ndarray) -> Tensor:
    """uint8[B, H, W, 3] -> float32[B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255.0


def _worn(pictures: Tensor, config: StateProbeConfig) -> Tensor:
    """Pictures that are no longer quite clean, as generated ones are not."""
    if torch.rand(()) < config.blur:
        pictures = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    gain = 1.0 + 0.05 * torch.randn(len(pictures), 3, 1, 1)
    return pictures * gain + config.noise * torch.randn_like(pictures)


def _quantiles(errors: np.ndarray) -> dict[str, float]:
    median, p90 = np.quantile(errors, [0.5, 0.9])
    return {"median": float(median), "p90": float(p90)}


def main(arguments: Sequence[str] | None = None) -> None:
    from exporters.training.config import load_config  # it imports this package's config, so not at the top

    parser = argparse.ArgumentParser(prog="python -m exporters.evaluation.state.probe", description=__doc__)
    parser.add_argument("config", type=Path, help="TOML recipe of the world, with a table `evaluation`")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    recipe = load_config(options.config)
    dataset, columns = Dataset(recipe.dataset), recipe.evaluation.state
    started = time.perf_counter()
    probe = train_state_probe(dataset, columns)
    probe.save(options.out)
    print(f"trained in {time.perf_counter() - started:.0f} s -> {options.out}")
    for split in ("validation", "test"):
        print(split, json.dumps(probe.evaluate(real_frames(dataset, columns, split, 4_000)), indent=1))


if __name__ == "__main__":
    main()
