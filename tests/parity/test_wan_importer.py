"""Checkpoints of Wan's transformer: every published way to name and to store its tensors, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip(
    "diffusers", reason="diffusers, the reference for Wan, is not installed (extra `dev`; needs Python 3.11)"
)

from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers  # noqa: E402
from torch import Tensor  # noqa: E402

from exporters.importers.checkpoint import CheckpointError, open_checkpoint  # noqa: E402
from exporters.importers.self_forcing import LEVELS, read_self_forcing  # noqa: E402
from exporters.importers.wan import PLAYED as AS_PUBLISHED  # noqa: E402
from exporters.importers.wan import published_state, read_wan  # noqa: E402
from exporters.importers.wan_names import DIFFUSERS, ORIGINAL  # noqa: E402
from tests.parity.wan_reference import PLAYED, ours, reference  # noqa: E402

CONFIG = {"num_heads": 2, "eps": 1e-6, "model_type": "t2v"}
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Our own names."""
    return ours(reference()).transformer.state_dict()


@pytest.fixture
def original(tmp_path: Path) -> Weights:
    """Wan's own names; the `config.json` that belongs to them lies in the test's folder."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return published_state(ours(reference()).transformer, ORIGINAL)


def same(found: Any, weights: Weights) -> bool:
    state = found.transformer.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)


def test_what_we_call_wans_own_names_are_wans_own_names(original: Weights) -> None:
    """`diffusers` converts files of the original names itself, independently of this project."""
    expected = reference().state_dict()
    found = convert_wan_transformer_to_diffusers(dict(original))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    again = published_state(ours(reference()).transformer, DIFFUSERS)
    assert again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_folder_of_diffusers(tmp_path: Path, weights: Weights) -> None:
    """As `save_pretrained` writes it, in one file and in shards with an index; the heads come from its config.json."""
    reference().save_pretrained(tmp_path / "whole")
    reference().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for folder in ("whole", "shards"):
        found = read_wan(tmp_path / folder, PLAYED)
        assert same(found, weights) and found.config == ours(reference()).config
        assert not any(parameter.requires_grad for parameter in found.transformer.parameters())


@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model."])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_of_wans_own_names(tmp_path: Path, original: Weights, weights: Weights, prefix: str, suffix: str) -> None:
    renamed = {prefix + name: value for name, value in original.items()}
    file = tmp_path / f"wan.{suffix}"
    torch.save(renamed, file) if suffix == "pth" else safetensors_torch.save_file(renamed, file)
    assert same(read_wan(file, PLAYED), weights)


def test_a_checkpoint_of_self_forcing(tmp_path: Path, original: Weights, weights: Weights) -> None:
    """Three models in one file, one of them named as its training had wrapped it."""
    wrapped = {f"model.{name.replace('blocks.', 'blocks._fsdp_wrapped_module.')}": v for name, v in original.items()}
    doubled = {f"model.{name}": 2 * value for name, value in original.items()}
    file = tmp_path / "self_forcing_dmd.pt"
    torch.save({"generator": doubled, "critic": {"model.x": torch.ones(1)}, "generator_ema": wrapped, "step": 7}, file)
    assert same(read_self_forcing(file, played=PLAYED), weights)
    assert same(read_self_forcing(file, "generator", PLAYED), {name: 2 * value for name, value in weights.items()})
    torch.save({"generator": doubled}, file)
    assert same(read_self_forcing(file, played=PLAYED), {name: 2 * value for name, value in weights.items()})
    with pytest.raises(CheckpointError, match="no weights 'generator_ema'; it has generator"):
        read_self_forcing(file, "generator_ema", PLAYED)
    torch.save(original, file)
    with pytest.raises(CheckpointError, match="neither generator_ema nor generator"):
        read_self_forcing(file, played=PLAYED)
    assert [round(level, 4) for level in LEVELS] == [1.0, 0.9375, 0.8333, 0.625]
    assert (AS_PUBLISHED.chunk, AS_PUBLISHED.window, AS_PUBLISHED.tokens) == (3, 6, 4680)


def test_one_error_lists_all_that_does_not_fit(tmp_path: Path, original: Weights) -> None:
    del original["blocks.1.ffn.2.bias"], original["head.modulation"]
    original["img_emb.proj.0.weight"] = torch.zeros(3)
    original["blocks.0.self_attn.q.weight"] = torch.zeros(49, 48)  # a row too many, which a permutation would drop
    original["blocks.2.ffn.0.weight"] = torch.zeros(48, 40)
    torch.save(original, tmp_path / "wan.pt")
    with pytest.raises(CheckpointError) as caught:
        read_wan(tmp_path / "wan.pt", PLAYED)
    told = str(caught.value)
    assert "missing (2): blocks.1.ffn.2.bias, head.modulation" in told
    assert "left over (1): img_emb.proj.0.weight" in told
    assert "wrong shape (2): blocks.0.self_attn.q.weight is [49, 48], blocks.0.query.weight needs [48, 48]" in told
    assert "blocks.2.ffn.0.weight is [48, 40], blocks.2.rise.weight needs [40, 48]" in told


def _deep(state: Weights) -> None:
    state["patch_embedding.weight"] = torch.zeros(48, 4, 2, 2, 2)


def _two(state: Weights) -> None:
    state["other.patch_embedding.weight"] = state["patch_embedding.weight"].clone()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_deep, "1 frame deep and square"),
        (_two, "more than one patch_embedding.weight"),
        (lambda state: state.pop("patch_embedding.weight"), "no patch_embedding.weight"),
        (lambda state: state.pop("text_embedding.0.weight"), "left over .*cross_attn"),
        (lambda state: state.pop("blocks.0.ffn.0.weight"), "no 'blocks.0.ffn.0.weight'"),
    ],
)
def test_another_model_is_refused(
    tmp_path: Path, original: Weights, change: Callable[[Weights], Any], problem: str
) -> None:
    change(original)
    safetensors_torch.save_file(original, tmp_path / "wan.safetensors")
    with pytest.raises(CheckpointError, match=problem):
        read_wan(tmp_path, PLAYED)


@pytest.mark.parametrize(
    ("config", "problem"), [({"num_heads": 5}, "5 heads do not fit a width of 48"), ({"eps": 1e-5}, "eps 1e-05")]
)
def test_a_config_of_another_model_is_refused(
    tmp_path: Path, original: Weights, config: dict[str, float], problem: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
    safetensors_torch.save_file(original, tmp_path / "wan.safetensors")
    with pytest.raises(CheckpointError, match=problem):
        read_wan(tmp_path, PLAYED)


class Code:
    """Makes a pickle that would run something."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, original: Weights, zipped: bool) -> None:
    held: dict[str, Any] = {**original, "hook": Code(tmp_path / "ran")}
    torch.save(held, tmp_path / "wan.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="holds more than tensors, and nothing of it was run"):
        read_wan(tmp_path / "wan.pt", PLAYED)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../a.safetensors"}}
    for name, content, problem in [
        ("none.safetensors", None, "no such file"),
        ("x.onnx", b"", "unknown kind"),
        ("x.safetensors", b"\x10\0\0\0\0\0\0\0nonsense", "damaged"),
        ("x.pt", b"nonsense", "damaged|more than tensors"),
        ("x.safetensors.index.json", json.dumps(index).encode(), "not a file of the same folder"),
        ("y.safetensors.index.json", b"{", "JSON"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=problem):
            open_checkpoint(tmp_path / name)
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        open_checkpoint(tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="name the one that is meant"):
        open_checkpoint(tmp_path)


def test_opening_reads_no_tensor(tmp_path: Path, original: Weights) -> None:
    safetensors_torch.save_file(original, tmp_path / "wan.safetensors")
    opened = open_checkpoint(tmp_path / "wan.safetensors")
    os.truncate(tmp_path / "wan.safetensors", 1000)
    assert opened.shape("head.head.weight") == (16, 48)
    with pytest.raises(CheckpointError, match="damaged"):
        opened["head.head.weight"].read()
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(tmp_path / "wan.safetensors")
