"""Form: in which of its two forms a world's generator runs, decided when the world is loaded.

`op` uses the compiled operators (`ops`), `plain` standard ONNX operators only, wherever ONNX Runtime runs. Both draw
the same frames up to rounding. `half` uses the operators too, on weights, keys and values of float16: for GPUs, and in
packages that have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .device import CPU, Device
from .errors import EngineError
from .ops.library import LibraryMissing, OperatorLibrary, find, without_cuda
from .ort import ort
from .spec import WorldSpec

Form = Literal["op", "plain", "half"]
FORMS = ("auto", "op", "plain", "half")
_WITHOUT_OPERATORS = ("decode", "decode_first", "encode", "condition")


@dataclass(frozen=True)
class FormChoice:
    """What was chosen, and why."""

    form: Form
    library: OperatorLibrary | None
    """The library to register; None for the plain form."""
    reason: str
    """Why the form is plain; what the library is, if it is not."""

    def graph(self, name: str) -> str:
        """Key in `WorldSpec.graphs` of `denoise`, say, in this form."""
        return name if self.form == "plain" or name in _WITHOUT_OPERATORS else f"{name}_{self.form}"

    @property
    def cache_dtype(self) -> type[np.floating[Any]]:
        """Of keys and values."""
        return np.float16 if self.form == "half" else np.float32


def choose_form(spec: WorldSpec, wanted: str = "auto", device: Device = CPU) -> FormChoice:
    """The form for this world on this machine.

    wanted   `op` and `half` insist on the operators, `plain` does without, `auto` takes the operators where it can; on
             a GPU in `half` where the package has that

    Raises `EngineError` for `op` and `half` where they are not possible.
    """
    if wanted not in FORMS:
        raise EngineError(f"form: expected one of {', '.join(FORMS)}, got {wanted!r}")
    if wanted == "plain":
        return FormChoice("plain", None, "asked for")
    form: Form = "half" if wanted == "half" else "op"
    if wanted == "auto" and device.kind == "cuda" and "denoise_half" in spec.graphs:
        form = "half"
    try:
        return _with_operators(spec, form, device)
    except LibraryMissing as problem:
        if wanted != "auto":
            raise EngineError(f"form: {wanted!r} is not possible: {problem}") from None
        return FormChoice("plain", None, str(problem))


def _with_operators(spec: WorldSpec, form: Form, device: Device) -> FormChoice:
    if not {f"denoise_{form}", f"commit_{form}"} <= spec.graphs.keys():
        others = "plain form only" if form == "op" else "other forms only"
        raise LibraryMissing(f"the world {spec.name!r} has its graphs in the {others}")
    library = find()
    if device.kind == "cuda" and not library.cuda:
        raise LibraryMissing(f"{library.path} has no CUDA kernels: {without_cuda()}")
    _try_to_register(library)
    if spec.ops.version > library.version:
        raise LibraryMissing(
            f"the world {spec.name!r} needs version {spec.ops.version} of the operators, {library.path} has "
            f"{library.version}; update dsa-runtime"
        )
    kernels = library.cuda if device.kind == "cuda" else library.instruction_set
    return FormChoice(form, library, f"operators {library.version}, {kernels}")


def _try_to_register(library: OperatorLibrary) -> None:
    try:
        ort.SessionOptions().register_custom_ops_library(library.path)
    except Exception as error:
        raise LibraryMissing(f"{library.path}: ONNX Runtime does not take it: {error}") from None
