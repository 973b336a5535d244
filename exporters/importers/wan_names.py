"""What the tensors of Wan's transformer are called: here, in `diffusers`, and in Wan's own files."""

from __future__ import annotations

from collections.abc import Mapping

DIFFUSERS, ORIGINAL = "diffusers", "original"

_MODEL = {
    "stem.embed": ("patch_embedding", "patch_embedding"),
    "level_rise": ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    "level_fall": ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    "level_modulate": ("condition_embedder.time_proj", "time_projection.1"),
    "text_rise": ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    "text_fall": ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    "modulation": ("scale_shift_table", "head.modulation"),
    "out": ("proj_out", "head.head"),
}
_BLOCK = {
    "modulation": ("scale_shift_table", "modulation"),
    "query": ("attn1.to_q", "self_attn.q"),
    "key": ("attn1.to_k", "self_attn.k"),
    "value": ("attn1.to_v", "self_attn.v"),
    "out": ("attn1.to_out.0", "self_attn.o"),
    "query_norm": ("attn1.norm_q", "self_attn.norm_q"),
    "key_norm": ("attn1.norm_k", "self_attn.norm_k"),
    "text.norm": ("norm2", "norm3"),
    "text.query": ("attn2.to_q", "cross_attn.q"),
    "text.key": ("attn2.to_k", "cross_attn.k"),
    "text.value": ("attn2.to_v", "cross_attn.v"),
    "text.out": ("attn2.to_out.0", "cross_attn.o"),
    "text.query_norm": ("attn2.norm_q", "cross_attn.norm_q"),
    "text.key_norm": ("attn2.norm_k", "cross_attn.norm_k"),
    "rise": ("ffn.net.0.proj", "ffn.0"),
    "fall": ("ffn.net.2", "ffn.2"),
}


def published_name(name: str, style: str) -> str:
    """The name of a `WanTransformer`'s parameter in files of this style."""
    column = (DIFFUSERS, ORIGINAL).index(style)
    table: Mapping[str, tuple[str, str]] = _MODEL
    prefix = ""
    if name.startswith("blocks."):
        _, index, name = name.split(".", 2)
        table, prefix = _BLOCK, f"blocks.{index}."
    owner, dot, kind = (name, "", "") if name in table else name.rpartition(".")
    return prefix + table[owner][column] + dot + kind


def style_of(names: Mapping[str, object]) -> str:
    """By which of the two styles a file names its tensors."""
    return DIFFUSERS if any(name.startswith("condition_embedder.") for name in names) else ORIGINAL
