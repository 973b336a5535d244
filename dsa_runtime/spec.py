"""WorldSpec: the one contract between a world package, the exporters that write it and the runtime.

`WorldSpec.from_json` reads `world.json` strictly (unknown, missing or ill-typed fields are a `WorldError`
that names the field) and `WorldSpec.to_json` writes it. Every dataclass checks its own values when it is
made, so a spec in hand is a valid spec.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import strict_json
from .actions import ActionSpace, Box, Discrete, MultiBinary
from .calibration import CalibrationSpec, CheckedRisk, Curve, OperatingPoint, RiskBound
from .errors import WorldError
from .ops.schema import DOMAIN as OPS_DOMAIN

__all__ = [
    "FORMAT", "FORMAT_VERSION", "ActionSpace", "Box", "CacheSpec", "CalibrationSpec", "CheckedRisk", "Curve",
    "DecoderSpec", "Discrete", "FileEntry", "FrameSpec", "LatentSpec", "MultiBinary", "OperatingPoint", "OpsSpec",
    "RiskBound", "ScheduleSpec", "TextSpec", "WorldSpec",
]  # fmt: skip

FORMAT = "dsa-world"
FORMAT_VERSION = 1
SPEC_FILE = "world.json"
SEEDS_FILE = "seeds.npz"
PROMPTS_FILE = "prompts.npz"
REQUIRED_GRAPHS = ("denoise", "commit", "decode")
OPTIONAL_GRAPHS = (
    "encode",  # without it the start contexts are latents
    "decode_first",  # of a decoder with a state
    "condition",  # of a text
    "denoise_op", "commit_op", "write_op",  # the graphs that hold custom operators
    "denoise_half", "commit_half", "write_half",  # these in float16, for GPUs
)  # fmt: skip

_WORLD_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FrameSpec:
    """A picture as the caller sees it: `uint8[height, width, channels]`, `fps` of them a second."""

    height: int
    width: int
    channels: int
    fps: float
    frames_per_tick: int
    """Pictures that one tick draws."""
    display_aspect: tuple[int, int]
    """Width to height at which the picture is meant to be shown."""

    def __post_init__(self) -> None:
        _in_range("height", self.height, 1, 16384)
        _in_range("width", self.width, 1, 16384)
        _check(self.channels == 3, "channels", f"must be 3 (RGB), got {self.channels}")
        _check(0 < self.fps <= 1e4, "fps", f"must lie in (0, 10000], got {self.fps}")
        _in_range("frames_per_tick", self.frames_per_tick, 1, 256)
        _check(min(self.display_aspect) >= 1, "display_aspect", "both parts must be at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture."""
        return (self.height, self.width, self.channels)

    @property
    def tick_shape(self) -> tuple[int, int, int, int]:
        """Of all pictures of a tick, `[F, height, width, channels]`."""
        return (self.frames_per_tick, *self.shape)

    @property
    def period_ms(self) -> float:
        """Time between ticks at the native rate; the default budget of a tick."""
        return 1000.0 * self.frames_per_tick / self.fps


@dataclass(frozen=True)
class LatentSpec:
    """The space in which a tick is denoised: `float32[channels, height, width]`, or, where a tick is a chunk of
    several latent frames, `float32[channels, frames, height, width]`."""

    channels: int
    height: int
    width: int
    frames: int = field(default=1, metadata=strict_json.OPTIONAL)
    """Latent frames of a tick. A decoder may make several pictures of each."""

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "frames"):
            _in_range(name, getattr(self, name), 1, 4096)

    @property
    def shape(self) -> tuple[int, ...]:
        chunk = (self.frames,) if self.frames > 1 else ()
        return (self.channels, *chunk, self.height, self.width)


@dataclass(frozen=True)
class DecoderSpec:
    """How latents become pictures. A streaming decoder remembers what it saw in earlier ticks."""

    state: tuple[tuple[int, ...], ...] = ()
    """Shapes, without the batch, of what `decode` takes and returns besides: `float32` `state_0`, `state_1`, ...; for
    the first tick of a stream there is `decode_first`, which takes none. Empty for a decoder without memory."""

    def __post_init__(self) -> None:
        for index, shape in enumerate(self.state):
            _check(
                len(shape) <= 8 and all(1 <= n <= 1 << 20 for n in shape), f"state[{index}]", f"not a shape: {shape}"
            )


@dataclass(frozen=True)
class TextSpec:
    """The text that a world is conditioned on, as embeddings `float32[tokens, width]`. The SDK has no text encoder."""

    width: int = 0
    """Of an embedding; 0 for a world that takes no text."""
    tokens: int = 0
    """A prompt's embeddings, filled up with zeros to this number."""
    encoder: str = ""
    """What made the embeddings that the world was trained with, in words."""
    prompts: tuple[str, ...] = ()
    """Texts whose embeddings come with the package (`prompts.npz`); a session begins with the first."""

    def __post_init__(self) -> None:
        _in_range("width", self.width, 0, 1 << 20)
        _in_range("tokens", self.tokens, min(self.width, 1), 1 << 20)
        _check(all(self.prompts), "prompts", "one of them is empty")
        _check(len(set(self.prompts)) == len(self.prompts), "prompts", "one of them occurs twice")
        _check(bool(self.prompts) == bool(self.width), "prompts", "needs one at least, where there is a width")


@dataclass(frozen=True)
class CacheSpec:
    """Geometry of the frame cache.

    A slot holds one frame: per layer its keys and its values, `float32[tokens, heads, head_dim]` each.
    """

    layers: int
    heads: int
    head_dim: int
    tokens: int
    window: int
    """Frames a new frame can look back at, sink included."""
    sink: int
    """Oldest frames since reset that never leave the window."""
    temporal_dims: int
    """Leading dimensions of a head that carry rotary position in time; even, 0 for none."""
    theta: float

    def __post_init__(self) -> None:
        for name, top in (
            ("layers", 1024),
            ("heads", 1024),
            ("head_dim", 4096),
            ("tokens", 1 << 20),
            ("window", 4096),
        ):
            _in_range(name, getattr(self, name), 1, top)
        _in_range("sink", self.sink, 0, self.window - 1)
        _in_range("temporal_dims", self.temporal_dims, 0, self.head_dim)
        _check(self.temporal_dims % 2 == 0, "temporal_dims", f"must be even, got {self.temporal_dims}")
        _check(math.isfinite(self.theta) and self.theta > 0, "theta", f"must be positive, got {self.theta}")

    @property
    def slot_shape(self) -> tuple[int, int, int]:
        return (self.tokens, self.heads, self.head_dim)


@dataclass(frozen=True)
class ScheduleSpec:
    """Noise levels of the denoising steps, `1 = levels[0] > ... > 0`, and the level of the commit."""

    levels: tuple[float, ...]
    context_level: float

    def __post_init__(self) -> None:
        _in_range("levels", len(self.levels), 1, 1000, "must hold 1..1000 values")
        _check(self.levels[0] == 1.0, "levels", f"must start at 1.0, got {self.levels[0]}")
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        _check(falling and self.levels[-1] > 0, "levels", "must fall strictly and stay above 0")
        _check(0 <= self.context_level < 1, "context_level", f"must lie in [0, 1), got {self.context_level}")

    @property
    def steps(self) -> int:
        """Denoising steps of the full schedule, K."""
        return len(self.levels)


@dataclass(frozen=True)
class OpsSpec:
    """The custom operators that the graphs of the op form use: those of `version` and older.

    A runtime whose operators are older runs the plain form."""

    domain: str
    version: int

    def __post_init__(self) -> None:
        _check(self.domain == OPS_DOMAIN, "domain", f"this runtime knows {OPS_DOMAIN!r}, got {self.domain!r}")
        _in_range("version", self.version, 1, 1 << 30)


@dataclass(frozen=True)
class FileEntry:
    """Size and digest of one file of the package."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _check(_SHA256.fullmatch(self.sha256) is not None, "sha256", "must be 64 lower-case hexadecimal digits")
        _check(0 <= self.bytes <= 1 << 46, "bytes", f"out of range: {self.bytes}")


@dataclass(frozen=True)
class WorldSpec:
    """Everything `world.json` says. Field names and nesting are those of the file."""

    name: str
    version: str
    licence: str
    description: str
    frame: FrameSpec
    action_space: ActionSpace
    latent: LatentSpec
    cache: CacheSpec
    schedule: ScheduleSpec
    ops: OpsSpec
    graphs: Mapping[str, str]
    calibration: CalibrationSpec
    files: Mapping[str, FileEntry]
    provenance: Mapping[str, Any]
    decoder: DecoderSpec = field(default_factory=DecoderSpec, metadata=strict_json.OPTIONAL)
    text: TextSpec = field(default_factory=TextSpec, metadata=strict_json.OPTIONAL)

    def __post_init__(self) -> None:
        name = self.name
        _check(
            _WORLD_NAME.fullmatch(name) is not None,
            "name",
            f"must be lower-case words joined by '-', got {name!r}",
        )
        _check(bool(self.version), "version", "must not be empty")
        cells = self.latent.frames * self.latent.height * self.latent.width
        _check(
            cells % self.cache.tokens == 0,
            "cache.tokens",
            f"must divide the {cells} cells of the latent into equal patches",
        )
        for curves in ("within_delta", "benefit"):
            count, needed = len(getattr(self.calibration, curves)), self.schedule.steps - 1
            _check(
                count == needed,
                f"calibration.{curves}",
                f"needs a curve for each step but the last: {needed}, got {count}",
            )
        for file in self.files:
            safe = _FILE_NAME.fullmatch(file) is not None and ".." not in file
            _check(safe, f"files.{file}", "must be a plain file name inside the package")
            _check(file != SPEC_FILE, f"files.{file}", "a file cannot hold its own digest")
        _check(SEEDS_FILE in self.files, f"files.{SEEDS_FILE}", "missing field")
        for graph in REQUIRED_GRAPHS:
            _check(graph in self.graphs, f"graphs.{graph}", "missing field")
        for graph, needed, why in (
            ("decode_first", bool(self.decoder.state), "a decoder with a state"),
            ("condition", bool(self.text.width), "a world that takes text"),
        ):
            _check((graph in self.graphs) == needed, f"graphs.{graph}", f"belongs to {why}, and to no other")
        _check((PROMPTS_FILE in self.files) == bool(self.text.width), f"files.{PROMPTS_FILE}", "belongs to `text`")
        for graph, file in self.graphs.items():
            _check(graph in REQUIRED_GRAPHS + OPTIONAL_GRAPHS, f"graphs.{graph}", "unknown field")
            _check(file in self.files, f"graphs.{graph}", f"{file!r} is not listed in files")

    @property
    def begins_full(self) -> bool:
        """Whether start contexts are pictures, as many as the window holds; else they are latents, and maybe fewer."""
        return "encode" in self.graphs

    @property
    def keeps_picture(self) -> bool:
        """Whether a session keeps its newest picture, which it cannot always decode again: with a streaming decoder, or
        where it may begin with nothing."""
        return bool(self.decoder.state) or not self.begins_full

    @property
    def prompt_shape(self) -> tuple[int, ...]:
        """Of a prompt as the generator takes it: keys and values of its tokens, of each layer in turn."""
        return (2 * self.cache.layers, self.text.tokens, self.cache.heads, self.cache.head_dim)

    @functools.cached_property
    def fingerprint(self) -> str:
        """BLAKE2b-128, as hexadecimal text, of all that decides how frames are drawn.

        That is the digests of the package's files but its texts (`*.md`), and what this spec says about the
        generator, and the names of its prompts. Worlds with the same fingerprint draw the same frames from the same
        seed, prompts, actions and steps.
        """
        files = sorted((name, entry.sha256) for name, entry in self.files.items() if not name.endswith(".md"))
        generator = [strict_json.encode(part) for part in (self.latent, self.cache, self.schedule, self.graphs)]
        named = [list(self.text.prompts)] if self.text.prompts else []
        text = json.dumps([files, generator, strict_json.tagged(self.action_space), *named], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes, source: str = SPEC_FILE) -> WorldSpec:
        """The spec in the text of a `world.json`. `source` names the document in errors."""
        document = strict_json.parse(text, source)
        kind, version = document.pop("format", None), document.pop("format_version", None)
        _check(kind == FORMAT, f"{source}.format", f"expected {FORMAT!r}, got {kind!r}")
        known = type(version) is int and version == FORMAT_VERSION
        _check(known, f"{source}.format_version", f"this runtime reads version {FORMAT_VERSION}, got {version!r}")
        return strict_json.decode(cls, document, source)

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, **strict_json.encode(self)}
        document["action_space"] = strict_json.tagged(self.action_space)
        return document

    def to_json(self) -> str:
        """The text of `world.json`; `WorldSpec.from_json(spec.to_json()) == spec`."""
        return strict_json.render(self.to_dict())


def _check(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise WorldError(f"{field}: {problem}")


def _in_range(field: str, value: int, low: int, high: int, problem: str | None = None) -> None:
    _check(low <= value <= high, field, problem or f"must lie in {low}..{high}, got {value}")
