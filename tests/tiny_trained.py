"""Test fixtures: a tiny, untrained world as torch modules and a tiny recorded world, made in moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exporters.evaluation.trained import TrainedWorld
from exporters.model.autoencoder import Autoencoder, AutoencoderConfig
from exporters.model.generator import Generator, GeneratorConfig
from exporters.recording.dataset import Dataset, DatasetWriter
from exporters.recording.episode import Episode
from exporters.training.data import Clips

NAMES = ["noop", "left", "right", "fire", "left+fire", "right+fire"]
TURNS = np.array([0, 1, -1, 0, 1, -1])
LEVELS = (1.0, 0.9375, 0.8333, 0.625)
WINDOW = 3
CUT = 70
"""Where the environment of every recording is reset."""
DEGREES = 6
AUTOENCODER = AutoencoderConfig(latent_channels=4, widths=(8, 8, 8), decoder_blocks=1)
GENERATOR = GeneratorConfig(latent_channels=4, dim=32, depth=2, heads=2, window=WINDOW, temporal_dims=4)


def tiny_trained(config: GeneratorConfig = GENERATOR) -> TrainedWorld:
    """Weights are random, the output layers' too, so that every input reaches every output."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder, generator = Autoencoder(AUTOENCODER), Generator(config)
        for module in (autoencoder, generator):
            for name, parameter in module.named_parameters():
                if not parameter.any() and name.endswith("weight"):
                    torch.nn.init.normal_(parameter, std=0.1)
    return TrainedWorld(generator.eval(), autoencoder.eval(), LEVELS, calibration())


def calibration(*spans: tuple[float, float]) -> dict[str, object]:
    """Confidence 0 .. 1 over a span of logits per step, by default -0.5 .. 0.5."""
    curves = [{"logit": list(span), "value": [0.0, 1.0]} for span in spans or ((-0.5, 0.5),) * 3]
    table = [{"threshold": t, "mean_steps": 1 + 3 * t} for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return {
        "delta": 1.0, "default_threshold": 0.5, "within_delta": curves, "benefit": curves, "thresholds": table
    }  # fmt: skip


class MeanDistance:
    """A picture distance for which nothing has to be downloaded: the mean absolute difference."""

    def distance(self, reference: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.abs(reference.astype(np.float64) - test).mean(axis=(1, 2, 3))


def tiny_clips(recordings: int = 2, length: int = 20) -> Clips:
    """Random pictures, latents and actions, always the same."""
    rng = torch.Generator().manual_seed(11)
    frames = torch.randint(0, 256, (recordings * length, 64, 64, 3), generator=rng, dtype=torch.uint8)
    actions = torch.randn(recordings * length, GENERATOR.action_width, generator=rng)
    latents = torch.randn(recordings * length, GENERATOR.latent_channels, 8, 8, generator=rng)
    lengths = torch.full((recordings,), length)
    return Clips(frames, actions, lengths.cumsum(0) - lengths, lengths, latents)


def recorded_world(folder: Path, steps: int = 260) -> Dataset:
    """Turns in front of a striped wall; a flash three frames after "fire". One reset per recording, at `CUT`."""
    writer = DatasetWriter.create(
        folder,
        name="turning",
        frame={"height": 64, "width": 64, "channels": 3, "fps": 10.0},
        action_space={"type": "Discrete", "n": 6, "names": NAMES},
        licence="CC0",
        source="test",
        state=("angle_deg", "attack_ready"),
    )
    for split, seeds in {"train": (0, 1), "validation": (100,), "test": (200, 201)}.items():
        for seed in seeds:
            writer.add(split, turning_episode(seed, steps), seed=seed)
    return writer.finish()


def turning_episode(seed: int, steps: int) -> Episode:
    """A recording of the turning world; the wall's stripes tell every heading apart."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(rng.integers(0, 6, steps // 10 + 1), 10)[:steps]
    angle = np.concatenate([[0], np.cumsum(TURNS[actions] * DEGREES)]) % 360
    frames = wall_frames(angle, rng)
    fires = (actions >= 3) & (np.arange(steps) % 5 == 0)
    flash = np.flatnonzero(fires) + 3
    frames[flash[flash <= steps], 30:48, 26:38] = (255, 230, 180)
    ready = np.ones(steps + 1)
    ready[1:][fires] = 0
    cut = np.zeros(steps + 1, dtype=np.bool_)
    cut[CUT] = True
    state = np.stack([angle, ready], axis=1).astype(np.float32)
    return Episode(frames, actions.astype(np.int64), cut, np.zeros(steps, np.float32), state)


def wall_frames(angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8[N, 64, 64, 3]: the wall at headings of whole degrees, with a little noise."""
    wall = np.repeat(np.random.default_rng(42).integers(0, 200, (60, 3), dtype=np.uint8), 6, axis=0)
    columns = (np.arange(64)[None] - angle[:, None]) % 360
    frames = np.repeat(wall[columns][:, None], 64, axis=1)
    return (frames + rng.integers(0, 8, frames.shape)).astype(np.uint8)
