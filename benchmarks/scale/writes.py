"""Bytes that the operators of a step write, counted where torch dispatches them.

An operator writes the tensors that it returns, unless they are views, and those that it changes in
place: of an indexed one as many rows as there are indices. Adam's are counted apart.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ADAM = "_fused_adam_"
UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "resize_")
INDEXED = {  # the argument that holds the indices, by the operator that changes these rows only
    "index_add_": 2,
    "index_copy_": 2,
    "index_fill_": 2,
}


class CountWrites(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts bytes; `of_adam` are those of Adam, `of_operator` the others."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of_adam = 0
        self.of_operator: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.of_operator.values())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        returned = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        written = _changed(func._schema, name, args, kwargs)
        if name not in UNWRITTEN:
            written += _returned(func._schema, returned)
        if name == ADAM:
            self.of_adam += written
        elif written:
            self.of_operator[name] = self.of_operator.get(name, 0) + written
        return returned


def _changed(schema: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the bytes of the arguments that an operator changes in place."""
    total = 0
    for number, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        for tensor in _tensors(value):
            if name in INDEXED and tensor.dim():
                rows = args[INDEXED[name]].numel()
                total += rows * tensor.element_size() * math.prod(tensor.shape[1:])
            else:
                total += tensor.nbytes
    return total


def _returned(schema: Any, returned: Any) -> int:
    """Return the bytes of new tensors: returned ones that are no alias of an argument."""
    values = [returned] if len(schema.returns) == 1 else returned
    if not schema.returns:
        return 0
    return sum(
        tensor.nbytes
        for value, declared in zip(values, schema.returns, strict=True)
        if declared.alias_info is None
        for tensor in _tensors(value)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))


@contextmanager
def adam_seconds() -> Iterator[list[float]]:
    """Collect the seconds of each call of torch's fused Adam."""
    plain, seconds = torch._fused_adam_, []

    def timed(*args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        plain(*args, **kwargs)
        seconds.append(time.perf_counter() - started)

    torch._fused_adam_ = timed
    try:
        yield seconds
    finally:
        torch._fused_adam_ = plain
