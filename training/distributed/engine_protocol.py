"""The members of a DeepSpeed engine that this project uses, as a type."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.sharding.item_parameters import ItemParameters
from training.sharding.item_shards import ItemShards

Module_co = TypeVar("Module_co", bound=nn.Module, covariant=True)


class Engine(Protocol[Module_co]):
    """A DeepSpeed engine (`deepspeed.DeepSpeedEngine`) around a module of this type.

    Its parameters and the optimizer's state may be partitioned over the ranks, so a call of the
    engine, `backward` and `step` are collective.
    """

    global_steps: int
    lr_scheduler: LambdaLR
    enable_backward_allreduce: bool
    allreduce_gradients: Callable[..., None]
    item_parameters: ItemParameters | ItemShards | None  # set by `initialize`, not by DeepSpeed

    @property
    def module(self) -> Module_co: ...

    @property
    def basic_optimizer(self) -> Optimizer:
        """The Adam that `initialize` passed to DeepSpeed."""

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's ZeRO optimizer around `basic_optimizer`; the same object at stage 0."""

    def __call__(self, *inputs: Any) -> Tensor:
        """Return the module's output for these inputs."""

    def train(self) -> Any: ...

    def eval(self) -> Any: ...

    def backward(self, loss: Tensor, *, scale_wrt_gas: bool) -> Any:
        """Add the loss's gradients; `scale_wrt_gas` divides it by the accumulation steps."""

    def step(self) -> Any:
        """Count a backward pass; take an optimizer step after the last one of the accumulation."""

    def get_lr(self) -> Sequence[float]:
        """Return the learning rate of each parameter group."""

    def zero_optimization_stage(self) -> int: ...
