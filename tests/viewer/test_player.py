"""Player, Loop, Outbox and Tabs: what a tab does, without a browser or a socket."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import BudgetError, BusyError, DsaError, EngineError, Recording, ServingError, SessionError, World
from dsa_runtime.replay import verify_replay
from dsa_runtime.viewer.command import (
    Away,
    Command,
    Fork,
    Here,
    Hold,
    Keep,
    Pause,
    Play,
    Reset,
    Rewind,
    Save,
    Settings,
    StepOnce,
    Watch,
)  # fmt: skip
from dsa_runtime.viewer.inbox import Inbox
from dsa_runtime.viewer.loop import Loop
from dsa_runtime.viewer.outbox import WINDOW, Outbox
from dsa_runtime.viewer.player import Player
from dsa_runtime.viewer.tabs import Tabs
from tests.viewer.unpack import Unpacked, unpack

AMPLE = Settings(0, None, 0.5, 0)


class Table:
    """A player, and what a page would have got from it."""

    def __init__(self, world: World) -> None:
        self.inbox, self.out = Inbox(), Outbox()
        self.player = Player(world, AMPLE, 3, lambda: self.inbox.held, self.out)
        self.state: dict[str, Any] = {}

    def do(self, command: Command) -> None:
        self.player.perform(command)
        self.newest()

    def hold(self, *held: str, stamp: float = 0.0) -> None:
        self.inbox.put(Hold(held, (), stamp))

    def beat(self) -> Unpacked:
        self.player.beat()
        seen = self.newest()
        assert seen is not None
        return seen

    def newest(self) -> Unpacked | None:
        """The pictures that have come, if any have; the state is taken in."""
        pictures = None
        for message in self.out.take():
            if isinstance(message, bytes):
                pictures = unpack(message)
                if pictures.kind != "file":
                    self.out.seen()
            elif (said := json.loads(message))["is"] == "state":
                self.state = said
        return pictures


@pytest.fixture
def table(tiny_world: World) -> Iterator[Table]:
    table = Table(tiny_world)
    yield table
    table.player.close()


def frames(world: World, seed: int, actions: list[int], steps: int | None = None) -> list[np.ndarray]:
    with world.session(seed, threshold=0.5) as session:
        return [session.step(action, math.inf, steps=steps).pixels for action in actions]


def test_what_is_held_when_a_beat_begins_is_the_action_and_its_stamp_comes_back(
    table: Table, tiny_world: World
) -> None:
    first = table.beat()
    table.hold("left", stamp=5.5)
    table.hold("fire", stamp=6.5)
    second = table.beat()
    assert (first.head["stamp"], second.head["stamp"]) == (None, 6.5)
    for seen, drawn in zip((first, second), frames(tiny_world, 3, [0, 3]), strict=True):
        np.testing.assert_array_equal(seen.pictures[0], drawn)


def test_a_lane_that_fails_holds_the_other_back(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.beat()
    table.do(Fork())
    table.beat()
    with monkeypatch.context() as patch:
        patch.setattr(table.player._lanes[1], "step", failing)
        with pytest.raises(EngineError, match="made to fail"):
            table.player.beat()
    table.newest()
    assert not table.state["playing"] and [lane.tick for lane in table.player._lanes] == [2, 2]
    table.beat()
    assert [lane.tick for lane in table.player._lanes] == [3, 3]


def failing(action: object) -> None:
    raise EngineError("made to fail")


def test_it_runs_while_it_plays_and_somebody_looks(table: Table) -> None:
    assert not table.player.runs, "nobody looks yet"
    table.do(Here())
    assert table.player.runs
    table.do(Away())
    assert not table.player.runs and table.state["playing"]
    table.do(Here())
    table.do(Pause())
    assert not table.player.runs and not table.state["playing"]
    table.do(StepOnce())
    assert table.state["tick"] == 1 and not table.player.runs
    table.do(Play())
    assert table.player.runs


def test_rewinding_draws_the_same_again_and_knows_its_limits(table: Table, tiny_world: World) -> None:
    table.do(Here())
    seen = [table.beat().pictures[0] for _ in range(4)]
    table.player.perform(Rewind(2))
    back = table.newest()
    assert back is not None and back.kind == "pictures" and back.head == {"tick": 2}
    np.testing.assert_array_equal(back.pictures[0], seen[1])
    assert (table.state["tick"], table.state["oldest"], table.state["playing"]) == (2, 0, False)
    np.testing.assert_array_equal(table.beat().pictures[0], seen[2])
    for tick in (-1, 4):
        with pytest.raises(SessionError, match=r"ticks 0\.\.3 are kept"):
            table.player.perform(Rewind(tick))


def test_a_fork_compares_with_the_whole_schedule_under_the_same_actions(table: Table, tiny_world: World) -> None:
    table.do(Here())
    table.beat()
    table.player.perform(Fork())
    split = table.newest()
    assert split is not None and len(split.pictures) == 2
    np.testing.assert_array_equal(*split.pictures)
    table.hold("right")
    both = table.beat()
    assert [lane["steps"] for lane in both.head["lanes"]] == [both.head["lanes"][0]["steps"], 4]
    np.testing.assert_array_equal(both.pictures[0], frames(tiny_world, 3, [0, 2])[1])
    assert (both.pictures[0] != both.pictures[1]).any()
    with pytest.raises(SessionError, match="two already"):
        table.player.perform(Fork())
    with pytest.raises(SessionError, match=r"ticks 1\.\.2 are kept"):
        table.player.perform(Rewind(0))  # the second one was not there yet
    table.do(Rewind(1))
    again = table.beat()
    np.testing.assert_array_equal(again.pictures, both.pictures)
    first, second = (lane["id"] for lane in table.state["lanes"])
    table.do(Keep(1))
    assert [lane["id"] for lane in table.state["lanes"]] == [second] != [first]
    assert table.state["lanes"][0]["steps"] == 4 and len(table.beat().pictures) == 1


def test_settings_hold_from_the_next_tick_on(table: Table) -> None:
    table.do(Settings(0, 20.0, 0.25, 0))
    lane = table.beat().head["lanes"][0]
    assert (lane["budget"], lane["threshold"]) == (20.0, 0.25)
    table.do(Settings(0, None, 0.25, 3))
    lane = table.beat().head["lanes"][0]
    assert (lane["budget"], lane["steps"], lane["stopped_by"]) == (None, 3, "request")
    for wrong, error in ((Settings(0, None, 0.25, 5), BudgetError), (Settings(1, None, 0.25, 0), SessionError)):
        with pytest.raises(error):
            table.player.perform(wrong)
    assert table.beat().head["lanes"][0]["steps"] == 3, "nothing has changed"


def test_a_recording_is_what_replay_draws_again(table: Table, tiny_world: World, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="play first"):
        table.player.perform(Save(0))
    table.do(Reset("1"))
    for held in ("left", "right", "fire"):
        table.hold(held)
        table.beat()
    table.do(Rewind(2))
    table.beat()
    table.player.perform(Save(0))
    saved = table.newest()
    assert saved is not None and saved.head == {"name": "tiny-seed1-3.dsarec"}
    (path := tmp_path / "saved").write_bytes(saved.rest)
    assert verify_replay(tiny_world, Recording.load(path)) == 3


def test_a_beat_that_fails_pauses(table: Table) -> None:
    table.do(Here())
    table.hold("nonsense")
    with pytest.raises(DsaError, match="no button 'nonsense'"):
        table.player.beat()
    table.newest()
    assert not table.state["playing"] and table.state["tick"] == 0
    with pytest.raises(ServingError, match="not while playing"):
        table.player.perform(Watch("00"))


class Script:
    """Drives nothing; notes what is asked of it and when. Its clock runs in the inbox."""

    period_ms = 10.0

    def __init__(self) -> None:
        self.now_ns, self.runs, self.slow_ms, self.log = 0, False, 0.0, list[tuple[float, str]]()
        self.closed = False

    def note(self, what: str) -> None:
        self.log.append((self.now_ns / 1e6, what))

    def beat(self) -> None:
        self.note("beat")
        self.now_ns += int(self.slow_ms * 1e6)

    def perform(self, command: Command) -> None:
        self.note(type(command).__name__)
        if isinstance(command, Keep):
            raise SessionError("no")
        self.runs = isinstance(command, Play)

    def close(self) -> None:
        self.closed = True


class Timetable(Inbox):
    """Commands that come at a time."""

    def __init__(self, script: Script, *due: tuple[float, Command]) -> None:
        super().__init__()
        self.script, self.due = script, list(due)

    def take(self, timeout_s: float | None) -> Command | None:
        until_ns = math.inf if timeout_s is None else self.script.now_ns + timeout_s * 1e9
        if self.due and self.due[0][0] * 1e6 <= until_ns:
            at_ms, command = self.due.pop(0)
            self.script.now_ns = max(self.script.now_ns, int(at_ms * 1e6))
            return command
        if timeout_s is None:
            self.ended = True
        else:
            self.script.now_ns = math.ceil(until_ns)
        return None


def run(script: Script, *due: tuple[float, Command]) -> list[str]:
    """What was complained about."""
    out = Outbox()
    Loop(lambda: script, Timetable(script, *due), out, lambda: script.now_ns).run()
    assert script.closed
    return [json.loads(message)["text"] for message in out.take()]


def test_beats_keep_their_grid_and_commands_come_in_between() -> None:
    script = Script()
    problems = run(script, (5, Play()), (22, Keep(0)), (36, Pause()), (100, Play()), (111, Pause()))
    assert problems == ["no"]
    assert script.log == [
        (5, "Play"), (5, "beat"), (15, "beat"), (22, "Keep"), (25, "beat"), (35, "beat"), (36, "Pause"),
        (100, "Play"), (100, "beat"), (110, "beat"), (111, "Pause"),
    ]  # fmt: skip


def test_commands_are_heard_where_every_beat_is_late() -> None:
    script = Script()
    script.slow_ms = 25.0
    run(script, (0, Play()), (30, Pause()))
    assert script.log == [(0, "Play"), (0, "beat"), (25, "beat"), (50, "Pause")]


def test_a_tab_that_is_slow_gets_the_newest_picture_and_never_a_queue() -> None:
    out, rung = Outbox(), []
    out.attach(lambda: rung.append(1))
    sent: list[str | bytes] = []
    for number in range(10):
        out.show(bytes([number]))
        out.say("state", {"tick": number})
        sent += out.take()
    assert [message for message in sent if isinstance(message, bytes)] == [bytes([number]) for number in range(WINDOW)]
    assert len([message for message in sent if isinstance(message, str)]) == 10 and len(rung) == 20
    out.seen()
    assert out.take() == [bytes([9])]
    assert out.take() == []
    out.attach(None)
    for number in range(100):
        out.complain(str(number))
        out.say("state", {"tick": number})
    assert len(out.take()) == 1 + 8, "whoever does not fetch costs no memory"


class Idle:
    runs, period_ms = False, 1.0

    def beat(self) -> None:
        raise AssertionError

    def perform(self, command: Command) -> None:
        self.seen = isinstance(command, Here)

    def close(self) -> None:
        pass


def test_tabs_are_bounded_come_back_and_are_closed_when_nobody_returns() -> None:
    now, opened, none = [0.0], threading.Semaphore(0), lambda: None

    def make(inbox: Inbox, out: Outbox) -> Idle:
        opened.release()
        return Idle()

    tabs = Tabs(make, 2, 60.0, lambda: now[0])
    hung: list[str] = []
    one = tabs.attach("one", none, lambda: hung.append("one"))
    tabs.attach("two", none, none)
    with pytest.raises(BusyError, match="2 tabs play already"):
        tabs.attach("three", none, none)
    leave = lambda: None  # noqa: E731  each connection has its own
    assert tabs.attach("one", none, leave) is one and hung == ["one"], "taken over by a second connection"
    tabs.detach(one, none)
    assert one.hang_up is leave, "the connection that was taken over leaves nothing behind"
    now[0] = 5.0
    tabs.detach(one, leave)
    tabs.attach("three", none, none)  # in the place of the one that is gone
    assert len(tabs) == 2 and one.inbox.ended
    two = tabs.attach("two", none, leave)
    tabs.detach(two, leave)
    now[0] = 64.9
    tabs.look_around()
    assert len(tabs) == 2
    now[0] = 65.0
    tabs.look_around()
    assert len(tabs) == 1 and two.inbox.ended
    tabs.end()
    tabs.join()
    assert all(opened.acquire(timeout=30) for _ in range(3))


def test_a_tab_that_could_not_be_opened_is_tried_again() -> None:
    tries = 0

    def make(inbox: Inbox, out: Outbox) -> Idle:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise SessionError("no room")
        return Idle()

    tabs, none = Tabs(make, 1, 60.0), lambda: None
    first = tabs.attach("one", none, none)
    first.loop.join(60)
    assert json.loads(first.out.take()[0])["text"] == "no room"
    second = tabs.attach("one", none, none)
    assert second is not first and not second.loop.is_over
    tabs.end()
    tabs.join()
    assert second.loop.is_over and tries == 2
