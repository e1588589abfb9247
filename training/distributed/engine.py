"""DeepSpeed: its configuration as one pure function, and its engine."""

import os
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from mdsrec.config import Experiment
from training.device import check_precision
from training.distributed.deepspeed_internals import (
    set_stage_0_bucket,
    skip_shared_memory_all_reduce,
)
from training.distributed.engine_protocol import Engine
from training.distributed.joint_clipping import clip_together
from training.distributed.schedule import decay_end, schedule_of
from training.models.base import Model
from training.sharding.item_parameters import ItemParameters
from training.sharding.item_shards import ItemShards

BUCKET = 2**23  # elements that ranks exchange at a time; a larger parameter is not copied

LEAVES = (
    "training.layers.transformer.Block",
    "training.models.mdsrec.interest_block.InterestBlock",
)
"""Leaf modules of ZeRO-3, which gathers all parameters of a leaf when it is entered. These multiply
the weights of their layers themselves, so gathering a layer when it is called would be too late.
DeepSpeed matches the exact class, and ignores a name that matches nothing.
"""

AnyModel = TypeVar("AnyModel", bound=Model)


def deepspeed_config(experiment: Experiment) -> dict[str, Any]:
    """Return DeepSpeed's JSON configuration for an experiment.

    Its batch size only serves DeepSpeed's own counts. The loss of a step is already the mean over
    its prefixes, and the losses of its parts add up to that mean.
    """
    optim, train = experiment.optim, experiment.train
    on_cpu = {"device": "cpu", "pin_memory": True}
    offload = {
        "none": {},
        "optimizer": {"offload_optimizer": on_cpu},
        "all": {"offload_optimizer": on_cpu, "offload_param": on_cpu},
    }[train.offload]
    can_omit_norm = train.zero_stage in (1, 2) and train.offload == "none"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": optim.gradient_clipping,
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients are reduced in float32
        },
        "zero_optimization": {
            "stage": train.zero_stage,
            "contiguous_gradients": False,  # they would hold every gradient twice
            # The norm is computed in float64, which takes twice the gradients' memory.
            "compute_grad_norm": optim.gradient_clipping > 0 or not can_omit_norm,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "stage3_prefetch_bucket_size": BUCKET,
            "leaf_module": {"classes": list(LEAVES)},
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice a step
        "steps_per_print": 2**31,
    }


def initialize(model: AnyModel, experiment: Experiment, device: torch.device) -> Engine[AnyModel]:
    """Return a DeepSpeed engine around `model`, in the process group that exists already.

    Where steps read single rows of the parameters with a row for each item, the engine holds these
    as `item_parameters`. InputError if the device cannot compute in `train.precision`.
    """
    check_precision(experiment, device)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if device.type == "cpu":
        skip_shared_memory_all_reduce()
    deepspeed.init_distributed(
        dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False
    )
    model.to(device)
    by_rows = take_item_parameters(model, experiment)
    # Fused: no temporaries of the weights' size. It steps offloaded state on the CPU too.
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr, fused=True)
    config = deepspeed_config(experiment)
    if isinstance(by_rows, ItemShards) and experiment.optim.gradient_clipping:
        config["gradient_clipping"] = 0.0
        is_partitioned = experiment.train.zero_stage > 0
        config["zero_optimization"]["compute_grad_norm"] = not is_partitioned
        clip_together(optimizer, by_rows, experiment.optim.gradient_clipping, is_partitioned)
    engine: Engine[AnyModel]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule_of(optimizer, experiment.optim, decay_end(experiment)),
        config=config,
    )
    engine.item_parameters = by_rows
    if experiment.train.zero_stage == 0:  # the other stages read BUCKET from the configuration
        set_stage_0_bucket(engine, BUCKET)
    return engine


def take_item_parameters(
    model: Model, experiment: Experiment
) -> ItemParameters | ItemShards | None:
    """Take the parameters of a row for each item from the model; None if steps change all rows."""
    if model.owners is not None:
        keeps_centers = bool(model.kept())
        weights = model.detach_item_parameters()
        rows = (weights, model.item_constants, model.center_rows)
        shards = ItemShards(*rows, keeps_centers, model.owners, experiment)
        for name, own in shards.weights.items():  # in place of those it was built with
            model.register_buffer(name, own, persistent=False)
        return shards
    if experiment.steps_by_rows:
        return ItemParameters(model.detach_item_parameters(), model.center_rows, experiment)
    return None


def gather_parameters(engine: Engine[nn.Module]) -> AbstractContextManager[None]:
    """Return a context in which every parameter has its full size, under ZeRO-3 too.

    Collective.
    """
    import deepspeed

    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        list(engine.module.parameters()), enabled=engine.zero_optimization_stage() == 3
    )
    return context
