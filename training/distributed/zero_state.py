"""Weights and Adam's moments of an engine, a whole parameter at a time, at every ZeRO stage.

Ranks hold other parts of them at each stage; DeepSpeed's tensor-fragment calls hide which. What
gathers is collective: every rank makes the same calls in the same order.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, by their names in torch
KINDS = ("weight", *MOMENTS)
PIECE = 1 << 22  # weights looked at together


def whole_weights_of(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and whole weights, which stand until the next one is asked for."""
    import deepspeed

    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=_stage(engine) == 3):
            yield name, parameter.detach()


def shapes_of(engine: Any) -> dict[str, tuple[int, ...]]:
    """The full shape of every parameter: under ZeRO-3 its own is that of nothing."""
    named = engine.module.named_parameters()
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in named}


def steps_taken(engine: Any) -> int:
    """Steps that Adam took."""
    states = engine.basic_optimizer.state.values()
    return max((int(state["step"]) for state in states if state), default=0)


def set_steps_taken(engine: Any, steps: int) -> None:
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(steps)
    engine.global_steps = steps
    engine.lr_scheduler.continue_after(steps)


def make_moments(engine: Any) -> None:
    """Adam makes its moments in its first step; here they are made as zeros if there was none."""
    state = engine.basic_optimizer.state
    for held in _optimized(engine):
        if not state[held]:
            state[held] = {"step": torch.zeros((), device=held.device)}
            state[held] |= {moment: torch.zeros_like(held) for moment in MOMENTS}
    if _stage(engine) in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def whole(engine: Any, parameter: nn.Parameter, kind: str) -> Tensor:
    """The parameter's weights or one of its moments, flat."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if _stage(engine) == 0:
        found = _here(engine, parameter, kind)
    elif kind == "weight":
        found = safe_get_full_fp32_param(parameter)
    else:
        found = safe_get_full_optimizer_state(parameter, kind)
    return found.detach().flatten()


def set_whole(engine: Any, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    """Put flat values, the same on every rank, where `whole` finds them."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    match _stage(engine):
        case 0:
            _here(engine, parameter, kind).view(-1).copy_(value)
        case 3:
            _set_partition(parameter, kind, value)
        case _ if kind == "weight":
            value = value.to(parameter.device).view_as(parameter)
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)
        case _:
            safe_set_full_optimizer_state(parameter, value, kind)


def _set_partition(parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    """ZeRO-3 cuts a parameter into equal parts, the last one padded."""
    import deepspeed
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    rank = distributed.get_rank()
    size = safe_get_local_fp32_param(parameter).numel()
    mine = value[rank * size : (rank + 1) * size]
    partition = nn.functional.pad(mine, (0, size - mine.numel()))
    if kind != "weight":
        safe_set_local_optimizer_state(parameter, partition, kind)
        return
    safe_set_local_fp32_param(parameter, partition)
    # Where the optimizer is offloaded, what it updates is a copy of what the model computes with.
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if rank == 0:
            parameter.data.copy_(value.view_as(parameter))


@torch.no_grad()
def weights_are_finite(engine: Any) -> bool:
    """Of this rank's share of the weights."""
    shares = (getattr(p, "ds_tensor", p) for p in engine.module.parameters())
    parts = (part for share in shares for part in share.flatten().split(PIECE))
    return bool(torch.stack([part.isfinite().all() for part in parts]).all())


def _here(engine: Any, parameter: nn.Parameter, kind: str) -> Tensor:
    if kind == "weight":
        return parameter.data
    moment: Tensor = engine.basic_optimizer.state[parameter][kind]
    return moment


def _optimized(engine: Any) -> list[Tensor]:
    """What Adam holds a state for: parameters, or this rank's flat part of them."""
    if _stage(engine) == 3:
        flat: list[Tensor] = engine.optimizer.fp32_partitioned_groups_flat
        return flat
    return [held for group in engine.basic_optimizer.param_groups for held in group["params"]]


def _stage(engine: Any) -> int:
    return int(engine.zero_optimization_stage())
