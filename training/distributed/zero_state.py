"""The weights and Adam's moments of an engine, one full parameter at a time, at every ZeRO stage.

Each stage partitions them over the ranks in another way, which DeepSpeed's tensor-fragment API
hides. Reading and writing are collective: every rank makes the same calls in the same order.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn

from training.distributed.deepspeed_internals import (
    full_shape,
    link_moments,
    local_part,
    optimized_tensors,
)
from training.distributed.engine_protocol import Engine
from training.distributed.schedule import schedule_after

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, by their names in torch
KINDS = ("weight", *MOMENTS)
CHUNK = 1 << 22  # weights checked together, which bounds the memory of the check

AnyEngine = Engine[nn.Module]


def iterate_full_weights(engine: AnyEngine) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter's name and full weights, which are valid until the next iteration.

    Those of which each rank holds the rows of own items are not among them.
    """
    import deepspeed

    by_rows = engine.item_parameters
    if by_rows is not None and by_rows.shards is None:
        yield from by_rows.weights.items()
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=_stage(engine) == 3):
            yield name, parameter.detach()


def full_shapes(engine: AnyEngine) -> dict[str, tuple[int, ...]]:
    """Return the full shape of every parameter."""
    by_rows = {} if engine.item_parameters is None else engine.item_parameters.full_shapes
    return by_rows | {name: full_shape(p) for name, p in engine.module.named_parameters()}


def num_steps_taken(engine: AnyEngine) -> int:
    """Return the number of steps that Adam has taken."""
    states = engine.basic_optimizer.state.values()
    return max((int(state["step"]) for state in states if state), default=0)


def set_steps_taken(engine: AnyEngine, steps: int) -> None:
    """Set the number of steps taken in Adam, in DeepSpeed and in the learning rate's schedule."""
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(steps)
    if engine.item_parameters is not None:
        engine.item_parameters.steps_taken = steps
    engine.global_steps = steps
    engine.lr_scheduler = schedule_after(engine.lr_scheduler, steps)


def create_moments(engine: AnyEngine) -> None:
    """Create Adam's moments as zeros, unless a step has created them."""
    state = engine.basic_optimizer.state
    for tensor in optimized_tensors(engine):
        if not state[tensor]:
            state[tensor] = {"step": torch.zeros((), device=tensor.device)}
            state[tensor] |= {moment: torch.zeros_like(tensor) for moment in MOMENTS}
    link_moments(engine)


def own_range(engine: AnyEngine, name: str, size: int) -> tuple[int, int] | None:
    """Return first and last + 1 of the elements of a flat parameter that this rank owns.

    None if every rank can read all of it.
    """
    by_rows = engine.item_parameters
    if by_rows is None or by_rows.shards is None or name not in by_rows.weights:
        return None
    shards = by_rows.shards
    width = size // shards.num_items
    return shards.first * width, shards.last * width


def own_items(engine: AnyEngine) -> Tensor | None:
    """Return the items of the rows that this rank owns, int32 [n].

    None if they are a range of items, or if every rank holds all rows.
    """
    return None if engine.item_parameters is None else engine.item_parameters.items


def held_state(engine: AnyEngine, name: str, kind: str) -> Tensor:
    """Return the weights of a parameter or one of its moments, flat: all, or those it owns."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.item_parameters is not None and name in engine.item_parameters.weights:
        return engine.item_parameters.held_state(name, _moment(kind))
    parameter = engine.module.get_parameter(name)
    if _stage(engine) == 0:
        value = _unpartitioned(engine, parameter, kind)
    elif kind == "weight":
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, kind)
    return value.detach().flatten()


def set_held_state(engine: AnyEngine, name: str, kind: str, value: Tensor) -> None:
    """Set what `held_state` returns."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if engine.item_parameters is not None and name in engine.item_parameters.weights:
        engine.item_parameters.set_held_state(name, _moment(kind), value)
        return
    parameter = engine.module.get_parameter(name)
    match _stage(engine):
        case 0:
            _unpartitioned(engine, parameter, kind).view(-1).copy_(value)
        case 3:
            _set_partition(parameter, kind, value)
        case _ if kind == "weight":
            value = value.to(parameter.device).view_as(parameter)
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)
        case _:
            safe_set_full_optimizer_state(parameter, value, kind)


def _set_partition(parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    """Set this rank's part under ZeRO-3: equal parts of the flat parameter, the last one padded."""
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
    # With an offloaded optimizer that is only its master copy: set the model's weights too.
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if rank == 0:
            parameter.data.copy_(value.view_as(parameter))


@torch.no_grad()
def weights_are_finite(engine: AnyEngine) -> bool:
    """Return True if this rank's part of the weights has no NaN and no infinity.

    Not collective.
    """
    parts = map(local_part, engine.module.parameters())
    chunks = (chunk for part in parts for chunk in torch.split(part.flatten(), CHUNK))
    by_rows = engine.item_parameters
    return bool(torch.stack([chunk.isfinite().all() for chunk in chunks]).all()) and (
        by_rows is None or by_rows.is_finite()
    )


def _moment(kind: str) -> int | None:
    """Return the index of a moment, None for the weights."""
    return MOMENTS.index(kind) if kind in MOMENTS else None


def _unpartitioned(engine: AnyEngine, parameter: nn.Parameter, kind: str) -> Tensor:
    if kind == "weight":
        return parameter.data
    moment: Tensor = engine.basic_optimizer.state[parameter][kind]
    return moment


def _stage(engine: AnyEngine) -> int:
    return engine.zero_optimization_stage()
