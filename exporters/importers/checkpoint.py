"""Checkpoint: the named tensors of a file or folder that somebody else has written, read one at a time.

safetensors files, sharded ones with their index, and PyTorch's own files, of which nothing but tensors in plain
containers is accepted: code in a pickle is refused, not run.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from dsa_runtime.errors import DsaError

SAFETENSORS, INDEX = ".safetensors", ".safetensors.index.json"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
CONFIG = "config.json"
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""Parts of names that belong to how a model was trained and not to the model."""
HEAD = ".confidence.safetensors"
"""How the file of a confidence head ends, which may lie beside a checkpoint and is none itself."""
SHOWN = 12
"""At most so many names of a kind are listed in an error."""

Convert = Callable[[Tensor], Tensor]


class CheckpointError(DsaError, ValueError):
    """A checkpoint is missing, damaged, unsafe, or not of this model. Names the file and the tensors."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor that is read from its file only when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Checkpoint(Mapping[str, StoredTensor]):
    """Named tensors, in the order of the file. Containers of a PyTorch file join their names with dots."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    """The `config.json` beside the file; empty if there is none."""

    def __getitem__(self, name: str) -> StoredTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def under(self, prefix: str) -> Checkpoint:
        """Only the tensors whose names begin with `prefix`, named without it."""
        kept = {name[len(prefix) :]: entry for name, entry in self.tensors.items() if name.startswith(prefix)}
        return Checkpoint(self.path, kept, self.config)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises CheckpointError if there is none of this name."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: it has no {name!r}; it has {_listed(list(self.tensors))}")
        return self.tensors[name].shape


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.safetensors` file, its index, a `.pt`/`.pth`/`.bin`/`.ckpt` file, or a folder that holds one of them.

    Of a folder the index is taken, else the only safetensors file, else the only PyTorch file. Tensors stay on disk
    until they are read. Raises CheckpointError for anything else, and for a pickle with more than tensors in it.
    """
    path = Path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    if file.name.endswith(INDEX):
        tensors = _sharded(file)
    elif file.suffix == SAFETENSORS:
        tensors = _safetensors(file)
    elif file.suffix in PICKLES:
        tensors = _pickled(file)
    else:
        known = ", ".join((SAFETENSORS, INDEX, *PICKLES))
        raise CheckpointError(f"{file}: unknown kind of checkpoint; give a file that ends in one of {known}")
    if not tensors:
        raise CheckpointError(f"{file}: it holds no tensors")
    config = file.parent / CONFIG
    return Checkpoint(file, tensors, _json(config) if config.is_file() else {})


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    convert: Mapping[str, Convert] | None = None,
    dtype: Callable[[str], torch.dtype] | None = None,
) -> None:
    """Fill every parameter and buffer of `module` from the checkpoint, one after another.

    names    the module's name -> the checkpoint's name
    convert  by the module's name: what the stored tensor becomes, such as a permutation of its rows
    dtype    the module's name -> in what to keep a floating-point tensor (default: float32)

    The module may be on the meta device: its parameters are replaced by tensors of their own, so that the memory
    needed is one copy of the model. One CheckpointError lists all that is missing, all that is left over and all shapes
    that do not fit; the module is then as it was.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    convert = convert or {}
    unnamed = sorted(set(wanted) - set(names))
    missing = unnamed + sorted(names[name] for name in wanted if name in names and names[name] not in checkpoint)
    left_over = sorted(set(checkpoint) - {names[name] for name in wanted if name in names})
    wrong = []
    for name, shape in wanted.items():
        entry = checkpoint.get(names.get(name, ""))
        if entry is None:
            continue
        if _converted(entry.shape, convert.get(name, _same)) != shape:
            wrong.append(f"{names[name]} is {list(entry.shape)}, {name} needs {list(shape)}")
    problems = [("missing", missing), ("left over", left_over), ("wrong shape", wrong)]
    told = [f"{what} ({len(items)}): {_listed(items)}" for what, items in problems if items]
    if told:
        raise CheckpointError(f"{checkpoint.path}: not the tensors of this model. " + "; ".join(told))
    read = {}
    for name in wanted:
        value = convert.get(name, _same)(checkpoint[names[name]].read())
        kept = dtype(name) if dtype is not None else torch.float32
        # A copy in any case: what is read may be a view of the file.
        read[name] = torch.empty(value.shape, dtype=kept if value.is_floating_point() else value.dtype).copy_(value)
    module.load_state_dict(read, assign=True)


def _converted(shape: tuple[int, ...], convert: Convert) -> tuple[int, ...] | None:
    """The shape after a conversion, found on a tensor without data; None if it does not fit it.

    A conversion rearranges: it neither drops values nor adds any.
    """
    try:
        found = tuple(convert(torch.empty(shape, device="meta")).shape)
    except (RuntimeError, IndexError):
        return None
    return found if math.prod(found) == math.prod(shape) else None


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _file_in(folder: Path) -> Path:
    for suffixes in ((INDEX,), (SAFETENSORS,), PICKLES):
        found = [file for file in sorted(folder.iterdir()) if file.name.endswith(suffixes)]
        found = [file for file in found if not file.name.endswith(HEAD)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise CheckpointError(f"{folder}: it holds {names}; name the one that is meant")
    raise CheckpointError(f"{folder}: it holds no checkpoint")


def _safetensors(file: Path) -> dict[str, StoredTensor]:
    with _opened(file) as source:
        shapes = {name: tuple(source.get_slice(name).get_shape()) for name in source.keys()}  # noqa: SIM118

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with _opened(file) as source:
                return source.get_tensor(name)

        return read

    return {_clean(name): StoredTensor(shape, reader(name)) for name, shape in shapes.items()}


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(file, framework="pt") as source:
            yield source
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: damaged, or not a safetensors file ({error})") from None


def _sharded(index: Path) -> dict[str, StoredTensor]:
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{index}: it has no weight_map of tensor names to files")
    shards = {}
    for file in sorted(set(where.values())):
        if Path(file).name != file or not (index.parent / file).is_file():
            raise CheckpointError(f"{index}: its shard {file!r} is not a file of the same folder")
        shards[file] = _safetensors(index.parent / file)
    absent = sorted(name for name, file in where.items() if _clean(name) not in shards[file])
    if absent:
        raise CheckpointError(f"{index}: its shards lack {_listed(absent)}")
    return {_clean(name): shards[file][_clean(name)] for name, file in where.items()}


def _pickled(file: Path) -> dict[str, StoredTensor]:
    try:
        # Only the zip format, which torch has written since 1.6, can be left on disk.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{file}: it holds more than tensors, and nothing of it was run; save only its state_dict ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: damaged, or not a PyTorch file ({str(error).splitlines()[0]})") from None
    tensors: dict[str, StoredTensor] = {}
    _collect(loaded, "", tensors)
    return tensors


def _collect(value: Any, name: str, into: dict[str, StoredTensor]) -> None:
    """Every tensor in nested containers; steps, settings and the like are no tensors."""
    if isinstance(value, Tensor):
        into[_clean(name)] = StoredTensor(tuple(value.shape), value.detach)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(inner, f"{name}.{key}" if name else str(key), into)


def _clean(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: it holds no JSON object")
    return found
