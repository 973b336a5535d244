"""The operator library under the compilers' sanitizers, driven by a stand-in for ONNX Runtime (tests/native).

`fuzz` makes random calls, right and wrong ones, and judges every outcome; `edges` does what no random call does: old
runtimes, memory that runs out, many threads. A sanitizer ends either at the first bad access, undefined operation,
leak or race.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from dsa_runtime.ops import build
from dsa_runtime.ops.schema import OPERATORS

NATIVE = Path(__file__).parents[1] / "native"
MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-fsanitize=thread",)
INSTRUCTION_SETS = [unit.name.removeprefix("attention_") for unit in build.units() if "attention" in unit.name]
OUTCOMES = {
    f"{operator.name} {outcome}"
    for operator in OPERATORS
    for outcome in (
        "valid",
        *(f"invalid: {tensor.name}" for tensor in operator.inputs),
        *(f"invalid: {attribute.name}" for attribute in operator.attributes),
    )
}


def compile_with(flags: Sequence[str], programs: Sequence[str], folder: Path) -> None:
    """Put the library's sources and each program of tests/native into one executable. Skips where that cannot work."""
    try:
        compiler = build.find_compiler().split()
    except build.BuildError as error:
        pytest.skip(str(error))
    common = [*compiler, *build.CXX_FLAGS, "-O1", "-g", "-pthread", *flags, f"-I{build.SOURCES}"]

    (folder / "probe.cpp").write_text("int main() {}\n")
    try:
        subprocess.run([*common, folder / "probe.cpp", "-o", folder / "probe"], check=True, capture_output=True)
        subprocess.run([folder / "probe"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [str(error)]
        pytest.skip(f"{flags[0]} does not work here: {lines[-1]}")

    sources = {unit.name: (build.SOURCES / unit.source, unit.flags) for unit in build.units()}
    library = list(sources)
    for name in ("mock_runtime", *programs):
        sources[name] = (NATIVE / f"{name}.cpp", ())

    def compile_one(name: str) -> None:
        source, own = sources[name]
        run([*common, *own, "-c", str(source), "-o", str(folder / f"{name}.o")])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources))
    for program in programs:
        objects = [str(folder / f"{name}.o") for name in (*library, "mock_runtime", program)]
        run([*common, *objects, "-o", str(folder / program)])


def run(command: Sequence[str], **environment: str) -> str:
    """What the command prints. It must succeed."""
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def checked_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `fuzz` and `edges`, which end at a bad access, an undefined operation or a leak."""
    folder = tmp_path_factory.mktemp("memory")
    compile_with(MEMORY, ("fuzz", "edges"), folder)
    return folder


@pytest.fixture(scope="module")
def checked_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `edges`, which ends at a data race."""
    folder = tmp_path_factory.mktemp("threads")
    compile_with(THREADS, ("edges",), folder)
    return folder


@pytest.fixture(scope="module")
def fuzz(checked_memory: Path) -> Iterator[Callable[[int, int, str], str]]:
    """What `fuzz` prints after so many calls, from a seed, with an instruction set; all the sets run side by side."""
    started: dict[tuple[int, int], dict[str, Future[str]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def printed(iterations: int, seed: int, instruction_set: str) -> str:
            if (iterations, seed) not in started:
                command = [str(checked_memory / "fuzz"), str(iterations), str(seed)]
                started[iterations, seed] = {
                    name: pool.submit(run, command, DSA_OPS_ISA=name) for name in INSTRUCTION_SETS
                }
            return started[iterations, seed][instruction_set].result()

        yield printed


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(("iterations", "seed"), [(4000, 1), pytest.param(60_000, 2, marks=pytest.mark.slow)])
def test_random_calls(fuzz: Callable[[int, int, str], str], instruction_set: str, iterations: int, seed: int) -> None:
    used, *lines = fuzz(iterations, seed, instruction_set).splitlines()
    if used != f"instruction set {instruction_set}":
        pytest.skip(f"this processor has no {instruction_set}")
    times = {outcome: int(count) for count, _, outcome in (line.partition(" ") for line in lines)}
    assert times.keys() == OUTCOMES
    assert sum(times.values()) == iterations
    valid = sum(count for outcome, count in times.items() if outcome.endswith(" valid"))
    assert 0.3 * iterations < valid < 0.8 * iterations


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_edges(checked_memory: Path, instruction_set: str) -> None:
    run([str(checked_memory / "edges")], DSA_OPS_ISA=instruction_set)


def test_threads(checked_threads: Path) -> None:
    for _ in range(5):  # a race shows only when the threads happen to meet
        run([str(checked_threads / "edges")])
