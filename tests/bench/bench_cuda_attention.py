"""PagedFrameAttention on a GPU beside PyTorch's and ONNX Runtime's own attention.

    python -m tests.bench.bench_cuda_attention [--tokens N] [--heads N] [--slots N] [--rounds N]

The default is a layer of a 1.3 B video model: 12 heads of width 128, 4680 queries, and as keys this frame's 4680 and
those of 0 to 6 cached frames. Our operator reads them from the slots of a pool, in shuffled order, and rotates the
query for every slot; the others get all keys in one piece and rotate nothing, so what gathering and rotating would cost
them is not counted. Each figure is the median of rounds in which all candidates take turns, timed by CUDA events; the
inputs rotate among several sets. Before that every result is compared with the first candidate's.

The floor is the longer of FLOPs and bytes over what this GPU reached in the same run in a large matrix product and a
large copy. Prints a table, and as its last line one JSON document. Exits with 2 where there is no GPU to use.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dsa_runtime.commands.machine import describe_machine, version
from dsa_runtime.ops.schema import PAGED_FRAME_ATTENTION
from tests import cuda_launch
from tests.bench.provenance import commit

HEAD_DIM = 128
TEMPORAL_DIMS = 44
KINDS = ("float16", "bfloat16")
INPUT_SETS = 3
CALLS_PER_ROUND = 5

Candidate = Callable[[int], Any]
"""Computes the attention of input set i, asynchronously, and returns its output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_cuda_attention", description=__doc__)
    parser.add_argument("--tokens", type=int, default=4680)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--slots", type=int, default=6, help="most cached frames")
    parser.add_argument("--rounds", type=int, default=20)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    problem = missing()
    if problem:
        print(f"cannot run: {problem}", file=sys.stderr)
        return 2
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ceilings = measure_ceilings()
        rows = [
            measure(kind, options.tokens, options.heads, slots, options.rounds, ceilings)
            for kind in KINDS
            for slots in range(options.slots + 1)
        ]
    print_table(rows)
    print(f"ceilings: {ceilings['tflops']} TFLOP/s, {ceilings['gb_per_s']} GB/s")
    gpu = torch.cuda.get_device_properties(0)
    software = {name: version(name) for name in ("torch", "onnxruntime-gpu")}
    line = {
        "bench": "cuda_attention",
        "command": shlex.join(["python", "-m", "tests.bench.bench_cuda_attention", *given]),
        "commit": commit(),
        "through": "kernel launch" if missing_in_onnxruntime() else "onnxruntime",
        "machine": {**describe_machine(), **software, "gpu": gpu.name, "multiprocessors": gpu.multi_processor_count},
        "tokens": options.tokens,
        "heads": options.heads,
        "head_dim": HEAD_DIM,
        "ceilings": ceilings,
        "rows": rows,
    }
    print(json.dumps(line, allow_nan=False))
    return 0


def missing() -> str | None:
    """Why the benchmark cannot run here; None if it can."""
    no_gpu = cuda_launch.no_gpu()
    if no_gpu:
        return no_gpu
    through, launched = missing_in_onnxruntime(), cuda_launch.missing()
    return f"{through}; {launched}" if through and launched else None


def missing_in_onnxruntime() -> str | None:
    """Why ONNX Runtime cannot run the operator here; then its kernels are launched directly."""
    from dsa_runtime.ops import library
    from dsa_runtime.ort import ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "onnxruntime-gpu is not installed"
    try:
        found = library.find()
    except library.LibraryMissing as error:
        return f"operator library: {error}"
    return None if found.cuda else "the operator library was built without CUDA kernels"


def measure_ceilings() -> dict[str, float]:
    """What this GPU reaches in a large matrix product and in a large copy (bytes read plus bytes written)."""
    import torch

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    times = alternate({"product": lambda _: left @ right, "copy": lambda _: target.copy_(source)}, 10)
    return {
        "tflops": round(2 * 8192**3 / times["product"] / 1e9, 1),
        "gb_per_s": round(2 * source.nbytes / times["copy"] / 1e6, 1),
    }


def measure(kind: str, tokens: int, heads: int, slots: int, rounds: int, ceilings: dict[str, float]) -> dict[str, Any]:
    """One row: milliseconds and TFLOP/s of each candidate with `slots` cached frames."""
    keys = tokens * (1 + slots)
    flops = 4 * tokens * keys * HEAD_DIM * heads
    moved = 2 * (2 * tokens + 2 * keys) * heads * HEAD_DIM  # query and output, keys and values, 2 bytes each
    floor_ms = max(flops / ceilings["tflops"] / 1e9, moved / ceilings["gb_per_s"] / 1e6)
    candidates = make_candidates(kind, tokens, heads, slots)
    row: dict[str, Any] = {"kind": kind, "keys": keys, "gflop": round(flops / 1e9, 1), "mb": round(moved / 1e6, 1)}
    row["floor_ms"] = round(floor_ms, 4)
    for name, ms in alternate(candidates, rounds).items():
        row[name] = {"median_ms": round(ms, 4), "tflops": round(flops / ms / 1e9, 1)}
    return row


def make_candidates(kind: str, tokens: int, heads: int, slots: int) -> dict[str, Candidate]:
    """The implementations that run here, each checked against the first."""
    import torch

    dtype = getattr(torch, kind)
    frame = (1, tokens, heads, HEAD_DIM)
    sets: list[dict[str, torch.Tensor]] = []
    for seed in range(INPUT_SETS):
        torch.manual_seed(seed)
        tensors = {name: torch.randn(frame, device="cuda", dtype=dtype) for name in ("query", "key", "value")}
        for name in ("key_pool", "value_pool"):
            tensors[name] = torch.randn((max(slots, 1), *frame[1:]), device="cuda", dtype=dtype)
        tensors["slot_table"] = torch.randperm(slots, device="cuda").to(torch.int32)[None]
        tensors["slot_age"] = torch.arange(1, slots + 1, device="cuda", dtype=torch.int32)[None]
        sets.append(tensors)

    unrotated = paged(kind, sets, temporal_dims=0)
    candidates = {"dsa": paged(kind, sets, temporal_dims=TEMPORAL_DIMS)}
    truth = unrotated(0).float()
    for name, make in builtin(kind, sets).items():
        try:
            candidate = make()
            result = candidate(0).float()
        except Exception as error:  # a backend or operator that this GPU or build lacks; each has errors of its own
            print(f"{name} {kind}: left out: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        difference = float((result - truth).abs().max() / truth.abs().max())
        if not difference < 2e-2:
            raise AssertionError(f"{name} {kind}: differs from ours by {difference}")
        candidates[name] = candidate
    return candidates


def paged(kind: str, sets: list[dict[str, Any]], temporal_dims: int) -> Candidate:
    """Our operator, in an ONNX Runtime session on torch's stream and memory, or its kernel alone."""
    attributes: dict[str, Any] = {"scale": HEAD_DIM**-0.5, "temporal_dims": temporal_dims, "theta": 100.0}
    if missing_in_onnxruntime():
        kernels, outputs = launcher(), [tensors["query"].clone() for tensors in sets]
        return lambda i: kernels.attention(**sets[i], **attributes, output=outputs[i])
    from tests.parity.cuda_models import operator_model

    model = operator_model(PAGED_FRAME_ATTENTION, kind, cast=False, **attributes)
    names = [tensor.name for tensor in PAGED_FRAME_ATTENTION.inputs]
    return bound(model, [{name: tensors[name] for name in names} for tensors in sets], "output")


@functools.cache
def launcher() -> cuda_launch.CudaLibrary:
    """The kernels, compiled for this GPU."""
    with TemporaryDirectory() as folder:
        return cuda_launch.CudaLibrary(cuda_launch.build(Path(folder)))


def builtin(kind: str, sets: list[dict[str, Any]]) -> dict[str, Callable[[], Candidate]]:
    """What makes the attention of PyTorch and of ONNX Runtime over all keys in one piece, [B, H, T, D]."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    whole = []
    for tensors in sets:
        order = tensors["slot_table"][0].long()
        parts = {"query": tensors["query"]}
        for name in ("key", "value"):
            cached = tensors[f"{name}_pool"][order].flatten(0, 1)[None]
            parts[name] = torch.cat([tensors[name], cached], 1)
        whole.append({name: part.transpose(1, 2).contiguous() for name, part in parts.items()})

    def sdpa(backend: SDPBackend) -> Candidate:
        def run(i: int) -> torch.Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(*whole[i].values()).transpose(1, 2)

        return run

    def ort_attention() -> Candidate:
        run = bound(attention_model(kind), whole, "output")
        return lambda i: run(i).transpose(1, 2)

    return {
        "torch cudnn": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
        "torch flash": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
        **({} if missing_in_onnxruntime() else {"ort Attention": ort_attention}),
    }


def attention_model(kind: str) -> Any:
    """ONNX's own Attention on [B, H, T, D]."""
    from onnx import helper

    from tests.parity.cuda_models import ELEMENT_TYPES

    shapes = {"query": "BHTD", "key": "BHND", "value": "BHND", "output": "BHTD"}
    values = [helper.make_tensor_value_info(name, ELEMENT_TYPES[kind], list(shape)) for name, shape in shapes.items()]
    node = helper.make_node("Attention", ["query", "key", "value"], ["output"])
    graph = helper.make_graph([node], "attention", values[:3], values[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def bound(model: Any, sets: list[dict[str, Any]], output: str) -> Candidate:
    """A session that reads the sets' tensors where they lie and writes a tensor in the shape of the query."""
    import torch

    from dsa_runtime.ort import ort
    from tests.parity.cuda_models import ELEMENT_TYPES, cuda_session

    session = cuda_session(model, user_compute_stream=str(torch.cuda.current_stream().cuda_stream))
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    calls = []  # with the tensors: a binding knows only where they lie
    for tensors in sets:
        binding = session.io_binding()
        result = torch.empty_like(tensors["query"])
        for name, tensor in tensors.items():
            kind = ELEMENT_TYPES[str(tensor.dtype).removeprefix("torch.")]
            binding.bind_input(name, "cuda", 0, kind, list(tensor.shape), tensor.data_ptr())
        kind = ELEMENT_TYPES[str(result.dtype).removeprefix("torch.")]
        binding.bind_output(output, "cuda", 0, kind, list(result.shape), result.data_ptr())
        calls.append((binding, tensors, result))

    def run(i: int) -> torch.Tensor:
        binding, _, result = calls[i]
        session.run_with_iobinding(binding, options)
        return result

    return run


def alternate(candidates: dict[str, Candidate], rounds: int) -> dict[str, float]:
    """Median milliseconds of one call of each."""
    import torch

    for run in candidates.values():
        for i in range(INPUT_SETS):
            run(i)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, run in candidates.items():
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            for call in range(CALLS_PER_ROUND):
                run((number + call) % INPUT_SETS)
            ended.record()
            ended.synchronize()
            times[name].append(began.elapsed_time(ended) / CALLS_PER_ROUND)
    return {name: float(np.median(values)) for name, values in times.items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Milliseconds and TFLOP/s of each candidate, one line per type and number of keys."""
    names = list(dict.fromkeys(name for row in rows for name, cell in row.items() if isinstance(cell, dict)))
    print(f"{'type':>9} {'keys':>6} {'GFLOP':>7} {'MB':>6} {'floor ms':>9}  " + "  ".join(f"{n:>22}" for n in names))
    for row in rows:
        cells = (f"{row[n]['median_ms']:8.3f} ms {row[n]['tflops']:5.0f} TF/s" if n in row else "-" for n in names)
        head = f"{row['kind']:>9} {row['keys']:>6} {row['gflop']:>7} {row['mb']:>6} {row['floor_ms']:>9.3f}  "
        print(head + "  ".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
