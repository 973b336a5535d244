"""Spectators: the newest frame, whole, of one topic; and nobody who looks on can hold the server up."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from dsa_runtime.serving.spectator import Published, Publisher, Spectator, read_published
from dsa_runtime.serving.wire import unpack
from tests.serving.golden_messages import FRAME_FIELDS

DECISION = {**FRAME_FIELDS, "confidences": [0.5, 0.9375], "schedule_steps": 3}
TOPIC, OTHER = b"\0topic-1", b"\0topic-2"
WAIT_MS = 20_000


def picture(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (8, 6, 3), np.uint8)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    publisher = Publisher(zmq.Context.instance(), f"ipc://{tmp_path}/frames")
    yield publisher
    publisher.close()


def joined(publisher: Publisher, spectator: Spectator, topic: bytes = TOPIC) -> None:
    """Publish until the spectator's subscription has arrived, and let it fetch what it got."""
    give_up = time.monotonic() + WAIT_MS / 1000
    while spectator.receive(10) is None:
        assert time.monotonic() < give_up, "the spectator never joined"
        publisher.publish(topic, 0, picture(0))
    while spectator.receive(50) is not None:
        pass


def newest(spectator: Spectator, tick: int) -> Published:
    """What the spectator sees once `tick` has arrived."""
    while True:
        seen = spectator.receive(WAIT_MS)
        assert seen is not None
        if seen.tick == tick:
            return seen


def test_a_frame_arrives_whole_with_its_tick(publisher: Publisher) -> None:
    with Spectator(publisher.address, TOPIC) as spectator:
        joined(publisher, spectator)
        publisher.publish(TOPIC, 2**40, picture(1))
        seen = newest(spectator, 2**40)
    np.testing.assert_array_equal(seen.pixels, picture(1))
    assert seen.pixels.flags.writeable


def test_who_looks_late_sees_the_newest_frame_alone(publisher: Publisher) -> None:
    with Spectator(publisher.address, TOPIC) as spectator, Spectator(publisher.address, TOPIC) as sleeper:
        joined(publisher, spectator)
        joined(publisher, sleeper)
        for tick in range(1, 51):
            publisher.publish(TOPIC, tick, picture(tick))
            assert newest(spectator, tick).tick == tick  # so none is dropped on the way
        seen = newest(sleeper, 50)
        assert spectator.receive(0) is None
        assert sleeper.receive(0) is None
    np.testing.assert_array_equal(seen.pixels, picture(50))


def test_other_sessions_are_not_seen(publisher: Publisher) -> None:
    with Spectator(publisher.address, TOPIC) as spectator:
        joined(publisher, spectator)
        publisher.publish(OTHER, 1, picture(1))
        publisher.publish(TOPIC, 2, picture(2))
        publisher.publish(OTHER, 3, picture(3))
        seen = spectator.receive(WAIT_MS)
        assert seen is not None and seen.tick == 2
        assert spectator.receive(50) is None


def test_an_onlooker_that_never_reads_does_not_hold_the_publisher_up(publisher: Publisher) -> None:
    large = np.zeros((480, 832, 3), np.uint8)
    with zmq.Context.instance().socket(zmq.SUB) as frozen:
        frozen.setsockopt(zmq.LINGER, 0)
        frozen.setsockopt(zmq.RCVHWM, 1)
        frozen.subscribe(TOPIC)
        frozen.connect(publisher.address)
        assert frozen.poll(0) == 0

        def publish() -> None:
            for tick in range(100):
                publisher.publish(TOPIC, tick, large)

        while not frozen.poll(10):
            publisher.publish(TOPIC, 0, large)
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        thread.join(WAIT_MS / 1000)
        assert not thread.is_alive()
        seen = []
        while not seen or seen[-1] != 99:  # the last one is not lost, and few of those before it were kept
            assert frozen.poll(WAIT_MS)
            seen.append(struct.unpack_from("<Q", frozen.recv(), 16)[0])
        assert len(seen) < 50


def test_several_threads_publish_at_the_same_time(publisher: Publisher) -> None:
    with Spectator(publisher.address, TOPIC) as spectator:
        joined(publisher, spectator)
        threads = [
            threading.Thread(target=lambda: [publisher.publish(OTHER, 0, picture(0)) for _ in range(200)])
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        publisher.publish(TOPIC, 7, picture(7))
        np.testing.assert_array_equal(newest(spectator, 7).pixels, picture(7))


def test_after_closing_nothing_is_sent_and_nothing_fails(publisher: Publisher) -> None:
    publisher.close()
    publisher.close()
    publisher.publish(TOPIC, 1, picture(1))


def test_the_layout_is_the_documented_one(publisher: Publisher) -> None:
    """What onlookers in other languages are written to."""
    with zmq.Context.instance().socket(zmq.SUB) as raw:
        raw.setsockopt(zmq.LINGER, 0)
        raw.setsockopt(zmq.CONFLATE, 1)
        raw.subscribe(TOPIC)
        raw.connect(publisher.address)
        while not raw.poll(10):
            publisher.publish(TOPIC, 5, picture(5))
        message = raw.recv()
        assert message == struct.pack("<8s4sIQII", TOPIC, b"DSAP", 2, 5, 8, 6) + picture(5).tobytes()
        publisher.publish(TOPIC, 5, picture(5), DECISION)
        assert raw.poll(WAIT_MS)
        decided = raw.recv()
    assert decided[: len(message)] == message
    told = unpack([b"DSA1", decided[len(message) :]])
    assert (told.type, told.id, told.fields) == ("frame", 0, DECISION)


def test_what_was_decided_comes_with_the_picture(publisher: Publisher) -> None:
    with Spectator(publisher.address, TOPIC) as spectator:
        joined(publisher, spectator)
        publisher.publish(TOPIC, 41, picture(1), DECISION)
        seen = newest(spectator, 41)
    assert seen.decision is not None and seen.schedule_steps == 3
    np.testing.assert_array_equal(seen.decision.pixels, picture(1))
    assert (seen.decision.tick, seen.decision.steps, seen.decision.status) == (41, 2, "ok")
    assert (seen.decision.confidences, seen.decision.threshold) == ((0.5, 0.9375), 0.75)
    assert (seen.decision.budget_ms, seen.decision.latency_ms["denoise"]) == (33.333, (2.1, 2.05))


def test_a_server_of_version_1_is_seen_without_decisions() -> None:
    message = struct.pack("<8s4sIQII", TOPIC, b"DSAP", 1, 5, 8, 6) + picture(5).tobytes()
    topic, seen = read_published(message)
    np.testing.assert_array_equal(seen.pixels, picture(5))
    assert (topic, seen.tick, seen.decision, seen.version) == (TOPIC, 5, None, 1)


@pytest.mark.parametrize(
    "message",
    [
        TOPIC,
        TOPIC + b"DSAX" + bytes(20),
        TOPIC + struct.pack("<4sIQII", b"DSAP", 1, 0, 8, 6) + bytes(8 * 6 * 3 - 1),
        TOPIC + struct.pack("<4sIQII", b"DSAP", 1, 0, 8, 6) + bytes(8 * 6 * 3 + 1),
        TOPIC + struct.pack("<4sIQII", b"DSAP", 2, 0, 8, 0),
        TOPIC + struct.pack("<4sIQII", b"DSAP", 3, 0, 8, 6) + bytes(8 * 6 * 3),
        TOPIC + struct.pack("<4sIQII", b"DSAP", 2, 0, 8, 6) + bytes(8 * 6 * 3) + b"\x81\xa1t\xa5frame",
    ],
    ids=["cut short", "something else", "pixels missing", "too long", "no pixels", "a later version", "no decision"],
)
def test_what_is_no_frame_is_refused(tmp_path: Path, message: bytes) -> None:
    address = f"ipc://{tmp_path}/frames"
    with zmq.Context.instance().socket(zmq.XPUB) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.bind(address)
        with Spectator(address, TOPIC) as spectator:
            assert stranger.recv() == b"\x01" + TOPIC  # it has subscribed
            stranger.send(message)
            with pytest.raises(ValueError, match="published frame"):
                spectator.receive(WAIT_MS)


def test_a_topic_of_another_length_is_refused(publisher: Publisher) -> None:
    with pytest.raises(ValueError, match="topic"):
        Spectator(publisher.address, b"short")
