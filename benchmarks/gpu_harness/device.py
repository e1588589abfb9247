"""A pretended GPU: what PyTorch says of one, for as long as it is used."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_harness.tensor import PretendGpu, PretendTensor


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let tensors be made on cuda:0, and moved there, in this thread."""
    torch._C._ensureCUDADeviceGuardSet()
    plain_tensor, plain_autocast = torch.tensor, torch.autocast

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = plain_tensor(data, **options)  # it copies below every mode
        return made if device is None else made.to(device)

    def autocast(device_type: str, *args: Any, **options: Any) -> Any:
        return plain_autocast(_in_c(device_type), *args, **options)

    replaced: list[tuple[Any, str, Any]] = [
        (torch, "tensor", tensor),
        (torch, "autocast", autocast),
        (torch, "is_autocast_enabled", _of_cpu(torch.is_autocast_enabled)),
        (torch, "get_autocast_dtype", _of_cpu(torch.get_autocast_dtype)),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.backends.cudnn, "is_acceptable", lambda _: False),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (Tensor, "pin_memory", _pinned),
        (F, "scaled_dot_product_attention", _without_dropout(F.scaled_dot_product_attention)),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(PretendGpu())  # type: ignore[no-untyped-call]
        yield


def _without_dropout(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return attention that draws no mask: PyTorch makes one on the CPU below every mode."""
    return lambda *inputs, **options: attention(*inputs, **{**options, "dropout_p": 0.0})


def _pinned(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    if isinstance(tensor, PretendTensor):
        raise RuntimeError("cannot pin a tensor of a GPU")
    copy = tensor.clone()
    copy._is_pinned = True  # type: ignore[attr-defined]
    return copy


def _in_c(device: str) -> str:
    """Return the device type that the C++ code sees."""
    return "cpu" if device == "cuda" else device


def _of_cpu(function: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda device_type: function(_in_c(device_type))
