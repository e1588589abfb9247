"""The weights of the encoders of all channels, in one tensor that is copied once a step.

C = 1 + |M| channels, M of them modalities, D width.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.layers.transformer import Block, Encoder
from training.models.mdsrec.interest_block import InterestBlock

Affine = tuple[Tensor, Tensor]  # weight [C, out, in] or scale [C, 1, D], and bias [C, 1, out]


class Layer(NamedTuple):
    """The weights of a layer."""

    to_qkv: Affine
    to_output: Affine
    attention_norm: Affine
    inner: Affine
    outer: Affine
    feedforward_norm: Affine
    first: Affine | None = None  # W1, b1, W2 and b2 of Eq. 15, of the modalities
    second: Affine | None = None
    query: Affine | None = None  # those of `to_qkv` and `to_output` that the centers read
    output: Affine | None = None


class Kind(NamedTuple):
    """Modules of each channel, whose outputs follow each other."""

    modules: Sequence[Sequence[nn.Module]]
    read: int = 0  # outputs of each modality that the centers read too


class Part(NamedTuple):
    """A weight or bias of all channels."""

    tensors: list[Tensor]
    num_channels: int
    read: int

    @property
    def size(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors)

    def view(self, flat: Tensor) -> Tensor:
        """Return a flat part as [C, out, ...]."""
        return flat.view(self.num_channels, -1, *self.tensors[0].shape[1:])


def stacked_weights(encoders: Sequence[Encoder]) -> tuple[Affine, list[Layer]]:
    """Return scale and shift of the encoders' norms, and the weights of each layer."""
    kinds = [Kind([[encoder.norm] for encoder in encoders])]
    for blocks in zip(*(encoder.blocks for encoder in encoders), strict=True):
        kinds += _kinds([block for block in blocks if isinstance(block, Block)])
    parts = list(_parts(kinds))
    tensors = chain.from_iterable(part.tensors for part in parts)
    found = _Stack.apply(parts, *tensors)  # type: ignore[no-untyped-call]
    affines = [(w, b) for w, b in zip(found[::2], found[1::2], strict=True)]
    affines = [(w if w.dim() > 2 else w[:, None], b[:, None]) for w, b in affines]
    (norm, *of_layers), of_centers = affines[: len(kinds)], affines[len(kinds) :]
    num_layers = len(encoders[0].blocks)
    own, read = (_shared_out(each, num_layers) for each in (of_layers, of_centers))
    return norm, [Layer(*each, *more) for each, more in zip(own, read, strict=True)]


def _kinds(blocks: Sequence[Block]) -> list[Kind]:
    """Return the modules of one layer, in the order of `Layer`."""
    maps = [block.center for block in blocks if isinstance(block, InterestBlock)]
    read = blocks[0].query.out_features if maps else 0
    kinds = [
        Kind([[b.query, b.key, b.value] for b in blocks], read),
        Kind([[b.output] for b in blocks], read),
        Kind([[b.attention_norm] for b in blocks]),
        Kind([[b.inner] for b in blocks]),
        Kind([[b.outer] for b in blocks]),
        Kind([[b.feedforward_norm] for b in blocks]),
    ]
    return kinds + (
        [Kind([[m.first] for m in maps]), Kind([[m.second] for m in maps])] if maps else []
    )


def _parts(kinds: Sequence[Kind]) -> Iterator[Part]:
    """Yield the weight and the bias of each kind."""
    for modules, read in kinds:
        for name in ("weight", "bias"):
            tensors = [getattr(module, name) for each in modules for module in each]
            yield Part(tensors, len(modules), read)


def _shared_out(affines: list[Affine], num_layers: int) -> list[list[Affine]]:
    edges = [len(affines) * n // num_layers for n in range(num_layers + 1)]
    return [affines[first:last] for first, last in pairwise(edges)]


class _Stack(torch.autograd.Function):
    """Tensors copied into one -> its parts, then what the centers read of them.

    The gradient of a tensor is a part of one gradient too, to which that of the centers is added.
    """

    @staticmethod
    def forward(ctx: Any, parts: list[Part], *tensors: Tensor) -> Any:
        ctx.parts = [part._replace(tensors=[t.detach() for t in part.tensors]) for part in parts]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        views = _views(flat, ctx.parts)
        return *views, *_read_by_centers(views, ctx.parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        parts = ctx.parts
        own, of_centers = gradients[: len(parts)], gradients[len(parts) :]
        flat = torch.cat([gradient.flatten() for gradient in own])
        read = _read_by_centers(_views(flat, parts), parts)
        for view, gradient in zip(read, of_centers, strict=True):
            view.add_(gradient)
        tensors = [tensor for part in parts for tensor in part.tensors]
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        return None, *(p.view(t.shape) for p, t in zip(pieces, tensors, strict=True))


def _views(flat: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    pieces = torch.split(flat, [part.size for part in parts])
    return [part.view(piece) for part, piece in zip(parts, pieces, strict=True)]


def _read_by_centers(views: Sequence[Tensor], parts: Sequence[Part]) -> list[Tensor]:
    return [v[1:, : part.read] for v, part in zip(views, parts, strict=True) if part.read]
