"""Fetching over HTTP(S): within a time, a size and a rate, and tried again where that may help."""

import http.client
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

MAX_BYTES = 32 << 20
BACKOFF = 0.5  # seconds before the second attempt; doubled before each further one
BUSY = 429
NOT_HTTP = "not an http address"
AGENT = "mdsrec/0.1"
UNQUOTED = "%/:=&?~#+!$,;'@()*[]"  # a quoted address stays as it is


class MissedError(Exception):
    """Why there is nothing to be had, in a few words that can be counted."""


class _RetriableError(Exception):
    """An attempt failed for a reason that may pass."""


@dataclass
class Pace:
    """Lets a call pass every `interval` seconds at most, from whichever thread."""

    interval: float
    _next: float = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.interval

    def wait(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self.interval
        time.sleep(max(0.0, turn - time.monotonic()))


def fetch(address: str, timeout: float, retries: int, pace: Pace) -> bytes:
    """The content at an address; MissedError says why there is none.

    Failures of the network, 429 and 5xx are tried again `retries` times.
    """
    if not _is_http(address):
        raise MissedError(NOT_HTTP)
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(BACKOFF * 2 ** (attempt - 1))
        pace.wait()
        try:
            return _attempt(address, timeout)
        except _RetriableError as error:
            reason = str(error)
    raise MissedError(reason)


def _attempt(address: str, timeout: float) -> bytes:
    try:
        request = urllib.request.Request(
            quote(address, safe=UNQUOTED), headers={"User-Agent": AGENT}
        )
        with _opener().open(request, timeout=timeout) as response:
            return _body(response, time.monotonic() + timeout)
    except urllib.error.HTTPError as error:
        error.close()
        kind = _RetriableError if error.code == BUSY or error.code >= 500 else MissedError
        raise kind(str(error.code)) from None
    except TimeoutError:
        raise _RetriableError("timeout") from None
    except urllib.error.URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        raise _RetriableError("timeout" if slow else "no connection") from None
    except (http.client.InvalidURL, ValueError):
        raise MissedError(NOT_HTTP) from None
    except (http.client.HTTPException, OSError):
        raise _RetriableError("no connection") from None


def _body(response: Any, deadline: float) -> bytes:
    """All of it: a server that sends little by little, for ever, ends at the deadline."""
    body = bytearray()
    while part := response.read1(1 << 16):
        body += part
        if len(body) > MAX_BYTES:
            raise MissedError(f"above {MAX_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:  # of what was announced this much never came
        raise http.client.IncompleteRead(bytes(body))
    return bytes(body)


def _is_http(address: str) -> bool:
    try:
        return urlsplit(address).scheme in ("http", "https")
    except ValueError:
        return False


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone, also where an answer points elsewhere: no files, no ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
