"""Evaluation of a function in blocks of users, recomputed in the backward pass (checkpointing).

It suits a function with large temporaries, such as one vector per center of every prefix. Those of
a block stay in the processor's cache, and memory does not grow with the batch.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Function = Callable[[Any, Any], Tensor]


def in_blocks(function: Function, size: int, keep: bool, shared: Any, split: Any) -> Tensor:
    """Compute `function(shared, split)` in blocks of `size` users and concatenate the results.

    Users are the first axis of the result and of every tensor in `split`. `shared` and `split` are
    nested tuples and lists of tensors and None. With `keep` the temporaries are saved for the
    backward pass. Otherwise they are recomputed, so the function must not draw random numbers.
    """
    shared_tensors, shared_spec = tree_flatten(shared)
    split_tensors, split_spec = tree_flatten(split)

    def flat_function(*tensors: Tensor | None) -> Tensor:
        first = tree_unflatten(tensors[: len(shared_tensors)], shared_spec)
        return function(first, tree_unflatten(tensors[len(shared_tensors) :], split_spec))

    if keep:
        blocks = zip(
            *(_split(tensor, size, split_tensors[0]) for tensor in split_tensors), strict=True
        )
        results = [flat_function(*shared_tensors, *block) for block in blocks]
        return torch.cat(results) if len(results) > 1 else results[0]
    tensors = *shared_tensors, *split_tensors
    result: Tensor = _InBlocks.apply(flat_function, size, len(shared_tensors), *tensors)  # type: ignore[no-untyped-call]
    return result


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], size: int, num_shared: int, *tensors: Any
    ) -> Any:
        ctx.function, ctx.size, ctx.num_shared = function, size, num_shared
        ctx.save_for_backward(*tensors)
        shared, split = tensors[:num_shared], tensors[num_shared:]
        starts = range(0, len(split[0]), size)
        return torch.cat([function(*shared, *_block(split, start, size)) for start in starts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        needs_gradient, tensors = ctx.needs_input_grad[3:], ctx.saved_tensors
        leaves = list(map(_leaf, tensors, needs_gradient))
        shared, split = leaves[: ctx.num_shared], leaves[ctx.num_shared :]
        of_split = [torch.empty_like(leaf) if _requires_grad(leaf) else None for leaf in split]
        for start in range(0, len(split[0]), ctx.size):
            block = list(map(_leaf, _block(split, start, ctx.size), map(_requires_grad, split)))
            with torch.enable_grad():
                result = ctx.function(*shared, *block)
            inputs = [leaf for leaf in (*shared, *block) if _requires_grad(leaf)]
            result.backward(gradients[0][start : start + ctx.size], inputs=inputs)
            for whole, part in zip(of_split, block, strict=True):
                if whole is not None:
                    whole[start : start + ctx.size] = part.grad
        of_shared = (leaf.grad if _requires_grad(leaf) else None for leaf in shared)
        return None, None, None, *of_shared, *of_split


def _split(tensor: Tensor | None, size: int, like: Tensor) -> Any:
    return repeat(None, -(-len(like) // size)) if tensor is None else torch.split(tensor, size)


def _block(tensors: Any, start: int, size: int) -> list[Any]:
    return [None if tensor is None else tensor[start : start + size] for tensor in tensors]


def _leaf(tensor: Any, needs_gradient: bool) -> Any:
    return tensor.detach().requires_grad_() if needs_gradient else tensor


def _requires_grad(tensor: Any) -> bool:
    return tensor is not None and tensor.requires_grad
