"""Ray Train's trainer, without its handler of SIGINT, which ends a training without saving."""

from typing import Any

from ray.train.torch import TorchTrainer

from training.distributed.ray_train_internals import needed_callbacks


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that leaves SIGINT to its caller and starts no actors that nobody needs."""

    def _create_default_callbacks(self) -> list[Any]:
        return needed_callbacks(super()._create_default_callbacks())

    def _register_sigint_handler(self, controller: Any) -> None:
        pass
