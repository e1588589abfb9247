"""DeepSpeed: its configuration as one pure function, its engine, its weights as one file."""

import functools
import io
import os
from typing import Any

import torch
from torch import distributed, nn

from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.checkpoints.tensor_file import write_tensors
from training.distributed.schedule import LearningRate
from training.distributed.zero_state import shapes_of, whole_weights_of

BUCKET = 2**23  # elements that ranks exchange at a time; a larger parameter goes alone, uncopied


def deepspeed_config(experiment: Experiment) -> dict[str, Any]:
    """DeepSpeed's JSON configuration for an experiment.

    The batch size is DeepSpeed's bookkeeping alone: a step's loss is already the mean over its
    prefixes, and so are its parts' losses when they are summed.
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
            "lower_precision_safe_modules": [],  # gradients travel in float32
        },
        "zero_optimization": {
            "stage": train.zero_stage,
            "contiguous_gradients": False,  # they would hold every gradient twice
            # In float64 it takes twice the gradients' memory.
            "compute_grad_norm": optim.gradient_clipping > 0 or not can_omit_norm,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "stage3_prefetch_bucket_size": BUCKET,
            # It multiplies its layers' weights itself, so it needs them all at once.
            "leaf_module": {"classes": ["training.layers.transformer.Block"]},
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def initialize(model: nn.Module, experiment: Experiment, device: torch.device) -> Any:
    """A DeepSpeed engine around `model` in the process group that stands already."""
    check_precision(experiment, device)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if device.type == "cpu":
        # A shared-memory all-reduce that is compiled for a minute at first use; gloo serves as
        # well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False
    )
    model.to(device)
    # Fused: no temporaries of the weights' size. It steps offloaded state on the CPU too.
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr, fused=True)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=LearningRate(optimizer, experiment.optim),
        config=deepspeed_config(experiment),
    )
    if experiment.train.zero_stage == 0:  # elsewhere BUCKET is in the configuration
        engine.enable_backward_allreduce = distributed.get_world_size() > 1
        engine.allreduce_gradients = functools.partial(engine.allreduce_gradients, BUCKET)
    return engine


def check_precision(experiment: Experiment, device: torch.device) -> None:
    """InputError where bf16 would be emulated."""
    if experiment.train.precision == "bf16" and not has_bf16(device):
        raise InputError(
            f"train.precision = bf16, but this machine's {device.type} computes none: "
            "set train.precision=fp32"
        )


def has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def whole_weights(engine: Any, metadata: dict[str, str]) -> bytes | None:
    """All weights as a safetensors file on rank 0, None on the others. Every rank must call it."""
    weights = (weight for _, weight in whole_weights_of(engine))
    if distributed.get_rank():
        for _ in weights:
            pass
        return None
    stream = io.BytesIO()
    write_tensors(stream, shapes_of(engine), weights, metadata)
    return stream.getvalue()


def gathered(engine: Any) -> Any:
    """A context in which every parameter has its full size, under ZeRO-3 too."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(
        list(engine.module.parameters()), enabled=engine.zero_optimization_stage() == 3
    )
