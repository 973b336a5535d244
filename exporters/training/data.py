"""Clips: random windows of consecutive frames and actions from an episode dataset, held in memory."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dsa_runtime.spec import ActionSpace, Box, Discrete
from exporters.model.autoencoder import pictures_to_float
from exporters.packaging.describe import action_space
from exporters.recording.dataset import Dataset
from exporters.training.digest import weights_digest
from exporters.training.distributed import Ranks


@dataclass
class Clips:
    """One split of a dataset in memory.

    frames: uint8[F, H, W, 3], every recording's frames one after another.
    actions: float32[F, A], encoded; actions[i] led to frames[i] (zeros at the first frame of a recording).
    starts: int64[E], lengths: int64[E]; where each recording lies in `frames`.
    """

    frames: Tensor
    actions: Tensor
    starts: Tensor
    lengths: Tensor
    latents: Tensor | None = None
    source: str = ""
    """Which recordings these are: a digest of the split's entry in dataset.json; empty if it is not known."""

    @staticmethod
    def load(folder: Path, split: str, action_width: int, limit: int | None = None) -> Clips:
        """Read a split; `limit` stops after that many frames. Raises FileNotFoundError when there is none."""
        paths = sorted((Path(folder) / split).glob("*.npz"))
        if not paths:
            raise FileNotFoundError(f"no recordings under {folder}/{split}: record them first")
        spec = Dataset(folder).spec
        space = action_space(spec)
        if space.width != action_width:
            raise ValueError(
                f"teacher.model.action_width: {action_width}, but actions of {folder} take {space.width} values"
            )
        frames, actions, lengths = [], [], []
        for path in paths:
            with np.load(path, allow_pickle=False) as episode:
                pictures, taken = episode["frames"], episode["actions"]
            frames.append(torch.from_numpy(pictures))
            actions.append(encode_actions(taken, space))
            lengths.append(len(pictures))
            if limit is not None and sum(lengths) >= limit:
                break
        sizes = torch.tensor(lengths)
        entry = asdict(spec.splits[split]) if split in spec.splits else None
        source = hashlib.sha256(json.dumps([split, entry, sum(lengths)]).encode()).hexdigest()
        return Clips(torch.cat(frames), torch.cat(actions), sizes.cumsum(0) - sizes, sizes, source=source)

    def sample_frames(self, batch: int) -> Tensor:
        """uint8[batch, H, W, 3], drawn uniformly with torch's global generator."""
        return self.frames[torch.randint(len(self.frames), (batch,))]

    def sample_starts(self, batch: int, length: int) -> Tensor:
        """First frame of `batch` windows of `length` frames, each inside one recording."""
        room = (self.lengths - length + 1).clamp_min(0).double()
        which = torch.multinomial(room, batch, replacement=True)
        offset = (torch.rand(batch, dtype=torch.float64) * room[which]).long()
        return self.starts[which] + offset

    def windows(self, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Latents float32[B, length, C, h, w] and actions float32[B, length, A].

        Without cached latents the pictures themselves, roughly standardised, stand for them (shape B).
        """
        index = starts[:, None] + torch.arange(length)
        if self.latents is None:
            return (pictures_to_float(self.frames[index]) + 0.5) * 2.5, self.actions[index]
        return self.latents[index].float(), self.actions[index]

    def halves(self) -> tuple[Clips, Clips]:
        """The earlier and the later recordings, without copying; a single recording is cut in the middle.

        What is chosen on the one can be tested on the other.
        """
        cut = len(self.starts) // 2
        if cut:
            return (
                replace(self, starts=self.starts[:cut], lengths=self.lengths[:cut]),
                replace(self, starts=self.starts[cut:], lengths=self.lengths[cut:]),
            )
        half = self.lengths // 2
        return replace(self, lengths=half), replace(self, starts=self.starts + half, lengths=self.lengths - half)


def encode_actions(actions: np.ndarray, space: ActionSpace) -> Tensor:
    """Recorded actions [N] or [N, n] -> float32[N + 1, width], shifted so that row i led to frame i.

    The values are those of `space.encode`, for all rows at once; the first row, which led nowhere, is zeros.
    """
    if isinstance(space, Discrete):
        values = np.eye(space.n, dtype=np.float32)[actions]
    elif isinstance(space, Box):
        low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        values = (2.0 * (actions - low) / (high - low) - 1.0).astype(np.float32)
    else:
        values = actions.astype(np.float32)
    return torch.cat([torch.zeros(1, space.width), torch.from_numpy(values)])


@torch.no_grad()
def encode_clips(clips: Clips, autoencoder: torch.nn.Module, cache: Path | None = None, batch: int = 128) -> None:
    """Fill `clips.latents` (float16[F, C, h, w]) with the frozen autoencoder's latents, or from `cache`.

    A cache of another autoencoder or of other recordings is written anew. Rank 0 does it for all.
    """
    clips.latents = Ranks.current().from_first(lambda: _latents(clips, autoencoder, cache, batch))


def _latents(clips: Clips, autoencoder: torch.nn.Module, cache: Path | None, batch: int) -> Tensor:
    key = {"autoencoder": weights_digest(autoencoder), "recordings": clips.source} if cache is not None else {}
    if cache is not None and cache.exists():
        saved = torch.load(cache, weights_only=True)
        if isinstance(saved, Tensor):  # an older version's, which does not say what it was made from
            saved = {**key, "latents": saved}
        known = all(saved[name] == value for name, value in key.items())
        if known and len(saved["latents"]) == len(clips.frames):
            return torch.as_tensor(saved["latents"])
    device = next(autoencoder.parameters()).device
    parts = []
    for chunk in tqdm(clips.frames.split(batch), desc="latents", unit_scale=batch, unit="frame", mininterval=5.0):
        pictures = pictures_to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        parts.append(autoencoder.encode(pictures).half().cpu())
    latents = torch.cat(parts)
    if cache is not None:
        partial = cache.with_suffix(".partial")
        torch.save({**key, "latents": latents}, partial)
        os.replace(partial, cache)
    return latents
