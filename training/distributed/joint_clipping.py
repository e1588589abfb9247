"""Gradient clipping where ranks own items: one norm over their rows and DeepSpeed's weights."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from training.sharding.item_shards import ItemShards

EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def clip_together(
    optimizer: Optimizer, items: ItemShards, most: float, is_partitioned: bool
) -> None:
    """Let every step of `optimizer` first scale all gradients to a joint norm of at most `most`.

    `is_partitioned` says that the ranks hold parts of the other gradients (ZeRO 1 and 2).
    """

    @torch.no_grad()
    def clip(optimizer: Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        present: list[Tensor] = [gradient for gradient in gradients if gradient is not None]
        squared = torch.stack([g.double().square().sum() for g in present]).sum()[None]
        if is_partitioned:
            distributed.all_reduce(squared)
        norm = (squared + items.squared_norm()).sqrt()
        factor = (most / (norm + EPS)).clamp(max=1.0)[0]  # a number would wait for a GPU
        for gradient in present:
            gradient.mul_(factor)
        items.scale_gradients(factor)

    optimizer.register_step_pre_hook(clip)
