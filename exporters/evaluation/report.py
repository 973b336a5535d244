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
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..recording.dataset import Dataset
from ..training.benefit import collect_benefits
from ..training.calibration import calibrate
from ..training.config import TrainConfig, load_config
from ..training.data import Clips, encode_clips
from .action_probe import load_or_train
from .allocation import AllocationConfig, render_allocation, run_allocation
from .cases import held_out_cases
from .drift import DriftConfig, free_actions, play_sdk, play_torch, render_drift, run_drift
from .fidelity import FidelityConfig, render_fidelity, run_fidelity
from .lpips import Lpips, LpipsUnavailable
from .policies import ConfidencePolicy
from .response import ResponseConfig, render_response, run_response
from .trained import FINISHED, TrainedWorld, load_trained

SPLIT = "test"
FORMAT = "dsa-evaluation"
RENDERERS = {
    "fidelity": render_fidelity,
    "response": render_response,
    "drift": render_drift,
    "allocation": render_allocation,
}


@dataclass(frozen=True)
class EvaluationConfig:
    """Sizes of all parts."""

    fidelity: FidelityConfig = field(default_factory=FidelityConfig)
    response: ResponseConfig = field(default_factory=ResponseConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    allocation: AllocationConfig = field(default_factory=AllocationConfig)

    @staticmethod
    def quick() -> EvaluationConfig:
        """Everything once, in about a tenth of the time. Too few cases for a claim."""
        return EvaluationConfig(
            FidelityConfig(cases=16, seeds=(0,)),
            ResponseConfig(cases=16),
            DriftConfig(ticks=500, sessions=2),
            AllocationConfig(cases=12, seeds=(0,), mean_steps=(2.0,), horizons=(1, 8, 16)),
        )


class Evaluation:
    """One trained world with its dataset, ready to be measured part by part."""

    def __init__(
        self,
        config: TrainConfig,
        trained: TrainedWorld,
        sizes: EvaluationConfig,
        package: Path | None,
        output: Path,
        lpips: Lpips | None,
        probe: Path,
    ) -> None:
        """Pictures go beside `output`. `probe`: where the action probe's weights are kept, or will be."""
        self._config, self._trained, self._sizes = config, trained, sizes
        self._package, self._output, self._lpips, self._probe = package, output, lpips, probe
        self._dataset = Dataset(config.dataset)

    def run(self, part: str) -> dict[str, Any]:
        """Measure one part of `RENDERERS`; returns its JSON-ready result."""
        result: dict[str, Any] = getattr(self, f"_{part}")()
        return result

    def _fidelity(self) -> dict[str, Any]:
        sizes = self._sizes.fidelity
        cases = held_out_cases(self._dataset, SPLIT, self._trained, sizes.cases, max(sizes.horizons))
        return run_fidelity(sizes, self._trained, cases, self._lpips, self._picture("fidelity"))

    def _response(self) -> dict[str, Any]:
        sizes = self._sizes.response
        horizon = max(*sizes.horizons, sizes.hold)
        cases = held_out_cases(self._dataset, SPLIT, self._trained, sizes.cases, horizon)
        probe = load_or_train(self._dataset, self._probe)
        return run_response(sizes, self._trained, cases, self._dataset, SPLIT, probe)

    def _drift(self) -> dict[str, Any]:
        sizes, trained = self._sizes.drift, self._trained
        seeds = range(sizes.seed, sizes.seed + sizes.sessions)
        actions = [free_actions(self._dataset, SPLIT, sizes.ticks, seed) for seed in seeds]
        picture = self._picture("drift")
        if self._package is None:
            cases = held_out_cases(self._dataset, SPLIT, trained, sizes.sessions, 1)
            table = trained.calibration
            policy = ConfidencePolicy(table["default_threshold"], table["within_delta"]) if table else None
            first, ticks = play_torch(trained, cases, sizes.seed, actions, policy)
            return {"engine": "torch", **run_drift(sizes, ticks, first, self._dataset, SPLIT, picture)}
        from dsa_runtime import load_world  # the models come from the package; torch only computed the ranges

        with load_world(self._package) as world:
            first, ticks = play_sdk(world, seeds, actions)
            return {"engine": "the SDK", **run_drift(sizes, ticks, first, self._dataset, SPLIT, picture)}

    def _allocation(self) -> dict[str, Any]:
        sizes, trained = self._sizes.allocation, self._trained
        cases = held_out_cases(self._dataset, SPLIT, trained, sizes.cases, max(sizes.horizons), seed=1)
        calibration = trained.calibration or self._calibrated()
        return run_allocation(sizes, trained, calibration, cases, self._lpips, self._picture("allocation"))

    def _calibrated(self) -> dict[str, object]:
        """A calibration for a checkpoint that has none yet, from the validation split."""
        trained = self._trained
        clips = Clips.load(Path(self._config.dataset), "validation", trained.generator.config.action_width, 2000)
        encode_clips(clips, trained.autoencoder)
        torch.manual_seed(4321)
        samples = collect_benefits(
            trained.generator, trained.autoencoder, trained.levels, clips, rollouts=6, frames=16, keep_taps=False
        )
        return calibrate(samples, self._config.calibration.target_steps)

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
    top.add_argument("--probe", type=Path, help="action probe's weights (default: RUNS/action_probe.npz)")
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
        sizes = EvaluationConfig.quick() if options.quick else EvaluationConfig()
        probe = options.probe or options.runs / "action_probe.npz"
        options.json.parent.mkdir(parents=True, exist_ok=True)
        evaluation = Evaluation(config, trained, sizes, options.package, options.json, lpips, probe)
        for part in options.part or RENDERERS:
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


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
