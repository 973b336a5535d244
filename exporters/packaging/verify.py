"""Verify a package: ONNX Runtime against torch on real recordings.

Every clip starts from real frames and repeats the player's recorded actions. The SDK plays it through `Session.step`,
as a user would; torch plays it again in the form the model was trained in (dense contexts). Two questions, two parts of
the report:

- graphs: the same inputs to both, at every denoising step of the torch rollout. How far apart are the outputs? Asked of
  each form of the package that can run here, and of the forms among each other.
- play: both roll out on their own, on the same noise. How far apart are the pictures, and does torch stop after the
  same denoising step? Where it would not, that counts, and torch then follows the SDK's decision, so that one near-tie
  is counted once and not in every frame after it.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dsa_runtime import World, load_world
from dsa_runtime.form import choose_form
from dsa_runtime.noise import noise
from dsa_runtime.package import Package, open_package
from dsa_runtime.spec import WorldSpec
from exporters.model.autoencoder import Autoencoder, pictures_to_float, pictures_to_uint8
from exporters.model.flow import add_noise
from exporters.model.generator import Context, Generator
from exporters.model.rollout import Estimate, denoise_frame
from exporters.packaging.clips import Clips, pick_clips
from exporters.packaging.forms import compare_write, load_forms
from exporters.packaging.rounding import deployed_autoencoder, deployed_generator
from exporters.packaging.verification import STORED, TRAINED, Difference, Limits, Verification
from exporters.packaging.write import copy_with_contexts
from exporters.recording.dataset import Dataset


def verify_package(
    package: Path,
    generator: Generator,
    autoencoder: Autoencoder,
    dataset: Path,
    *,
    split: str = "test",
    frames: int = 1024,
    clip_frames: int = 64,
    seed: int = 0,
    as_trained: bool = False,
    limits: Limits | None = None,
) -> Verification:
    """Compare a package (a folder or an archive) with the modules it was written from.

    frames       frames to play in all, in clips of `clip_frames` from `split` of the dataset
    as_trained   compute torch's side with the weights before they were rounded to float16; the report then includes
                 what storage costs
    """
    torch_generator = deployed_generator(generator, rounded=not as_trained)
    torch_autoencoder = deployed_autoencoder(autoencoder, rounded=not as_trained)
    window = generator.config.window
    clips = pick_clips(Dataset(dataset), split, max(1, frames // clip_frames), window + clip_frames, seed)
    with tempfile.TemporaryDirectory() as scratch:
        # The SDK starts sessions from the package's own contexts, so give it a copy that starts from the clips.
        copy = Path(scratch) / "package"
        with open_package(package) as original:
            copy_with_contexts(original, copy, clips.head(window))
        with load_world(copy, threads=1) as world:
            played = _play(world, clips.actions[:, window:])
        with open_package(copy) as opened:
            comparison = _Comparison(opened, torch_generator, torch_autoencoder)
            wanted = comparison.run(clips, played)
    spec = comparison.spec
    return Verification(
        world=spec.name,
        version=spec.version,
        weights="as trained" if as_trained else "as stored",
        clips=len(wanted),
        frames=wanted.size,
        threshold=spec.calibration.default_threshold,
        forms=tuple(comparison.engines),
        unchecked="" if "op" in comparison.engines else choose_form(spec).reason,
        graphs=comparison.graphs,
        between=comparison.between,
        pictures=comparison.pictures,
        confidence=comparison.confidence,
        equal_steps=float((wanted == played.steps).mean()),
        mean_steps=float(played.steps.mean()),
        limits=limits or (TRAINED if as_trained else STORED),
    )


@dataclass(frozen=True)
class _Played:
    """What the SDK did: N clips, F frames."""

    pixels: np.ndarray
    """uint8[N, F, H, W, 3]"""
    steps: np.ndarray
    """int64[N, F]"""
    confidence: np.ndarray
    """float64[N, F]"""


def _play(world: World, actions: np.ndarray) -> _Played:
    """Play every row of actions from its own context; session i starts from context i and noise seed i."""
    frame, shape = world.spec.frame, actions.shape[:2]
    pixels = np.empty((*shape, frame.height, frame.width, frame.channels), np.uint8)
    steps, confidence = np.empty(shape, np.int64), np.empty(shape)
    for i, row in enumerate(tqdm(actions, desc="sdk", unit="clip")):
        with world.session(i) as session:
            for j, action in enumerate(row):
                tick = session.step(action, math.inf)
                pixels[i, j], steps[i, j], confidence[i, j] = tick.pixels, tick.steps, tick.confidence
    return _Played(pixels, steps, confidence)


class _Comparison:
    """Torch's side, and what was found so far. N clips are one batch."""

    def __init__(self, package: Package, generator: Generator, autoencoder: Autoencoder) -> None:
        self.spec, self.engines = package.spec, load_forms(package)
        self.generator, self.autoencoder = generator, autoencoder
        names = ("clean", "confidence_logit", "commit")
        by_form = [f"{form}: {name}" for form in self.engines for name in names]
        self.graphs = {name: Difference() for name in ("encode", *by_form, "decode")}
        self.between = {name: Difference() for name in names} if "op" in self.engines else {}
        if "op" in self.engines:
            self.graphs["op: write"] = compare_write(package)
        self.pictures, self.confidence = Difference(), Difference()

    @torch.no_grad()
    def run(self, clips: Clips, played: _Played) -> np.ndarray:
        """Play the clips again; returns the steps that torch would have taken, int64[N, F]."""
        window = self.spec.cache.window
        action = torch.from_numpy(_encoded(self.spec, clips.actions))
        context = self._begin(clips.frames[:, :window], action[:, :window])
        wanted = np.empty_like(played.steps)
        for tick in tqdm(range(played.steps.shape[1]), desc="torch", unit="tick"):
            act, taken = action[:, window + tick], played.steps[:, tick] - 1
            estimates = self._denoise(tick, act, context)
            confidence = _confidence(self.spec, estimates)
            wanted[:, tick] = (confidence >= self.spec.calibration.default_threshold).argmax(axis=1) + 1
            self.confidence.add(confidence[np.arange(len(taken)), taken], played.confidence[:, tick])
            final = torch.stack([e.clean for e in estimates])[torch.from_numpy(taken), torch.arange(len(taken))]
            self.pictures.add(self._decode(final), played.pixels[:, tick])
            context = self._commit(final, act, context)
        return wanted

    def _begin(self, frames: np.ndarray, action: Tensor) -> Context:
        """Encode and commit the real frames uint8[N, W, H, W, 3], oldest first."""
        flat = frames.reshape(-1, *frames.shape[2:])
        latent = self.autoencoder.encode(pictures_to_float(torch.from_numpy(flat)))
        self.graphs["encode"].add(self.engines["plain"].encode(flat), latent.numpy())
        context = self.generator.empty_context(len(frames))
        level = torch.full((len(frames),), self.spec.schedule.context_level)
        for i, clean in enumerate(latent.unflatten(0, frames.shape[:2]).unbind(1)):
            context = self.generator.commit(clean, level, action[:, i], context)
        return context

    def _denoise(self, tick: int, action: Tensor, context: Context) -> list[Estimate]:
        """The full schedule in torch, every step of it also in ONNX Runtime from the same input."""
        count, levels = len(action), self.spec.schedule.levels
        noises = [
            torch.from_numpy(np.stack([noise(self.spec.latent.shape, seed, tick, step) for seed in range(count)]))
            for step in range(1, len(levels) + 1)
        ]
        estimates = denoise_frame(self.generator, levels, action, context, noises.__getitem__)[2]
        feed = _context_feed(context, action)
        for level, given, estimate in zip(levels, _inputs(levels, estimates, noises), estimates, strict=True):
            feed |= {"latent": given.numpy(), "level": np.full(count, level, np.float32)}
            self._run("denoise", feed, {"clean": estimate.clean, "confidence_logit": estimate.logit})
        return estimates

    def _decode(self, latent: Tensor) -> np.ndarray:
        pixels: np.ndarray = pictures_to_uint8(self.autoencoder.decode(latent)).numpy()
        decode = self.engines["plain"].graphs["decode"]
        self.graphs["decode"].add(decode.run(["frame"], {"latent": latent.numpy()})[0], pixels)
        return pixels

    def _commit(self, clean: Tensor, action: Tensor, context: Context) -> Context:
        level = torch.full((len(clean),), self.spec.schedule.context_level)
        after = self.generator.commit(clean, level, action, context)
        feed = {**_context_feed(context, action), "latent": clean.numpy(), "level": level.numpy()}
        expected = {
            f"{kind}_{layer}": tensors[:, -1]
            for kind, layers in (("key", after.keys), ("value", after.values))
            for layer, tensors in enumerate(layers)
        }
        self._run("commit", feed, expected)
        return after

    def _run(self, graph: str, feed: dict[str, np.ndarray], expected: dict[str, Tensor]) -> None:
        """Run a graph in every form, and add how far its outputs are from torch's and from each other's."""
        results = {form: engine.graphs[graph].run(list(expected), feed) for form, engine in self.engines.items()}
        for index, (output, tensor) in enumerate(expected.items()):
            name = output if graph == "denoise" else graph
            for form, result in results.items():
                self.graphs[f"{form}: {name}"].add(result[index], tensor.numpy())
            if self.between:
                self.between[name].add(results["op"][index], results["plain"][index])


def _inputs(levels: tuple[float, ...], estimates: list[Estimate], noises: list[Tensor]) -> list[Tensor]:
    """What every denoising step was given: noise first, then the last estimate, noised again."""
    renoised = [
        add_noise(estimate.clean, drawn, drawn.new_full((len(drawn),), level))
        for estimate, drawn, level in zip(estimates, noises[1:], levels[1:], strict=False)
    ]
    return [noises[0], *renoised]


def _encoded(spec: WorldSpec, actions: np.ndarray) -> np.ndarray:
    """float32[N, F, A] of recorded actions, by the code that the runtime uses."""
    encoded = np.empty((*actions.shape[:2], spec.action_space.width), np.float32)
    for index in np.ndindex(*actions.shape[:2]):
        encoded[index] = spec.action_space.encode(actions[index])
    return encoded


def _context_feed(context: Context, action: Tensor) -> dict[str, np.ndarray]:
    """The graphs' inputs that describe a dense context: every session's frames become slots of their own."""
    batch, filled = context.keys[0].shape[:2]
    feed = {
        "action": action.numpy(),
        "slot_table": np.arange(batch * filled, dtype=np.int32).reshape(batch, filled),
        "slot_age": np.tile(context.age.numpy().astype(np.int32), (batch, 1)),
    }
    for layer, (keys, values) in enumerate(zip(context.keys, context.values, strict=True)):
        feed[f"key_pool_{layer}"] = keys.flatten(0, 1).contiguous().numpy()
        feed[f"value_pool_{layer}"] = values.flatten(0, 1).contiguous().numpy()
    return feed


def _confidence(spec: WorldSpec, estimates: list[Estimate]) -> np.ndarray:
    """float64[B, K], calibrated; after the last step it is 1."""
    curves = spec.calibration.within_delta
    rows = [[curve(float(x)) for x in e.logit] for curve, e in zip(curves, estimates, strict=False)]
    return np.array([*rows, [1.0] * len(estimates[0].logit)]).T
