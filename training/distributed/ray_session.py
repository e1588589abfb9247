"""The Ray cluster of this process: connecting to it, and its CPUs and GPUs."""

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment, TrainConfig
from mdsrec.errors import InputError
from mdsrec.files import first_line
from mdsrec.machine import cores_to_use
from mdsrec.packages import SOURCE
from training.distributed.ray_internals import (
    START_WAIT_KEY,
    TOKEN_LOGGER,
    autoscaler_limits,
    has_started_ray,
    longer_start,
    search_path_of_workers,
    show_lines_of_workers,
)
from training.distributed.ray_watch import RAY_IS_GONE, watch_ray

log = logging.getLogger("training")

TOKEN_HINT = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file) as on the cluster"
START_HINT = (
    "see the logs in /tmp/ray/session_latest/logs; on a busy machine try again later, or let it "
    f"take longer with {START_WAIT_KEY}=1800"
)
MOST_THREADS = 8  # of a worker: more of them wait for each other in the small products of a step
ROUNDING = 1e-9  # of a quotient of CPUs, which may be just below a whole number


class _Kept:
    """The Ray between two sessions: the next one to end leaves it if `wanted`; it is `present`."""

    wanted = present = False


@contextmanager
def keeping_ray() -> Iterator[None]:
    """Leave the Ray of a session within to the next session of this process, unless it fails."""
    _Kept.wanted = True
    try:
        yield
    finally:
        _Kept.wanted = False


@contextmanager
def ray_session(log_to_driver: bool = True, graceful: Collection[int] = ()) -> Iterator[None]:
    """Use the Ray that this process has initialized, the cluster of RAY_ADDRESS, or a local Ray.

    A local Ray has no dashboard, which takes seconds to start, and ends with the command. In a
    submitted job RAY_ADDRESS is set. With `log_to_driver` the workers' log lines are printed
    here too. `graceful` are signals at which the caller saves and ends (see `ray_watch.py`).
    InputError if Ray cannot be started or reached, or if it ends meanwhile.
    """
    if ray.is_initialized() and not _Kept.present:
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with watch_ray(graceful) as watch:
        if not ray.is_initialized():
            _connect(address, log_to_driver)
        _Kept.present = False
        watch.connected()
        pin_ray_address()
        if log_to_driver:
            show_lines_of_workers(heartbeat.note_line)
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if watch.probe():
                raise
            log.debug("Ray is gone: %r", error)
            if not watch.signal:
                raise InputError(RAY_IS_GONE) from None
            log.error("%s", RAY_IS_GONE)
            raise SystemExit(watch.exit_code) from None
        else:
            _Kept.present = _Kept.wanted
        finally:
            watch.disconnecting()
            if not _Kept.present:
                ray.shutdown()
            del os.environ["RAY_ADDRESS"]
            if address:
                os.environ["RAY_ADDRESS"] = address


def _connect(address: str | None, log_to_driver: bool) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start a local Ray. InputError if that fails.

    Ray raises errors of any class, also the plain Exception.
    """
    if address and address.startswith("http"):
        raise InputError(
            f"RAY_ADDRESS = {address} is for `ray job submit`: submit the command as a job, "
            "or unset it to run here"
        )
    logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
    options = {
        "logging_level": logging.WARNING,
        "log_to_driver": log_to_driver,
        "job_config": search_path_of_workers([str(Path.cwd()), str(SOURCE)]),
    }
    try:
        if address:
            with heartbeat.within(f"connecting to Ray at {address}"):
                ray.init(address, **options)
        else:
            with longer_start(), heartbeat.within("starting Ray"):
                ray.init("local", include_dashboard=False, **options)
    except Exception as error:
        cause = first_line(error).rstrip(". ")
        if address:
            hint = f"if the cluster runs, {TOKEN_HINT}"
            raise InputError(f"RAY_ADDRESS = {address}: {cause}: {hint}") from None
        raise InputError(f"Ray did not start: {cause}: {START_HINT}") from None


def pin_ray_address() -> None:
    """Set RAY_ADDRESS to this process's Ray, which a training passes on to Ray Train's processes.

    Otherwise Ray Train's clean-up actor may connect to another Ray of the same host, where it does
    not find the training's controller, and end the training.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def capacity() -> dict[str, float]:
    """Return the CPUs and GPUs of the cluster, or the limits of its autoscaler if higher."""
    limits = autoscaler_limits()
    present = ray.cluster_resources()
    return {name: max(present.get(name, 0.0), limits.get(name, 0)) for name in ("CPU", "GPU")}


def uses_gpu(experiment: Experiment) -> bool:
    """Return True if each worker takes a GPU, by `train.device`; `auto` means if there is any.

    InputError if `train.device` is gpu and the cluster has none.
    """
    has_gpu = capacity()["GPU"] > 0
    if experiment.train.device == "gpu" and not has_gpu:
        raise InputError("train.device = gpu: the cluster has no GPU; set train.device=cpu or auto")
    return has_gpu and experiment.train.device != "cpu"


def cpus_per_gpu() -> int:
    """Return the CPUs of this process's node for each of its GPUs, at least 1."""
    own = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
    return max(1, int(resources.get("CPU", 1) / max(1, resources.get("GPU", 1))))


def threads_of_worker(config: TrainConfig) -> int:
    """Return the number of threads of a training's worker without a GPU."""
    if config.cpus_per_worker is not None or not has_started_ray():
        return max(1, round(config.cpus_requested))
    return max(1, min(MOST_THREADS, cores_to_use() // config.num_workers))


def check_capacity(experiment: Experiment, use_gpu: bool) -> None:
    """Raise InputError if the cluster can never hold the workers; Ray would wait without end."""
    config, most = experiment.train, capacity()
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    fit = sum(int(cpus / config.cpus_requested + ROUNDING) for cpus in nodes)
    can_grow = most["CPU"] > sum(nodes)
    if config.num_workers > fit and not can_grow:
        raise InputError(
            f"train.num_workers = {config.num_workers} of {config.cpus_requested:g} CPUs each, "
            f"the cluster of {len(nodes)} nodes and {most['CPU']:g} CPUs holds {fit}: "
            "lower train.num_workers or train.cpus_per_worker"
        )
    if use_gpu and config.num_workers > most["GPU"]:
        raise InputError(
            f"train.num_workers = {config.num_workers}: the cluster has {most['GPU']:g} GPUs; "
            "lower train.num_workers"
        )
