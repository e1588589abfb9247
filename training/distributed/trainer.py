"""Ray Train's trainer, without its handler of SIGINT and without its data sets.

That handler ends a training without saving. For data sets, workers wait until an actor has started;
here they read the tables themselves.
"""

from typing import Any

from ray.train.torch import TorchTrainer

from training.distributed.ray_internals import without_datasets


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that leaves SIGINT to its caller and has no Ray data sets."""

    def _create_default_callbacks(self) -> list[Any]:
        return without_datasets(super()._create_default_callbacks())

    def _register_sigint_handler(self, controller: Any) -> None:
        pass
