"""The device that a process computes on: its cache, precisions, memory, heap and name."""

import ctypes
import logging
import os
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from torch import Tensor

from mdsrec import __version__
from mdsrec.config import Experiment
from mdsrec.errors import InputError

log = logging.getLogger("training")

CACHE_BYTES = 1 << 20  # of a CPU core
GPU_BYTES = 256 << 20
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # numbers of mallopt(3)
KEPT_BYTES = 256 << 20  # free memory that stays in the process
GROWTH_BYTES = 64 << 20
LARGE_BYTES = 32 << 20  # an array of this size has pages of its own: glibc allows no more
OFFLOAD_THREADS = 8  # of a worker with offloaded state: Adam moves 28 bytes a weight and step


def working_set(like: Tensor) -> int:
    """Return how many bytes a block of temporaries may take on the device of `like`.

    On a CPU the block then stays in the cache of the cores. On a GPU it is large enough to keep
    the GPU busy and small beside its memory.
    """
    return GPU_BYTES if like.is_cuda else CACHE_BYTES * torch.get_num_threads()


def keep_freed_memory() -> None:
    """Let this process use the memory of freed arrays again, if its C library is glibc.

    By default, the memory returns to the system, which clears the pages of the next array.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(TOP_PAD, GROWTH_BYTES)
        mallopt(MMAP_THRESHOLD, LARGE_BYTES)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor in host memory to the device, without waiting for a GPU."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def has_tf32(device: torch.device) -> bool:
    """Return True if the device multiplies in TensorFloat-32: a GPU of Ampere or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def has_bf16(device: torch.device) -> bool:
    """Return True if the device computes bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def product_precision(precision: str) -> Iterator[None]:
    """Let a GPU multiply float32 matrices in TensorFloat-32, unless `precision` is fp32.

    With bf16 these are the matrices that autocast leaves alone. PyTorch's default is
    TensorFloat-32 in GRU layers only.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def check_precision(experiment: Experiment, device: torch.device) -> None:
    """Raise InputError if the device does not compute in `train.precision`."""
    if experiment.train.precision == "tf32" and not has_tf32(device):
        raise InputError(
            f"train.precision = tf32: the {device.type} of this machine has no TensorFloat-32: "
            "set train.precision=fp32"
        )
    if experiment.train.precision == "bf16" and not has_bf16(device):
        raise InputError(
            f"train.precision = bf16: the {device.type} of this machine has no bfloat16 "
            "instructions: set train.precision=fp32"
        )


def warn_of_slow_offload(experiment: Experiment, device: torch.device, threads: int) -> None:
    """Warn if few threads of the host step the weights of a GPU."""
    if device.type == "cuda" and experiment.train.offload != "none" and threads < OFFLOAD_THREADS:
        log.warning(
            "train.offload = %s: Adam runs on %d CPU threads beside each GPU, and the GPU waits: "
            "give a node %d CPUs or more for each GPU",
            experiment.train.offload,
            threads,
            OFFLOAD_THREADS,
        )


def memory_used(device: torch.device) -> dict[str, float]:
    """Return the peak memory of this process so far, in GiB: on the host, and on its GPU."""
    used = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        used["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return used


def origin(device: torch.device) -> dict[str, str | int]:
    """Return what history.json says about its making: date (UTC), version, machine and threads.

    The threads are those of a worker. They decide the last bits of its sums.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "machine": machine_text(device),
        "threads": torch.get_num_threads(),
    }


def machine_text(device: torch.device) -> str:
    """Return `NVIDIA H200 (140 GiB), Intel(R) Xeon(R) Processor, 16 cores, 128 GiB`.

    It names no host, because reports are passed on.
    """
    host = f"{_processor()}, {os.cpu_count()} cores, {_gib(psutil.virtual_memory().total)}"
    if device.type != "cuda":
        return host
    gpu = torch.cuda.get_device_properties(device)
    return f"{gpu.name} ({_gib(gpu.total_memory)}), {host}"


def _processor() -> str:
    """Return the model of the CPU as Linux names it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.0f} GiB"
