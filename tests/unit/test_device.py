"""Devices: what is asked for, and arrays that lie elsewhere. Here that is ONNX Runtime's memory on the CPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import EngineError, World, load_world
from dsa_runtime.device import CPU, Device
from dsa_runtime.device_array import Array, DeviceArray, rows
from tests.chunk_world import PROMPTS, write_chunk_world
from tests.play import ACTIONS, play


class FarCpu(Device):
    """All that stays on the device lies in memory that is not numpy's, as on a GPU; the graphs run as ever."""

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        return self._allocated(shape, dtype)

    def put(self, array: np.ndarray) -> Array:
        there = self._allocated(array.shape, array.dtype)
        there[...] = array
        return there


@pytest.fixture(params=["one picture", "chunks"])
def package(request: pytest.FixtureRequest, tiny_package: Path, tmp_path: Path) -> Path:
    return tiny_package if request.param == "one picture" else write_chunk_world(tmp_path / "chunks")


@pytest.fixture
def far(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with monkeypatch.context() as patch:
        patch.setattr("dsa_runtime.world.Device", FarCpu)
        with load_world(package, threads=1) as world:
            yield world


class TestName:
    def test_the_cpu(self) -> None:
        assert Device.of("cpu") == CPU
        assert (str(CPU), CPU.providers) == ("cpu", ["CPUExecutionProvider"])

    @pytest.mark.parametrize("name", ["GPU0", "cuda:", "cuda:-1", "CPU", "", "cpu:0", "cuda:100", None, 1])
    def test_what_is_none(self, name: Any) -> None:
        with pytest.raises(EngineError, match=r"^device: expected cpu, cuda or cuda:N, got "):
            Device.of(name)

    def test_cuda_needs_its_provider(self, tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dsa_runtime.device.ort.get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(EngineError, match=r"^device: .* has no CUDA; replace it: .*onnxruntime-gpu"):
            load_world(tiny_package, device="cuda:1")

    def test_cuda_needs_a_gpu(self, tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """onnxruntime-gpu has its provider without one, too."""
        there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr("dsa_runtime.device.ort.get_available_providers", lambda: there)
        with pytest.raises(EngineError, match=r"^device: ONNX Runtime cannot use it \(cuda:1: .*nvidia-smi"):
            load_world(tiny_package, device="cuda:1")

    def test_a_fall_back_to_the_cpu_is_an_error(self, tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a single graph: onnxruntime-gpu only says so in its log. Here it is told to load it for the CPU."""
        there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        real = Device._allocated
        monkeypatch.setattr("dsa_runtime.device.ort.get_available_providers", lambda: there)
        monkeypatch.setattr(Device, "_allocated", lambda _, shape, dtype: real(CPU, shape, dtype))
        monkeypatch.setattr(Device, "providers", ["CPUExecutionProvider"])
        with pytest.raises(EngineError, match=r"onnx: device: ONNX Runtime did not load it for cuda:1"):
            load_world(tiny_package, device="cuda:1", form="plain")


class TestArray:
    def test_it_is_read_and_written_from_the_host(self) -> None:
        array = FarCpu("cpu").zeros((4, 2, 3))
        assert isinstance(array, DeviceArray)
        assert (array.shape, array.dtype, len(array)) == ((4, 2, 3), np.float32, 4)
        array[[1, 3]] = np.ones((2, 2, 3))
        expected = np.zeros((4, 2, 3), np.float32)
        expected[[1, 3]] = 1
        np.testing.assert_array_equal(np.asarray(array), expected)
        np.testing.assert_array_equal(array[np.array([3, 0])], expected[[3, 0]])

    def test_a_part_is_the_same_memory(self) -> None:
        for array in (FarCpu("cpu").put(np.arange(24, dtype=np.float16).reshape(4, 2, 3)), np.zeros((4, 2, 3))):
            part = rows(array, 2, 3)
            assert part.shape == (1, 2, 3)
        whole = FarCpu("cpu").empty((4, 2, 3), np.float16)
        assert isinstance(whole, DeviceArray)
        assert whole.rows(2, 3).place()[2] - whole.place()[2] == 2 * 6 * 2

    def test_what_was_read_is_a_copy(self) -> None:
        array = FarCpu("cpu").zeros((2, 2))
        np.asarray(array)[:] = 7
        assert not np.asarray(array).any()


def test_slots_are_not_written_while_a_pool_goes_there_as_a_whole(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what another session commits meanwhile would be written over."""
    monkeypatch.setattr("dsa_runtime.world.Device", FarCpu)
    with load_world(tiny_package, threads=1) as far:
        cache, entered, real = far._cache, threading.Event(), DeviceArray.__setitem__
        slot = cache.allocate()
        frames, committed = cache.read([slot]), []

        def commit() -> None:
            with cache.writing():
                entered.set()

        def whole(array: DeviceArray, index: Any, values: np.ndarray) -> None:
            committed.append(threading.Thread(target=commit))
            committed[-1].start()
            assert not entered.wait(0.05)
            real(array, index, values)

        monkeypatch.setattr(DeviceArray, "__setitem__", whole)
        cache.write([slot], frames)
        assert entered.wait(10)
        for thread in committed:
            thread.join()


def test_a_session_draws_the_same_from_there(far: World, package: Path) -> None:
    """Over fork, rewind, snapshots to and fro, a change of prompt, and pools that had to grow."""
    with (
        load_world(package, threads=1) as world,
        world.session(7, history=8) as near,
        far.session(7, history=8) as session,
    ):
        assert isinstance(far._cache.pools[0], DeviceArray) and far.device == "cpu"
        np.testing.assert_array_equal(play(session), play(near))
        session.rewind(3), near.rewind(3)
        branches = session.fork(2 * far._cache.capacity)
        assert isinstance(far._cache.pools[0], DeviceArray)
        near.restore(session.snapshot())
        np.testing.assert_array_equal(play(branches[-1], ACTIONS[:3]), play(near, ACTIONS[:3]))
        session.restore(near.snapshot())
        if far.spec.text.width:
            session.set_prompt(PROMPTS[1]), near.set_prompt(PROMPTS[1])
        ours, theirs = (one.step(1, math.inf) for one in (session, near))
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        for branch in branches:
            branch.close()


def test_batched_sessions_draw_the_same_from_there(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_world(tiny_package, threads=1) as world, world.session(7) as alone:
        expected = play(alone, steps=2)
    monkeypatch.setattr("dsa_runtime.world.Device", FarCpu)
    with load_world(tiny_package, threads=1) as far, far.session(7, batched=True) as session:
        assert isinstance(far._cache.pools[0], DeviceArray)
        np.testing.assert_array_equal(play(session, steps=2), expected)
