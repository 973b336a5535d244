"""RanksNorm: the autoencoder's normalisation over the batch of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exporters.training.distributed import Ranks


class _Mean(torch.autograd.Function):
    """The mean over the ranks; gradients flow back to all of them."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _mean(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean(values: Tensor) -> Tensor:
    import torch.distributed as dist

    total = values.detach().clone()
    dist.all_reduce(total)
    return total / Ranks.current().world


class RanksNorm(nn.Module):
    """A batch norm without scale whose mean and variance are those of the global batch, as one process would see it.

    It shares the buffers of the one it stands in for. (`torch.nn.SyncBatchNorm` works on GPUs only.)
    """

    def __init__(self, plain: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = plain.eps, plain.momentum
        for name, buffer in plain.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same, of mean 0 and variance 1 per channel in training, near them in evaluation."""
        x = x.float()
        if self.training:
            mean = _Mean.apply(x.mean(dim=(0, 2, 3)))
            variance = _Mean.apply((x - mean[:, None, None]).square().mean(dim=(0, 2, 3)))
            self.learn(mean.detach(), variance.detach(), Ranks.current().world * x.numel() // x.shape[1])
        else:
            mean, variance = self.running_mean, self.running_var
        return (x - mean[:, None, None]) * (variance + self.eps).rsqrt()[:, None, None]

    def learn(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, the variance in its unbiased form, as `nn.BatchNorm2d` does."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
