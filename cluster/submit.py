"""The stages of an experiment as a job of a Ray cluster, from any machine that reaches its head."""

import logging
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from cluster.follow import follow, hints
from cluster.package import pack, requirements
from mdsrec.errors import InputError
from mdsrec.files import first_line
from training.distributed.ray_session import TOKEN

ASKED_TO_STOP = "600"  # seconds in which a job saves and leaves before it is killed
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
HEAD = "give the head's dashboard, started with --dashboard-host=0.0.0.0 or reached by a tunnel"


def submit(
    config: str,
    overrides: Sequence[str],
    address: str,
    stages: Sequence[str],
    install: str | None = None,
    environment: Mapping[str, str] | None = None,
    waits: bool = True,
) -> int:
    """Submit the experiment and follow it to its end -> the exit code of the stage that ended it.

    InputError if the configuration is wrong, before anything is sent, or if the cluster cannot be
    reached or refuses the job.
    """
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="mdsrec-") as folder:
        words = pack(Path(folder), config, overrides)
        sent = runtime_env(folder, install, environment or {})
        try:
            client = JobSubmissionClient(address)
            job = client.submit_job(entrypoint=entrypoint(words, stages), runtime_env=sent)
        except AuthenticationError as error:
            raise InputError(f"{address}: {first_line(error)}: {TOKEN}") from None
        except ConnectionError:
            raise InputError(f"{address}: nothing answers: {HEAD}") from None
        except (OSError, RuntimeError, ValueError, requests.RequestException) as error:
            raise InputError(f"{address}: {first_line(error)}") from None
    print(f"job         {job}", flush=True)
    print(hints(job, address), flush=True)
    return follow(client, job, address) if waits else 0


def entrypoint(words: Sequence[str], stages: Sequence[str]) -> str:
    """The job's command: every node is looked at before any work."""
    return shlex.join(["python", "-m", "cluster", "run", *words, "--stages", "preflight", *stages])


def runtime_env(folder: str, install: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Ray's runtime environment; without `install`, nodes have the packages already."""
    variables = {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": ASKED_TO_STOP, **environment}
    sent: dict[str, Any] = {"working_dir": folder, "env_vars": variables}
    if install:
        sent[install] = requirements()
    return sent


def variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME as it is set here; InputError if it is not."""
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise InputError(f"--env {name}: not set here; set it, or write {name}=VALUE")
    return name, os.environ[name]
