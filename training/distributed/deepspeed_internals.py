"""The parts of DeepSpeed used here that its documentation does not name. Tried with 0.19.8.

A new version may change any of them, so each function says what fails then.
"""

import functools
from collections.abc import Iterator

from torch import Tensor, distributed, nn

from training.distributed.engine_protocol import Engine


def skip_shared_memory_all_reduce() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPUs; gloo does the same work.

    Without this entry the first training on a machine waits about a minute for the compiler.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def set_stage_0_bucket(engine: Engine[nn.Module], num_elements: int) -> None:
    """Set how many elements stage 0 exchanges at a time; a single rank exchanges nothing.

    No key of the configuration sets it. Without these attributes the gradients are the same, but
    are copied in buckets of up to 500 million elements, 2 GB.
    """
    engine.enable_backward_allreduce = distributed.get_world_size() > 1
    engine.allreduce_gradients = functools.partial(engine.allreduce_gradients, num_elements)


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of the whole parameter. Under ZeRO-3 `parameter.shape` is (0,).

    Without `ds_shape` a checkpoint of ZeRO-3 would hold no weights.
    """
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def local_part(parameter: nn.Parameter) -> Tensor:
    """Return the part of a parameter that this rank holds: all of it below ZeRO-3.

    Without `ds_tensor` a NaN in the weights would not be found under ZeRO-3.
    """
    part: Tensor = getattr(parameter, "ds_tensor", parameter)
    return part


def optimized_tensors(engine: Engine[nn.Module]) -> Iterator[Tensor]:
    """Yield the tensors that Adam holds a state for: parameters, or this rank's flat part of them.

    Without `fp32_partitioned_groups_flat` no checkpoint of ZeRO-3 can be written or read.
    """
    if engine.zero_optimization_stage() == 3:
        yield from engine.optimizer.fp32_partitioned_groups_flat
        return
    for group in engine.basic_optimizer.param_groups:
        yield from group["params"]


def link_moments(engine: Engine[nn.Module]) -> None:
    """Let DeepSpeed find Adam's moments by parameter at stages 1 and 2, as its first step does.

    Without this method a checkpoint can be read only after a first step.
    """
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()
