"""Arguments that several commands share. Range errors of the SDK's own values are left to the SDK."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import PromptError

if TYPE_CHECKING:
    from ..spec import WorldSpec
    from ..world import World


_WORLD = "package folder, .dsaworld archive or name of a bundled world (default: the bundled one)"


def add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world", metavar="WORLD", help=_WORLD)


def add_positional_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", nargs="?", metavar="WORLD", help=_WORLD)


def add_play(parser: argparse.ArgumentParser, ticks: int) -> None:
    parser.add_argument(
        "--ticks", type=positive, default=ticks, metavar="N", help="ticks to play (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="start context and noise (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="C", help="confidence that is enough, 0..1 (default: the world's)"
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="ALPHA",
        help="share of frames that may lie further than the world's delta from the full schedule's, for example 0.05;"
        " sets the default threshold",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    parser.add_argument(
        "--form",
        default="auto",
        metavar="F",
        help="op (compiled attention) or plain (standard operators); auto takes op where it can (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="cpu, cuda or cuda:N: where the world runs (default: %(default)s)"
    )


def add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", metavar="NAME", help="text to begin with, one of `dsa info WORLD` (default: the world's first)"
    )


def check_prompt(spec: WorldSpec, name: str | None) -> None:
    """Raise `PromptError` for a name that is none of the world's prompts; None is the first."""
    if name is None or name in spec.text.prompts:
        return
    if not spec.text.prompts:
        raise PromptError(f"--prompt: the world {spec.name!r} takes no text; leave it out")
    raise PromptError(f"--prompt: expected one of {', '.join(map(repr, spec.text.prompts))}; got {name!r}")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def quality_document(world: World, threshold: float | None) -> dict[str, Any] | None:
    """The promise in force, as plain JSON values; None without one, and where a threshold overrides it."""
    from ..strict_json import encode

    if world.quality is None or threshold is not None:
        return None
    document: dict[str, Any] = encode(world.quality) | {"unit": world.spec.calibration.delta_unit}
    return document


def quality_text(document: dict[str, Any]) -> str:
    """The promise and what became of it, for reading."""
    checked = document["checked"]
    found = f"found {checked['violation']:.2%} in {checked['rollouts']} rollouts" if checked["rollouts"] else "exact"
    return (
        f"at most {document['alpha']:.3g} of the frames further than {document['delta']:.3g} from the full schedule's"
        f" (threshold {document['threshold']:.2f}; {found})"
    )


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text}")
    return int(text)
