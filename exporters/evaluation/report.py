"""The whole evaluation of a trained world: `python -m exporters.evaluation CONFIG --package DIR --json OUT`.

Runs all parts, or one with `--part`, and writes OUT (JSON), beside it OUT with `.md` (tables for the card) and the
pictures. A part that is run again replaces its own section only, so parts can be measured one by one. Every section
names the command, the machine, the commit and the checkpoint it comes from.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from exporters.evaluation.allocation.costs import measure_costs
from exporters.evaluation.allocation.measure import AllocationConfig
from exporters.evaluation.allocation.part import Source, run_allocation, training_seeds
from exporters.evaluation.allocation.single_tick import SingleTickConfig, run_single_tick
from exporters.evaluation.allocation.single_tick_table import render_single_tick
from exporters.evaluation.allocation.table import render_allocation
from exporters.evaluation.behaviour import Behaviour, long_drift, probe_path
from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.drift.measure import DriftConfig
from exporters.evaluation.drift.table import render_drift
from exporters.evaluation.fidelity import FidelityConfig, render_fidelity, run_fidelity
from exporters.evaluation.response.config import ResponseConfig
from exporters.evaluation.response.turning import render_response
from exporters.evaluation.state.fidelity import StateFidelityConfig, render_state
from exporters.evaluation.trained import FINISHED, TrainedWorld, load_trained
from exporters.model.lpips import Lpips, LpipsUnavailable
from exporters.recording.dataset import Dataset
from exporters.training.config import TrainConfig, load_config

SPLIT = "test"
FORMAT = "dsa-evaluation"
RENDERERS = {
    "fidelity": render_fidelity,
    "state": render_state,
    "response": render_response,
    "drift": render_drift,
    "single-tick": render_single_tick,
    "allocation": render_allocation,
}


@dataclass(frozen=True)
class EvaluationSizes:
    """Sizes of all parts."""

    fidelity: FidelityConfig = field(default_factory=FidelityConfig)
    response: ResponseConfig = field(default_factory=ResponseConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    state: StateFidelityConfig = field(default_factory=StateFidelityConfig)
    single_tick: SingleTickConfig = field(default_factory=SingleTickConfig)

    @staticmethod
    def quick() -> EvaluationSizes:
        """Everything once, in about a tenth of the time. Too few cases for a claim."""
        return EvaluationSizes(
            FidelityConfig(cases=16, seeds=(0,)),
            ResponseConfig(cases=16),
            DriftConfig(ticks=500, sessions=2),
            AllocationConfig(cases=12, seeds=(0,), mean_steps=(2.0,), horizons=(1, 8, 16)),
            StateFidelityConfig(cases=12, moving_cases=24, seeds=(0,)),
            SingleTickConfig(cases=60, seeds=(0,)),
        )


class Evaluation:
    """One trained world with its dataset, ready to be measured part by part."""

    def __init__(
        self,
        config: TrainConfig,
        trained: TrainedWorld,
        sizes: EvaluationSizes,
        package: Path | None,
        output: Path,
        lpips: Lpips | None,
        probe: Path,
        source: Source,
    ) -> None:
        """Pictures go beside `output`. `probe`: where the world's probe is kept, or will be.

        source   all trainings, which the part `allocation` compares; the others look at `trained` alone
        """
        self._config, self._trained, self._sizes = config, trained, sizes
        self._package, self._output, self._lpips = package, output, lpips
        self._dataset, self._source, self._probe = source.dataset, source, probe
        self._behaviour = Behaviour(config, trained, self._dataset, SPLIT, probe)

    @property
    def parts(self) -> list[str]:
        """Those that this world has."""
        return [part for part in RENDERERS if part != "state" or self._behaviour.has_state]

    def run(self, part: str) -> dict[str, Any]:
        """Measure one part of `RENDERERS`; returns its JSON-ready result."""
        result: dict[str, Any] = getattr(self, f"_{part.replace('-', '_')}")()
        return result

    def _fidelity(self) -> dict[str, Any]:
        sizes = self._sizes.fidelity
        cases = held_out_cases(self._dataset, SPLIT, self._trained, sizes.cases, max(sizes.horizons))
        return run_fidelity(sizes, self._trained, cases, self._lpips, self._picture("fidelity"))

    def _state(self) -> dict[str, Any]:
        return self._behaviour.state(self._sizes.state)

    def _response(self) -> dict[str, Any]:
        return self._behaviour.response(self._sizes.response)

    def _drift(self) -> dict[str, Any]:
        return self._behaviour.drift(self._sizes.drift, self._package, self._picture("drift"))

    def _single_tick(self) -> dict[str, Any]:
        sizes, source = self._sizes.single_tick, self._source
        moments = AllocationConfig(cases=sizes.cases, horizons=(1,))
        subjects = source.subjects(moments)
        return run_single_tick(sizes, subjects, self._lpips, source.state_scores(self._probe))

    def _allocation(self) -> dict[str, Any]:
        sizes, source = self._sizes.allocation, self._source
        return run_allocation(
            sizes,
            source.subjects(sizes),
            self._lpips,
            state_scores=source.state_scores(self._probe),
            costs=None if self._package is None else measure_costs(self._package),
            picture=self._picture("allocation"),
            cache=self._output.with_name(f"{self._output.stem}-allocation"),
        )

    def _picture(self, part: str) -> Path:
        return self._output.with_name(f"{self._output.stem}-{part}.png")


def provenance(config: TrainConfig, trained: TrainedWorld, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """What a measured number needs to be measured again."""
    return {
        "command": "python -m exporters.evaluation " + shlex.join(arguments),
        "commit": commit(),
        "dataset": Dataset(config.dataset).spec.to_json()["splits"],
        "checkpoint_sha256": trained.checkpoint_sha256,
        "seconds": round(seconds, 1),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and the versions of what computes."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "torch", "onnxruntime")},
    }


def commit() -> str | None:
    """The checkout's commit, marked `+changes` when files differ from it; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def render(document: Mapping[str, Any]) -> str:
    """The whole document as markdown, each section with the command that measured it."""
    sections = [f"## Evaluation of {document['world']}\n"]
    for part, renderer in RENDERERS.items():
        if part in document["parts"]:
            section = document["parts"][part]
            origin = section["provenance"]
            machine_of = origin["machine"]
            sections.append(renderer(section["result"]))
            sections.append(
                f"`{origin['command']}` ({part}: {origin['seconds']:.0f} s on {machine_of['cores']} cores of"
                f" {machine_of['processor']})\n"
            )
    return "\n".join(sections)


def read_document(path: Path, world: str) -> dict[str, Any]:
    """What earlier runs wrote to `path`, or an empty document. Refuses a file that is something else."""
    if not path.exists():
        return {"format": FORMAT, "world": world, "parts": {}}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("world") != world:
        raise ValueError(f"{path}: not an evaluation of {world!r}; will not overwrite it")
    return document


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """JSON and markdown; the JSON in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    path.with_suffix(".md").write_text(render(document), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m exporters.evaluation", description=__doc__)
    top.add_argument("config", type=Path, help="TOML recipe of the world")
    top.add_argument("--json", type=Path, required=True, metavar="OUT", help="where the results go")
    top.add_argument("--package", type=Path, help="world package; free play then runs through the SDK")
    top.add_argument("--part", choices=list(RENDERERS), action="append", help="only this part (repeatable)")
    top.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    top.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: runs)")
    top.add_argument("--checkpoint", default=FINISHED, help="a stage's checkpoint instead of the finished generator's")
    top.add_argument("--probe", type=Path, help="weights of the probe that reads the pictures (default: in RUNS)")
    top.add_argument("--ticks", type=int, help="ticks of free play of the part drift")
    top.add_argument("--sessions", type=int, help="its sessions")
    top.add_argument("--moments", type=int, help="at which they are forked before a checkpoint, to ask for actions")
    top.add_argument(
        "--training-seeds", type=int, nargs="+", metavar="S", help="of the part allocation (default: all finished ones)"
    )
    top.add_argument("--cases", type=int, help="its moments")
    top.add_argument("--seeds", type=int, nargs="+", metavar="S", help="noise seeds of its rollouts")
    top.add_argument("--horizons", type=int, nargs="+", metavar="H", help="where it compares frames")
    top.add_argument("--mean-steps", type=float, nargs="+", metavar="M", help="its operating points")
    top.add_argument("--no-lpips", action="store_true", help="go without LPIPS, whose weights are downloaded once")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Bad input is one line on stderr and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    try:
        config = load_config(options.config)
        trained = load_trained(config, options.runs, options.checkpoint)
        document = read_document(options.json, config.name)
        lpips = None if options.no_lpips else Lpips.load()
        sizes = EvaluationSizes.quick() if options.quick else EvaluationSizes()
        sizes = replace(sizes, drift=long_drift(sizes.drift, options.ticks, options.sessions, options.moments))
        sizes = replace(sizes, allocation=asked_allocation(sizes.allocation, options))
        probe = options.probe or probe_path(config, options.runs)
        finished = options.checkpoint == FINISHED
        seeds = options.training_seeds or (training_seeds(config, options.runs) if finished else [config.seed])
        source = Source(config, Dataset(config.dataset), SPLIT, options.runs, options.checkpoint, seeds)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        evaluation = Evaluation(config, trained, sizes, options.package, options.json, lpips, probe, source)
        for part in options.part or evaluation.parts:
            started = time.perf_counter()
            result = evaluation.run(part)
            origin = provenance(config, trained, given, time.perf_counter() - started)
            document["parts"][part] = {"result": result, "provenance": origin}
            write_document(options.json, document)
            print(RENDERERS[part](result), flush=True)
    except (ValueError, FileNotFoundError, LpipsUnavailable) as error:
        print(f"exporters.evaluation: {error}", file=sys.stderr)
        return 2
    return 0


def asked_allocation(sizes: AllocationConfig, options: argparse.Namespace) -> AllocationConfig:
    """The sizes with what was asked for on the command line."""
    asked: dict[str, Any] = {"cases": options.cases}
    lists = {"seeds": options.seeds, "horizons": options.horizons, "mean_steps": options.mean_steps}
    asked |= {name: tuple(values) for name, values in lists.items() if values}
    return replace(sizes, **{name: value for name, value in asked.items() if value is not None})


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
