"""Table: aligned text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with a rule under its header. Columns of numbers are aligned right, all others left.

    A number is an int, a float (three significant digits or the integer part, whichever is longer) or a text
    that starts with a digit. None and "" are empty cells.
    """
    cells = [[_text(value) for value in row] for row in rows]
    columns = list(zip(header, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(column[1:]) and all(map(_numeric, column[1:])) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if numbers else value.ljust(width)
            for value, width, numbers in zip(values, widths, right, strict=True)
        )
        return _GAP.join(padded).rstrip()

    rule = _GAP.join("─" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, cells)])


def bar(share: float, width: int = 24) -> str:
    """A horizontal bar of up to `width` characters for a share in [0, 1]."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{max(0, 2 - _magnitude(value))}f}"
    return str(value)


def _magnitude(value: float) -> int:
    """Digits before the point, less one: 0 below ten."""
    return max(len(str(abs(int(value)))) - 1, 0)


def _numeric(text: str) -> bool:
    return not text or text.lstrip("-")[:1].isdigit()
