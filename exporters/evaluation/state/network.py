"""StateNetwork: where things are in a picture, by heat maps, and how joints are bent, by their sines and cosines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_JOINT_MAPS = 4
_FEATURES = 32
_SHARPNESS = 6.0  # of the heat maps: they begin flat, and a flat map learns slowly
_SQUARE, _EDGE = 0.3, 0.15  # half a side of what is pasted, and half the size of a thing; half a picture is 1
_POWERS = 6  # 1, u, v, uv, uu, vv: enough for the perspective of a fixed camera


class Seen(NamedTuple):
    """points: float32[B, P, 2], standardised. turns: float32[B, A, 2], (sin, cos), shorter than 1 where unsure.

    spots: float32[B, P, 2], where in the picture: right and down, -1 .. 1. evidence: float32[B, P, 38], how high the
    heat map is at its peak and away from it, how much of it lies around the peak, and the mean features and colour
    under it; `Presence` judges it.
    """

    points: Tensor
    turns: Tensor
    spots: Tensor
    evidence: Tensor


class StateNetwork(nn.Module):
    """A small convolutional network on one picture of a fixed camera; height and width are multiples of 8."""

    def __init__(self, points: int, angles: int, height: int, width: int) -> None:
        super().__init__()
        self._points, self._angles = points, angles
        maps = points + (_JOINT_MAPS if angles else 0)
        self.fine = nn.Sequential(*_block(3, 16, 5, 2), *_block(16, 32, 3, 2), *_block(32, 32, 3, 1))
        self.coarse = nn.Sequential(*_block(32, 48, 3, 2), *_block(48, 48, 3, 1))
        self.context = nn.Conv2d(48, 32, 1)
        self.heat = nn.Sequential(*_block(32, 32, 3, 1), nn.Conv2d(32, maps, 1))
        self.place = nn.Parameter(torch.zeros(points, _POWERS, 2))
        with torch.no_grad():  # right of the middle is +x, above it +y, as most maps are
            self.place[:, 1, 0], self.place[:, 2, 1] = 1.5, -1.5
        self.squeeze = nn.Conv2d(48, 12, 1)
        self.bend = nn.Sequential(
            nn.Linear(12 * (height // 8) * (width // 8) + 2 * maps, 96), nn.ReLU(), nn.Linear(96, 2 * max(angles, 1))
        )

        self.presence = Presence(points)

    def forward(self, pictures: Tensor) -> Seen:
        """pictures: float32[B, 3, H, W] in [0, 1]."""
        fine = self.fine(pictures - 0.5)
        coarse = self.coarse(fine)
        size = fine.shape[-2:]
        context = functional.interpolate(self.context(coarse), size=size, mode="bilinear", align_corners=False)
        features = functional.relu(fine + context)
        logits = self.heat(features)
        heat = (_SHARPNESS * logits).flatten(2).softmax(dim=2).view_as(logits)
        down, right = (torch.linspace(-1.0, 1.0, length) for length in size)
        u, v = (heat.sum(dim=2) * right).sum(dim=2), (heat.sum(dim=3) * down).sum(dim=2)
        mine = slice(0, self._points)
        powers = torch.stack([torch.ones_like(u), u, v, u * v, u * u, v * v], dim=2)[:, mine]
        points = torch.einsum("bpk,pkc->bpc", powers, self.place)
        turns = self.bend(torch.cat([self.squeeze(coarse).flatten(1), u, v], dim=1))
        turns = turns[:, : 2 * self._angles].unflatten(1, (self._angles, 2))
        colour = functional.avg_pool2d(pictures, 4)
        under = torch.einsum("bphw,bchw->bpc", heat[:, mine], torch.cat([features, colour], dim=1))
        around = 9.0 * functional.avg_pool2d(heat[:, mine], 3, stride=1, padding=1).flatten(2).amax(dim=2)
        evidence = torch.cat([around.unsqueeze(2), _peaks(logits[:, mine]), under], dim=2)
        return Seen(points, turns, torch.stack([u, v], dim=2)[:, mine], evidence)


class Presence(nn.Module):
    """Whether a thing is there, from how peaked its heat map is and what lies under it. One small network each.

    Trained after the rest, on pictures from which things were taken away or to which a second one was added.
    """

    def __init__(self, points: int, hidden: int = 16) -> None:
        super().__init__()
        inputs = 3 + _FEATURES + 3
        self.inner = nn.Parameter(torch.randn(points, inputs, hidden) / inputs**0.5)
        self.inner_bias = nn.Parameter(torch.zeros(points, hidden))
        self.outer = nn.Parameter(torch.randn(points, hidden) / hidden**0.5)
        self.outer_bias = nn.Parameter(torch.zeros(points))

    def forward(self, evidence: Tensor) -> Tensor:
        """evidence: float32[B, P, 38] -> float32[B, P], the higher the more certainly it is there, and once."""
        hidden = functional.relu(torch.einsum("bpi,pih->bph", evidence, self.inner) + self.inner_bias)
        return torch.einsum("bph,ph->bp", hidden, self.outer) + self.outer_bias


def pasted(pictures: Tensor, spots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures float32[B, 3, H, W] with a square of the one before each: around something of its own or of the other's.

    So a thing is taken away, or is there twice, or is moved, or nothing happens. Returns the pictures, whether each
    thing is now there exactly once, bool[B, P], and where that can be told, bool[B, P]: not on the edge of the square.
    """
    count, points = spots.shape[:2]
    other, others = pictures.roll(1, 0), spots.roll(1, 0)
    rows, which = torch.arange(count), torch.randint(points, (count,))
    middle = torch.where((torch.rand(count) < 0.5)[:, None], spots[rows, which], others[rows, which])
    right, down = torch.linspace(-1.0, 1.0, pictures.shape[3]), torch.linspace(-1.0, 1.0, pictures.shape[2])
    across, along = (right - middle[:, :1]).abs() < _SQUARE, (down - middle[:, 1:]).abs() < _SQUARE
    inside = along[:, None, :, None] & across[:, None, None, :]
    mine, theirs = (each.sub(middle[:, None]).abs().amax(dim=2) for each in (spots, others))
    once = (mine > _SQUARE).int() + (theirs < _SQUARE).int() == 1
    told = ((mine - _SQUARE).abs() > _EDGE) & ((theirs - _SQUARE).abs() > _EDGE)
    return torch.where(inside, other, pictures), once, told


def _peaks(logits: Tensor) -> Tensor:
    """float32[B, P, 2]: the highest of float32[B, P, h, w], and the highest more than two cells away from it."""
    width = logits.shape[3]
    highest, at = logits.flatten(2).max(dim=2)
    rows, columns = torch.arange(logits.shape[2])[:, None], torch.arange(width)
    off = torch.maximum((rows - (at // width)[..., None, None]).abs(), (columns - (at % width)[..., None, None]).abs())
    return torch.stack([highest, logits.masked_fill(off <= 2, -torch.inf).flatten(2).amax(dim=2)], dim=2)


def _block(inputs: int, outputs: int, size: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
