"""The parts of Ray used here that are not public. Tried with Ray 2.60.0.

A new version may change any of them, so each place says what fails then.
"""

from collections.abc import Iterable
from typing import Any

import ray
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.context import get_train_context

SUBMISSION_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of a job's submission. If they are renamed, `submit` shows their lines."""


def propagate_to_workers(variables: Iterable[str]) -> None:
    """Let Ray Train copy these environment variables to its controller and its workers.

    Without this set they would have the values of the node instead of the driver's.
    """
    ENV_VARS_TO_PROPAGATE.update(variables)


def autoscaler_limits() -> dict[str, float]:
    """Return the most of each resource that the autoscaler may reach; {} if it declares none.

    Without this method a training larger than the present cluster would be refused, although the
    autoscaler would add nodes for it.
    """
    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def preemption_is_announced() -> bool:
    """Return True if Ray knows that the node of one of this training's workers will go.

    The public `ray.train.get_preemption_info` is a barrier of all workers; this is not. Without it
    a worker learns of a preemption only by SIGTERM.
    """
    return get_train_context().preemption_context.preemption_info is not None


def rung_milestones(scheduler: Any) -> list[float]:
    """Return the times at which an `ASHAScheduler` compares trials, in ascending order.

    Without `_rungs` the log of a sweep cannot name them. Nothing else depends on them.
    """
    return sorted(milestone for milestone, _ in scheduler._brackets[0]._rungs)
