"""Ray as this process finds it: the cluster it belongs to, or a local one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.files import first_line
from mdsrec.logs import FORMAT_KEY

TOKEN = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file) as the cluster has them"


@contextmanager
def ray_session(log_to_driver: bool = True) -> Iterator[None]:
    """Ray as it runs already, the cluster of RAY_ADDRESS (in a submitted job), or a local one.

    Where `log_to_driver`, what workers say is shown here too.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith("http"):
        raise InputError(
            f"RAY_ADDRESS = {address} is for `ray job submit`: submit the command as a job, "
            "or unset it to run here"
        )
    local = {} if address else {"include_dashboard": True}
    try:
        ray.init(
            address or "local", logging_level=logging.WARNING, log_to_driver=log_to_driver, **local
        )
    except (AuthenticationError, ConnectionError) as error:  # a wrong token may look like either
        raise InputError(
            f"RAY_ADDRESS = {address}: {first_line(error)}: if it is up, {TOKEN}"
        ) from None
    name_this_ray()
    try:
        yield
    finally:
        ray.shutdown()
        del os.environ["RAY_ADDRESS"]
        if address:
            os.environ["RAY_ADDRESS"] = address


def name_this_ray() -> None:
    """Tell Ray Train's clean-up actor the address of the Ray that this process belongs to: it takes
    any Ray of the host for its own, and ends a training that the other one does not know.
    """
    ENV_VARS_TO_PROPAGATE.update(("RAY_ADDRESS", FORMAT_KEY))
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def capacity() -> dict[str, float]:
    """CPU and GPU of the cluster, or the most its autoscaler may grow to where it declares that."""
    declared = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    here = ray.cluster_resources()
    return {name: max(here.get(name, 0.0), declared.get(name, 0)) for name in ("CPU", "GPU")}


def uses_gpu(experiment: Experiment) -> bool:
    """Whether workers take a GPU each: as `train.device` says, by what the cluster has where it
    says auto.
    """
    has_gpu = capacity()["GPU"] > 0
    if experiment.train.device == "gpu" and not has_gpu:
        raise InputError("train.device = gpu: the cluster has no GPU; set train.device=cpu or auto")
    return has_gpu and experiment.train.device != "cpu"


def check_capacity(experiment: Experiment, use_gpu: bool) -> None:
    """InputError if the cluster can never hold the workers, instead of waiting for ever."""
    config, most = experiment.train, capacity()
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    fit = sum(int(cpus / config.cpus_per_worker + 1e-9) for cpus in nodes)
    grows = most["CPU"] > sum(nodes)
    if config.num_workers > fit and not grows:
        raise InputError(
            f"train.num_workers = {config.num_workers} of {config.cpus_per_worker:g} CPUs each, "
            f"the cluster of {len(nodes)} nodes and {most['CPU']:g} CPUs holds {fit}: "
            "lower train.num_workers or train.cpus_per_worker"
        )
    if use_gpu and config.num_workers > most["GPU"]:
        raise InputError(
            f"train.num_workers = {config.num_workers}: the cluster has {most['GPU']:g} GPUs; "
            "lower train.num_workers"
        )
