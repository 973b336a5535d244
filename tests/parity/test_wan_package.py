"""A checkpoint of Wan's family as a world package: sessions in the SDK draw what the torch modules do.

By the commands that a user has: `confidence`, then `package-checkpoint`. Weights are random; arithmetic is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("onnxscript")
safetensors_torch = pytest.importorskip("safetensors.torch")

from dsa_runtime import World, load_world  # noqa: E402
from dsa_runtime.noise import noise  # noqa: E402
from dsa_runtime.ops import library  # noqa: E402
from exporters.__main__ import main  # noqa: E402
from exporters.importers.confidence_file import read_confidence  # noqa: E402
from exporters.importers.self_forcing import read_generator  # noqa: E402
from exporters.importers.wan import published_state  # noqa: E402
from exporters.model.flow import add_noise  # noqa: E402
from exporters.model.small_decoder import SmallDecoder, SmallDecoderConfig, save_small_decoder  # noqa: E402
from exporters.model.wan.config import WanConfig  # noqa: E402
from exporters.model.wan.context import WanContext  # noqa: E402
from exporters.model.wan.generator import WanGenerator  # noqa: E402
from exporters.model.wan.transformer import WanTransformer  # noqa: E402
from exporters.model.wan_vae.stream import Stream  # noqa: E402
from exporters.packaging.rounding import frozen  # noqa: E402
from exporters.packaging.wan_decode import frames  # noqa: E402

CONFIG = WanConfig(
    dim=48, depth=2, heads=2, mlp_width=40, latent_channels=16, level_width=16, text_width=20, text_tokens=512,
    chunk=2, latent_height=4, latent_width=6, window=2,
)  # fmt: skip
TEXTS = ("a calm sea", "a storm")
STEPS = 3
SEED = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint, decoder, prompts, and the package `world` made of them."""
    folder = tmp_path_factory.mktemp("wan")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        transformer = WanTransformer(CONFIG)
        for name, parameter in transformer.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            std = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            torch.nn.init.normal_(parameter, mean=float(is_norm), std=std)
        decoder = SmallDecoder(SmallDecoderConfig(latent_channels=16, widths=(12, 8, 6)))
        for parameter in decoder.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        np.savez(folder / "prompts.npz", prompts=torch.randn(2, 5, 20).numpy())
    (folder / "config.json").write_text('{"num_heads": 2}')
    safetensors_torch.save_file(published_state(transformer), folder / "wan.safetensors")
    save_small_decoder(decoder, folder / "decoder.safetensors")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    given = f"{folder}/wan.safetensors --prompts {folder}/prompts.npz"
    played = "--height 32 --width 48 --chunk 2 --window 2 --rollouts 2 --heldout-rollouts 2 --chunks 2 --steps 2"
    assert main(f"confidence {given} {played} --device cpu".split()) == 0
    written = f"package-checkpoint {given} {folder}/world --decoder {folder}/decoder.safetensors"
    assert main([*written.split(), "--texts", f"{folder}/texts.txt", "--licence", "CC0-1.0"]) == 0
    return folder


@pytest.fixture(scope="module", params=["plain", "op", "half"])
def world(folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param != "plain":
        try:
            library.find()
        except library.LibraryMissing as reason:
            pytest.skip(str(reason))
    with load_world(folder / "world", threads=1, form=request.param) as loaded:
        yield loaded


class Reference:
    """The same session in torch, with the weights that the package holds."""

    def __init__(self, folder: Path) -> None:
        self.generator: WanGenerator = read_generator(folder / "wan.safetensors", None, CONFIG, torch.float32)
        told = read_confidence(folder / "wan.safetensors", self.generator)
        self.levels, decoder = told["levels"], SmallDecoder(SmallDecoderConfig(latent_channels=16, widths=(12, 8, 6)))
        decoder.load_state_dict(safetensors_torch.load_file(folder / "decoder.safetensors"))
        self.decoder = frozen(decoder, rounded=True)
        frozen(self.generator, rounded=True)
        self.text = torch.from_numpy(np.load(folder / "prompts.npz")["prompts"])
        self.stream: Stream | None = None
        self.past: list[torch.Tensor] = []
        self.context = self.begin(0)

    def begin(self, prompt: int) -> WanContext:
        """A context of the last chunks with this prompt."""
        context = self.generator.empty_context(1, self.generator.transformer.prompt(self.text[prompt : prompt + 1]))
        for clean in self.past[-CONFIG.window :]:
            context = self.commit(clean, context)
        return context

    def commit(self, clean: torch.Tensor, context: WanContext) -> WanContext:
        return self.generator.commit(clean, torch.zeros(1), torch.zeros(1, 0), context)

    def tick(self, number: int) -> tuple[torch.Tensor, float, np.ndarray]:
        """The latents, the logit after the last step, and the pictures."""
        shape = self.generator.latent_shape
        clean, logit = torch.zeros(1, *shape), torch.zeros(1)
        for step in range(1, STEPS + 1):
            level = torch.tensor([self.levels[step - 1]])
            drawn = torch.from_numpy(noise(shape, SEED, number, step))[None]
            noisy = drawn if step == 1 else add_noise(clean, drawn, level)
            clean, taps, condition = self.generator.denoise(noisy, level, torch.zeros(1, 0), self.context)
            logit = self.generator.confidence(taps, condition)
        self.past.append(clean)
        self.context = self.commit(clean, self.context)
        pictures, self.stream = self.decoder.decode_chunk(clean, self.stream)
        return clean[0], logit.item(), frames(pictures)[0].numpy()


@torch.no_grad()
def test_a_session_draws_what_torch_draws_over_a_change_of_prompt(world: World, folder: Path) -> None:
    """Longer than the window, so that chunks leave it."""
    reference = Reference(folder)
    spec = world.spec
    assert (spec.frame.frames_per_tick, spec.frame.height, spec.frame.width) == (8, 32, 48)
    assert spec.text.prompts == TEXTS and spec.latent.shape == reference.generator.latent_shape
    with world.session(SEED) as session:
        for number in range(5):
            if number == 3:
                session.set_prompt(TEXTS[1])
                reference.context = reference.begin(1)
            tick = session.step(0, math.inf, steps=STEPS)
            clean, logit, pictures = reference.tick(number)
            exact = world.form != "half"
            np.testing.assert_allclose(session._state.latent, clean.numpy(), atol=2e-4 if exact else 0.2)
            assert np.abs(session._state.latent - clean.numpy()).mean() < (2e-5 if exact else 0.02)
            wanted = spec.calibration.confidence(STEPS, logit)
            assert tick.confidence == pytest.approx(wanted, abs=2e-3 if exact else 0.1)
            missing = len(tick.frames) - len(pictures)
            assert missing == (3 if number == 0 else 0)
            assert (tick.frames[:missing] == tick.frames[missing]).all()
            gap = np.abs(tick.frames[missing:].astype(int) - pictures)
            assert gap.max() <= (1 if exact else 12) and gap.mean() < (0.02 if exact else 1) and pictures.std() > 1


def test_what_does_not_fit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = f"package-checkpoint {folder}/wan.safetensors {tmp_path}/w --licence CC0-1.0"
    decoder, prompts = f"--decoder {folder}/decoder.safetensors", f"--prompts {folder}/prompts.npz"
    (tmp_path / "one.txt").write_text("only one\n")
    (tmp_path / "other.safetensors").write_bytes((folder / "wan.safetensors").read_bytes())
    for arguments, problem in (
        (f"{base} {decoder}", "prompts: this model takes text: give --prompts"),
        (
            f"{base} {decoder} {prompts} --texts {tmp_path}/one.txt",
            "texts: 2 prompts need as many different lines, got 1",
        ),
        (f"{base} --decoder {folder}/wan.safetensors {prompts}", "wan.safetensors"),
        (
            f"{base} {decoder} {prompts}".replace(f"{folder}/wan", f"{tmp_path}/other"),
            "`python -m exporters confidence`",
        ),
        (f"{base} {decoder} {prompts} --dtype bfloat16", "in another precision"),
    ):
        assert main(arguments.split()) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "w").exists()
