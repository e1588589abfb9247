"""One attempt at a download, held to a deadline and a size, whatever the server sends.

A timeout of a socket starts again with every byte, so a server that sends one now and then holds a
reader for ever. Here each wait of an attempt lasts no longer than what is left of its deadline:
looking up the host, connecting, the TLS handshake, headers, redirects and the body.
"""

import http.client
import io
import queue
import socket
import threading
import time
import urllib.request
from functools import partial
from typing import Any

from mdsrec.images import ImageError

HEAD_BYTES = 1 << 20  # of all headers of an attempt, and what its redirects and chunks add


class Attempt:
    """Seconds and bytes that an attempt has left."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._deadline = time.monotonic() + seconds
        self._max_bytes, self._num_read = max_bytes, 0

    def seconds_left(self) -> float:
        """Return the seconds to the deadline; TimeoutError behind it."""
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def count(self, num_bytes: int) -> None:
        """Count received bytes; ImageError if they are too many."""
        self._num_read += num_bytes
        if self._num_read > self._max_bytes + HEAD_BYTES:
            raise ImageError(f"above {self._max_bytes >> 20} MiB")

    def opener(self) -> urllib.request.OpenerDirector:
        """Return an opener for http and https only: no redirect leads to a file or to ftp."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(self),
            _Https(self),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener

    def connect(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """Connect to the first address of a host that answers; each gets an equal share of time."""
        found = _look_up(address, self.seconds_left())
        failure: OSError = OSError("no address")
        for tried, (family, kind, protocol, _name, where) in enumerate(found):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self.seconds_left() / (len(found) - tried))
                connection.connect(where)
                connection.settimeout(self.seconds_left())  # of a TLS handshake, and of the request
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure


def _look_up(address: tuple[str, int], seconds: float) -> list[Any]:
    """Return the addresses of a host. The resolver has no timeout, so a thread waits for it."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        except Exception as error:  # handed to the caller
            answers.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


class _Bytes(io.RawIOBase):
    """The bytes that a connection receives within an attempt."""

    def __init__(self, connection: socket.socket, attempt: Attempt) -> None:
        self._connection, self._attempt = connection, attempt
        self._raw = connection.makefile("rb", buffering=0)  # keeps the connection open

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._attempt.seconds_left())
        num_bytes = self._raw.readinto(buffer)
        self._attempt.count(num_bytes or 0)
        return num_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, attempt: Attempt, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Bytes(sock, attempt))


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, attempt: Attempt, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _hold_to(attempt, self)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, attempt: Attempt, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _hold_to(attempt, self)


def _hold_to(attempt: Attempt, connection: Any) -> None:
    """Let a connection of http.client connect and read within an attempt."""
    connection._create_connection = attempt.connect
    connection.response_class = partial(_Response, attempt)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt

    def http_open(self: Any, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_Connection, attempt=self._attempt), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt

    def https_open(self: Any, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_SecureConnection, attempt=self._attempt), request)
