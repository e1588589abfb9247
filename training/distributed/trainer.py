"""Ray Train's trainer, without its handler of SIGINT, which ends a training without saving."""

from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that leaves SIGINT to its caller."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass
