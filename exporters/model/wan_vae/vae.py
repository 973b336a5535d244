"""WanVAE: Wan2.1's causal video autoencoder (`AutoencoderKLWan` of diffusers), by chunks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exporters.model.wan_vae.config import WanVAEConfig
from exporters.model.wan_vae.decoder import Decoder
from exporters.model.wan_vae.encoder import Encoder
from exporters.model.wan_vae.stream import Memory, Stream


class WanVAE(nn.Module):
    """Pictures to normalised latents and back, each way a stream of chunks with a state of its own.

    A stream's first latent is one picture, every later one `pictures_per_latent`. How a stream is cut into chunks
    changes nothing; the modules hold no state, so any number of streams may take turns.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.set_statistics()

    def set_statistics(self) -> None:
        """Make the buffers of the configuration's mean and standard deviation: they are in no checkpoint."""
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.config, name))
            self.register_buffer(name, values[:, None, None, None], persistent=False)

    def decode_chunk(self, latents: Tensor, state: Stream | None) -> tuple[Tensor, Stream]:
        """Latents float[B, C, n, h, w] -> pictures float[B, 3, N, H, W], nominally in [-1, 1], not clamped.

        N is `pictures_per_latent` * n, and for a stream's first chunk (state None) `pictures_per_latent` - 1 fewer.
        """
        memory = Memory(state)
        return self.decoder(latents * self.std + self.mean, memory), memory.after

    def encode_chunk(self, pictures: Tensor, state: Stream | None) -> tuple[Tensor, Stream]:
        """Pictures float[B, 3, N, H, W] in [-1, 1] -> latents float[B, C, n, h, w], of the distribution's mean.

        N is a multiple of `pictures_per_latent`, and for a stream's first chunk (state None) one more. Raises
        ValueError for other numbers of pictures, and for sides that are no multiple of `scale`.
        """
        c, (frames, *sides) = self.config, pictures.shape[2:]
        first = int(state is None)
        if frames == 0 or (frames - first) % c.pictures_per_latent:
            rule = f"{c.pictures_per_latent} * n" + (" + 1 at the beginning of a stream" if first else "")
            raise ValueError(f"pictures: their number must be {rule}, got {frames}")
        if any(side % c.scale for side in sides):
            raise ValueError(f"pictures: sides must be multiples of {c.scale}, got {sides[0]}x{sides[1]}")
        memory = Memory(state)
        return (self.encoder(pictures, memory) - self.mean) / self.std, memory.after

    def decode(self, latents: Tensor) -> Tensor:
        """A whole stream at once, as `decode_chunk`."""
        return self.decode_chunk(latents, None)[0]

    def encode(self, pictures: Tensor) -> Tensor:
        """A whole stream at once, as `encode_chunk`."""
        return self.encode_chunk(pictures, None)[0]


def state_shapes(config: WanVAEConfig, batch: int, height: int, width: int) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the tensors of a stream's state, of `encode` and `decode`, for pictures of this size.

    Nothing is computed or allocated: the model is walked through on torch's meta device.
    """
    with torch.device("meta"):
        vae = WanVAE(config)
        _, encode = vae.encode_chunk(torch.empty(batch, config.picture_channels, 1, height, width), None)
        latent = torch.empty(batch, config.latent_channels, 1, height // config.scale, width // config.scale)
        _, decode = vae.decode_chunk(latent, None)
    return {name: [tuple(t.shape) for t in state] for name, state in (("encode", encode), ("decode", decode))}
