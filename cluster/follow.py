"""Live log of a job on a Ray cluster, and its exit code."""

import asyncio
import re
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import aiohttp
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from mdsrec.credentials import redacted
from mdsrec.errors import InputError

RECONNECT_AFTER = 60  # seconds without output
UNREACHABLE_AFTER = 600  # seconds without a connection; only this process ends, not the job
RETRY_INTERVAL = 1  # seconds
TAIL_LENGTH = 20_000  # last characters of the log, searched for the cause of a failure
CONNECTION_ERRORS = (
    OSError,
    RuntimeError,
    TimeoutError,
    aiohttp.ClientError,
    requests.RequestException,
)
DETACHED = 128 + signal.SIGINT
STOPPED = 128 + signal.SIGTERM

CAUSE = re.compile(
    r"^(?:(?:preflight|etl|training|evaluation|tuning|cluster): (?!.* failed with exit code)"
    r"|[A-Za-z_][\w.]*(?:Error|Exception)\b).*$",
    re.MULTILINE,
)


def job_commands(job: str, address: str) -> str:
    """Return the commands that follow and stop the job from another shell, without secrets."""
    address = redacted(address)
    return (
        f"follow      ray job logs {job} --follow --address {address}\n"
        f"stop        ray job stop {job} --address {address}"
    )


def follow(client: JobSubmissionClient, job: str, address: str) -> int:
    """Print the log until the job ends, and return the exit code of its command.

    On a terminal Ctrl-C asks whether to stop the job; elsewhere it leaves the job running.
    """
    log = JobLog()
    while True:
        try:
            asyncio.run(log.print_until_end(client, job))
            return _exit_code(client.get_job_info(job), log.tail)
        except KeyboardInterrupt:
            if not _confirm_stop():
                commands = job_commands(job, address)
                print(f"\nthe job keeps running\n{commands}", file=sys.stderr)
                return DETACHED
            print("\nthe job saves a checkpoint and stops", file=sys.stderr)
            client.stop_job(job)


class JobLog:
    """The part of a job's log that was printed, so that a new connection continues after it."""

    def __init__(self) -> None:
        self._num_printed = 0  # characters
        self.tail = ""

    async def print_until_end(self, client: JobSubmissionClient, job: str) -> None:
        """Print new text until the job has ended.

        InputError if the cluster cannot be reached for UNREACHABLE_AFTER seconds.
        """
        last_contact = time.monotonic()
        while True:
            with suppress(*CONNECTION_ERRORS):
                await self._print_stream(client, job)
            with suppress(*CONNECTION_ERRORS):
                if client.get_job_info(job).status.is_terminal():
                    return
                last_contact = time.monotonic()
            if time.monotonic() - last_contact > UNREACHABLE_AFTER:
                raise InputError(f"job {job}: cluster not reachable for {UNREACHABLE_AFTER} s")
            await asyncio.sleep(RETRY_INTERVAL)

    async def _print_stream(self, client: JobSubmissionClient, job: str) -> None:
        num_known = self._num_printed  # a new stream starts with the text printed so far
        stream = aiter(client.tail_job_logs(job))
        with suppress(StopAsyncIteration):
            while True:
                text = await asyncio.wait_for(anext(stream), RECONNECT_AFTER)
                new, num_known = text[num_known:], max(0, num_known - len(text))
                print(new, end="", flush=True)
                self._num_printed += len(new)
                self.tail = (self.tail + new)[-TAIL_LENGTH:]


def find_cause(log: str) -> str | None:
    """Return the last line that names a failure: a stage's own message, or an exception."""
    found = CAUSE.findall(log)
    return found[-1] if found else None


def _exit_code(details: Any, log: str) -> int:
    """Return the job's exit code; print the cause of a failure in one line."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        print("cluster submit: the job was stopped", file=sys.stderr)
        return STOPPED
    code = details.driver_exit_code
    if code is None:  # the command never started
        lines = [line.strip() for line in (details.message or "").splitlines() if line.strip()]
        for line in lines[:-1]:
            print(line)
        cause = lines[-1] if lines else "no reason given"
        print(f"cluster submit: the job did not start: {cause}", file=sys.stderr)
        return 1
    cause = find_cause(log) or "see the log above"
    print(f"cluster submit: the job failed with exit code {code}: {cause}", file=sys.stderr)
    return int(code) if code > 0 else 128 - int(code)


def _confirm_stop() -> bool:
    """Ask on a terminal whether to stop the job; without a terminal return False."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print("\nstop the job? [y/N] (N: it keeps running) ", end="", file=sys.stderr)
    with suppress(EOFError, KeyboardInterrupt):
        return input().strip().lower() in ("y", "yes")
    return False
