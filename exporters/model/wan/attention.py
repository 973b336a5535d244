"""Attention over chunks: full inside a chunk, causal over chunks, with rotary position in time, row and column.

The semantics are those of `dsa.PagedFrameAttention` with a chunk in the place of a frame. Position in time counts
latent frames: 0 .. n - 1 inside a chunk is turned into its queries and keys once and for all, and between chunks the
operator's age, times n, does the rest. Rotations compose, so the scores are those of absolute positions.

B batch, W context chunks, N chunks of a clip, T tokens of a chunk, H heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.model.attention import rotate_space, rotate_time


def rotate_inside(x: Tensor, grid: tuple[int, int, int], temporal_dims: int, theta: float) -> Tensor:
    """Rotate x[..., T, H, D] by each token's frame, row and column inside the chunk. Keeps the dtype."""
    frames, rows, columns = grid
    turned = rotate_space(x.unflatten(-3, (frames, rows * columns)), rows, columns, temporal_dims, theta)
    frame = torch.arange(frames, device=x.device).unsqueeze(-1)
    return rotate_time(turned, frame, temporal_dims, theta).flatten(-4, -3).type_as(x)


def attend_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every query [B, Q, H, D] sees every key [B, K, H, D]. Returns [B, Q, H, D]."""
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)


def context_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_key: Tensor,
    context_value: Tensor,
    age: Tensor,
    temporal_dims: int,
    theta: float,
) -> Tensor:
    """One chunk against itself and W chunks before it.

    query, key, value [B, T, H, D], rotated inside the chunk; context [B, W, T, H, D], likewise; age [W] in latent
    frames. As `exporters.model.attention.context_attention`, but the scores are never written out.
    """
    older = rotate_time(context_key, -age.float().unsqueeze(-1), temporal_dims, theta).type_as(key)
    keys = torch.cat([older.flatten(1, 2), key], dim=1)
    return attend_all(query, keys, torch.cat([context_value.flatten(1, 2), value], dim=1))


def teacher_forced_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chunk: int,
    window: int,
    sink: int,
    temporal_dims: int,
    theta: float,
) -> Tensor:
    """All chunks of a clip at once, two copies of each: [B, N, 2, T, H, D], copy 0 clean and copy 1 noisy.

    Both copies of a chunk of `chunk` latent frames see themselves and the clean copies that a context would hold.
    """
    out = torch.empty_like(query)
    for i in range(query.shape[1]):
        seen = window_of(i, window, sink)
        age = chunk * torch.arange(len(seen), 0, -1, device=query.device)
        past_key, past_value = key[:, seen, 0], value[:, seen, 0]
        for copy in (0, 1):
            own = query[:, i, copy], key[:, i, copy], value[:, i, copy]
            out[:, i, copy] = context_attention(*own, past_key, past_value, age, temporal_dims, theta)
    return out


def window_of(chunk: int, window: int, sink: int) -> list[int]:
    """Which chunks a chunk sees before it, oldest first: the first `sink` and the newest ones, `window` in all."""
    before = list(range(chunk))
    return before if chunk <= window else before[:sink] + before[chunk - (window - sink) :]
