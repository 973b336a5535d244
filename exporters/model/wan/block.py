"""Block of Wan's transformer: self-attention, cross-attention to the text, MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.model.generator import Attend
from exporters.model.wan.attention import attend_all, rotate_inside
from exporters.model.wan.config import WanConfig

EPS = 1e-6

Text = tuple[Tensor, Tensor]
"""One layer's keys and values of the prompt, [B, L, H, D] each."""


class TextAttention(nn.Module):
    """Cross-attention to the prompt, with a norm of its own in front and no modulation."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = (config.heads, config.head_dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.query_norm, self.key_norm = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)

    def keys_values(self, text: Tensor) -> Text:
        """Projected text [B, L, dim] -> keys and values [B, L, H, D]."""
        key = self.key_norm(self.key(text).float()).type_as(text)
        return key.unflatten(-1, self.heads), self.value(text).unflatten(-1, self.heads)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        """Tokens [B, ..., T, dim] -> what to add to them."""
        h = self.norm(x.float()).type_as(x)
        query = self.query_norm(self.query(h).float()).type_as(x).unflatten(-1, self.heads)
        seen = attend_all(query.flatten(1, -3), *text).flatten(-2)
        return self.out(seen.reshape(x.shape))


class WanBlock(nn.Module):
    """Self-attention, text and MLP; the first and the last are modulated by the noise level.

    Query and key norm are over all heads together. Rotary position turns the pairs (i, i + half) of each of a head's
    three sections, as this project's operator does, where Wan's weights pair (2i, 2i + 1): the importer puts the rows
    of the query and key projections and of their norms into this order.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.modulation = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.query_norm, self.key_norm = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.text = TextAttention(config) if config.text_width else None
        self.rise, self.fall = nn.Linear(dim, config.mlp_width), nn.Linear(config.mlp_width, dim)

    def project(
        self, x: Tensor, modulation: Tensor, grid: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Tokens [..., T, dim], modulation float32[..., 6, dim] -> query, key, value [..., T, H, D] and the six parts.

        The modulation and the norms stay in float32 whatever the tokens are in.
        """
        c = self.config
        parts = (self.modulation.float() + modulation).unsqueeze(-2).unbind(-3)
        h = modulated(x, parts[0], parts[1])
        query, key, value = self.query(h), self.key(h), self.value(h)
        query, key = self.query_norm(query.float()).type_as(x), self.key_norm(key.float()).type_as(x)
        query, key, value = (y.unflatten(-1, (c.heads, c.head_dim)) for y in (query, key, value))
        query, key = (rotate_inside(y, grid, c.temporal_dims, c.theta) for y in (query, key))
        return query, key, value, parts

    def forward(
        self, x: Tensor, modulation: Tensor, grid: tuple[int, int, int], attend: Attend, text: Text | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the block's output tokens and its keys and values (to be committed)."""
        query, key, value, parts = self.project(x, modulation, grid)
        seen = self.out(attend(query, key, value).flatten(-2))
        x = (x.float() + seen.float() * parts[2]).type_as(x)
        if self.text is not None and text is not None:
            x = x + self.text(x, text)
        h = self.fall(F.gelu(self.rise(modulated(x, parts[3], parts[4])), approximate="tanh"))
        return (x.float() + h.float() * parts[5]).type_as(x), key, value


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then scale and shift, in float32; back in the dtype of x."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=EPS) * (1.0 + scale) + shift).type_as(x)
