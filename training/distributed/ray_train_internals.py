"""The parts of Ray Train used here that are not public. Tried with Ray 2.60.0.

A new version may change any of them, so each place says what fails then.
"""

import logging
from collections.abc import Iterable
from typing import Any

from ray.exceptions import GetTimeoutError
from ray.train import UserCallback
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.context import TrainRunContext, get_train_context
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from training.distributed.ray_internals import has_dashboard

LATE_ANSWER = "Ray's autoscaler answers late: the machine is busy; the training goes on without it"
COORDINATOR_LOGGER = (
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"
)
"""Logger of requests to the autoscaler. If it is renamed, late answers show as tracebacks again."""


class ShortCoordinatorWarnings(UserCallback):  # type: ignore[misc]
    """Makes one line of the tracebacks about the autoscaler's late answers.

    Ray Train's controller asks the autoscaler for the workers and waits 5 s. On a busy machine the
    answer comes later and nothing is lost, but the controller logs a traceback each time. It is
    another process, which gets the filter when this object is unpickled there.
    """

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (shorten_coordinator_warnings, ())


def shorten_coordinator_warnings() -> ShortCoordinatorWarnings:
    """Add the filter to this process."""
    logger = logging.getLogger(COORDINATOR_LOGGER)
    if not any(isinstance(each, _FirstTimeout) for each in logger.filters):
        logger.addFilter(_FirstTimeout())
    return ShortCoordinatorWarnings()


class _FirstTimeout(logging.Filter):
    """Shows the first timeout without its traceback and drops the others; keeps other records."""

    def __init__(self) -> None:
        super().__init__()
        self._is_shown = False

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, GetTimeoutError):
            return True
        is_first, self._is_shown = not self._is_shown, True
        record.msg, record.args, record.exc_info = LATE_ANSWER, (), None
        return is_first


def needed_callbacks(callbacks: Iterable[Any]) -> list[Any]:
    """Leave out the callbacks of Ray Train whose actors nobody needs; workers wait for them.

    Workers read our tables, so there are no Ray data sets. The actor that cleans up after a lost
    controller asks the dashboard each second, and warns if there is none, as in a local Ray.
    """
    unneeded: list[type] = [DatasetsCallback]
    if not has_dashboard():
        unneeded.append(PlacementGroupCleanerCallback)
    return [callback for callback in callbacks if not isinstance(callback, tuple(unneeded))]


class FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """As many workers as are configured, for which no autoscaler is asked.

    Ray Train asks through an actor, and waits until its process has started. If Ray renames the
    first method it does so again; if it renames the second, a training ends in an AssertionError.
    """

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""


def propagate_to_workers(variables: Iterable[str]) -> None:
    """Let Ray Train copy these environment variables to its controller and its workers.

    Without this set they would have the values of the node instead of the driver's.
    """
    ENV_VARS_TO_PROPAGATE.update(variables)


def preemption_is_announced() -> bool:
    """Return True if Ray knows that the node of one of this training's workers will go.

    The public `ray.train.get_preemption_info` is a barrier of all workers; this is not. Without it
    a worker learns of a preemption only by SIGTERM.
    """
    return get_train_context().preemption_context.preemption_info is not None
