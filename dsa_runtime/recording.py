"""Recording: what was asked and decided in each tick. With where it started, it reproduces every frame."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from . import strict_json
from .atomic import whole_file
from .errors import RecordingError, WorldError
from .spec import WorldSpec
from .tick import Status, StoppedBy, Tick

FORMAT = "dsa-recording"
FORMAT_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)  # frozen, it would take several times as long to make, and every recorded tick makes one
class Played:
    """What a replay cannot find out again: how the tick fared against its budget and the clock. Fields as in `Tick`.

    Of a tick that was answered by `repeated` before it was made, it says what came of it, with the time until its frame
    was there.
    """

    status: str
    stopped_by: str
    confidence: float
    credit_ms: float
    wait_ms: float
    denoise_ms: tuple[float, ...]
    abandoned_ms: float
    decode_ms: float
    sdk_ms: float
    total_ms: float
    budget_ms: float = math.inf
    """Absent from the file if there was none: JSON knows no infinity."""

    @classmethod
    def of(cls, tick: Tick) -> Played:
        """What a tick's reply says about that."""
        latency = tick.latency_ms
        return cls(  # by position, in the order of the fields: by name it takes longer
            tick.status, tick.stopped_by, tick.confidence, tick.credit_ms, latency["wait"], latency["denoise"],
            latency["abandoned"], latency["decode"], latency["sdk"], latency["total"], tick.budget_ms,
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """One tick: the action as given, the decision taken, and what came of it."""

    action: Any
    steps: int
    threshold: float | None
    digest: str
    """Of the tick's pictures, see `digest`."""
    played: Played | None = None
    """As it was measured when it was played; None where nobody kept that."""


@dataclass(frozen=True, eq=False)
class PromptChange:
    """From the tick on the session was conditioned on this text."""

    tick: int
    prompt: str | np.ndarray
    """The name of one of the world's own prompts, or embeddings `float32[tokens, width]`."""


@dataclass
class Recording:
    """A session since its reset or restore.

    Replay needs no clock: start as the recording says, then `session.step(action, steps=steps)` per decision
    (`replay.replay`).
    """

    world: str
    version: str
    fingerprint: str
    """Of the world, see `WorldSpec.fingerprint`."""
    form: str
    """In which the generator ran, `op`, `plain` or `half`: they differ in rounding."""
    seed: int
    first_tick: int = 0
    """The tick of the first decision."""
    snapshot: bytes | None = None
    """What the session started from; None if that was `reset(seed)`."""
    decisions: list[Decision] = field(default_factory=list)
    prompts: list[PromptChange] = field(default_factory=list)
    """In worlds that take text, in the order of their ticks: the first where the recording begins, unless that is with
    a snapshot, which has its own."""

    @classmethod
    def of(cls, spec: WorldSpec, form: str, seed: int, first_tick: int = 0, snapshot: bytes | None = None) -> Recording:
        """The recording of a session in the world `spec`, in which nothing has happened yet."""
        return cls(spec.name, spec.version, spec.fingerprint, form, seed, first_tick, snapshot)

    def fork(self) -> Recording:
        """One that goes on from here by itself."""
        return replace(self, decisions=self.decisions.copy(), prompts=self.prompts.copy())

    def measured(self, tick: Tick) -> None:
        """Keep how the newest decision's tick fared."""
        # In place, as to make a frozen one anew would cost the tick more than all else here.
        object.__setattr__(self.decisions[-1], "played", Played.of(tick))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recording as JSON, one line per decision. A file of that name is replaced, or kept whole."""
        head = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "world": self.world,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "form": self.form,
            "seed": self.seed,
            "first_tick": self.first_tick,
            "snapshot": None if self.snapshot is None else base64.b64encode(self.snapshot).decode(),
            **({"prompts": [_prompt_fields(change) for change in self.prompts]} if self.prompts else {}),
        }
        fields = [f'"{name}": {_compact(value)}' for name, value in head.items()]
        lines = ",\n".join(_compact(_fields(entry)) for entry in self.decisions)
        with whole_file(Path(path)) as partial:
            partial.write_text("{" + ",\n".join(fields) + f',\n"decisions": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """The recording in a file. Raises `RecordingError`, naming the field, and `OSError`."""
        where = os.fspath(path)
        content = Path(path).read_bytes()
        try:
            return _decode(strict_json.parse(content, where), where)
        except WorldError as error:  # `strict_json` speaks of worlds
            raise RecordingError(f"{error}; write it with `Recording.save`") from None


def digest(pixels: np.ndarray) -> str:
    """BLAKE2b-128 of the bytes of a tick's pictures in C order, as hexadecimal text."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Entry:
    """A decision in the file."""

    action: Any
    steps: int
    threshold: Any
    digest: str
    played: Any = None

    def __post_init__(self) -> None:
        values = self.action if isinstance(self.action, list) else [self.action]
        numbers = all(type(value) is int or (type(value) is float and values is self.action) for value in values)
        _check(numbers and len(values) > 0, "action", "expected an integer or a list of numbers")
        _check(self.steps >= 1, "steps", f"must be at least 1, got {self.steps}")
        known = type(self.threshold) in (int, float) and math.isfinite(self.threshold)
        _check(known or self.threshold is None, "threshold", "expected a number or null")
        _check(_DIGEST.fullmatch(self.digest) is not None, "digest", "must be 32 lower-case hexadecimal digits")


@dataclass(frozen=True)
class _Change:
    """A change of the prompt in the file: a name, or base64 of little-endian float32 with their shape."""

    tick: int
    name: str = ""
    text: str = ""
    shape: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        _check(0 <= self.tick < 2**63, "tick", f"must lie in 0..2**63 - 1, got {self.tick}")
        _check(bool(self.name) != bool(self.text), "name", "a prompt has either a name or a text")

    def prompt(self, where: str) -> str | np.ndarray:
        """As the caller gave it."""
        if self.name:
            return self.name
        try:
            return (
                np.frombuffer(base64.b64decode(self.text, validate=True), "<f4").astype(np.float32).reshape(self.shape)
            )
        except (binascii.Error, ValueError) as error:
            raise WorldError(f"{where}.text: not base64 of float32{list(self.shape)}: {error}") from None


@dataclass(frozen=True)
class _Document:
    """The file, but for `format` and `format_version`."""

    world: str
    version: str
    fingerprint: str
    form: str
    seed: int
    first_tick: int
    snapshot: Any
    decisions: tuple[_Entry, ...]
    prompts: tuple[_Change, ...] = ()

    def __post_init__(self) -> None:
        forms = ("op", "plain", "half")
        _check(self.form in forms, "form", f"must be one of {', '.join(map(repr, forms))}, got {_short(self.form)}")
        _check(0 <= self.seed < 2**64, "seed", f"must lie in 0..2**64 - 1, got {self.seed}")
        _check(0 <= self.first_tick < 2**63, "first_tick", f"must lie in 0..2**63 - 1, got {self.first_tick}")
        from_reset = self.snapshot is None
        _check(from_reset or isinstance(self.snapshot, str), "snapshot", "expected base64 text or null")
        _check(not from_reset or self.first_tick == 0, "first_tick", "must be 0 where there is no snapshot")


def _decode(document: dict[str, Any], where: str) -> Recording:
    kind, version = document.pop("format", None), document.pop("format_version", None)
    _check(kind == FORMAT, f"{where}.format", f"expected {FORMAT!r}, got {_short(kind)}")
    known = type(version) is int and version == FORMAT_VERSION
    problem = f"this runtime reads version {FORMAT_VERSION}, got {_short(version)}"
    _check(known, f"{where}.format_version", problem)
    read = strict_json.decode(_Document, document, where)
    try:
        snapshot = None if read.snapshot is None else base64.b64decode(read.snapshot, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WorldError(f"{where}.snapshot: not base64: {error}") from None
    decisions = [
        Decision(
            entry.action,
            entry.steps,
            None if entry.threshold is None else float(entry.threshold),
            entry.digest,
            _played(entry, f"{where}.decisions[{index}].played"),
        )
        for index, entry in enumerate(read.decisions)
    ]
    prompts = [
        PromptChange(change.tick, change.prompt(f"{where}.prompts[{index}]"))
        for index, change in enumerate(read.prompts)
    ]
    return Recording(
        read.world, read.version, read.fingerprint, read.form, read.seed, read.first_tick, snapshot, decisions, prompts
    )


def _played(entry: _Entry, where: str) -> Played | None:
    if entry.played is None:
        return None
    played = strict_json.decode(Played, entry.played, where)
    for name, known in (("status", get_args(Status)), ("stopped_by", get_args(StoppedBy))):
        value = getattr(played, name)
        _check(value in known, f"{where}.{name}", f"expected one of {', '.join(known)}, got {_short(value)}")
    count = len(played.denoise_ms)
    _check(count == entry.steps, f"{where}.denoise_ms", f"expected a value per step: {entry.steps}, got {count}")
    return played


def _fields(entry: Decision) -> dict[str, Any]:
    """A decision as the file has it: without what is not known."""
    fields = vars(entry) | {"action": _plain(entry.action), "played": strict_json.encode(entry.played)}
    if entry.played is None:
        del fields["played"]
    elif math.isinf(entry.played.budget_ms):
        del fields["played"]["budget_ms"]
    return fields


def _prompt_fields(change: PromptChange) -> dict[str, Any]:
    if isinstance(change.prompt, str):
        return {"tick": change.tick, "name": change.prompt}
    text = np.ascontiguousarray(change.prompt, "<f4")
    return {"tick": change.tick, "text": base64.b64encode(text.data).decode(), "shape": list(text.shape)}


def _plain(action: Any) -> Any:
    """An action as JSON can say it; floats keep their exact value."""
    return action.tolist() if isinstance(action, (np.ndarray, np.generic)) else action


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _check(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise WorldError(f"{field}: {problem}")
