"""Stage `autoencoder`: reconstruction. Gate: PSNR on held-out frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.model.autoencoder import Autoencoder, AutoencoderConfig, pictures_to_float, pictures_to_uint8
from exporters.training.data import Clips
from exporters.training.distributed import Ranks
from exporters.training.norm import RanksNorm
from exporters.training.pictures import save_grid
from exporters.training.stage import Average, Budget, Stage, mixed_precision, set_learning_rate, warm_cool


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of the autoencoder stage."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    budget: Budget = field(default_factory=lambda: Budget(minutes=12))
    batch: int = 24
    learning_rate: float = 1.5e-3
    edge_weight: float = 1.0
    """Weight of the loss on picture gradients: keeps edges that a mean error would blur."""
    gate_psnr_db: float = 29.0


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical finite differences."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor, edge_weight: float) -> Tensor:
    """Mean absolute error of pixels, of edges, and of a half-resolution copy's edges."""
    loss = F.l1_loss(output, target)
    small = (F.avg_pool2d(output, 2), F.avg_pool2d(target, 2))
    for a, b in ((output, target), small):
        loss = loss + edge_weight * sum(F.l1_loss(p, q) for p, q in zip(edges(a), edges(b), strict=True)) / 2
    return loss


@torch.no_grad()
def heldout_psnr(model: Autoencoder, frames: Tensor) -> float:
    """Mean PSNR in dB of uint8 reconstructions of uint8[B, H, W, 3]."""
    output = pictures_to_uint8(model(pictures_to_float(frames))).float()
    mse = (output - frames.float()).square().mean(dim=(1, 2, 3)).clamp_min(1e-3)
    return float((10 * torch.log10(255.0**2 / mse)).mean())


@torch.no_grad()
def measure_latents(model: Autoencoder, clips: Clips, batch: int, batches: int = 64) -> None:
    """Set the latents' mean and variance from the averaged weights: the running ones lag behind short runs."""
    device = next(model.parameters()).device
    model.normalise.reset_running_stats()
    model.normalise.momentum = None  # a plain mean over the batches
    model.normalise.train()
    for _ in range(batches):
        model.encode(pictures_to_float(clips.sample_frames(batch).to(device)))


def train_autoencoder(
    config: AutoencoderTraining, folder: Path, train: Clips, validation: Clips, device: torch.device
) -> tuple[Autoencoder, dict[str, float]]:
    """Train (or resume, or load) the autoencoder; returns it in eval mode with averaged weights, and its gate."""
    # Channels-last convolutions are 1.3x faster on CPUs; torch.compile adds nothing to them (LOG.md).
    model = Autoencoder(config.model).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = Average(model, 0.998)
    stage = Stage("autoencoder", folder, config.budget, {"model": model, "optimizer": optimizer, "average": average})
    stage.resume()
    ranks = Ranks.current()
    normalise = model.normalise
    if ranks.world > 1:
        model.normalise = RanksNorm(normalise)
    for fraction in stage.steps(last=False):
        set_learning_rate([optimizer], warm_cool(fraction, stage.step, 100))
        target = pictures_to_float(ranks.rows(train.sample_frames(config.batch)).to(device))
        with mixed_precision(device):
            latent = model.encode(target)
            latent = latent + config.model.latent_noise * ranks.randn_like(latent)
            loss = reconstruction_loss(model.decode(latent).float(), target, config.edge_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        stage.log(100, loss=loss.detach())
    model.normalise = normalise
    model.load_state_dict(average.values)
    if not stage.done:
        measure_latents(model, train, config.batch)
        average.values = {k: v.detach().clone() for k, v in model.state_dict().items()}
        stage.finish()
    model.eval()
    frames = validation.frames[:: max(1, len(validation.frames) // 512)][:512].to(device)
    gate = {"psnr_db": heldout_psnr(model, frames), "gate_psnr_db": config.gate_psnr_db}
    stage.write(gate=gate)
    sample = frames[:: len(frames) // 8][:8]
    with torch.no_grad():
        output = pictures_to_uint8(model(pictures_to_float(sample)))
    if ranks.first:
        save_grid(folder / "autoencoder.png", [sample.cpu().numpy(), output.cpu().numpy()])
    return model, gate
