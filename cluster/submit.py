"""Stages of an experiment as a job of a Ray cluster, submitted from any machine that reaches it."""

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

from cluster.follow import follow, job_commands
from cluster.package import requirements, write_job_folder
from mdsrec.command.heartbeat import heartbeat
from mdsrec.errors import InputError
from mdsrec.files import first_line
from training.distributed.ray_internals import SUBMISSION_LOGGERS
from training.distributed.ray_session import TOKEN_HINT

STOP_WAIT_SECONDS = "600"  # for a stopped job to save and end; then Ray kills it
ADDRESS_HINT = (
    "give the head's dashboard, started with --dashboard-host=0.0.0.0 or reached by a tunnel"
)


def submit(
    config: str,
    overrides: Sequence[str],
    address: str,
    stages: Sequence[str],
    install: str | None = None,
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
) -> int:
    """Submit the experiment, follow the job to its end and return the job's exit code.

    With `wait` false return 0 as soon as it is submitted. InputError if the configuration is wrong,
    before anything is sent, or if the cluster cannot be reached or refuses the job.
    """
    for name in SUBMISSION_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="mdsrec-") as folder:
        arguments = write_job_folder(Path(folder), config, overrides)
        environment_of_job = runtime_env(folder, install, environment or {})
        try:
            client = JobSubmissionClient(address)
            job = client.submit_job(
                entrypoint=entrypoint(arguments, stages), runtime_env=environment_of_job
            )
        except AuthenticationError as error:
            raise InputError(f"{address}: {first_line(error)}: {TOKEN_HINT}") from None
        except ConnectionError:
            raise InputError(f"{address}: no answer: {ADDRESS_HINT}") from None
        except (OSError, RuntimeError, ValueError, requests.RequestException) as error:
            raise InputError(f"{address}: {first_line(error)}") from None
    print(f"job         {job}", flush=True)
    print(job_commands(job, address), flush=True)
    with heartbeat.paused():  # the job has one of its own
        return follow(client, job, address) if wait else 0


def entrypoint(arguments: Sequence[str], stages: Sequence[str]) -> str:
    """Return the job's command, which runs a preflight before the stages."""
    command = ["python", "-m", "cluster", "run", *arguments, "--stages", "preflight", *stages]
    return shlex.join(command)


def runtime_env(folder: str, install: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return Ray's runtime environment.

    `install` is pip or uv. None means that the nodes have the packages already.
    """
    variables = {
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_SECONDS,
        **environment,
    }
    runtime: dict[str, Any] = {"working_dir": folder, "env_vars": variables}
    if install:
        runtime[install] = requirements()
    return runtime


def parse_variable(text: str) -> tuple[str, str]:
    """Return the name and value of NAME=VALUE, or of NAME as set here; InputError if it is not."""
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise InputError(f"--env {name}: not set here; set it, or write {name}=VALUE")
    return name, os.environ[name]
