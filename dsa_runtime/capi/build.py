"""Compile libdsa_runtime for the Python that runs this, and write down how programs find it.

The library embeds one minor version of Python and is linked with that Python's shared library, so it is built where it
is used, and no wheel can bring it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from .sources import CALLS, HEADER, source_digest, sources_folder

NAME = "libdsa_runtime.so"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic")
_INIT = """
from _dsa_runtime import ffi, lib
from dsa_runtime.capi.embedded import attach
attach(ffi, lib)
"""
_GLUE = """
#include "runtime/host.h"
int32_t dsa_glue_start(void) { return cffi_start_python(); }
"""
_HOST = "int32_t dsa_host_owns_python(void); void dsa_host_log(int32_t level, const char *message);"
_EXPORTS = "{ global: dsa_runtime_*; dsa_world_*; dsa_session_*; dsa_*_init; dsa_version; dsa_library_name; " \
    "dsa_status_name; dsa_last_error; local: *; };\n"  # fmt: skip
_USUAL = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


class BuildError(Exception):
    """The library could not be compiled. The text says why and what to do."""


class ToolsMissing(BuildError):
    """This machine cannot build the library: a compiler, Python's headers or its shared library are not there."""


def build(folder: Path, *, flags: tuple[str, ...] = ()) -> Path:
    """Compile into `folder` (`lib/`, `include/`, and there what CMake and pkg-config read); returns the library.

    flags   for the compiler, after ours: for sanitizers

    An older library there is replaced only by a finished one. Raises `BuildError`.
    """
    _check_python()
    compiler = find_compiler()
    try:
        for name in ("include", "lib/pkgconfig", "lib/cmake/dsa_runtime"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dsa-capi-") as scratch:
            made = _compile(compiler, Path(scratch), flags)
            library = folder / "lib" / soname()
            _replace(made, library)
        link = library.with_name(NAME)
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)
        shutil.copy(sources_folder() / HEADER, folder / "include" / HEADER)
        (folder / "lib/pkgconfig/dsa_runtime.pc").write_text(_PKG_CONFIG.format(version=version()))
        cmake = folder / "lib/cmake/dsa_runtime"
        (cmake / "dsa_runtimeConfig.cmake").write_text(_CMAKE.format(soname=soname()))
        (cmake / "dsa_runtimeConfigVersion.cmake").write_text(_CMAKE_VERSION.format(version=version()))
    except OSError as error:
        raise BuildError(f"{error.filename or folder}: {error.strerror or error}") from None
    return library


def cflags(folder: Path) -> str:
    """For a compiler of programs."""
    return shlex.join([f"-I{folder / 'include'}"])


def libs(folder: Path) -> str:
    """For the linking of programs, which then find the library where it is."""
    library = folder / "lib"
    return shlex.join([f"-L{library}", "-ldsa_runtime", f"-Wl,-rpath,{library}"])


def version() -> str:
    """Of the header: the library's, too."""
    text = (sources_folder() / HEADER).read_text()
    return ".".join(_number(text, part) for part in ("MAJOR", "MINOR", "PATCH"))


def soname() -> str:
    """`libdsa_runtime.so.1`: another major version is another library."""
    return f"{NAME}.{version().partition('.')[0]}"


def declarations(compiler: str | None = None) -> str:
    """The header as cffi reads it: without macros, comments and includes."""
    text = (sources_folder() / HEADER).read_text()
    text = re.sub(r"^#include.*$", "", text, flags=re.MULTILINE)
    command = [*shlex.split(compiler or find_compiler()), "-E", "-P", "-DDSA_API=", "-DDSA_CHECKED=", "-x", "c", "-"]
    return _run(command, text)


def find_compiler() -> str:
    """The C compiler: `CC`, if that is set."""
    wanted = os.environ.get("CC", "").strip()
    if wanted and not shutil.which(shlex.split(wanted)[0]):
        raise BuildError(f"CC names {wanted!r}, which was not found")
    for name in (wanted, "cc", "gcc", "clang"):
        if name and shutil.which(shlex.split(name)[0]):
            return name
    raise ToolsMissing("no C compiler was found; install one (Debian: apt install gcc)")


def _check_python() -> None:
    if not sys.platform.startswith("linux"):
        raise ToolsMissing(f"libdsa_runtime is built on Linux only so far, this is {sys.platform}; use libdsa_client")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        raise ToolsMissing(
            f"{sys.executable} has no shared library to embed. pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv "
            "install ...; Debian: apt install libpython3-dev"
        )
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        raise ToolsMissing(f"{sysconfig.get_paths()['include']}: no Python.h; Debian: apt install libpython3-dev")


def _compile(compiler: str, scratch: Path, flags: tuple[str, ...]) -> Path:
    import numpy as np

    sources = sources_folder()
    glue, exports, library = scratch / "glue.c", scratch / "exports", scratch / soname()
    _write_glue(compiler, glue)
    exports.write_text(_EXPORTS)
    include = ["-I", str(sources), "-I", sysconfig.get_paths()["include"], "-I", np.get_include()]
    common = ["-std=c11", "-O2", "-g", "-fPIC", "-fvisibility=hidden", *include, *flags]
    defines = [
        "-D_GNU_SOURCE",
        f'-DDSA_BUILT_BY="{sys.executable}"',
        f'-DDSA_SOURCE_DIGEST="{source_digest()}"',
    ]
    objects = []
    for source in [glue, *sorted((sources / "common").glob("*.c")), *sorted((sources / "runtime").glob("*.c"))]:
        objects.append(str(scratch / f"{source.stem}.o"))
        warnings = ("-w",) if source == glue else WARNINGS
        _run([*shlex.split(compiler), *common, *defines, *warnings, "-c", str(source), "-o", objects[-1]])
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    # Never unmapped: Python, which stays, goes on calling it.
    linking = [f"-Wl,-soname,{soname()}", f"-Wl,--version-script={exports}", "-Wl,-z,nodelete,-z,defs", f"-L{folder}"]
    if folder not in _USUAL:
        linking.append(f"-Wl,-rpath,{folder}")
    linking += [f"-lpython{name}", "-ldl", "-lpthread", "-o", str(library)]
    _run([*shlex.split(compiler), "-shared", *flags, *objects, *linking])
    return library


def _write_glue(compiler: str, path: Path) -> None:
    """What cffi makes of the declarations: it loads the Python half and passes the calls on."""
    from cffi import FFI  # type: ignore[import-untyped]

    ffi: Any = FFI()
    ffi.cdef(declarations(compiler))
    ffi.cdef(_HOST)
    ffi.embedding_api((sources_folder() / CALLS).read_text())
    ffi.embedding_init_code(_INIT)
    ffi.set_source("_dsa_runtime", _GLUE)
    with contextlib.redirect_stdout(io.StringIO()):  # it says so
        ffi.emit_c_code(str(path))


def _run(command: list[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr.strip()}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)
    return done.stdout


def _replace(made: Path, library: Path) -> None:
    """In one step: programs that run keep the old one."""
    beside = library.with_name(f".{library.name}.{os.getpid()}")
    try:
        shutil.copy(made, beside)
        os.replace(beside, library)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def _number(header: str, part: str) -> str:
    found = re.search(rf"#define DSA_VERSION_{part} (\d+)", header)
    assert found is not None
    return found[1]


_PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
libdir=${{prefix}}/lib
includedir=${{prefix}}/include

Name: dsa_runtime
Description: Neural worlds under a time budget per tick
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -ldsa_runtime
"""

_CMAKE = """\
# find_package(dsa_runtime) gives the target dsa::runtime.
if(NOT TARGET dsa::runtime)
  get_filename_component(_dsa_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
  add_library(dsa::runtime SHARED IMPORTED)
  set_target_properties(dsa::runtime PROPERTIES
    IMPORTED_LOCATION "${{_dsa_prefix}}/lib/{soname}"
    IMPORTED_SONAME "{soname}"
    INTERFACE_INCLUDE_DIRECTORIES "${{_dsa_prefix}}/include")
  unset(_dsa_prefix)
endif()
"""

_CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
string(REGEX MATCH "^[0-9]+" _dsa_major "${{PACKAGE_VERSION}}")
if(PACKAGE_FIND_VERSION_MAJOR EQUAL _dsa_major AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
"""
