"""`dsa record` and `dsa export`, on the tiny world."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import Box, Discrete, MultiBinary, Recording, World
from dsa_runtime.actions import ActionSpace
from dsa_runtime.commands.policies import actions_of
from dsa_runtime.errors import DsaError
from dsa_runtime.replay import verify_replay
from tests.command_line import Run, fails, run_dsa

GAME = Discrete(3, ("left", "noop", "right"))
PAD = MultiBinary(2, ("left", "fire"))
ARM = Box((-1.0, 0.5), (1.0, 5.0), ("turn", "pull"), ("rad/s", "N"))


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `dsa` with these arguments: exit status, stdout, stderr."""

    return partial(run_dsa, capsys)


def test_what_was_recorded_replays_and_knows_its_times(
    dsa: Run, tiny_package: Path, tiny_world: World, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "play.dsarec"
    arguments = ("--ticks", 6, "--seed", 3, "--budget-ms", 500, "--threads", 1, "--json")
    status, out, err = dsa("record", tiny_package, "--out", file, *arguments)
    assert (status, err) == (0, "")
    document = json.loads(out)
    recording = Recording.load(file)
    assert (document["ticks"], document["seed"], document["policy"]) == (6, 3, "demo")
    assert document["steps"]["total"] == sum(decision.steps for decision in recording.decisions)
    assert sum(document["status"].values()) == 6
    assert verify_replay(tiny_world, recording) == 6
    for decision in recording.decisions:
        assert decision.played is not None and decision.played.budget_ms == 500
        spent = [*decision.played.denoise_ms, decision.played.decode_ms, decision.played.wait_ms]
        assert decision.played.total_ms == pytest.approx(
            sum(spent) + decision.played.abandoned_ms + decision.played.sdk_ms
        )
    status, text, _ = dsa("record", tiny_package, "--out", file, "--ticks", 2, "--threads", 1)
    assert status == 0 and "2 ticks" in text and str(file) in text
    first = Recording.load(file).decisions[0]
    assert first.played is not None and first.played.budget_ms == tiny_world.spec.frame.period_ms


def test_a_table_is_a_script_for_the_same_play(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    first, second, table = tmp_path / "a.dsarec", tmp_path / "b.dsarec", tmp_path / "a.csv"
    common = ("--budget-ms", "inf", "--seed", 4, "--threads", 1)
    assert dsa("record", tiny_package, "--out", first, "--ticks", 12, "--policy", "random", *common)[0] == 0
    status, out, _ = dsa("export", first, table, "--world", tiny_package, "--threads", 1)
    assert status == 0 and "12 ticks" in out and "bit for bit" in out
    assert dsa("record", tiny_package, "--out", second, *common, "--policy", "script", table)[0] == 0
    frames = [[decision.digest for decision in Recording.load(file).decisions] for file in (first, second)]
    assert frames[0] == frames[1] and len(set(frames[0])) == 12


def test_export_says_what_it_wrote(dsa: Run, tiny_package: Path, recording: Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / "a.dsarec")
    where = ("--world", tiny_package, "--threads", 1)
    status, out, _ = dsa("export", tmp_path / "a.dsarec", tmp_path / "deep" / "a.gif", "--plain", *where, "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["ticks"], document["same_frames"], document["size"]) == (10, 10, [512, 384])
    assert document["bytes"] == (tmp_path / "deep" / "a.gif").stat().st_size
    changed = [dataclasses.replace(recording.decisions[0], digest="0" * 32), *recording.decisions[1:]]
    dataclasses.replace(recording, decisions=changed).save(tmp_path / "b.dsarec")
    status, out, _ = dsa("export", tmp_path / "b.dsarec", tmp_path / "b.csv", *where)
    assert status == 0 and "1 of the frames differ" in out


def test_export_fails_before_the_work(dsa: Run, recording: Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / "a.dsarec")
    fails(dsa("export", tmp_path / "a.dsarec", tmp_path / "a.avi"), ".avi", ".mp4")
    fails(dsa("export", tmp_path / "nowhere.dsarec", tmp_path / "a.gif"), "nowhere.dsarec")
    fails(dsa("export", tmp_path / "a.dsarec", tmp_path / "a.gif"), "'tiny' is not a bundled world", "--world")
    fails(dsa("export", tmp_path / "a.dsarec", tmp_path / "a.gif", "--scale", 0), "--scale", "at least 1")


@pytest.mark.parametrize("space", [GAME, PAD, ARM])
@pytest.mark.parametrize("policy", ["demo", "random", "hold"])
def test_every_policy_plays_every_space(space: ActionSpace, policy: str) -> None:
    actions = actions_of([policy], space, 60, seed=2)
    assert len(actions) == 60
    encoded = np.array([space.encode(action) for action in actions])
    np.testing.assert_array_equal(encoded, [space.encode(one) for one in actions_of([policy], space, 60, seed=2)])
    if policy == "random":
        assert len(np.unique(encoded, axis=0)) >= 3
        other = np.array([space.encode(action) for action in actions_of([policy], space, 60, seed=3)])
        assert not np.array_equal(encoded, other)
    if policy == "hold":
        assert len(np.unique(encoded, axis=0)) == 1
        assert actions[0] == 1 if space is GAME else True, "noop"
        np.testing.assert_array_equal(actions[0], {PAD: [0, 0], ARM: [0.0, 0.5], GAME: 1}[space])


@pytest.mark.parametrize(
    ("space", "text", "expected"),
    [
        (GAME, "action\n2\nleft\n", [2, 0]),
        (GAME, "tick,action,action_name\n0,1,noop\n", [1]),
        (PAD, "action.fire,action.left\n0,1\n", [[1, 0]]),
        (ARM, "action.turn,action.pull\n-0.5,2\n", [[-0.5, 2.0]]),
    ],
)
def test_scripts(space: ActionSpace, text: str, expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    actions = actions_of(["script", str(tmp_path / "s.csv")], space, len(expected), 0)
    for action, one in zip(actions, expected, strict=True):
        np.testing.assert_array_equal(action, one)


@pytest.mark.parametrize(
    ("policy", "text", "ticks", "words"),
    [
        (["script", "FILE"], "turn\n1\n", 1, "no column 'action'"),
        (["script", "FILE"], "", 1, "no column 'action'"),
        (["script", "FILE"], "action\n1\n9\n", 2, r"line 3: expected an integer in 0\.\.2, got 9"),
        (["script", "FILE"], "action\n1\nfast\n", 2, "line 3: .*'fast'"),
        (["script", "FILE"], "action\n1\n", 2, "--ticks: .* has 1 rows, 2 were asked for"),
        (["script"], "", 1, "takes one CSV file"),
        (["random", "FILE"], "", 1, r"expected one of demo, random, hold, script FILE\.csv"),
        (["clever"], "", 1, "'clever'"),
    ],
)
def test_policies_that_do_not_fit(policy: list[str], text: str, ticks: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DsaError, match=words):
        actions_of([one.replace("FILE", str(tmp_path / "s.csv")) for one in policy], GAME, ticks, 0)


def test_budgets_that_make_no_sense(dsa: Run, tiny_package: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "a.dsarec", "--ticks", 1)
    fails(dsa("record", tiny_package, *out, "--budget-ms", 0), "budget_ms", "greater than 0")
    fails(dsa("record", tmp_path / "nowhere", *out), "nowhere")
    assert list(tmp_path.iterdir()) == []
