"""Ray's torch process group, on workers that outlive the first SIGTERM."""

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.context import get_train_context

from training.lifecycle.stopping import keep_sigterm, node_leaves


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """Runs in the workers' main threads, the only ones that can handle a signal."""
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(keep_sigterm)


class _Config(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def process_group(timeout_minutes: float) -> TorchConfig:
    """A collective that waits longer fails."""
    return _Config(timeout_s=max(1, round(60 * timeout_minutes)))


def worker_leaves() -> bool:
    """Whether this worker's process was told to end, or Ray knows that a worker's node will go."""
    return node_leaves() or get_train_context().preemption_context.preemption_info is not None
