"""Frame attention: full inside a frame, causal over frames, with rotary position.

The same semantics as `dsa_runtime.ops.reference` in the forms that training needs:

- `paged_attention`: the operator itself (pools, slot table, slot ages), used for export and parity tests;
- `context_attention`: a batch of rollouts that share one age vector, keys already in a dense window;
- `teacher_forced_attention`: all frames of a clip at once, a clean and a noisy copy of each.

Shapes: B batch, N frames, T tokens of a frame, H heads, D head width, W window, S pool slots.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, dims: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines float32[..., dims / 2] of position * theta^(-2i / dims)."""
    exponent = torch.arange(dims // 2, dtype=torch.float32, device=positions.device) * (-2.0 / dims)
    angles = positions.float().unsqueeze(-1) * theta**exponent
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + dims/2) of the last axis; cos and sin broadcast over x[..., : dims / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def rotate_time(x: Tensor, positions: Tensor, dims: int, theta: float) -> Tensor:
    """Rotate the first `dims` of x[..., H, D] by temporal positions that broadcast against x[..., 0, 0]."""
    if dims == 0:
        return x
    cos, sin = rotary_angles(positions, dims, theta)
    return torch.cat([rotate(x[..., :dims], cos.unsqueeze(-2), sin.unsqueeze(-2)), x[..., dims:]], dim=-1)


def rotate_space(x: Tensor, height: int, width: int, temporal_dims: int, theta: float) -> Tensor:
    """Rotate the dims after `temporal_dims` of x[..., T, H, D] by the token's row (first half) and column."""
    dims = (x.shape[-1] - temporal_dims) // 2
    token = torch.arange(height * width, device=x.device)
    row, column = (rotary_angles(p, dims, theta) for p in (token // width, token % width))
    time, vertical, horizontal = x.split([temporal_dims, dims, dims], dim=-1)
    return torch.cat(
        [
            time,
            rotate(vertical, row[0].unsqueeze(-2), row[1].unsqueeze(-2)),
            rotate(horizontal, column[0].unsqueeze(-2), column[1].unsqueeze(-2)),
        ],
        dim=-1,
    )


def context_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_key: Tensor,
    context_value: Tensor,
    age: Tensor,
    temporal_dims: int,
    theta: float,
    mask: Tensor | None = None,
) -> Tensor:
    """One frame against itself and W context frames.

    query, key, value [B, T, H, D]; context [B, W, T, H, D] without temporal rotation; age [W] or [B, W];
    mask float[B, W], 0 for filled and -inf for empty. Rotating a key by -age equals rotating the query by +age.
    Returns [B, T, H, D].
    """
    b, t, h, d = query.shape
    if age.dim() == 1:
        age = age.expand(b, -1)
    rotated = rotate_time(context_key, -age.unsqueeze(-1).float(), temporal_dims, theta)
    keys = torch.cat([rotated.reshape(b, -1, h, d), key], dim=1)
    values = torch.cat([context_value.reshape(b, -1, h, d), value], dim=1)
    scores = query.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * d**-0.5
    if mask is not None:
        bias = mask.unsqueeze(-1).expand(-1, -1, t).reshape(b, -1)
        bias = torch.cat([bias, torch.zeros_like(bias[:, :t])], dim=1)
        scores = scores + bias[:, None, None, :]
    return (scores.softmax(dim=-1) @ values.transpose(1, 2)).transpose(1, 2)


def paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slot_table: Tensor,
    slot_age: Tensor,
    temporal_dims: int,
    theta: float,
) -> Tensor:
    """`PagedFrameAttention` in plain operators: gather the slots, then attend (DESIGN section 4).

    query, key, value [B, T, H, D]; pools [S, T, H, D]; slot_table, slot_age int32[B, W] (-1 = empty).
    An empty slot is masked here; the native kernels skip it.
    """
    index = slot_table.clamp_min(0).long()
    mask = torch.where(slot_table < 0, float("-inf"), 0.0)
    return context_attention(
        query, key, value, key_pool[index], value_pool[index], slot_age, temporal_dims, theta, mask
    )


def clip_mask(frames: int, tokens: int, window: int, device: torch.device) -> Tensor:
    """float32[frames, 1, 1, frames * tokens]: 0 where a frame may see an earlier frame's clean copy, else -inf."""
    frame = torch.arange(frames, device=device)
    age = frame[:, None] - frame[None, :]
    allowed = (age >= 1) & (age <= window)
    mask = torch.zeros(frames, frames, device=device).masked_fill(~allowed, float("-inf"))
    return mask.repeat_interleave(tokens, dim=1)[:, None, None, :]


def teacher_forced_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int, temporal_dims: int, theta: float
) -> Tensor:
    """All frames of a clip at once, two copies of each: [B, N, 2, T, H, D], copy 0 clean and copy 1 noisy.

    Both copies of frame i see the clean copies of the last `window` frames and themselves. Absolute temporal
    positions give the same scores as the operator's ages, since a rotary score depends on the difference only.
    The scores are written out: the CPU's fused attention has a slow backward pass (LOG.md).
    """
    b, n, _, t, h, d = query.shape
    position = torch.arange(n, device=query.device)[:, None, None]
    query = rotate_time(query, position, temporal_dims, theta) * d**-0.5
    key = rotate_time(key, position, temporal_dims, theta)
    query, key, value = (x.permute(0, 4, 1, 2, 3, 5) for x in (query, key, value))  # B H N 2 T D
    clean_key, clean_value = (x[:, :, :, 0].reshape(b, h, n * t, d) for x in (key, value))
    context = (query.reshape(b, h, n * 2 * t, d) @ clean_key.transpose(-1, -2)).reshape(b, h, n, 2, t, n * t)
    own = query @ key.transpose(-1, -2)  # B H N 2 T T
    weights = torch.cat([context + clip_mask(n, t, window, query.device), own], dim=-1).softmax(dim=-1)
    seen = weights[..., : n * t].reshape(b, h, n * 2 * t, n * t) @ clean_value
    out = seen.reshape(b, h, n, 2, t, d) + weights[..., n * t :] @ value
    return out.permute(0, 2, 3, 4, 1, 5)
