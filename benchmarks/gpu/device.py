"""The GPU that the checks use: a real one, or the CPU that pretends to be one."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.gpu_harness.device import pretended_gpu
from benchmarks.gpu_harness.tensor import CUDA, counted
from mdsrec.errors import InputError

T = TypeVar("T")


class Kernels(NamedTuple):
    """The kernels that a piece of work launched."""

    names: Counter[str]
    operators: frozenset[str]  # PyTorch's, that launched them
    busy_seconds: float  # of the GPU; 0 for a pretended one


class Gpu(NamedTuple):
    """A GPU, and the size of the checks on it."""

    is_pretended: bool
    device: torch.device = CUDA

    @classmethod
    @contextmanager
    def used(cls, is_pretended: bool) -> Iterator["Gpu"]:
        """Use a GPU in this thread. InputError if there is none and it is not pretended."""
        if is_pretended:
            torch.set_num_threads(1)
            with pretended_gpu():
                yield cls(True)
            return
        if not torch.cuda.is_available():
            raise InputError("torch sees no GPU: --pretend runs the checks on the CPU")
        yield cls(False)

    def size(self, real: T, pretended: T) -> T:
        """Return one of two sizes."""
        return pretended if self.is_pretended else real

    def left_out(self) -> AbstractContextManager[None]:
        """Return a context for work of the CPU, whose tensors none pretends to be the GPU's."""
        return _disable_current_modes() if self.is_pretended else nullcontext()

    def wait(self) -> None:
        """Wait until the GPU has done all work."""
        if not self.is_pretended:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], times: int, warm_ups: int = 2) -> float:
        """Return the mean seconds of some work."""
        for _ in range(warm_ups):
            work()
        self.wait()
        started = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - started) / times

    def kernels(self, work: Callable[[], Any]) -> Kernels:
        """Return the kernels that some work launches; copies are among them."""
        if self.is_pretended:
            counts = counted()
            work()
            return Kernels(Counter(counts.launches), frozenset(counts.launches), 0.0)
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            work()
            self.wait()
        events = [event for event in profile.events() if not event.is_user_annotation]
        kernels = [event for event in events if str(event.device_type).endswith("CUDA")]
        operators = frozenset(event.name for event in events) - {each.name for each in kernels}
        busy = sum(kernel.time_range.elapsed_us() for kernel in kernels) / 1e6
        return Kernels(Counter(kernel.name for kernel in kernels), operators, busy)

    def added_bytes(self, work: Callable[[], Any]) -> int:
        """Return the most memory that some work takes beyond what is allocated."""
        if self.is_pretended:
            work()
            return 0
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() - before

    @contextmanager
    def without_waits(self) -> Iterator[None]:
        """Raise RuntimeError where the host waits for a real GPU; the harness counts it."""
        if self.is_pretended:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
