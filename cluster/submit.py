"""Stages of an experiment as a job of a Ray cluster, submitted from any machine that reaches it."""

import logging
import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError

from cluster.connection import ADDRESS_HINT, connect, within
from cluster.follow import follow, job_commands
from cluster.package import requirements, write_job_folder
from mdsrec.command.heartbeat import heartbeat
from mdsrec.credentials import remember_secrets
from mdsrec.errors import InputError
from mdsrec.files import first_line
from training.distributed.ray_internals import SUBMISSION_LOGGERS
from training.distributed.ray_session import TOKEN_HINT

SUBMIT_SECONDS = 300.0  # to send the package to a head that has answered
NAME = re.compile(r"[A-Z][A-Z0-9_]*")
STOP_WAIT_SECONDS = "600"  # for a stopped job to save and end; then Ray kills it


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
        line = entrypoint(arguments, stages)
        try:
            client = connect(address)
            job = within(
                SUBMIT_SECONDS,
                lambda: client.submit_job(entrypoint=line, runtime_env=environment_of_job),
            )
        except InputError:
            raise
        except AuthenticationError as error:
            raise InputError(f"{address}: {first_line(error)}: {TOKEN_HINT}") from None
        except (ConnectionError, TimeoutError):
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
        remember_secrets({name: value})
        return name, value
    if name not in os.environ:
        shown = name if NAME.fullmatch(name) else "..."  # else it may be the value itself
        raise InputError(f"--env {shown}: not set here; set it, or write {shown}=VALUE")
    return name, os.environ[name]
