"""A tensor that says cuda:0, and the rules that every operation on one is held to."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.gpu_harness.counts import Counts, place
from benchmarks.gpu_harness.kernels import INDEXED, TAKES_HOST, VIEWS, WAITS, has_kernel

CUDA, HOST = torch.device("cuda:0"), torch.device("cpu")
KEPT = "on_cpu"


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the host and of the GPU."""


class _Current:
    counts = Counts()


def counted() -> Counts:
    """Begin new counts and return them."""
    _Current.counts = Counts()
    return _Current.counts


class PretendTensor(Tensor):
    """A tensor of the CPU in the place of one of a GPU.

    Only Python sees cuda:0: for the C++ code of PyTorch it is a tensor of the CPU.
    """

    on_cpu: Tensor
    device = property(lambda self: CUDA)
    is_cuda = True

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "PretendTensor":
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=HOST,
            requires_grad=requires_grad,
        )
        return made

    def __init__(self, inner: Tensor, requires_grad: bool = False) -> None:
        self.on_cpu = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [KEPT], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> "PretendTensor":
        return PretendTensor(inner[KEPT])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {})

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, str | torch.device) and torch.device(device).type == "cpu":
            return self.cpu()
        return super().to(*args, **kwargs)

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        _Current.counts.wait(f"copy of {self.nbytes:,} bytes to the host")
        return self.on_cpu.clone()

    def new_tensor(self, data: Any, *_: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA, **options})

    def tolist(self) -> Any:
        _Current.counts.wait("tolist")
        return self.on_cpu.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise MixedDevicesError(f"numpy() of a tensor on cuda:0 at {place()}")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: Any) -> Self:
        return type(self)(self.on_cpu.clone(), self.requires_grad)


class PretendGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes tensors on cuda:0, and moves them there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made_in_backward = not tensors and _in_backward()
        on_gpu = any(isinstance(tensor, PretendTensor) for tensor in tensors)
        if on_gpu or made_in_backward or _is_device(kwargs, "cuda"):
            return _compute(func, args, kwargs)
        return func(*args, **kwargs)


def host_value(tensor: Tensor) -> Tensor:
    """Return the values of a tensor, which is not counted."""
    return tensor.on_cpu if isinstance(tensor, PretendTensor) else tensor.cpu()


def _compute(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Check and count an operation, and compute it on the CPU."""
    schema = func._schema  # type: ignore[attr-defined]
    name = schema.name.split("::")[1]
    operation = f"{name}.{schema.overload_name}" if schema.overload_name else name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    on_host = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    _check_devices(name, args, on_gpu, on_host)
    to_gpu = _is_device(kwargs, "cuda")
    # The engine makes tensors of a backward pass where C++ believes that the others are.
    to_host = _is_device(kwargs, "cpu") and not _in_backward()
    if on_gpu or to_gpu or (_in_backward() and not tensors):
        _count(name, operation, args, kwargs, on_gpu, on_host, to_gpu, to_host)
    else:
        return func(*args, **kwargs)
    plain_args, plain_kwargs = tree_map_only(PretendTensor, host_value, (args, kwargs))
    plain_kwargs |= {"device": "cpu"} if to_gpu else {}
    plain_kwargs |= {"pin_memory": False} if "pin_memory" in kwargs else {}
    out = func(*plain_args, **plain_kwargs)
    if name == "copy_" and not isinstance(args[0], PretendTensor):
        return args[0]
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
        return out
    if name == "_to_copy" and (to_gpu or to_host) and out is plain_args[0]:
        out = out.clone()
    if name == "_to_copy" and to_host:
        return out
    wrapped = tree_map_only(Tensor, _pretend, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)  # type: ignore[no-untyped-call]


def _pretend(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, PretendTensor) else PretendTensor(tensor)


def _check_devices(
    name: str, args: Sequence[Any], on_gpu: Sequence[Tensor], on_host: Sequence[Tensor]
) -> None:
    """Raise MixedDevicesError where CUDA would. A single number may be in host memory."""
    found = [tuple(tensor.shape) for tensor in on_host if tensor.dim() > 0]
    if on_gpu and found and name not in TAKES_HOST:
        shapes = [tuple(tensor.shape) for tensor in on_gpu]
        raise MixedDevicesError(f"{name}: {shapes} on cuda:0, {found} on the host, at {place()}")
    if on_gpu and name in INDEXED:
        values = args[2] if name not in ("index", "_unsafe_index") else args[0]
        if not isinstance(args[0], PretendTensor) or (
            not isinstance(values, PretendTensor) and values.dim() > 0
        ):
            raise MixedDevicesError(f"{name}: a tensor on the host at {place()}")


def _count(
    name: str,
    operation: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    on_gpu: Sequence[Tensor],
    on_host: Sequence[Tensor],
    to_gpu: bool,
    to_host: bool,
) -> None:
    counts = _Current.counts
    if not has_kernel(operation):
        counts.lack(operation)
    is_move = name == "_to_copy" and ((to_host and on_gpu) or (to_gpu and on_host))
    if is_move or (name == "copy_" and on_gpu and on_host):
        source, target = (args[0], None) if is_move else (args[1], args[0])
        to_host = to_host if is_move else not isinstance(target, PretendTensor)
        without_waiting = kwargs.get("non_blocking", False) or (not is_move and args[2:] == (True,))
        if to_host:
            counts.wait(f"copy of {source.nbytes:,} bytes to the host")
        else:
            counts.copy(without_waiting and getattr(source, "_is_pinned", False))
        return
    if name in INDEXED:
        _count_indices(args[1])
    waits_for_size = name == "repeat_interleave" and kwargs.get("output_size") is None
    if name in WAITS or waits_for_size:
        counts.wait(name)
    if name not in VIEWS:
        counts.launch(operation)


def _count_indices(indices: Sequence[Tensor | None]) -> None:
    for index in indices:
        if index is not None and not isinstance(index, PretendTensor):
            _Current.counts.wait("index on the host")
        if index is not None and index.dtype == torch.bool:
            _Current.counts.wait("boolean index")


def _is_device(kwargs: dict[str, Any], kind: str) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == kind


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
