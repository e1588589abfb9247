"""Properties of the device that a process computes on: cache size, bfloat16, memory in use."""

import resource

import torch
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.errors import InputError

CACHE_BYTES = 1 << 20  # of a CPU core
GPU_BYTES = 256 << 20


def working_set(like: Tensor) -> int:
    """Return how many bytes a block of temporaries may take on the device of `like`.

    On a CPU the block then stays in the cache of the cores. On a GPU it is large enough to keep
    the GPU busy and small beside its memory.
    """
    return GPU_BYTES if like.is_cuda else CACHE_BYTES * torch.get_num_threads()


def has_bf16(device: torch.device) -> bool:
    """Return True if the device computes bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_precision(experiment: Experiment, device: torch.device) -> None:
    """Raise InputError if `train.precision` is bf16 and the device would emulate it."""
    if experiment.train.precision == "bf16" and not has_bf16(device):
        raise InputError(
            f"train.precision = bf16: the {device.type} of this machine has no bfloat16 "
            "instructions: set train.precision=fp32"
        )


def memory_used(device: torch.device) -> dict[str, float]:
    """Return the peak memory of this process so far, in GiB: on the host, and on its GPU."""
    used = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        used["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return used
