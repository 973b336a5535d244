"""Test fixtures: tiny recordings as other programs write them: videos with tables, LeRobot folders, Minari episodes."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10
SIZE = 64


def moves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures uint8[., 64, 64, 3] of a block that slides by the action int64[count] of each, -1, 0 or 1."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(rng.integers(-1, 2, count), 3)[:count]
    place = np.clip(32 + np.cumsum(np.concatenate([[0], actions[:-1]])) * 4, 8, 56)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = (np.abs(columns - place[:, None, None]) < 8) & (np.abs(rows - 32) < 8)
    pictures = np.where(inside[..., None], np.array([220, 200, 40]), np.array([30, 40, 90]))
    return pictures.astype(np.uint8), actions


def place_of(pictures: np.ndarray) -> np.ndarray:
    """Where the block is: mean column of what is bright, as a share of the width."""
    bright = (pictures[..., 0] > 120).astype(float).sum(axis=1)
    return (bright * np.arange(pictures.shape[2])).sum(axis=1) / bright.sum(axis=1) / pictures.shape[2]


def write_film(path: Path, pictures: np.ndarray, fps: int = FPS, pause: int | None = None) -> None:
    """An MP4 of uint8[N, H, W, 3]; `pause` is the picture before which there are two periods, not one."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", 4_000_000, 12
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index + (pause is not None and index >= pause), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """A CSV with these columns."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_lerobot(folder: Path, version: int, lengths: tuple[int, ...] = (25, 30, 28), kind: str = "video") -> None:
    """A LeRobot dataset with one camera: of version 3 all episodes lie in one file of each kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    camera, chunk = "observation.images.top", {"chunk_index": 0, "file_index": 0}
    paths = {
        2: ("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"),
        3: ("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
    }[version]  # fmt: skip
    info = {
        "codebase_version": {2: "v2.1", 3: "v3.0"}[version],
        "fps": FPS,
        "chunks_size": 1000,
        "data_path": paths[0],
        "video_path": paths[1],
        "features": {
            "action": {"dtype": "float32", "shape": [2], "names": ["slide.pos", "turn.pos"]},
            camera: {"dtype": kind, "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]},
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- LeRobot\n---\n\nlicense: none of this\n")
    films, tables, episodes = [], [], []
    for index, length in enumerate(lengths):
        pictures, actions = moves(length, seed=index)
        table = {
            "action": [[float(action), action / 2 + 0.25] for action in actions],
            "next.reward": [float(i) for i in range(length)],
            "episode_index": [index] * length,
            "frame_index": list(range(length)),
        }
        if kind == "image":
            table[camera] = [{"bytes": png(picture), "path": None} for picture in pictures]
        at = {"episode_chunk": 0, "episode_index": index, "video_key": camera, **chunk}
        episode: dict[str, Any] = {"episode_index": index, "length": length, "tasks": ["slide"]}
        if version == 2:
            path = folder / info["data_path"].format(**at)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(table), path)
            if kind == "video":
                write_film(folder / info["video_path"].format(**at), pictures)
        else:
            first = sum(lengths[:index])
            episode |= {f"data/{key}": value for key, value in chunk.items()}
            episode |= {f"videos/{camera}/{key}": value for key, value in chunk.items()}
            episode |= {
                f"videos/{camera}/from_timestamp": first / FPS,
                f"videos/{camera}/to_timestamp": (first + length) / FPS,
            }
        films.append(pictures)
        tables.append(table)
        episodes.append(episode)
    if version == 2:
        (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(episode) + "\n" for episode in episodes))
        return
    for part in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / part).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    joined = {key: [cell for table in tables for cell in table[key]] for key in tables[0]}
    pq.write_table(pa.table(joined), folder / "data/chunk-000/file-000.parquet")
    if kind == "video":
        write_film(folder / f"videos/{camera}/chunk-000/file-000.mp4", np.concatenate(films))


def png(picture: np.ndarray) -> bytes:
    """The file of a picture."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
