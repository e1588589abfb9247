"""Connection to the job server of a Ray cluster. Ray's client waits for ever, so we do not."""

import json
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobSubmissionClient
from urllib3.exceptions import HTTPError

from mdsrec.errors import InputError

CONNECT_SECONDS = 10.0  # for all answers of a head until it takes a job
LONGEST_VERSION = 64 << 10  # bytes of the answer that names the version
ADDRESS_HINT = (
    "give the head's dashboard, started with --dashboard-host=0.0.0.0 or reached by a tunnel"
)

T = TypeVar("T")


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at `address`.

    InputError if it is no address or no job server answers there, TimeoutError if nothing answers
    within CONNECT_SECONDS.
    """
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"--address {address}: not an address: write http://HEAD:8265")

    def client() -> JobSubmissionClient:
        check_head(address)
        return JobSubmissionClient(address)

    return within(CONNECT_SECONDS, client)


def check_head(address: str) -> None:
    """Raise InputError if it is not Ray's dashboard that answers; ConnectionError if nothing does.

    Ray's client would read an answer of any length. It explains one that refuses our token.
    """
    url = f"{address.rstrip('/')}/api/version"
    try:
        with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
            if response.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
                return
            content = response.raw.read(LONGEST_VERSION, decode_content=True)
    except (requests.RequestException, HTTPError):
        raise ConnectionError from None
    try:
        is_ray = response.ok and isinstance(json.loads(content)["ray_version"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_ray = False
    if not is_ray:
        raise InputError(f"{address}: what answers is not Ray: {ADDRESS_HINT}")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call; TimeoutError if it takes longer. A thread goes on waiting."""
    results: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((True, call()))
        except Exception as error:  # raised by the caller
            results.put((False, error))

    threading.Thread(target=run, name="submission", daemon=True).start()
    try:
        is_result, found = results.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if not is_result:
        raise found
    result: T = found
    return result
