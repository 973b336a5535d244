"""Tables of ticks: CSV, and Parquet with units and meanings in the schema."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..recording import Recording
from ..spec import WorldSpec
from .columns import Value, columns

_ROWS_TOGETHER = 4096


def write_csv(path: Path, spec: WorldSpec, rows: Iterable[dict[str, Value]]) -> None:
    """RFC 4180 with a header; what is not known is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in columns(spec)])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _text(value) for name, value in row.items()})


def write_parquet(path: Path, spec: WorldSpec, recording: Recording, rows: Iterable[dict[str, Value]]) -> None:
    """One row group per some thousand ticks, so that memory does not grow. What is not known is null."""
    import pyarrow
    import pyarrow.parquet

    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "text": pyarrow.string(), "bool": pyarrow.bool_()}
    about = {"world": recording.world, "version": recording.version, "fingerprint": recording.fingerprint}
    about |= {"form": recording.form, "seed": str(recording.seed)}
    schema = pyarrow.schema(
        [
            pyarrow.field(one.name, kinds[one.kind], metadata={"unit": one.unit, "meaning": one.meaning})
            for one in columns(spec)
        ],
        metadata={f"dsa.{name}": value for name, value in about.items()},
    )
    waiting: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for row in rows:
            waiting.append(row)
            if len(waiting) == _ROWS_TOGETHER:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting.clear()
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema))


def _text(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value
