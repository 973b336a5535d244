"""Wan2.1 made causal, as in Self-Forcing: chunks of 3 latent frames at 480x832, 7 of them seen, itself included."""

from __future__ import annotations

from .decoder import small_decoder, wan_decoder
from .family import WAN
from .shape import Shape

CHUNK, CHANNELS, HEIGHT, WIDTH = 3, 16, 60, 104
PATCH = 2


def wan_shape(
    name: str, *, layers: int, heads: int, head_dim: int, mlp_width: int, chunk: int = CHUNK, height: int = HEIGHT,
    width: int = WIDTH, window: int = 6, text_tokens: int = 512, text_width: int = 4096,
) -> Shape:  # fmt: skip
    """A transformer of Wan2.1's family with Wan2.1's decoder; height and width are those of the latent."""
    return Shape(
        name=name,
        family=WAN,
        layers=layers,
        heads=heads,
        head_dim=head_dim,
        mlp_width=mlp_width,
        gated=False,
        tokens=chunk * (height // PATCH) * (width // PATCH),
        token_values=CHANNELS * PATCH**2,
        window=window,
        text_tokens=text_tokens,
        text_width=text_width,
        action_width=0,
        taps=min(3, layers),
        latent=(CHANNELS, chunk, height, width),
        picture=(8 * height, 8 * width),
        pictures=4 * chunk,
        fps=16.0,
        steps=4,
        mean_steps=16 / 7,  # the paper's: 7 chunks in 16 steps
        decoders=(wan_decoder(chunk, height, width), small_decoder(chunk, height, width)),
    )


WAN_SHAPES = {
    shape.name: shape
    for shape in (
        wan_shape("wan-1.3b", layers=30, heads=12, head_dim=128, mlp_width=8960),
        wan_shape("wan-14b", layers=40, heads=40, head_dim=128, mlp_width=13824),
    )
}
