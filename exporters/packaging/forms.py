"""The forms of a package's generator, loaded side by side and compared.

The form with custom operators is compared where their library is built; the plain form runs everywhere.
"""

from __future__ import annotations

import numpy as np

from dsa_runtime.engine import Engine
from dsa_runtime.form import Form, choose_form
from dsa_runtime.ops import library
from dsa_runtime.ops.reference import paged_frame_write
from dsa_runtime.ort import ort
from dsa_runtime.package import Package
from dsa_runtime.spec import WorldSpec
from exporters.packaging.verification import FORMS_APART, HALF_APART, Difference

Differences = dict[str, Difference]


def load_forms(package: Package) -> dict[Form, Engine]:
    """An engine of each form that the package has and that can run here."""
    forms: tuple[Form, ...] = ("plain", "op") if choose_form(package.spec).form == "op" else ("plain",)
    if "op" in forms and "denoise_half" in package.spec.graphs:
        forms += ("half",)
    return {form: Engine(package, threads=1, form=form) for form in forms}


def check_forms(package: Package, rounds: int = 8) -> dict[Form, Engine]:
    """Load all forms that can run here and raise ValueError if they do not compute the same, in so many comparisons."""
    engines = load_forms(package)
    if "op" in engines:
        differences = compare_engines(engines["op"], engines["plain"], rounds) | {"write": compare_write(package)}
        for name, difference in differences.items():
            if not difference.largest <= FORMS_APART:
                raise ValueError(
                    f"{package.source}: {name}: the forms differ by {difference.largest:.2g}, more than {FORMS_APART:g}"
                )
    if "half" in engines:
        for name, difference in compare_engines(engines["half"], engines["plain"], rounds).items():
            if not difference.mean <= HALF_APART:
                raise ValueError(
                    f"{package.source}: {name}: float16 is {difference.mean:.2g} off on average, over {HALF_APART:g}"
                )
    return engines


def compare_engines(one: Engine, other: Engine, rounds: int = 8) -> Differences:
    """Difference of `denoise` and `commit` on random inputs: one to three sessions, with full and with empty tables.

    rounds   2 at least
    """
    differences = {"denoise": Difference(), "commit": Difference()}
    rng = np.random.default_rng(0)
    for index in range(rounds):
        feed = random_inputs(one.spec, rng, batch=1 + index % 3, filled=index / (rounds - 1))
        for name, difference in differences.items():
            results = (
                engine.graphs[name].run(None, {key: _as_pool(key, array, engine) for key, array in feed.items()})
                for engine in (one, other)
            )
            for output, expected in zip(*results, strict=True):
                difference.add(output, expected)
    return differences


def compare_write(package: Package) -> Difference:
    """Difference of the `write_op` graph from the operator's reference, three sessions, one of which writes nothing."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(library.find().path)
    path, providers = package.path(package.spec.graphs["write_op"]), ["CPUExecutionProvider"]
    session = ort.InferenceSession(str(path), options, providers=providers)
    rng = np.random.default_rng(0)
    shape, slots = package.spec.cache.slot_shape, 5
    feed = {"slot": np.array([4, -1, 0], np.int32)}
    for argument in session.get_inputs()[1:]:
        count = slots if "_pool_" in argument.name else len(feed["slot"])
        feed[argument.name] = rng.normal(size=(count, *shape)).astype(np.float32)
    difference = Difference()
    names = [argument.name for argument in session.get_outputs()]
    for name, written in zip(names, session.run(names, feed), strict=True):
        pool = name.replace("_out_", "_")
        frame = feed[pool.replace("_pool_", "_")]
        difference.add(written, paged_frame_write(frame, feed[pool], feed["slot"]))
    return difference


def _as_pool(name: str, array: np.ndarray, engine: Engine) -> np.ndarray:
    return array.astype(engine.choice.cache_dtype) if "_pool_" in name else array


def random_inputs(spec: WorldSpec, rng: np.random.Generator, batch: int, filled: float) -> dict[str, np.ndarray]:
    """What `denoise` and `commit` take; the share `filled` of a table is not empty, ages come in any order."""
    window, slots = spec.cache.window, 2 * spec.cache.window
    table = np.where(rng.random((batch, window)) < filled, rng.integers(0, slots, (batch, window)), -1)
    pools = [f"{kind}_pool_{layer}" for layer in range(spec.cache.layers) for kind in ("key", "value")]
    floats = {
        "latent": rng.normal(size=(batch, *spec.latent.shape)),
        "level": rng.random(batch),
        "action": rng.normal(size=(batch, spec.action_space.width)),
        **{pool: rng.normal(size=(slots, *spec.cache.slot_shape)) for pool in pools},
    }
    if spec.text.width:
        floats["prompt"] = rng.normal(size=(batch, *spec.prompt_shape))
    return {
        **{name: array.astype(np.float32) for name, array in floats.items()},
        "slot_table": table.astype(np.int32),
        "slot_age": rng.integers(1, 2 * window, (batch, window)).astype(np.int32),
    }
