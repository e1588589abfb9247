"""The torch process group of Ray Train, in workers that survive a first SIGTERM."""

from typing import Any

from ray.train.torch import TorchConfig

from training.distributed.ray_train_internals import preemption_is_announced
from training.lifecycle.signals import catch_sigterm, sigterm_received


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """Install the handler of SIGTERM; Ray calls this in each worker's main thread.

        Only a main thread can install one, and the training runs in another.
        """
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(catch_sigterm)


class _Config(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def process_group(timeout_minutes: float) -> TorchConfig:
    """Return the configuration of the group. A collective that waits longer fails."""
    return _Config(timeout_s=max(1, round(60 * timeout_minutes)))


def worker_is_leaving() -> bool:
    """Return True if this worker got SIGTERM, or if Ray knows that a worker's node will go."""
    return sigterm_received() or preemption_is_announced()
