"""Confidence head: how sure the generator is that more denoising steps would not change this frame.

It learns one of three targets, each by a loss of its own: the teacher's residual (the paper's), the gain of going on
as a distance, or what the next step is worth to the eye, which may be less than nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConfidenceHead(nn.Module):
    """One learnable query per tapped block cross-attends to the frame's tokens; the results give one logit.

    The shape of the paper's head (arXiv 2606.04432, section 3.2) with one addition: the conditioning vector (noise
    level and action) joins the pooled features, so that one head can be asked after every denoising step.
    """

    def __init__(self, dim: int, taps: int, width: int = 64) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(taps))
        self.keys = nn.ModuleList(nn.Linear(dim, width, bias=False) for _ in range(taps))
        self.values = nn.ModuleList(nn.Linear(dim, width, bias=False) for _ in range(taps))
        self.queries = nn.Parameter(torch.randn(taps, width) * 0.02)
        self.condition = nn.Linear(dim, width)
        self.norm = nn.LayerNorm(width * (taps + 1))
        self.hidden = nn.Linear(width * (taps + 1), dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, taps: list[Tensor], condition: Tensor) -> Tensor:
        """taps: one [B, T, dim] per tapped block; condition [B, dim] -> logit float32[B]."""
        pooled = []
        for i, tokens in enumerate(taps):
            x = self.norms[i](tokens)
            scores = self.keys[i](x) @ self.queries[i] * self.queries.shape[1] ** -0.5
            weights = scores.softmax(dim=-1).unsqueeze(-1)
            pooled.append((weights * self.values[i](x)).sum(dim=-2))
        pooled.append(self.condition(condition))
        hidden = F.silu(self.hidden(self.norm(torch.cat(pooled, dim=-1))))
        return self.out(hidden).squeeze(-1)


def residual_loss(logit: Tensor, residual: Tensor, balance: float) -> Tensor:
    """The paper's loss c * d - balance * log c with c = sigmoid(logit), one per entry.

    Its optimum is c = min(1, balance / E[residual | features]); below the bound that is the rate of an exponential
    distribution of the residual, as in `gain_loss`.
    """
    return logit.sigmoid() * residual - balance * F.logsigmoid(logit)


def gain_loss(logit: Tensor, gain: Tensor) -> Tensor:
    """Exponential likelihood of gains of mean 1 with rate exp(logit), one per entry: high logit, little to gain."""
    return gain * logit.clamp(-8, 8).exp() - logit


def worth_loss(logit: Tensor, worth: Tensor) -> Tensor:
    """Squared error of -logit against standardised, signed worths, one per entry: high logit, little worth."""
    return (logit + worth).square()
