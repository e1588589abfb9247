"""DeepSpeed: its configuration as one pure function, its engine, its checkpoints."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import distributed, nn

from mdsrec.config import Experiment

TAG = "engine"


def deepspeed_config(experiment: Experiment) -> dict[str, Any]:
    """DeepSpeed's JSON configuration for an experiment.

    The batch sizes are DeepSpeed's bookkeeping alone: a step's loss is already the mean over its
    prefixes.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": experiment.optim.gradient_clipping,
        "zero_allow_untrusted_optimizer": True,
        "zero_optimization": {"stage": experiment.train.zero_stage},
        "steps_per_print": 2**31,
    }


def initialize(model: nn.Module, experiment: Experiment, device: torch.device) -> Any:
    """A DeepSpeed engine around `model` in the process group that stands already."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    from training.transformer import Block

    if device.type == "cpu":
        # A shared-memory all-reduce that is compiled for a minute at first use; gloo serves as
        # well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False
    )
    if experiment.train.zero_stage == 3:
        set_z3_leaf_modules(model, [Block])  # a block multiplies its layers' weights themselves
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(experiment)
    )
    engine.checkpoint_engine.load = functools.partial(torch.load, weights_only=True)
    return engine


def save_checkpoint(engine: Any, folder: Path, state: dict[str, Any]) -> None:
    """Every rank writes its part into `folder`; rank 0 adds the position in the training."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    if distributed.get_rank() == 0:
        (folder / "state.json").write_text(json.dumps(state))


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any]:
    """Put the engine where `save_checkpoint` left it; the state that was saved with it."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        loaded, _ = engine.load_checkpoint(str(folder), tag=TAG)
    if loaded is None:
        raise RuntimeError(f"{folder}: DeepSpeed found no checkpoint in it")
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def whole_weights(engine: Any, metadata: dict[str, str]) -> bytes | None:
    """All weights as a safetensors file on rank 0, None on the others. Every rank must call it."""
    with gathered(engine):
        if distributed.get_rank():
            return None
        weights = {
            name: p.detach().cpu().contiguous() for name, p in engine.module.named_parameters()
        }
        return save(weights, metadata)


def gathered(engine: Any) -> Any:
    """A context in which every parameter has its full size, under ZeRO-3 too."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(
        list(engine.module.parameters()), enabled=engine.zero_optimization_stage() == 3
    )
