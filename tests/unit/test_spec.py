"""WorldSpec: strict reading, with errors that name the field; writing and reading are inverse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import WorldError, WorldSpec
from dsa_runtime.spec import Box, Curve, Discrete, MultiBinary

Document = dict[str, Any]


@pytest.fixture(scope="module")
def text(tiny_package: Path) -> str:
    return (tiny_package / "world.json").read_text()


@pytest.fixture
def document(text: str) -> Document:
    parsed: Document = json.loads(text)
    return parsed


def read(document: Document) -> WorldSpec:
    return WorldSpec.from_json(json.dumps(document))


def test_round_trip(text: str) -> None:
    spec = WorldSpec.from_json(text)
    assert spec.to_json() == text
    assert WorldSpec.from_json(spec.to_json()) == spec
    assert spec.schedule.levels == (1.0, 0.75, 0.5, 0.25)
    assert spec.frame.period_ms == 50.0


def test_every_step_may_have_a_delta_of_its_own(document: Document) -> None:
    delta = document["calibration"]["delta"]
    document["calibration"]["delta_by_step"] = [delta, 3 * delta, 2 * delta]
    spec = read(document)
    assert spec.calibration.deltas == (delta, 3 * delta, 2 * delta)
    assert WorldSpec.from_json(spec.to_json()) == spec
    del document["calibration"]["delta_by_step"]  # as in packages made before there was such a thing
    older = read(document)
    assert older.calibration.delta_by_step == () and older.calibration.deltas == (delta,) * 3
    assert WorldSpec.from_json(older.to_json()) == older


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ({"type": "Discrete", "n": 2, "names": ["a", "b"]}, Discrete(2, ("a", "b"))),
        ({"type": "MultiBinary", "n": 2, "names": ["a", "b"]}, MultiBinary(2, ("a", "b"))),
        (
            {"type": "Box", "low": [-1, 0.5], "high": [1, 2], "names": ["x", "y"], "units": ["m/s", ""]},
            Box((-1.0, 0.5), (1.0, 2.0), ("x", "y"), ("m/s", "")),
        ),
    ],
)
def test_action_spaces(document: Document, written: Document, read_as: Any) -> None:
    document["action_space"] = written
    spec = read(document)
    assert spec.action_space == read_as
    assert WorldSpec.from_json(spec.to_json()) == spec


def put(path: str, value: Any) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        *parents, last = path.split("/")
        target: Any = document
        for name in parents:
            target = target[int(name) if isinstance(target, list) else name]
        target[last] = value

    return edit


def drop(path: str) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        *parents, last = path.split("/")
        for name in parents:
            document = document[name]
        del document[last]

    return edit


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (put("format", "other"), "world.json.format:"),
        (drop("format"), "world.json.format:"),
        (put("format_version", 2), "world.json.format_version:"),
        (put("format_version", "1"), "world.json.format_version:"),
        (put("format_version", True), "world.json.format_version:"),
        (drop("name"), "world.json.name: missing"),
        (put("name", "Not A Name"), "world.json.name:"),
        (put("version", 1), "world.json.version: expected a string"),
        (put("surprise", 1), "world.json.surprise: unknown"),
        (put("frame", []), "world.json.frame: expected an object"),
        (put("frame/height", 0), "world.json.frame.height:"),
        (put("frame/height", 8.0), "world.json.frame.height: expected an integer"),
        (put("frame/height", True), "world.json.frame.height: expected an integer"),
        (put("frame/height", None), "world.json.frame.height: expected an integer, got null"),
        (put("frame/channels", 4), "world.json.frame.channels:"),
        (put("frame/fps", 0), "world.json.frame.fps:"),
        (put("frame/fps", "20"), "world.json.frame.fps: expected a number, got a string"),
        (put("frame/frames_per_tick", 0), "world.json.frame.frames_per_tick:"),
        (put("frame/display_aspect", [4, 3, 2]), "world.json.frame.display_aspect: expected 2 items"),
        (put("frame/display_aspect", [4, 0]), "world.json.frame.display_aspect:"),
        (put("frame/depth", 1), "world.json.frame.depth: unknown"),
        (drop("action_space/type"), "world.json.action_space.type:"),
        (put("action_space/type", "Tuple"), "world.json.action_space.type:"),
        (put("action_space/n", 0), "world.json.action_space.n:"),
        (put("action_space/names", ["a", "a", "b", "c"]), "world.json.action_space.names:"),
        (put("action_space/names", ["a"]), "world.json.action_space.names: expected 4"),
        (put("latent/channels", -1), "world.json.latent.channels:"),
        (put("cache/tokens", 5), "world.json.cache.tokens:"),
        (put("cache/window", 0), "world.json.cache.window:"),
        (put("cache/sink", 3), "world.json.cache.sink:"),
        (put("cache/temporal_dims", 3), "world.json.cache.temporal_dims:"),
        (put("cache/temporal_dims", 6), "world.json.cache.temporal_dims:"),
        (put("cache/theta", 0), "world.json.cache.theta:"),
        (put("schedule/levels", []), "world.json.schedule.levels:"),
        (put("schedule/levels", [0.9, 0.5, 0.3, 0.1]), "world.json.schedule.levels: must start"),
        (put("schedule/levels", [1.0, 0.5, 0.5, 0.1]), "world.json.schedule.levels: must fall"),
        (put("schedule/levels", [1.0, 0.5, 0.2, 0.0]), "world.json.schedule.levels: must fall"),
        (put("schedule/levels", [1.0, "x"]), "world.json.schedule.levels[1]: expected a number"),
        (put("schedule/context_level", 1.0), "world.json.schedule.context_level:"),
        (put("ops/domain", "ai.other"), "world.json.ops.domain:"),
        (put("ops/version", 0), "world.json.ops.version:"),
        (drop("graphs/commit"), "world.json.graphs.commit: missing"),
        (put("graphs/train", "decode.onnx"), "world.json.graphs.train: unknown"),
        (put("graphs/commit", "elsewhere.onnx"), "world.json.graphs.commit:"),
        (put("graphs/commit", 3), "world.json.graphs.commit: expected a string"),
        (put("calibration/delta", -0.1), "world.json.calibration.delta:"),
        (put("calibration/delta_by_step", 1.0), "world.json.calibration.delta_by_step: expected an array"),
        (put("calibration/delta_by_step", [0.05, 0.1]), "world.json.calibration.delta_by_step: needs one per curve"),
        (put("calibration/delta_by_step", [0.05, 0.1, 0]), "world.json.calibration.delta_by_step: must be positive"),
        (put("calibration/delta_by_step", [0.1, 0.1, 0.1]), "world.json.calibration.delta_by_step: must begin with"),
        (put("calibration/default_threshold", 1.5), "world.json.calibration.default_threshold:"),
        (put("calibration/within_delta", []), "world.json.calibration.within_delta: needs a curve"),
        (put("calibration/benefit/1/logit", [1.0, 1.0]), "world.json.calibration.benefit[1].logit:"),
        (put("calibration/benefit/1/value", [1.0]), "world.json.calibration.benefit[1].value:"),
        (put("calibration/within_delta/0/value", [0, 2]), "world.json.calibration.within_delta[0].value:"),
        (put("files/decode.onnx/sha256", "00"), "world.json.files.decode.onnx.sha256:"),
        (put("files/decode.onnx/bytes", -1), "world.json.files.decode.onnx.bytes:"),
        (put("files/..", {"sha256": "0" * 64, "bytes": 0}), "world.json.files...:"),
        (put("files/a\\b", {"sha256": "0" * 64, "bytes": 0}), "world.json.files.a\\b:"),
        (put("files/.hidden", {"sha256": "0" * 64, "bytes": 0}), "world.json.files..hidden:"),
        (put("files/world.json", {"sha256": "0" * 64, "bytes": 0}), "world.json.files.world.json:"),
        (drop("files/seeds.npz"), "world.json.files.seeds.npz: missing"),
        (put("provenance", "none"), "world.json.provenance: expected an object"),
    ],
)  # fmt: skip
def test_errors_name_the_field(document: Document, edit: Callable[[Document], None], field: str) -> None:
    edit(document)
    with pytest.raises(WorldError) as caught:
        read(document)
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "a/b", "", "C:\\x"])
def test_file_names_that_lead_out(document: Document, name: str) -> None:
    document["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    with pytest.raises(WorldError, match="must be a plain file name inside the package"):
        read(document)


@pytest.mark.parametrize(
    "broken",
    [
        "", "[]", "null", "{", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}',
        "[" * 100_000, b"\xff\xfe\xff",
    ],
)  # fmt: skip
def test_not_json(broken: str | bytes) -> None:
    with pytest.raises(WorldError, match=r"^world\.json: "):
        WorldSpec.from_json(broken)


def test_source_is_named() -> None:
    with pytest.raises(WorldError, match=r"^somewhere/world\.json: "):
        WorldSpec.from_json("{", "somewhere/world.json")


def test_specs_made_in_code_are_checked_too() -> None:
    with pytest.raises(WorldError, match="knots must be finite"):
        Curve((0.0, float("nan")), (0.0, 1.0))


def test_curve_interpolates_and_is_constant_outside() -> None:
    curve = Curve((-1.0, 0.0, 2.0), (0.1, 0.5, 0.9))
    assert [curve(x) for x in (-9.0, -1.0, -0.5, 0.0, 1.0, 2.0, 9.0)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9]
    )
    assert Curve((0.0,), (0.4,))(5.0) == 0.4
