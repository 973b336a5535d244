"""Sharding: a generator's weights, gradients and optimizer state spread over the ranks (FSDP2).

Each rank holds a slice of every tensor and gathers a block's weights only while it runs. Checkpoints hold whole tensors
all the same, so that a run can go on sharded or not, and with another number of ranks. A frozen model (the teacher of
a distillation) stays whole on every rank: it must fit beside the slices.

`torch.distributed` is imported where it is used, as in `distributed`.
"""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from exporters.model.confidence import ConfidenceHead
from exporters.model.generator import Block
from exporters.training.distributed import Ranks, is_slice

M = TypeVar("M", bound=nn.Module)
ENTRANCES = ("denoise", "commit", "teacher_forced", "empty_context")
"""Methods of a generator, besides `forward`, that its users call."""


def shard(model: M) -> M:
    """Spread a generator or a confidence head over the ranks, in place, if they are to share weights.

    Before its optimizer is made, and after any copy of it: sharded modules cannot be copied.
    """
    ranks = Ranks.current()
    if not ranks.sharded:
        return model
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # FSDP warns of changes in place to what a module returns. There are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = _mesh(ranks)
    # Each unit is entered on its own. Resharding always, the root too: weights that stay gathered after a pass
    # without gradient would be stale after the next optimizer step.
    units = [m for m in model.modules() if isinstance(m, (Block, ConfidenceHead)) and m is not model]
    for unit in (*units, model):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        for method in ("keys_values",) if isinstance(unit, Block) else ENTRANCES:
            if hasattr(unit, method):
                register_fsdp_forward_method(unit, method)
    return model


@functools.cache
def _mesh(ranks: Ranks) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(ranks.device.type, (ranks.world,))


def whole(model: M, like: M) -> M:
    """The model itself; of a sharded one, a gathered copy on every rank. `like` has its shape and is not sharded."""
    if not Ranks.current().sharded:
        return model
    result = copy.deepcopy(like)
    result.load_state_dict(whole_state(model.state_dict(), everywhere=True))
    return result


def whole_state(state: Any, everywhere: bool = False) -> Any:
    """A state dictionary with every sliced tensor gathered on the CPU; a collective call.

    By default only rank 0 keeps what was gathered, and the others have None in its place.
    """
    if isinstance(state, dict):
        return {key: whole_state(value, everywhere) for key, value in state.items()}
    if isinstance(state, list):
        return [whole_state(value, everywhere) for value in state]
    if is_slice(state):
        tensor = gathered(state)
        return tensor.cpu() if everywhere or Ranks.current().first else None
    return state


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sliced; a collective call if it is."""
    return tensor.full_tensor() if is_slice(tensor) else tensor


def load_whole(part: Any, state: dict[str, Any]) -> None:
    """`part.load_state_dict` of whole tensors, cut into slices where the part has slices."""
    part.load_state_dict(cut(part, state) if Ranks.current().sharded else state)


def cut(part: Any, state: dict[str, Any]) -> dict[str, Any]:
    """This rank's slices of a part's whole state: of a module, an optimizer, a group of them, or an average."""
    if isinstance(part, torch.optim.Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        values = {
            i: {name: slice_as(value, parameters[i]) for name, value in entry.items()}
            for i, entry in state["state"].items()
        }
        return {**state, "state": values}
    if hasattr(part, "members"):
        return {str(i): cut(member, state[str(i)]) for i, member in enumerate(part.members)}
    if hasattr(part, "values") and isinstance(part.values, dict):
        return {**state, "values": {name: slice_as(v, part.values[name]) for name, v in state["values"].items()}}
    if isinstance(part, nn.Module):
        own = part.state_dict()
        return {name: slice_as(value, own[name]) for name, value in state.items()}
    return state


def slice_as(value: Any, like: Tensor) -> Any:
    """The part of a whole tensor that this rank has of `like`; anything of another shape stays as it is."""
    if not (is_slice(like) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    # Every rank has the whole tensor already, so nothing needs to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
