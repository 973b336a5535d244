"""Configuration of Wan's transformer and of how it is played."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WanConfig:
    """Shape of the transformer, by default Wan2.1's 1.3B, and of a chunk, by default Self-Forcing's at 480x832.

    Weights fix the former. Chunk, window and size of the latent are a matter of how they are played: position is
    rotary, and nothing learned depends on them.
    """

    dim: int = 1536
    depth: int = 30
    heads: int = 12
    mlp_width: int = 8960
    latent_channels: int = 16
    patch: int = 2
    """Latent cells on a token's side."""
    level_width: int = 256
    """Sinusoids that a noise level is given as."""
    text_width: int = 4096
    """Width of a text embedding (umT5-XXL's is 4096); 0: no cross-attention, an unconditioned model."""
    text_tokens: int = 512
    """Every prompt is filled up with zeros to this length, and these are attended to as well."""
    action_width: int = 0
    """Values of a tick's action, embedded and added to the noise level's embedding; 0: no actions."""
    theta: float = 10000.0
    """Rotary base, for time and space."""

    chunk: int = 3
    """Latent frames of a tick: full attention among them."""
    latent_height: int = 60
    latent_width: int = 104
    window: int = 6
    """Chunks that a chunk can see, besides itself."""
    sink: int = 0
    """First chunks of the window that never leave it. As in the runtime, they age no further than the window."""

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.window < 1 or not 0 <= self.sink < self.window:
            raise ValueError("chunk and window must be at least 1, and sink between 0 and window - 1")
        if (
            min(self.latent_height, self.latent_width) < 1
            or self.latent_height % self.patch
            or self.latent_width % self.patch
        ):
            raise ValueError(f"latent_height and latent_width must be positive multiples of the patch, {self.patch}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a chunk's tokens."""
        return self.chunk, self.latent_height // self.patch, self.latent_width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of a chunk: what a frame of the paged cache holds."""
        frames, rows, columns = self.grid
        return frames * rows * columns

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of a chunk."""
        return self.latent_channels, self.chunk, self.latent_height, self.latent_width

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def temporal_dims(self) -> int:
        """First dims of each head, which carry position in time: 44 of 128. Row and column share the rest equally."""
        return self.head_dim - 4 * (self.head_dim // 6)

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose outputs the confidence head reads: the last and two a quarter further down each; 13, 21 and 29
        of 30, as in the paper."""
        last, quarter = self.depth - 1, (self.depth + 2) // 4
        return tuple(sorted({max(0, last - 2 * quarter), max(0, last - quarter), last}))


WAN_1_3B = WanConfig()
WAN_14B = WanConfig(dim=5120, depth=40, heads=40, mlp_width=13824)
