"""The parts of Ray used here that are not public. Tried with Ray 2.60.0.

A new version may change any of them, so each place says what fails then. Those of Ray Train are in
ray_train_internals.py, because its import takes a second and most processes do without it.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import grpc
import psutil
import ray
from ray._private import ray_constants, ray_logging, services
from ray._private.grpc_utils import init_grpc_channel
from ray.experimental import tqdm_ray
from ray.job_config import JobConfig

SUBMISSION_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of a job's submission. If they are renamed, `submit` shows their lines."""

TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"
"""Logger of a warning that a local Ray has a token. If it is renamed, each command shows it."""

LINE_OF_CPP = re.compile(r"\[[-\d]+ [\d:,]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")

START_WAIT_KEY = "RAY_raylet_start_wait_time_s"
START_SECONDS = 600.0  # on a busy machine; Ray itself waits 30 s, for its dashboard 60 s
Health = Literal["answers", "is silent", "is gone"]
NO_ANSWER: dict[grpc.StatusCode, Health] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "is silent",
    grpc.StatusCode.UNAVAILABLE: "is gone",  # no process has the port
}


class _ClosedPath(list[str]):
    """A search path that Ray does not extend."""

    def extend(self, folders: Iterable[str]) -> None:
        """Leave out the folder of the script and the current folder."""


def search_path_of_workers(folders: Iterable[str]) -> JobConfig:
    """Return a job whose workers import from these folders first, the last one first.

    Ray puts the driver's current folder first, so a folder named `training` there would be taken
    for our package. If Ray renames `_py_driver_sys_path`, that is so again.
    """
    job = JobConfig()
    job._py_driver_sys_path = _ClosedPath(folders)
    return job


def show_lines_of_workers(note_line: Callable[[], None]) -> None:
    """Print what the workers print without Ray's prefixes, and not what its C++ code logs.

    Without these names of Ray the lines have the prefix `(RayTrainWorker pid=1, ip=10.0.0.1)`.
    """

    def show(data: dict[str, Any]) -> None:
        note_line()
        bars, lines = tqdm_ray.instance(), []
        for line in data["lines"]:
            if tqdm_ray.RAY_TQDM_MAGIC in line:  # the state of a bar
                with suppress(ValueError):  # cut off by another line
                    bars.process_state_update({**json.loads(line), "ip": bars.ip, "pid": bars.pid})
                bars.unhide_bars()
            elif not LINE_OF_CPP.match(line):
                lines.append(line)
        if lines:
            ray._private.worker.print_to_stdstream({**data, "lines": lines}, ignore_prefix=True)

    ray_constants.RAY_DISABLE_WORKER_LOG_PREFIX = True  # of lines that it prints at the end
    dispatcher = ray_logging.global_worker_stdstream_dispatcher
    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("ray_print_logs", show)


@contextmanager
def longer_start() -> Iterator[None]:
    """Let each process of a local Ray take START_SECONDS to start, or what START_WAIT_KEY says.

    Variables of Ray that the user has set are kept. For the raylet Ray has none, but 30 s in its
    code, between calls of `services.get_node`; so that call waits here. If Ray renames it, a raylet
    has 30 s again.
    """
    most = float(os.environ.get(START_WAIT_KEY, START_SECONDS))
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{max(most, 30):.0f}")
    if "RAY_DASHBOARD_STARTUP_TIMEOUT_S" not in os.environ:
        ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = max(most, 60)
    get_node = services.get_node

    def wait_for_node(gcs_address: str, node_id: str) -> Any:
        deadline = time.monotonic() + most
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:  # the raylet has not registered
                if _raylet_has_ended():
                    raise ChildProcessError("its raylet ended during startup") from None
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"its raylet has not started within {most:g} s") from None
            time.sleep(0.1)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node


def _raylet_has_ended() -> bool:
    raylets = [child for child in psutil.Process().children() if child.name() == "raylet"]
    return all(raylet.status() == psutil.STATUS_ZOMBIE for raylet in raylets)


def has_started_ray() -> bool:
    """Return whether this process has started the Ray that it uses."""
    return bool(ray._private.worker._global_node.head)


def has_dashboard() -> bool:
    """Return whether the cluster has a dashboard, which answers questions about its actors."""
    return bool(services.get_webui_url_from_internal_kv())


def server_addresses() -> tuple[str, str]:
    """Return the addresses of the servers that this driver depends on: GCS, raylet of this node."""
    node = ray._private.worker.global_worker.node
    return node.gcs_address, f"{node.node_ip_address}:{node.node_manager_port}"


def health(address: str, seconds: float) -> Health:
    """Ask a server of Ray for its health (of gRPC) over a channel with Ray's TLS and token."""
    channel = init_grpc_channel(address)
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=seconds)
    except grpc.RpcError as error:
        return NO_ANSWER.get(error.code(), "answers")  # a refusal of the request is an answer
    finally:
        channel.close()
    return "answers"


def autoscaler_limits() -> dict[str, float]:
    """Return the most of each resource that the autoscaler may reach; {} if it declares none.

    Without this method a training larger than the present cluster would be refused, although the
    autoscaler would add nodes for it.
    """
    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def rung_milestones(scheduler: Any) -> list[float]:
    """Return the times at which an `ASHAScheduler` compares trials, in ascending order.

    Without `_rungs` the log of a sweep cannot name them. Nothing else depends on them.
    """
    return sorted(milestone for milestone, _ in scheduler._brackets[0]._rungs)
