"""Generator: the causal diffusion transformer that is teacher, critic and student alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.model import attention
from exporters.model.confidence import ConfidenceHead
from exporters.model.flow import expand, precondition
from exporters.model.stem import ConvHead, ConvStem, LinearHead, LinearStem

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of the transformer."""

    latent_channels: int = 16
    latent_height: int = 8
    latent_width: int = 8
    """Size of the latent; with the convolutional stem, of the picture."""
    patch: int = 2
    """Latent cells on a token's side; the convolutional stem needs 8, which are pixels there."""
    stem: str = "linear"
    """`linear`: latents of an autoencoder (shape A). `conv`: pixels through a convolutional stem (shape B)."""
    action_width: int = 6
    dim: int = 256
    depth: int = 5
    heads: int = 4
    mlp_ratio: float = 3.0
    window: int = 8
    """Context frames that a frame can see, besides itself."""
    temporal_dims: int = 16
    """Dims of each head that carry rotary position in time; the rest carry row and column."""
    theta: float = 20.0
    """Rotary base, for time and space (both count single digits here)."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.latent_height // self.patch, self.latent_width // self.patch

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose outputs the confidence head reads: at about 1/2, 3/4 and the end, as in the paper."""
        return tuple(sorted({(self.depth - 1) // 2, (3 * self.depth) // 4 - 1 + self.depth % 2, self.depth - 1}))


@dataclass(frozen=True)
class Context:
    """Committed frames of a batch of rollouts, oldest first; all sessions have the same ages.

    keys, values: one [B, F, T, H, D] per layer, F <= window, without temporal rotation.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def push(self, keys: list[Tensor], values: list[Tensor], window: int) -> Context:
        """Append one frame's [B, T, H, D] per layer and drop what has left the window."""

        def join(old: tuple[Tensor, ...], new: list[Tensor]) -> tuple[Tensor, ...]:
            return tuple(torch.cat([a, b.unsqueeze(1)], 1)[:, -window:] for a, b in zip(old, new, strict=True))

        return replace(self, keys=join(self.keys, keys), values=join(self.values, values))

    @property
    def age(self) -> Tensor:
        """int64[F]: frames ago, the newest is 1."""
        frames = self.keys[0].shape[1]
        return torch.arange(frames, 0, -1, device=self.keys[0].device)


class Block(nn.Module):
    """Attention and MLP, each modulated by the frame's conditioning (AdaLN)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.modulation = nn.Linear(dim, 6 * dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.out = nn.Linear(dim, dim, bias=False)
        self.rise = nn.Linear(dim, hidden, bias=False)
        self.fall = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for layer in (self.out, self.fall):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5 * (2 * config.depth) ** -0.5)

    def project(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Tokens [..., T, dim], condition [..., dim] -> query, key, value [..., T, H, D] and the modulation."""
        c = self.config
        parts = self.modulation(F.silu(condition)).unsqueeze(-2).chunk(6, dim=-1)
        h = F.layer_norm(x, (c.dim,)) * (1.0 + parts[1]) + parts[0]
        query, key, value = self.qkv(h).unflatten(-1, (3, c.heads, c.head_dim)).unbind(-3)
        query, key = self.query_norm(query), self.key_norm(key)
        query, key = (attention.rotate_space(y, *c.grid, c.temporal_dims, c.theta) for y in (query, key))
        return query, key, value, parts

    def forward(self, x: Tensor, condition: Tensor, attend: Attend) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the block's output tokens and its keys and values (to be committed)."""
        query, key, value, parts = self.project(x, condition)
        seen = attend(query, key, value).flatten(-2)
        x = x + (1.0 + parts[2]) * self.out(seen)
        h = F.layer_norm(x, (self.config.dim,)) * (1.0 + parts[4]) + parts[3]
        x = x + (1.0 + parts[5]) * self.fall(F.relu(self.rise(h)).square())
        return x, key, value

    def keys_values(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values alone: all that a commit needs of the last block."""
        _, key, value, _ = self.project(x, condition)
        return key, value


class Generator(nn.Module):
    """Noisy frame + noise level + action + context -> clean estimate (and confidence logit)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.stem: nn.Module
        self.head: nn.Module
        if config.stem == "linear":
            self.stem = LinearStem(config.latent_channels, dim, config.patch)
            self.head = LinearHead(config.latent_channels, dim, config.grid, config.patch)
        else:
            self.stem = ConvStem(config.latent_channels, dim)
            self.head = ConvHead(config.latent_channels, dim, config.grid)
        self.position = nn.Parameter(torch.randn(config.tokens, dim) * 0.02)
        self.level_rise, self.level_fall = nn.Linear(64, dim), nn.Linear(dim, dim)
        self.action_embed = nn.Linear(config.action_width, dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final = nn.Linear(dim, 2 * dim)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)
        nn.init.normal_(self.action_embed.weight, std=0.5)
        self.confidence = ConfidenceHead(dim, len(config.taps))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a frame's latent: channels, height, width."""
        return self.config.latent_channels, self.config.latent_height, self.config.latent_width

    def condition(self, level: Tensor, action: Tensor) -> Tensor:
        """level [...], action [..., A] -> [..., dim]. Sinusoids of 1000 * level, as in diffusion transformers."""
        frequency = torch.exp(torch.arange(32, device=level.device) * (-math.log(10000.0) / 32))
        angle = level.unsqueeze(-1) * 1000.0 * frequency
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.level_fall(F.silu(self.level_rise(wave))) + self.action_embed(action)

    def estimate(self, tokens: Tensor, skips: list[Tensor], noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Last tokens [B, T, dim] -> clean estimate in the shape of `noisy`."""
        shift, scale = self.final(F.silu(condition)).unsqueeze(-2).chunk(2, dim=-1)
        out = self.head(F.layer_norm(tokens, (self.config.dim,)) * (1.0 + scale) + shift, skips)
        skip, gain = precondition(level)
        return expand(skip, noisy) * noisy + expand(gain, noisy) * out

    def run(
        self, latent: Tensor, level: Tensor, action: Tensor, attends: list[Attend]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """All blocks; returns clean estimate, tapped tokens, condition."""
        condition = self.condition(level, action)
        x, skips = self.stem(latent)
        x = x + self.position
        taps = []
        for i, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            x, _, _ = block(x, condition, attend)
            if i in self.config.taps:
                taps.append(x)
        return self.estimate(x, skips, latent, level, condition), taps, condition

    def keys_values(
        self, latent: Tensor, level: Tensor, action: Tensor, attends: list[Attend]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer the frame's keys and values [B, T, H, D]; the last block stops after its projection."""
        condition = self.condition(level, action)
        x = self.stem(latent)[0] + self.position
        keys, values = [], []
        for i, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            if i + 1 == len(self.blocks):
                key, value = block.keys_values(x, condition)
            else:
                x, key, value = block(x, condition, attend)
            keys.append(key)
            values.append(value)
        return keys, values

    # Rollouts: a batch of sessions in step with each other.

    def empty_context(self, batch: int) -> Context:
        c = self.config
        none = self.position.new_zeros(batch, 0, c.tokens, c.heads, c.head_dim)
        return Context((none,) * c.depth, (none,) * c.depth)

    def _attends(self, context: Context) -> list[Attend]:
        c, age = self.config, context.age

        def attend(ck: Tensor, cv: Tensor) -> Attend:
            return lambda q, k, v: attention.context_attention(q, k, v, ck, cv, age, c.temporal_dims, c.theta)

        return [attend(ck, cv) for ck, cv in zip(context.keys, context.values, strict=True)]

    def denoise(
        self, noisy: Tensor, level: Tensor, action: Tensor, context: Context
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """One denoising step: noisy [B, C, h, w], level [B], action [B, A] -> clean estimate, taps, condition."""
        return self.run(noisy, level, action, self._attends(context))

    def commit(self, clean: Tensor, level: Tensor, action: Tensor, context: Context) -> Context:
        """Write a finished frame into the context."""
        keys, values = self.keys_values(clean, level, action, self._attends(context))
        return context.push(keys, values, self.config.window)

    # Training on clips.

    def teacher_forced(
        self, clean: Tensor, clean_level: Tensor, noisy: Tensor, level: Tensor, action: Tensor
    ) -> Tensor:
        """Clean estimates of all noisy frames of a clip, each seeing the clean frames before it.

        clean, noisy [B, N, C, h, w]; clean_level, level [B, N]; action [B, N, A] -> [B, N, C, h, w].
        """
        c = self.config
        levels = torch.stack([clean_level, level], dim=2)  # B N 2
        condition = self.condition(levels, action.unsqueeze(2).expand(-1, -1, 2, -1))
        both = torch.stack([clean, noisy], dim=2)
        x, skips = self.stem(both.flatten(0, 2))
        x = x.unflatten(0, levels.shape) + self.position
        for block in self.blocks:
            x, _, _ = block(
                x,
                condition,
                lambda q, k, v: attention.teacher_forced_attention(q, k, v, c.window, c.temporal_dims, c.theta),
            )
        tokens = x[:, :, 1].flatten(0, 1)
        skips = [s.unflatten(0, levels.shape)[:, :, 1].flatten(0, 1) for s in skips]
        flat = self.estimate(tokens, skips, noisy.flatten(0, 1), level.flatten(), condition[:, :, 1].flatten(0, 1))
        return flat.unflatten(0, level.shape)
