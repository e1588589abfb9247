"""Ray Train's trainer, without its handler of SIGINT, which ends a training without saving."""

from typing import Any

from ray.train.torch import TorchTrainer

from training.distributed.ray_internals import has_started_ray
from training.distributed.ray_train_internals import FixedWorkers, needed_callbacks


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that leaves SIGINT to its caller and starts no actors that nobody needs."""

    def _create_default_callbacks(self) -> list[Any]:
        return needed_callbacks(super()._create_default_callbacks())

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if has_started_ray():  # it has no autoscaler
            arguments["scaling_policy"] = FixedWorkers(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments)

    def _register_sigint_handler(self, controller: Any) -> None:
        pass
