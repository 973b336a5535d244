"""EvaluationConfig: what a world's recorded state and its actions mean to the evaluation.

Light on purpose: the recipe (`exporters.training.config`) holds it, and must not import the evaluation itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporters.recording.dataset import DatasetSpec


@dataclass(frozen=True)
class StateColumns:
    """Which state columns of a recording can be read from its pictures."""

    points: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name of a thing in the picture -> its columns x, y in metres."""
    angles: tuple[str, ...] = ()
    """Columns in radians."""
    movers: tuple[str, ...] = ()
    """Points that stay where they are until something moves them, and that are never out of sight for long."""
    jumps: str = ""
    """Column that is not 0 on a frame where a mover was put somewhere else, which nothing foretells; may be empty."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.movers if name not in self.points]
        if unknown:
            raise ValueError(f"evaluation.state.movers: {unknown[0]!r} is not among evaluation.state.points")

    def __bool__(self) -> bool:
        return bool(self.points or self.angles)


@dataclass(frozen=True)
class EvaluationConfig:
    """The recipe's table `evaluation`. Empty for a world whose state is not read from its pictures."""

    state: StateColumns = field(default_factory=StateColumns)
    joints: Mapping[str, str] = field(default_factory=dict)
    """Component of a Box action, a velocity in rad/s -> the angle column that it drives."""

    def __post_init__(self) -> None:
        unknown = [column for column in self.joints.values() if column not in self.state.angles]
        if unknown:
            raise ValueError(f"evaluation.joints: {unknown[0]!r} is not among evaluation.state.angles")

    def check(self, dataset: DatasetSpec) -> None:
        """Raises ValueError, naming the field, for a column or an action that the dataset does not have."""
        state = self.state
        columns: dict[str, tuple[str, ...]] = {f"points.{name}": pair for name, pair in state.points.items()}
        columns |= {"angles": state.angles, "jumps": (state.jumps,) if state.jumps else ()}
        for key, names in columns.items():
            for name in names:
                if name not in dataset.state:
                    known = ", ".join(dataset.state) or "none"
                    raise ValueError(
                        f"evaluation.state.{key}: {dataset.name!r} has no column {name!r}; it has: {known}"
                    )
        space = dataset.action_space
        for name in self.joints:
            if space.get("type") != "Box" or name not in space["names"]:
                raise ValueError(
                    f"evaluation.joints: {name!r} is not a component of the Box actions of {dataset.name!r}"
                )
