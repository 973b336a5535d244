"""The result of the allocation as markdown for a card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from exporters.evaluation.allocation.comparison import STEPS, TIME, cheapest
from exporters.evaluation.allocation.measure import FIXED, RANDOM, TESTED
from exporters.evaluation.allocation.scoring import TICK_RMS, title

SHARED = (
    "Training seeds other than the recipe's own are branches that share its autoencoder, teacher and few-step start:"
    " the intervals cover distillation, heads and calibration."
)
"""Of tables over several trainings."""
_DIGITS = {"psnr_real_db": 2, TICK_RMS: 2}
_SHORT = {
    TICK_RMS: "tick rms",
    "lpips_tick": "LPIPS tick",
    "lpips_full": "LPIPS full",
    "flip_full": "FLIP full",
    "lpips_real": "LPIPS real",
    "flip_real": "FLIP real",
    "psnr_real_db": "PSNR real",
}


def render_allocation(result: Mapping[str, Any]) -> str:
    """All tables."""
    parts = (
        _rules(result),
        _at_equal_steps(result),
        _at_equal_time(result),
        _paper(result),
        _gain(result),
        _heads(result),
        _quality(result),
    )
    return "\n".join(itertools.chain(*parts)) + "\n"


def _rules(result: Mapping[str, Any]) -> Iterator[str]:
    config, scores, count = result["config"], result["scores"], len(result["trainings"])
    trainings = ", ".join(f"{one['seed']} ({one['kept']})" for one in result["trainings"])
    yield "### Adaptive against fixed at equal cost"
    yield ""
    yield (
        f"{result['cases']} held-out moments, {len(config['seeds'])} noise seeds, training seeds (and the head they"
        f" kept) {trainings}. The same noise for all rules, closed loop; frames at horizons"
        f" {', '.join(map(str, config['horizons']))}. Mean with 95 % interval over moments"
        f"{f' and trainings. {SHARED}' if count > 1 else ' of this one training.'}"
        f" {'; '.join(f'{_SHORT[score]}: {title(score)}' for score in scores if score in _SHORT)}."
    )
    yield ""
    yield from _header(["rule", "mean steps", *_names(scores)], "l" + "r" * (1 + len(scores)))
    for row in sorted(result["rules"], key=lambda row: (row["mean_steps"], row["rule"])):
        cells = [_mean(row["scores"][score], _digits(score)) for score in scores]
        yield _row([row["rule"], f"{row['mean_steps']:.2f}", *cells])


def _at_equal_steps(result: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield (
        "**At equal denoising steps.** Confidence minus control, paired by moment: mean (95 % interval) [each"
        " training]. `random` and `motion` spend as many steps at every tick, `alternating` as many over the rollouts;"
        " `fixed` and `first full` are mixes of the two nearest of their kind that cost the same. The oracle looks"
        " ahead and cannot run at play: it is the bound. Better or worse only where the interval leaves out zero and"
        " every training agrees."
    )
    yield from _differences(result, [row for row in result["differences"] if row["equal"] == STEPS])


def _at_equal_time(result: Mapping[str, Any]) -> Iterator[str]:
    costs = result["costs"]
    yield ""
    if costs is None:
        yield "Equal wall time was not measured: it needs `--package`."
        return
    ms = {name: f"{costs[f'{name}_ms']:.3f} ms" for name in ("step", "head", "commit", "decode")}
    yield (
        f"**At equal wall time.** ONNX Runtime, one thread, form `{costs['form']}`, {costs['rounds']} rounds in turns,"
        f" medians of the thread's own time: a step without a head takes {ms['step']}, the head {ms['head']} more, the"
        f" host's decision {costs['decision_ms']:.4f} ms, commit {ms['commit']}, decode {ms['decode']}. The controls"
        f" need no head: they are read off their curves at {costs['head_ratio']:.4f} times the steps (a mix of the two"
        " neighbouring runs, drawn per rollout)."
    )
    yield from _differences(result, [row for row in result["differences"] if row["equal"] == TIME])


def _paper(result: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "**The paper's rule** (Algorithm 1, its own cost): it against random at that cost, the confidence against it."
    rows = [{**row, "against": f"{row['rule']} minus {row['against']}"} for row in result["paper"]]
    yield from _differences(result, rows)


def _differences(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line per operating point and control, one column per score."""
    scores = result["scores"]
    lines: dict[tuple[float, str], dict[str, str]] = {}
    for row in rows:
        cell = _judged(row, row["score"])
        lines.setdefault((row["mean_steps"], row["against"]), {})[row["score"]] = cell
    yield ""
    yield from _header(["mean steps", "against", *_names(scores)], "rl" + "l" * len(scores))
    for (steps, against), cells in lines.items():
        yield _row([f"{steps:.2f}", against, *(cells[score] for score in scores)])


def _gain(result: Mapping[str, Any]) -> Iterator[str]:
    scores = result["scores"]
    yield ""
    yield (
        "**Share of the oracle's gain**: (random - confidence) / (random - oracle), at equal steps. No number where"
        " the oracle itself is not shown to be better than random: there is nothing to gain. The oracle minimises the"
        " distance to the same tick's full schedule; by other scores it is only a rule among others."
    )
    yield ""
    yield from _header(["mean steps", *_names(scores)], "r" + "l" * len(scores))
    for point in dict.fromkeys(row["point"] for row in result["gain"]):
        rows = {row["score"]: row for row in result["gain"] if row["point"] == point}
        yield _row([f"{rows[scores[0]]['mean_steps']:.2f}", *(_share(rows[score]) for score in scores)])


def _heads(result: Mapping[str, Any]) -> Iterator[str]:
    ranking = result["heads"]["ranking"]
    yield ""
    yield (
        "**The heads.** Rank correlation (Spearman) of doubt with what the remaining steps still change, and with the"
        " signed benefit (how much nearer to the real frame, by LPIPS, all steps come); expected calibration error of"
        " 'within delta of the full schedule'. Frames met in closed loop under the kept head. What each"
        " head's own rule is worth: part `single-tick`."
    )
    yield ""
    steps = [row["step"] for row in ranking[0]["steps"]]
    signed = "signed" in ranking[0]["steps"][0]
    columns = [f"after step {step}" for step in steps] + [f"signed, after step {step}" for step in steps if signed]
    yield from _header(["head", *columns, "ECE"], "l" + "r" * (len(columns) + 1))
    for head in ranking:
        kinds = ["rms", "signed"] if signed else ["rms"]
        cells = [_mean(step[kind], 3) for kind in kinds for step in head["steps"]]
        yield _row([head["head"], *cells, f"{head['ece']:.3f}"])
    if signed:
        told = (
            f"after step {step['step']} going on brings {step['mean_signed_benefit']:+.4f} LPIPS on average and is a"
            f" harm in {100 * step['share_harmed']:.0f} % of the frames"
            for step in ranking[0]["steps"]
        )
        yield ""
        yield f"Signed benefit: {'; '.join(told)}."


def _quality(result: Mapping[str, Any]) -> Iterator[str]:
    table = result["same_quality"]
    rows = table["rows"]
    judged = list(rows[0]["scores"])
    yield ""
    if not judged:
        yield "As good as the full schedule: not judged without LPIPS, FLIP or state."
        return
    yield (
        f"**As good as the full schedule**: no interval of the difference says worse, and every one ends below"
        f" {100 * table['margin']:.0f} % of the full schedule's own score ({', '.join(map(title, judged))})."
    )
    yield ""
    yield from _header(["family", "cheapest as good", "mean steps", "share of its steps"], "llrr")
    for family in dict.fromkeys(row["family"] for row in rows):
        best = cheapest(rows, family)
        found = ["none", "", ""] if best is None else _found(best)
        yield _row([family, *found])
    yield ""
    yield from _header(["rule", "mean steps", "share", *map(title, judged), "as good"], "lrr" + "r" * len(judged) + "l")
    for row in rows:
        if row["family"] in (TESTED, RANDOM, FIXED):
            cells = [_mean(row["scores"][score], 4, signed=True) for score in judged]
            verdict = "yes" if row["same"] else "not shown" if row["inside"] else "no"
            yield _row([row["rule"], f"{row['mean_steps']:.2f}", _percent(row["share_of_steps"]), *cells, verdict])


def _found(row: Mapping[str, Any]) -> list[str]:
    return [row["rule"], f"{row['mean_steps']:.2f}", _percent(row["share_of_steps"])]


def _judged(row: Mapping[str, Any], score: str) -> str:
    """Difference, interval, each training, verdict."""
    digits = _digits(score) + 1
    each = " ".join(f"{value:+.{digits}f}" for value in row["trainings"])
    verdict = row["verdict"] if row["verdict"] == "unclear" else f"**{row['verdict']}**"
    return f"{_mean(row, digits, signed=True)} [{each}] {verdict}"


def _share(row: Mapping[str, Any]) -> str:
    """Share, interval, each training."""
    if math.isnan(row["mean"]):
        return "nothing to gain"
    each = " ".join(_percent(value) for value in row["trainings"])
    return f"{_percent(row['mean'])} ({_percent(row['low'])} .. {_percent(row['high'])}) [{each}]"


def _percent(value: float) -> str:
    return "unclear" if math.isnan(value) else f"{100 * value:.0f} %"


def _mean(cell: Mapping[str, float], digits: int, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{cell['mean']:{sign}.{digits}f} ({cell['low']:{sign}.{digits}f} .. {cell['high']:{sign}.{digits}f})"


def _names(scores: Sequence[str]) -> list[str]:
    return [_SHORT.get(score, score) for score in scores]


def _digits(score: str) -> int:
    return _DIGITS.get(score, 3)


def _header(names: Sequence[str], sides: str) -> Iterable[str]:
    return _row(names), "|" + "".join(":--|" if side == "l" else "--:|" for side in sides)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
