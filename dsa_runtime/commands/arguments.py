"""Arguments that several commands share. Range errors of the SDK's own values are left to the SDK."""

from __future__ import annotations

import argparse


def add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--world",
        metavar="WORLD",
        help="package folder, .dsaworld archive or name of a bundled world (default: the bundled one)",
    )


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
    parser.add_argument("--threads", type=int, metavar="N", help="threads per graph (default: one per usable core)")
    parser.add_argument(
        "--form",
        default="auto",
        metavar="F",
        help="op (compiled attention) or plain (standard operators); auto takes op where it can (default: %(default)s)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
