"""HTTP(S) download of an image with a deadline, a size limit, a rate limit and retries."""

import http.client
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from etl.features.attempt import Attempt
from mdsrec.images import ImageError

MAX_BYTES = 32 << 20
BACKOFF = 0.5  # seconds before the second attempt; doubled before each further one
TOO_MANY_REQUESTS = 429
NOT_HTTP = "not an http address"
USER_AGENT = "mdsrec/0.1"
UNQUOTED = "%/:=&?~#+!$,;'@()*[]"  # so that a quoted address is not quoted again


class _RetriableError(Exception):
    """An attempt that failed for a reason that may pass."""


@dataclass
class RateLimiter:
    """At most one call every `interval` seconds, over all threads."""

    interval: float
    _next: float = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.interval

    def wait(self) -> None:
        """Return when it is this call's turn."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self.interval
        time.sleep(max(0.0, turn - time.monotonic()))


@dataclass
class HostLimiters:
    """A limiter for every host that is asked for images."""

    interval: float
    _of_host: dict[str, RateLimiter] = field(init=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def wait(self, address: str) -> None:
        """Return when it is the turn of a request to the address' host."""
        host = urlsplit(address).netloc.lower()
        with self._lock:
            if host not in self._of_host:
                self._of_host[host] = RateLimiter(self.interval)
            limiter = self._of_host[host]
        limiter.wait()


def fetch(address: str, timeout: float, retries: int, limiters: HostLimiters) -> bytes:
    """Return the content at an address; ImageError with the reason if there is none.

    An attempt takes `timeout` seconds at most, all in all. Network failures and the statuses 429
    and 5xx are retried up to `retries` times.
    """
    if not is_http(address):
        raise ImageError(NOT_HTTP)
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(BACKOFF * 2 ** (attempt - 1))
        limiters.wait(address)
        try:
            return _fetch_once(address, timeout)
        except _RetriableError as error:
            reason = str(error)
    raise ImageError(reason)


def _fetch_once(address: str, timeout: float) -> bytes:
    try:
        request = urllib.request.Request(
            quote(address, safe=UNQUOTED), headers={"User-Agent": USER_AGENT}
        )
        with Attempt(timeout, MAX_BYTES).opener().open(request, timeout=timeout) as response:
            return _read_body(response)
    except urllib.error.HTTPError as error:
        error.close()
        retriable = error.code == TOO_MANY_REQUESTS or error.code >= 500
        raise (_RetriableError if retriable else ImageError)(str(error.code)) from None
    except TimeoutError:
        raise _RetriableError("timeout") from None
    except urllib.error.URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        raise _RetriableError("timeout" if slow else "no connection") from None
    except (http.client.InvalidURL, ValueError, OverflowError):  # the last of a port
        raise ImageError(NOT_HTTP) from None
    except (http.client.HTTPException, OSError):
        raise _RetriableError("no connection") from None


def _read_body(response: Any) -> bytes:
    """Return the whole body; ImageError if it is too large."""
    body = bytearray()
    while part := response.read1(1 << 16):
        body += part
        if len(body) > MAX_BYTES:
            raise ImageError(f"above {MAX_BYTES >> 20} MiB")
    if response.length:  # bytes of Content-Length that did not arrive
        raise http.client.IncompleteRead(bytes(body))
    return bytes(body)


def is_http(address: str) -> bool:
    try:
        return urlsplit(address).scheme in ("http", "https")
    except ValueError:
        return False
