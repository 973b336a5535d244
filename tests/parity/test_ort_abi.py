"""Our ABI header against ONNX Runtime's own: every slot, signature, field and value.

No package that pip installs ships the official header. It is looked for in $DSA_ORT_INCLUDE and in the places where
distributions put it (Debian: libonnxruntime-dev).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dsa_runtime.ops

ABI_HEADER = Path(dsa_runtime.ops.__file__).parent / "csrc" / "ort_abi.h"
NATIVE = Path(__file__).parents[1] / "native"
API_VERSION = 18

# Where the official name is not `Ort` + our type, our slot or field, or derived from our value.
TYPES = {"TensorInfo": "OrtTensorTypeAndShapeInfo", "ElementType": "ONNXTensorElementDataType",
         "Characteristic": "OrtCustomOpInputOutputCharacteristic", "MemoryType": "OrtMemType"}  # fmt: skip
VALUES = {
    "kFail": "ORT_FAIL",
    "kInvalidArgument": "ORT_INVALID_ARGUMENT",
    "kNotImplemented": "ORT_NOT_IMPLEMENTED",
    "kExecutionProviderFail": "ORT_EP_FAIL",
    "kUndefined": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED",
    "kFloat32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kInt32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32",
    "kFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16",
    "kBFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kDefaultMemory": "OrtMemTypeDefault",
}
SLOTS = {
    "KernelInfoGetAttributeFloat": "KernelInfoGetAttribute_float",
    "KernelInfoGetAttributeInt64": "KernelInfoGetAttribute_int64",
    "CustomOpDomainAdd": "CustomOpDomain_Add",
    "ReleaseTensorInfo": "ReleaseTensorTypeAndShapeInfo",
    "KernelContextGetGpuComputeStream": "KernelContext_GetGPUComputeStream",
}
SLOT_PREFIXES = {"KernelContext": "KernelContext_", "ShapeInfer": "ShapeInferContext_"}
FIELDS = {"InferOutputShape": "InferOutputShapeFn"}


def official_slot(name: str) -> str:
    if name in SLOTS:
        return SLOTS[name]
    for ours, theirs in SLOT_PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def assertions(header: str) -> Iterator[str]:
    """One line of C++ for each thing that the text of our header declares; nothing in it may be left over."""
    code = re.sub(r"//[^\n]*", "", header)

    enums = re.findall(r"enum (\w+) : \w+ \{(.*?)\};", code, re.DOTALL)
    assert len(enums) == len(re.findall(r"\benum\b", code))
    structs = sorted(set(re.findall(r"^struct (\w+)", code, re.MULTILINE)) - {"Slot"})
    for name in structs + [name for name, _ in enums]:
        theirs = TYPES.get(name, "Ort" + name)
        yield f"template <> struct Official<{name}> {{ using type = ::{theirs}; }};"
    for name, body in enums:
        yield f"static_assert(sizeof({name}) == sizeof(::{TYPES.get(name, 'Ort' + name)}));"
        for value in body.split(","):
            ours = value.split("=")[0].strip()
            yield f"static_assert(static_cast<int>({ours}) == static_cast<int>(::{VALUES[ours]}));"

    slots = re.findall(r"using (\w+)\s*=\s*Slot<", code)
    assert len(slots) + 1 == len(re.findall(r"\bSlot\b", code)) > 1  # one is the template
    for name in slots:
        member = "OrtApi::" + official_slot(name)
        yield f"static_assert(SameSlot<{name}, decltype({member})>(offsetof({member.replace('::', ', ')})));"

    for struct, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", code, re.DOTALL | re.MULTILINE):
        if struct == "Slot":
            continue
        fields = re.findall(r"\(\*(\w+)\)\(|uint32_t (version);", body)
        assert len(fields) == body.count(";") > 0, struct
        for pair in fields:
            ours = "".join(pair)
            theirs = FIELDS.get(ours, ours)
            yield f"static_assert(SameType<decltype({struct}::{ours}), decltype(Ort{struct}::{theirs})>());"
            yield f"static_assert(offsetof({struct}, {ours}) == offsetof(Ort{struct}, {theirs}));"


@pytest.fixture(scope="module")
def official_include() -> Path:
    """The folder of the official header."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    roots = [Path(root) / "onnxruntime" for root in ("/usr/include", "/usr/local/include")]
    if given := os.environ.get("DSA_ORT_INCLUDE"):
        roots.insert(0, Path(given))
    for root in roots:
        for folder in (root, root / "onnxruntime", root / "core" / "session",
                       root / "include" / "onnxruntime" / "core" / "session"):  # fmt: skip
            header = folder / "onnxruntime_c_api.h"
            if header.exists():
                version = re.search(r"#define ORT_API_VERSION (\d+)", header.read_text())
                assert version
                if int(version[1]) < API_VERSION:
                    pytest.skip(f"the onnxruntime header found is older than API {API_VERSION}")
                return folder
    pytest.skip("no onnxruntime header found; name its folder in DSA_ORT_INCLUDE")


def compiler_says(header: str, official_include: Path, folder: Path) -> str:
    """What g++ has against `header` as our ABI header; nothing if it agrees with the official one."""
    (folder / "ort_abi.h").write_text(header)
    lines = "\n".join(assertions(header))
    (folder / "check.cpp").write_text(f'#include "abi_match.h"\nnamespace dsa::abi {{\n{lines}\n}}\n')
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-w", f"-I{folder}", f"-I{NATIVE}", f"-I{official_include}",
         folder / "check.cpp"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr


def test_our_header_agrees_with_the_official_one(official_include: Path, tmp_path: Path) -> None:
    assert compiler_says(ABI_HEADER.read_text(), official_include, tmp_path) == ""


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        pytest.param("Slot<51,", "Slot<52,", id="slot number"),
        pytest.param(r"Slot<86, Status\*\(const KernelInfo\*, const char\*, std::int64_t\*\)",
                     "Slot<86, Status*(const KernelInfo*, const char*, std::int32_t*)", id="parameter type"),
        pytest.param(r"void \(\*\)\(void\*, std::size_t\), std::size_t, std::size_t, void\*",
                     "void (*)(void*, std::size_t), std::size_t, void*", id="arity"),
        pytest.param(r"Slot<93, void\(Status\*\)", "Slot<93, void(Value*)", id="opaque type"),
        pytest.param("kFloat16 = 10", "kFloat16 = 11", id="enum value"),
        pytest.param("enum MemoryType : int", "enum MemoryType : long", id="enum size"),
        pytest.param(r"\n  int \(\*GetVariadicInputMinArity\)\(const CustomOp\*\);", "", id="missing field"),
        pytest.param(r"(  int \(\*GetStartVersion\).*\n)(  int \(\*GetEndVersion\).*\n)", r"\2\1", id="field order"),
        pytest.param(r"Status\* \(\*KernelComputeV2\)", "void (*KernelComputeV2)", id="field type"),
        pytest.param("\n}  // namespace", "\nusing Invented = Slot<1, void(Status*)>;\n}  // namespace", id="no such"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_noticed(official_include: Path, tmp_path: Path, pattern: str, replacement: str) -> None:
    wrong, count = re.subn(pattern, replacement, ABI_HEADER.read_text())
    assert count == 1
    assert "error" in compiler_says(wrong, official_include, tmp_path)


@pytest.mark.parametrize(
    ("before", "addition"),
    [
        pytest.param("\n}  // namespace", "enum Invented : int { kInvented = 0 };", id="enum"),
        pytest.param("\n}  // namespace", "enum class Invented { kInvented };", id="enum class"),
        pytest.param(" };\nenum ElementType", ", kInvented = 3", id="value"),
        pytest.param("\n}  // namespace", "using Invented = Slot <3, void()>;", id="slot"),
        pytest.param("\n};\n\n}  // namespace", "  void* invented;", id="field"),
    ],
)
def test_an_addition_that_cannot_be_checked_is_noticed(before: str, addition: str) -> None:
    header = ABI_HEADER.read_text()
    assert header.count(before) == 1
    with pytest.raises((AssertionError, KeyError)):
        list(assertions(header.replace(before, f"\n{addition}{before}")))


def test_the_installed_runtime_has_our_table() -> None:
    """A status made and released through slots 0 and 93, with slot 2 (GetErrorMessage) to read it."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec and spec.origin
    libraries = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime has no shared library beside its Python module")

    class ApiBase(ctypes.Structure):
        _fields_ = (
            ("get_api", ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint32)),
            ("get_version", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        )

    get_base = ctypes.CDLL(str(libraries[0])).OrtGetApiBase
    get_base.restype = ctypes.POINTER(ApiBase)
    table = get_base().contents.get_api(API_VERSION)
    assert table
    for slot in re.findall(r"Slot<(\d+),", ABI_HEADER.read_text()):
        assert table[int(slot)], slot
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(table[0])
    message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(table[2])
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[93])
    status = create(2, b"what went wrong")
    assert message(status) == b"what went wrong"
    release(status)
