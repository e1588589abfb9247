"""A function of users, a few of them at a time, computed again in the backward pass.

Where a function makes much out of little (a vector for every centre of every prefix), what it makes
then never leaves the processor's cache, and memory does not grow with the batch.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Function = Callable[[Any, Any], Tensor]


def in_blocks(function: Function, size: int, keep: bool, shared: Any, split: Any) -> Tensor:
    """`function(shared, split)` by blocks of `size` users, who are the first axis of the result and
    of every tensor in `split`.

    `shared` and `split` are nested tuples and lists of tensors and None. With `keep` the backward
    pass finds what the forward pass made; else it makes that again, so the function must not draw
    random numbers.
    """
    shared_tensors, shared_spec = tree_flatten(shared)
    split_tensors, split_spec = tree_flatten(split)

    def flat(*tensors: Tensor | None) -> Tensor:
        first = tree_unflatten(tensors[: len(shared_tensors)], shared_spec)
        return function(first, tree_unflatten(tensors[len(shared_tensors) :], split_spec))

    if keep:
        blocks = zip(
            *(_parts(tensor, size, split_tensors[0]) for tensor in split_tensors), strict=True
        )
        return torch.cat([flat(*shared_tensors, *block) for block in blocks])
    tensors = *shared_tensors, *split_tensors
    result: Tensor = _InBlocks.apply(flat, size, len(shared_tensors), *tensors)  # type: ignore[no-untyped-call]
    return result


def _parts(tensor: Tensor | None, size: int, like: Tensor) -> Any:
    return repeat(None, -(-len(like) // size)) if tensor is None else torch.split(tensor, size)


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], size: int, num_shared: int, *tensors: Any
    ) -> Any:
        ctx.function, ctx.size, ctx.num_shared = function, size, num_shared
        ctx.save_for_backward(*tensors)
        shared, split = tensors[:num_shared], tensors[num_shared:]
        starts = range(0, len(split[0]), size)
        return torch.cat([function(*shared, *_block(split, at, size)) for at in starts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        needed, tensors = ctx.needs_input_grad[3:], ctx.saved_tensors
        leaves = list(map(_leaf, tensors, needed))
        shared, split = leaves[: ctx.num_shared], leaves[ctx.num_shared :]
        found = [torch.empty_like(leaf) if _wants(leaf) else None for leaf in split]
        for at in range(0, len(split[0]), ctx.size):
            block = list(map(_leaf, _block(split, at, ctx.size), map(_wants, split)))
            with torch.enable_grad():
                result = ctx.function(*shared, *block)
            inputs = [leaf for leaf in (*shared, *block) if _wants(leaf)]
            result.backward(gradients[0][at : at + ctx.size], inputs=inputs)
            for whole, part in zip(found, block, strict=True):
                if whole is not None:
                    whole[at : at + ctx.size] = part.grad
        return None, None, None, *(t.grad if _wants(t) else None for t in shared), *found


def _block(tensors: Any, at: int, size: int) -> list[Any]:
    return [None if tensor is None else tensor[at : at + size] for tensor in tensors]


def _leaf(tensor: Any, needs_gradient: bool) -> Any:
    return tensor.detach().requires_grad_() if needs_gradient else tensor


def _wants(tensor: Any) -> bool:
    return tensor is not None and tensor.requires_grad
