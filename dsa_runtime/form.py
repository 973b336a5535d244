"""Form: in which of its two forms a world's generator runs, decided when the world is loaded.

`op` uses the compiled operators (`ops`), `plain` standard ONNX operators only, wherever ONNX Runtime runs. Both draw
the same frames up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import EngineError
from .ops.library import LibraryMissing, OperatorLibrary, find
from .ort import ort
from .spec import WorldSpec

Form = Literal["op", "plain"]
FORMS = ("auto", "op", "plain")
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
        return f"{name}_op" if self.form == "op" and name not in _WITHOUT_OPERATORS else name


def choose_form(spec: WorldSpec, wanted: str = "auto") -> FormChoice:
    """The form for this world on this machine.

    wanted   `op` insists on the operators, `plain` does without, `auto` takes the operators where it can

    Raises `EngineError` for `op` where it is not possible.
    """
    if wanted not in FORMS:
        raise EngineError(f"form: expected one of {', '.join(FORMS)}, got {wanted!r}")
    if wanted == "plain":
        return FormChoice("plain", None, "asked for")
    try:
        return _with_operators(spec)
    except LibraryMissing as problem:
        if wanted == "op":
            raise EngineError(f"form: 'op' is not possible: {problem}") from None
        return FormChoice("plain", None, str(problem))


def _with_operators(spec: WorldSpec) -> FormChoice:
    if not {"denoise_op", "commit_op"} <= spec.graphs.keys():
        raise LibraryMissing(f"the world {spec.name!r} has its graphs in the plain form only")
    library = find()
    _try_to_register(library)
    if spec.ops.version > library.version:
        raise LibraryMissing(
            f"the world {spec.name!r} needs version {spec.ops.version} of the operators, {library.path} has "
            f"{library.version}; update dsa-runtime"
        )
    return FormChoice("op", library, f"operators {library.version}, {library.instruction_set}")


def _try_to_register(library: OperatorLibrary) -> None:
    try:
        ort.SessionOptions().register_custom_ops_library(library.path)
    except Exception as error:
        raise LibraryMissing(f"{library.path}: ONNX Runtime does not take it: {error}") from None
