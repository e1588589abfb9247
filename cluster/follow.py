"""A job's log as it grows, and how the job ended."""

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

from mdsrec.errors import InputError

QUIET = 60  # seconds without a word, after which the connection is made anew
LOST = 600  # seconds without a connection, after which the job is left alone
AGAIN = 1  # seconds between two tries
REMEMBERED = 20_000  # characters of the log in which its cause is sought
OUT_OF_REACH = (OSError, RuntimeError, TimeoutError, aiohttp.ClientError, requests.RequestException)
DETACHED = 128 + signal.SIGINT
STOPPED = 128 + signal.SIGTERM

CAUSE = re.compile(
    r"^(?:(?:preflight|etl|training|evaluation|tuning|cluster): (?!.* failed with exit code)"
    r"|[A-Za-z_][\w.]*(?:Error|Exception)\b).*$",
    re.MULTILINE,
)


def hints(job: str, address: str) -> str:
    """How to follow the job from another shell, and how to stop it."""
    return (
        f"follow      ray job logs {job} --follow --address {address}\n"
        f"stop        ray job stop {job} --address {address}"
    )


def follow(client: JobSubmissionClient, job: str, address: str) -> int:
    """Show the log until the job ends -> the exit code of its command.

    Ctrl-C on a terminal asks whether to stop the job; elsewhere it leaves the job to run.
    """
    log = Log()
    while True:
        try:
            asyncio.run(log.show(client, job))
            return _ending(_details(client, job), log.tail)
        except KeyboardInterrupt:
            if not _stops():
                print(f"\nthe job goes on\n{hints(job, address)}", file=sys.stderr)
                return DETACHED
            print("\nasked the job to save and stop", file=sys.stderr)
            client.stop_job(job)


class Log:
    """What was shown of a job's log, so that a new connection goes on where the last one ended."""

    def __init__(self) -> None:
        self._shown = 0  # characters
        self.tail = ""

    async def show(self, client: JobSubmissionClient, job: str) -> None:
        """Print what comes until the job has ended; InputError if it is out of reach for long."""
        heard = time.monotonic()
        while True:
            with suppress(*OUT_OF_REACH):
                await self._print(client, job)
            with suppress(*OUT_OF_REACH):
                if _details(client, job).status.is_terminal():
                    return
                heard = time.monotonic()
            if time.monotonic() - heard > LOST:
                raise InputError(f"job {job}: its cluster cannot be reached for {LOST} s")
            await asyncio.sleep(AGAIN)

    async def _print(self, client: JobSubmissionClient, job: str) -> None:
        known = self._shown
        stream = aiter(client.tail_job_logs(job))
        with suppress(StopAsyncIteration):
            while True:
                text = await asyncio.wait_for(anext(stream), QUIET)
                new, known = text[known:], max(0, known - len(text))
                print(new, end="", flush=True)
                self._shown += len(new)
                self.tail = (self.tail + new)[-REMEMBERED:]


def cause_in(log: str) -> str | None:
    """The last line that says what went wrong: a stage's own, or an exception's."""
    found = CAUSE.findall(log)
    return found[-1] if found else None


def _details(client: JobSubmissionClient, job: str) -> Any:
    return client.get_job_info(job)


def _ending(details: Any, log: str) -> int:
    """The exit code; of a job that failed, with its cause in one line."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        print("cluster submit: the job was stopped", file=sys.stderr)
        return STOPPED
    code = details.driver_exit_code
    if code is None:  # it never ran
        lines = [line.strip() for line in (details.message or "").splitlines() if line.strip()]
        for line in lines[:-1]:
            print(line)
        cause = lines[-1] if lines else "no reason is known"
        print(f"cluster submit: the job did not start: {cause}", file=sys.stderr)
        return 1
    cause = cause_in(log) or "the log says more"
    print(f"cluster submit: the job failed with exit code {code}: {cause}", file=sys.stderr)
    return int(code) if code > 0 else 128 - int(code)


def _stops() -> bool:
    """What the user says, on a terminal, to Ctrl-C."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print("\nstop the job? [y/N] (N: it goes on without this shell) ", end="", file=sys.stderr)
    with suppress(EOFError, KeyboardInterrupt):
        return input().strip().lower() in ("y", "yes")
    return False
