"""The cost model's counts beside what torch counts on the models themselves, without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from torch.utils.flop_counter import FlopCounterMode

from dsa_runtime.cost.cost import total
from dsa_runtime.cost.decoder import Decoder, small_decoder, wan_decoder
from dsa_runtime.cost.named import find_shape
from dsa_runtime.cost.precision import PRECISIONS
from dsa_runtime.cost.stages import commit_cost, decode_cost, prompt_cost, step_cost
from dsa_runtime.cost.wan import wan_shape
from exporters.model.autoencoder import Autoencoder, AutoencoderConfig
from exporters.model.generator import Context, Generator, GeneratorConfig
from exporters.model.small_decoder import SmallDecoder, SmallDecoderConfig
from exporters.model.wan.config import WAN_1_3B, WanConfig
from exporters.model.wan.context import Prompt, WanContext
from exporters.model.wan.generator import WanGenerator
from exporters.model.wan.transformer import WanTransformer
from exporters.model.wan_vae.config import WanVAEConfig
from exporters.model.wan_vae.stream import StreamingDecoder
from exporters.model.wan_vae.vae import WanVAE

BF16 = PRECISIONS["bf16"]
TINY = WanConfig(
    dim=48, depth=2, heads=2, mlp_width=80, text_width=20, text_tokens=7, latent_height=8, latent_width=12, window=2
)


def count(run: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", [TINY, replace(WAN_1_3B, depth=2), replace(TINY, text_width=0)])
def test_wan(config: WanConfig) -> None:
    """Its sizes, at a chunk of 480x832 among others. Layers are alike, so few of them tell."""
    shape = wan_shape(
        "here", layers=config.depth, heads=config.heads, head_dim=config.head_dim, mlp_width=config.mlp_width,
        height=config.latent_height, width=config.latent_width, window=config.window, text_width=config.text_width,
        text_tokens=config.text_tokens if config.text_width else 0,
    )  # fmt: skip
    with torch.device("meta"):
        generator = WanGenerator(WanTransformer(config))
        past = (torch.empty(1, config.window, config.tokens, config.heads, config.head_dim),) * config.depth
        prompt = generator.transformer.prompt(torch.empty(1, 5, config.text_width)) if config.text_width else None
        context = WanContext(past, past, prompt)
        given = torch.empty(1, *config.latent_shape), torch.empty(1), torch.empty(1, 0)
        step = count(lambda: generator.confidence(*generator.denoise(*given, context)[1:]))
        commit = count(lambda: generator.commit(*given, context))
        assert parameters(generator.transformer) == shape.parameters
        assert parameters(generator.confidence) == shape.confidence_parameters
    assert total(step_cost(shape, BF16)).flops == pytest.approx(step, rel=0.01)
    assert total(commit_cost(shape, BF16)).flops == pytest.approx(commit, rel=0.01)
    if prompt is not None:
        assert isinstance(prompt, Prompt)
        with torch.device("meta"):
            text = torch.empty(1, config.text_tokens, config.text_width)
            assert total(prompt_cost(shape, BF16)).flops == count(lambda: generator.transformer.prompt(text))
        assert shape.prompt_values == sum(t.numel() for t in (*prompt.keys, *prompt.values))
    assert shape.slot_values * config.window == 2 * sum(t.numel() for t in past)


@pytest.mark.parametrize(
    ("model", "decoder"),
    [
        (lambda: WanVAE(WanVAEConfig()), wan_decoder(3, 60, 104)),
        (lambda: WanVAE(WanVAEConfig(base_width=8, multipliers=(1, 2), temporal=(True,), blocks=1)),
         wan_decoder(3, 60, 104, base=8, multipliers=(1, 2), temporal=(True,), blocks=1)),
        (lambda: SmallDecoder(SmallDecoderConfig()), small_decoder(3, 60, 104)),
    ],
    ids=["wan", "tiny", "small"],
)  # fmt: skip
def test_streaming_decoders(model: Callable[[], StreamingDecoder], decoder: Decoder) -> None:
    """Operations of a later chunk, parameters and the state between chunks."""
    with torch.device("meta"):
        streaming = model()
        latents = torch.empty(1, 16, 3, 60, 104)
        _, state = streaming.decode_chunk(latents, None)
        assert total(decode_cost(decoder, BF16)).flops == count(lambda: streaming.decode_chunk(latents, state))
    assert sum(tensor.numel() for tensor in state) == decoder.state_values
    module = streaming.decoder if isinstance(streaming, WanVAE) else streaming
    assert isinstance(module, torch.nn.Module) and parameters(module) == decoder.parameters


def test_the_bundled_world() -> None:
    """Its shape, which is read from the package, is that of the generator which it was exported from."""
    shape, config = find_shape("defend-the-line"), GeneratorConfig()
    with torch.device("meta"):
        generator, autoencoder = Generator(config), Autoencoder(AutoencoderConfig())
        past = (torch.empty(1, config.window, config.tokens, config.heads, config.head_dim),) * config.depth
        given = torch.empty(1, *generator.latent_shape), torch.empty(1), torch.empty(1, config.action_width)
        step = count(lambda: generator.confidence(*generator.denoise(*given, Context(past, past))[1:]))
        commit = count(lambda: generator.commit(*given, Context(past, past)))
        decode = count(lambda: autoencoder.decode(given[0]))
    assert parameters(generator) == shape.parameters + shape.confidence_parameters
    assert parameters(autoencoder.decoder) == shape.decoders[0].parameters
    assert total(step_cost(shape, BF16)).flops == pytest.approx(step, rel=0.01)
    assert total(commit_cost(shape, BF16)).flops == pytest.approx(commit, rel=0.01)
    assert total(decode_cost(shape.decoders[0], BF16)).flops == decode
