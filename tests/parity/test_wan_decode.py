"""The streaming decoders as ONNX graphs, in ONNX Runtime, against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from exporters.model.small_decoder import SmallDecoder, SmallDecoderConfig  # noqa: E402
from exporters.model.wan_vae.config import WanVAEConfig  # noqa: E402
from exporters.model.wan_vae.stream import Stream  # noqa: E402
from exporters.model.wan_vae.vae import WanVAE  # noqa: E402
from exporters.packaging import wan_decode  # noqa: E402
from exporters.packaging.wan_decode import decode_graphs, frames  # noqa: E402
from exporters.packaging.weights_file import WeightsFile  # noqa: E402
from exporters.packaging.write import GRAPH_FILES, write_graphs  # noqa: E402

CHUNK, HEIGHT, WIDTH = 3, 2, 4


def decoder(name: str) -> WanVAE | SmallDecoder:
    """A small one of random weights, none of which is neutral."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made: WanVAE | SmallDecoder = {
            "full": lambda: WanVAE(WanVAEConfig(base_width=4, multipliers=(1, 2), temporal=(True,), blocks=1)),
            "full, as published": lambda: WanVAE(WanVAEConfig(base_width=4)),
            "small": lambda: SmallDecoder(SmallDecoderConfig(widths=(12, 8, 6))),
        }[name]()
        for parameter_name, parameter in made.named_parameters():
            if parameter_name.endswith("gamma"):
                parameter.data.uniform_(0.5, 1.5)
            elif not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def run(session: ort.InferenceSession, latents: torch.Tensor, state: list[np.ndarray]) -> list[np.ndarray]:
    """Frames and the state after them."""
    return session.run(None, {"latent": latents.numpy(), **{f"state_{i}": past for i, past in enumerate(state)}})


@pytest.mark.parametrize(
    ("name", "grey"),
    [("full", False), ("small", True), pytest.param("full, as published", False, marks=pytest.mark.slow)],
)
def test_streams_in_onnx_runtime_equal_torch(
    name: str, grey: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grey`: in the grey levels that are written; else float pictures, which tell more."""
    if not grey:
        monkeypatch.setattr(wan_decode, "pictures_to_uint8", lambda pictures: pictures.movedim(-3, -1))

    def check(pictures: np.ndarray, expected: torch.Tensor) -> None:
        wanted = frames(expected).numpy()
        assert pictures.shape == wanted.shape and pictures.dtype == wanted.dtype and wanted.std() > 0.02
        gap = np.abs(pictures.astype(np.float64) - wanted)
        if grey:
            assert wanted.dtype == np.uint8 and {0, 255} <= set(wanted.flat), "nothing was clamped"
            assert gap.max() <= 1 and gap.mean() < 0.005
        else:
            assert gap.max() < 1e-4

    made = decoder(name)
    write_graphs(tmp_path, decode_graphs(made, CHUNK, HEIGHT, WIDTH), WeightsFile("weights.bin"))
    first, later = (tmp_path / GRAPH_FILES[name] for name in ("decode_first", "decode"))
    weights = tmp_path / "weights.bin"
    stored = sum(value.nbytes for value in (made.decoder if isinstance(made, WanVAE) else made).parameters())
    assert weights.stat().st_size < 1.5 * stored + 2**20, "the graphs do not share their weights"
    graphs = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (first, later)]
    latents = (10 if grey else 1) * torch.randn(
        3, 16, 3 * CHUNK, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)
    )
    state: Stream | None = None
    past: list[np.ndarray] = []
    pasts = []
    for index, chunk in enumerate(latents.split(CHUNK, dim=2)):
        expected, state = made.decode_chunk(chunk, state)
        pictures, *past = run(graphs[index > 0], chunk, past)
        pasts.append(past)
        missing = pictures.shape[1] - expected.shape[2]
        assert (missing > 0) == (index == 0), "every chunk has as many pictures"
        assert (pictures[:, :missing] == pictures[:, missing : missing + 1]).all()
        check(pictures[:, missing:], expected)
        assert [array.shape for array in past] == [tuple(tensor.shape) for tensor in state]
        gaps = [np.abs(array - tensor.numpy()).max() for array, tensor in zip(past, state, strict=True)]
        assert max(gaps) < 1e-4
    # Two streams of different age in one batch.
    together = torch.cat([latents[:1, :, CHUNK : 2 * CHUNK], latents[1:2, :, 2 * CHUNK :]])
    mixed = [np.concatenate([one[:1], other[1:2]]) for one, other in zip(*pasts[:2], strict=True)]
    pictures, *_ = run(graphs[1], together, mixed)
    whole, count = made.decode(latents[:2]), pictures.shape[1]
    check(pictures[:1], whole[:1, :, -2 * count : -count])
    check(pictures[1:], whole[1:, :, -count:])
