"""Wan2.1's transformer: the weights that are published, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.model.generator import Attend
from exporters.model.stem import LinearStem
from exporters.model.wan.block import WanBlock, modulated
from exporters.model.wan.config import WanConfig
from exporters.model.wan.context import Prompt

FLOAT32 = ("level_", "modulat", "action_", "norm.")
"""Parameters with this in their names are kept in float32 where the model is in less: what is made of the noise level,
and the norms."""


def parameter_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """In what a parameter is to be kept, in a model that computes in `dtype`."""
    return torch.float32 if any(part in name for part in FLOAT32) else dtype


class WanTransformer(nn.Module):
    """Latent chunk + noise level (+ text, + action) + what it attends to -> velocity, noise - clean."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.stem = LinearStem(config.latent_channels, dim, config.patch)
        self.level_rise, self.level_fall = nn.Linear(config.level_width, dim), nn.Linear(dim, dim)
        self.level_modulate = nn.Linear(dim, 6 * dim)
        if config.text_width:
            self.text_rise, self.text_fall = nn.Linear(config.text_width, dim), nn.Linear(dim, dim)
        if config.action_width:
            self.action_embed = nn.Linear(config.action_width, dim)
        self.blocks = nn.ModuleList(WanBlock(config) for _ in range(config.depth))
        self.modulation = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.out = nn.Linear(dim, config.latent_channels * config.patch**2)

    def condition(self, level: Tensor, action: Tensor) -> Tensor:
        """level [...], action [..., A] (not read without actions) -> float32[..., dim].

        Sinusoids of 1000 * level, in float64 as in the original: an angle of 1000 has few digits left in float32.
        """
        half = self.config.level_width // 2
        frequency = torch.exp(
            torch.arange(half, dtype=torch.float64, device=level.device) * (-math.log(10000.0) / half)
        )
        angle = level.double().unsqueeze(-1) * 1000.0 * frequency
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1).float()
        condition = self.level_fall(F.silu(self.level_rise(wave)))
        return condition + self.action_embed(action.float()) if self.config.action_width else condition

    def prompt(self, text: Tensor) -> Prompt:
        """Text embeddings [B, L, text_width] -> the keys and values of every layer.

        Raises ValueError if the text is longer than `text_tokens`, not of this width, or the model takes none.
        """
        c = self.config
        if not c.text_width:
            raise ValueError("prompt: this model takes no text")
        if text.dim() != 3 or text.shape[1] > c.text_tokens or text.shape[2] != c.text_width:
            wanted = f"[batch, at most {c.text_tokens}, {c.text_width}]"
            raise ValueError(f"prompt: embeddings must be {wanted}, got {list(text.shape)}")
        text = F.pad(text.to(self.text_rise.weight.dtype), (0, 0, 0, c.text_tokens - text.shape[1]))
        text = self.text_fall(F.gelu(self.text_rise(text), approximate="tanh"))
        layers = [block.text.keys_values(text) for block in self.blocks]
        return Prompt(tuple(key for key, _ in layers), tuple(value for _, value in layers))

    def tokens(self, latent: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """[..., C, n, h, w] -> [..., n * rows * columns, dim], and (n, rows, columns)."""
        patches = self.stem(latent.movedim(-4, -3).to(self.stem.embed.weight.dtype))[0]
        rows, columns = (size // self.config.patch for size in latent.shape[-2:])
        return patches.flatten(-3, -2), (latent.shape[-3], rows, columns)

    def velocity(self, tokens: Tensor, grid: tuple[int, int, int], condition: Tensor) -> Tensor:
        """Last tokens [..., T, dim] -> float32[..., C, n, h, w]."""
        shift, scale = (self.modulation.float() + condition.unsqueeze(-2)).unsqueeze(-2).unbind(-3)
        frames, rows, columns = grid
        cells = self.out(modulated(tokens, shift, scale)).float().unflatten(-2, (frames, rows * columns))
        return F.pixel_shuffle(cells.transpose(-1, -2).unflatten(-1, (rows, columns)), self.config.patch).movedim(
            -4, -3
        )

    def forward(
        self,
        latent: Tensor,
        level: Tensor,
        action: Tensor,
        attends: Sequence[Attend],
        prompt: Prompt | None,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """latent [..., C, n, h, w], level [...], action [..., A] -> velocity, the tapped blocks' tokens, condition."""
        condition = self.condition(level, action)
        modulation = self.level_modulate(F.silu(condition)).unflatten(-1, (6, -1))
        x, grid = self.tokens(latent)
        tapped = []
        for i, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            x, _, _ = block(x, modulation, grid, attend, _layer(prompt, i))
            if i in taps:
                tapped.append(x.float())
        return self.velocity(x, grid, condition), tapped, condition

    def keys_values(
        self, latent: Tensor, level: Tensor, action: Tensor, attends: Sequence[Attend], prompt: Prompt | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer the chunk's keys and values [B, T, H, D]; the last block stops after its projection."""
        modulation = self.level_modulate(F.silu(self.condition(level, action))).unflatten(-1, (6, -1))
        x, grid = self.tokens(latent)
        keys, values = [], []
        for i, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            if i + 1 == len(self.blocks):
                _, key, value, _ = block.project(x, modulation, grid)
            else:
                x, key, value = block(x, modulation, grid, attend, _layer(prompt, i))
            keys.append(key)
            values.append(value)
        return keys, values


def _layer(prompt: Prompt | None, index: int) -> tuple[Tensor, Tensor] | None:
    return None if prompt is None else (prompt.keys[index], prompt.values[index])
