"""Compile the operator library: `python -m dsa_runtime.ops.build`. Installing the package does the same.

A C++ compiler is enough; where `nvcc` is found as well, the library also holds the CUDA kernels, and still loads on
machines without CUDA. `CXX` and `NVCC` name other compilers. Uses the standard library only, because it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
LIBRARY = "libdsa_ops.so"
REPORT = "libdsa_ops.json"
"""Beside the library, or in its place: how it was built, or why it was not."""

# Without -ffast-math: the kernels round with additions that it would cancel, and at the link it changes how the host
# process treats subnormal numbers.
CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
INSTRUCTION_SETS = {
    "generic": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
}
CUDA_ARCHITECTURES = ("80", "89", "90")
"""Compute capabilities with machine code in the library; newer ones compile the last one's PTX when they load it."""


class BuildError(Exception):
    """The library could not be compiled. The text says why and what to do."""


@dataclass(frozen=True)
class Unit:
    """One object file: its source, below `SOURCES`, and the flags that only it needs."""

    name: str
    source: str
    flags: tuple[str, ...] = ()


def units(machine: str | None = None) -> list[Unit]:
    """The C++ sources, the CPU kernel once per instruction set of the machine (None: this one)."""
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    define = ("-DDSA_X86",) if x86 else ()
    sets = INSTRUCTION_SETS if x86 else {"generic": ()}
    return [
        *(
            Unit(f"attention_{name}", "cpu/attention.cpp", (f"-DDSA_ISA={name}", *flags))
            for name, flags in sets.items()
        ),
        Unit("dispatch", "cpu/dispatch.cpp", define),
        Unit("operators", "operators.cpp"),
        Unit("library", "library.cpp"),
    ]


def build(folder: Path, *, cuda: bool | None = None) -> str:
    """Compile into `folder` and return a line that says what was built.

    cuda   with the CUDA kernels: True insists, False leaves them out, None takes them where `nvcc` can make them

    An older library there is replaced only by a finished one. Raises `BuildError`, having written its text to the
    report where that is possible.
    """
    try:
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise BuildError(f"{folder}: not a folder that can be written to")
        with tempfile.TemporaryDirectory(prefix="dsa-ops-") as scratch:
            report = _build(Path(scratch), folder, cuda)
    except OSError as error:
        raise BuildError(f"{error.filename or folder}: {error.strerror or error}") from None
    except BuildError as error:
        with contextlib.suppress(OSError):
            _write_report(folder, {"built": False, "problem": str(error)})
        raise
    return f"{folder / LIBRARY}: {report['compiler']}; CUDA kernels: {report['cuda']}"


def source_digest() -> str:
    """What the library is compiled from, as hexadecimal text: a library of other sources is not this one's."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def find_compiler() -> str:
    """The C++ compiler: `CXX`, if that is set."""
    wanted = os.environ.get("CXX", "").strip()
    if wanted and not shutil.which(wanted.split()[0]):
        raise BuildError(f"CXX names {wanted!r}, which was not found")
    for name in (wanted, "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise BuildError(
        "no C++ compiler was found; install one (Debian: apt install g++) and run `python -m dsa_runtime.ops.build`"
    )


def find_nvcc() -> str | None:
    """CUDA's compiler, if there is one."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    for name in (os.environ.get("NVCC"), "nvcc", f"{home}/bin/nvcc"):
        if name and shutil.which(name):
            return name
    return None


def _build(scratch: Path, folder: Path, cuda: bool | None) -> dict[str, object]:
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"the operator library is built on Linux and macOS only so far, not on {sys.platform}")
    compiler = find_compiler()
    nvcc = find_nvcc() if cuda is not False else None
    if cuda and nvcc is None:
        raise BuildError("nvcc was not found; install the CUDA toolkit or set NVCC")
    about_cuda = "nvcc was not found" if cuda is None else "left out"
    library: Path | None = None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = pool.submit(_compile_cuda, nvcc, scratch) if nvcc else None
        objects = list(pool.map(lambda unit: _compile(compiler, unit, scratch), _of("cpu/")))
        if kernels is not None and nvcc is not None:
            try:
                about_cuda = f"nvcc {_nvcc_version(nvcc)}, sm_{', sm_'.join(CUDA_ARCHITECTURES)}, PTX"
                defines = ["-DDSA_CUDA", f'-DDSA_CUDA_BUILD="{about_cuda}"']
                with_cuda = [*objects, kernels.result(), *_doors(compiler, scratch, defines)]
                # nvcc knows where its static runtime lies, with which the library loads where no CUDA is.
                library = _link([nvcc, "--cudart=static"], "-Xlinker=", with_cuda, scratch)
            except BuildError as error:
                if cuda:
                    raise
                about_cuda = str(error)
    if library is None:
        library = _link(compiler.split(), "-Wl,", [*objects, *_doors(compiler, scratch, [])], scratch)
    _place(library, folder / LIBRARY)
    version = _run([*compiler.split(), "--version"]).splitlines()[0]
    report: dict[str, object] = {"built": True, "compiler": version, "cuda": about_cuda}
    _write_report(folder, report)
    return report


def _of(prefix: str) -> list[Unit]:
    return [unit for unit in units() if unit.source.startswith(prefix)]


def _doors(compiler: str, scratch: Path, defines: Sequence[str]) -> list[Path]:
    """The objects that know whether there are CUDA kernels."""
    source = f'-DDSA_SOURCE="{source_digest()}"'
    return [_compile(compiler, unit, scratch, [*defines, source]) for unit in (*_of("operators"), *_of("library"))]


def _compile(compiler: str, unit: Unit, scratch: Path, defines: Sequence[str] = ()) -> Path:
    target = scratch / f"{unit.name}.o"
    source = str(SOURCES / unit.source)
    _run([*compiler.split(), *CXX_FLAGS, *unit.flags, *defines, "-c", source, "-o", str(target)])
    return target


def _compile_cuda(nvcc: str, scratch: Path) -> Path:
    target = scratch / "cuda.o"
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in CUDA_ARCHITECTURES]
    newest = CUDA_ARCHITECTURES[-1]
    ptx = f"-gencode=arch=compute_{newest},code=compute_{newest}"
    flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=0"]
    _run([nvcc, *flags, *codes, ptx, "-c", str(SOURCES / "cuda" / "launch.cu"), "-o", str(target)])
    return target


def _nvcc_version(nvcc: str) -> str:
    found = re.search(r"release ([0-9.]+)", _run([nvcc, "--version"]))
    return found[1] if found else "of unknown version"


def _link(linker: Sequence[str], through: str, objects: Sequence[Path], scratch: Path) -> Path:
    options = [f"--version-script={SOURCES / 'exports.map'}", "--no-undefined"] if sys.platform == "linux" else []
    target = scratch / LIBRARY
    _run([*linker, "-shared", *(through + option for option in options), *map(str, objects), "-o", str(target)])
    return target


def _place(source: Path, target: Path) -> None:
    """Move in one step: a process that has the old library loaded keeps it, and builds may meet."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as partial:
        try:
            partial.write(source.read_bytes())
            os.chmod(partial.name, 0o755)
            os.replace(partial.name, target)
        except BaseException:
            os.unlink(partial.name)
            raise


def _write_report(folder: Path, report: dict[str, object]) -> None:
    (folder / REPORT).write_text(json.dumps(report) + "\n", encoding="utf-8")


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BuildError(f"{command[0]} failed: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m dsa_runtime.ops.build", description="Compile the operator library.")
    top.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: where it is looked for)")
    top.add_argument("--cuda", action=argparse.BooleanOptionalAction, help="insist on CUDA kernels, or leave them out")
    options = top.parse_args(arguments)
    try:
        print(build(options.out, cuda=options.cuda))
    except BuildError as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
