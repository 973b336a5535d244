"""One PNG that shows what a dataset looks like: rows of pictures, with the action under each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .dataset import Dataset
from .episode import Episode

_CAPTION_PX = 12
_MARGIN_PX = 2


def write_contact_sheet(
    dataset: Dataset,
    path: str | Path,
    *,
    split: str = "train",
    rows: int = 10,
    columns: int = 12,
    stride: int = 3,
    scale: int = 2,
) -> None:
    """Writes `rows` stretches of `columns` pictures, `stride` steps apart, spread evenly over the split.

    The caption is the action that follows the picture; a red frame marks the first picture after a reset.
    """
    count = len(dataset.paths(split))
    if count == 0:
        raise ValueError(f"split {split!r} holds no episode yet")
    tile_height = dataset.spec.frame["height"] * scale
    display_aspect = dataset.spec.frame.get("display_aspect")
    tile_width = (
        round(tile_height * display_aspect[0] / display_aspect[1])
        if display_aspect
        else dataset.spec.frame["width"] * scale
    )
    pitch_x, pitch_y = tile_width + _MARGIN_PX, tile_height + _CAPTION_PX + _MARGIN_PX
    sheet = Image.new("RGB", (columns * pitch_x, rows * pitch_y), "white")
    draw = ImageDraw.Draw(sheet)
    names = dataset.spec.action_space.get("names")
    for row in range(rows):
        episode = dataset.read(split, row * count // rows)
        # The golden ratio spreads the rows over the length of the recordings without a pattern.
        first = int((row * 0.618) % 1.0 * max(episode.steps - columns * stride, 0))
        for column in range(columns):
            index = min(first + column * stride, episode.steps)
            left, top = column * pitch_x, row * pitch_y
            picture = Image.fromarray(episode.frames[index]).resize((tile_width, tile_height), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left, top))
            if episode.cut[max(index - stride + 1, 0) : index + 1].any():
                draw.rectangle((left, top, left + tile_width - 1, top + tile_height - 1), outline="red", width=2)
            draw.text((left + 1, top + tile_height), _caption(episode, index, names), fill="black")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _caption(episode: Episode, index: int, names: list[str] | None) -> str:
    if index >= episode.steps:
        return "(end)"
    action = episode.actions[index]
    if np.ndim(action) == 0:
        return names[int(action)] if names else str(int(action))
    return " ".join(f"{component:.2g}" for component in np.asarray(action))
