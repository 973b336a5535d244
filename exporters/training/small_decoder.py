"""Stage `small-decoder`: a light decoder distilled from Wan's frozen one, on given latents.

No pictures are needed: the full decoder's are the target, for latents that the transformer has made or the encoder.
Gate: PSNR and LPIPS to the full decoder's pictures on clips that were held out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.lpips import Lpips
from exporters.model.small_decoder import PICTURES, SCALE, SmallDecoder, SmallDecoderConfig, save_small_decoder
from exporters.model.wan_vae.stream import Stream, StreamingDecoder
from exporters.model.wan_vae.vae import WanVAE
from exporters.training.digest import weights_digest
from exporters.training.pictures import save_grid
from exporters.training.stage import Average, Budget, Stage, mixed_precision, set_learning_rate, warm_cool

SMALLEST_CROP = 4
"""Latent cells, 32 pixels: LPIPS needs 31."""
CHUNK = 4
"""Latents that are decoded at once where no gradients are needed."""


@dataclass(frozen=True)
class SmallDecoderTraining:
    """Settings of the stage."""

    model: SmallDecoderConfig = field(default_factory=SmallDecoderConfig)
    budget: Budget = field(default_factory=lambda: Budget(minutes=60))
    batch: int = 2
    crop: int = 32
    """Latent cells on a side of what is cut out of a clip, in all of its frames; smaller clips are taken whole."""
    learning_rate: float = 1e-3
    perceptual_weight: float = 0.5
    """Of LPIPS beside the mean absolute error, where its weights can be had."""
    held_out: float = 0.1
    """Share of the clips for the gate, the last ones; at least one."""


def check_latents(latents: Tensor, vae: WanVAE) -> None:
    """Raise ValueError if the decoder cannot be trained on them."""
    c = vae.config
    if (c.scale, c.pictures_per_latent, c.picture_channels) != (SCALE, PICTURES, 3):
        raise ValueError(
            f"vae: the small decoder makes {PICTURES} RGB pictures of {SCALE} times the side per latent, this VAE"
            f" {c.pictures_per_latent} of {c.scale} times with {c.picture_channels} channels"
        )
    if latents.dim() != 5 or not latents.is_floating_point() or latents.shape[1] != c.latent_channels:
        raise ValueError(
            f"latents: must be floats [clips, {c.latent_channels}, frames, height, width],"
            f" got {latents.dtype} {list(latents.shape)}"
        )
    clips, _, frames, *sides = latents.shape
    if clips < 2 or frames < 2 or min(sides) < SMALLEST_CROP:
        raise ValueError(
            f"latents: at least 2 clips of 2 frames and {SMALLEST_CROP}x{SMALLEST_CROP} are needed, got {clips} of"
            f" {frames} and {sides[0]}x{sides[1]}"
        )
    if not all(torch.isfinite(clip).all() for clip in latents):
        raise ValueError("latents: they hold NaN or infinity")


def train_small_decoder(
    config: SmallDecoderTraining,
    folder: Path,
    vae: WanVAE,
    latents: Tensor,
    device: torch.device,
    perceptual: Lpips | None,
) -> tuple[SmallDecoder, dict[str, float]]:
    """Train, resume or load; returns the averaged decoder in evaluation mode, and its gate.

    latents: clips float[N, C, n, h, w], normalised as the transformer works on them, each from its video's beginning;
    they stay where they are. Writes `small_decoder.safetensors` and a picture to look at to `folder`.
    Trains in one process. Raises ValueError if VAE and latents do not suit each other or the checkpoint.
    """
    check_latents(latents, vae)
    held_out = max(1, round(config.held_out * len(latents)))
    train, test = latents[:-held_out], latents[-held_out:]
    vae = vae.to(device).eval().requires_grad_(False)
    perceptual = None if perceptual is None else perceptual.to(device)
    model = SmallDecoder(config.model).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = Average(model, 0.999)
    parts = {"model": model, "optimizer": optimizer, "average": average}
    inputs = {"vae": weights_digest(vae), "latents": _digest(latents)}
    stage = Stage("small-decoder", folder, config.budget, parts, inputs=inputs)
    stage.resume()
    for fraction in stage.steps():
        set_learning_rate([optimizer], warm_cool(fraction, stage.step, 50))
        clips = crop(train[torch.randint(len(train), (config.batch,))], config.crop).to(device).float()
        target = whole(vae, clips)
        with mixed_precision(device):
            output = model.decode(clips).float()
        loss = F.l1_loss(output, target)
        values = {}
        if perceptual is not None:
            values["lpips"] = perceptual.between(_frames(output), _frames(target)).mean()
            loss = loss + config.perceptual_weight * values["lpips"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        stage.log(100, loss=loss.detach(), **{name: value.detach() for name, value in values.items()})
    model.load_state_dict(average.values)
    model.eval().requires_grad_(False)
    gate = _gate(model, vae, test, config.crop, device, perceptual, folder)
    stage.write(gate=gate)
    save_small_decoder(model, folder / "small_decoder.safetensors")
    return model, gate


def crop(clips: Tensor, cells: int, centre: bool = False) -> Tensor:
    """The same window of all clips [B, C, n, h, w], `cells` on a side or what they have, anywhere or in the centre."""
    for axis in (3, 4):
        room = max(0, clips.shape[axis] - cells)
        start = room // 2 if centre else int(torch.randint(room + 1, ()))
        clips = clips.narrow(axis, start, clips.shape[axis] - room)
    return clips


@torch.no_grad()
def whole(decoder: StreamingDecoder, clips: Tensor) -> Tensor:
    """Pictures [B, 3, N, H, W] in [-1, 1] of whole clips; what the decoder needs for it does not grow with them."""
    state: Stream | None = None
    pictures = []
    for chunk in clips.split(CHUNK, dim=2):
        made, state = decoder.decode_chunk(chunk, state)
        pictures.append(made.clamp(-1, 1))
    return torch.cat(pictures, dim=2)


@torch.no_grad()
def _gate(
    model: SmallDecoder,
    vae: WanVAE,
    clips: Tensor,
    cells: int,
    device: torch.device,
    perceptual: Lpips | None,
    folder: Path,
) -> dict[str, float]:
    """Means over the held-out clips, each at its centre."""
    gates: dict[str, list[float]] = {name: [] for name in ("psnr_db", *(() if perceptual is None else ("lpips",)))}
    for index, clip in enumerate(clips.split(1)):
        cut = crop(clip, cells, centre=True).to(device).float()
        small, full = (_frames(whole(decoder, cut)) for decoder in (model, vae))
        grey = [pictures_to_uint8(pictures) for pictures in (full, small)]
        error = (grey[0].float() - grey[1].float()).square().mean(dim=(1, 2, 3)).clamp_min(1e-3)
        gates["psnr_db"].append(float((10 * torch.log10(255.0**2 / error)).mean()))
        if perceptual is not None:
            gates["lpips"].append(float(perceptual.between(small, full).mean()))
        if index == 0:
            save_grid(folder / "small-decoder.png", [pictures[:8].cpu().numpy() for pictures in grey])
    return {name: sum(values) / len(values) for name, values in gates.items()}


def _frames(pictures: Tensor) -> Tensor:
    """[B, 3, N, H, W] -> [B * N, 3, H, W]."""
    return pictures.movedim(2, 1).flatten(0, 1)


def _digest(latents: Tensor) -> str:
    digest = hashlib.sha256(f"{latents.dtype} {tuple(latents.shape)}".encode())
    for clip in latents:
        digest.update(clip.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
