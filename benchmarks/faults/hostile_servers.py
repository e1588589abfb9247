"""Servers that hold a reader, flood it or lie to it, and addresses that lead nowhere."""

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from PIL import Image

TIMEOUT = 1.0  # seconds of an attempt to download
DRIP_INTERVAL = 0.05
SILENCE = 60.0  # seconds of a head that accepts and is silent
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[socket.socket], None]


@contextmanager
def server(serve: Serve) -> Iterator[str]:
    """Serve each connection on this machine by `serve`, and yield the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, serve: Serve) -> None:
    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60)
            serve(connection)

    with suppress(OSError):  # closed
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def drip(connection: socket.socket, head: bytes, piece: bytes) -> None:
    """Send a head at once, then a piece now and then, without end."""
    connection.sendall(head)
    while True:
        connection.sendall(piece)
        time.sleep(DRIP_INTERVAL)


def flood(connection: socket.socket, head: bytes, piece: bytes) -> None:
    """Send a head, then the same piece as fast as it is taken, without end."""
    connection.sendall(head)
    while True:
        connection.sendall(piece)


def reply(connection: socket.socket, content: bytes) -> None:
    """Read a request and answer it."""
    connection.recv(1 << 16)
    connection.sendall(content)


def redirect(connection: socket.socket, location: str, length: int = 0) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: {length}\r\n\r\n"
    reply(connection, head.encode())


def _redirect_slowly(connection: socket.socket) -> None:
    time.sleep(TIMEOUT * 0.6)
    redirect(connection, f"/{time.monotonic()}")


def _small_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 36), "teal").save(stream, "PNG")
    return stream.getvalue()


SMALL = _small_png()
WHOLE = OK + b"Content-Length: %d\r\n\r\n" % len(SMALL) + SMALL
HTML = OK + b"Content-Length: 6\r\n\r\n<html>"

SERVERS: dict[str, Serve] = {
    "the right image": partial(reply, content=WHOLE),
    "silence": lambda _: time.sleep(10 * TIMEOUT),
    "closes at once": lambda _: None,
    "drips the status line": partial(drip, head=b"HTTP/1.1 200 ", piece=b"O"),
    "drips a header": partial(drip, head=OK + b"X: ", piece=b"x"),
    "drips headers": partial(drip, head=OK, piece=b"X: y\r\n"),
    "drips 100-continues": partial(drip, head=b"", piece=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "drips headers of a 100-continue": partial(
        drip, head=b"HTTP/1.1 100 Continue\r\n", piece=b"X: y\r\n"
    ),
    "drips a body": partial(drip, head=OK + b"\r\n", piece=b"x"),
    "drips a chunk size": partial(drip, head=CHUNKED, piece=b"0"),
    "drips a chunk extension": partial(drip, head=CHUNKED + b"1;", piece=b"x"),
    "drips chunks": partial(drip, head=CHUNKED, piece=b"1\r\nx\r\n"),
    "drips trailers": partial(drip, head=CHUNKED + b"0\r\n", piece=b"X: y\r\n"),
    "drips redirects": _redirect_slowly,
    "drips the body of a redirect": partial(
        drip, head=b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", piece=b"x"
    ),
    "drips the body of an error": partial(drip, head=b"HTTP/1.1 500 No\r\n\r\n", piece=b"x"),
    "floods the status line": partial(flood, head=b"HTTP/1.1 200 ", piece=b"O" * 4096),
    "floods headers": partial(flood, head=OK, piece=b"X: y\r\n" * 512),
    "floods 100-continues": partial(flood, head=b"", piece=b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "floods a body": partial(flood, head=OK + b"\r\n", piece=b"x" * 65536),
    "floods chunks": partial(flood, head=CHUNKED, piece=b"1\r\nx\r\n" * 512),
    "floods the body of a redirect": partial(
        flood, head=b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", piece=b"x" * 65536
    ),
    "a loop of redirects": partial(redirect, location="/again"),
    "a redirect to a file": partial(redirect, location="file:///etc/hostname"),
    "a redirect to no address": partial(redirect, location="http://[/"),
    "a redirect to another port": partial(redirect, location="http://127.0.0.1:99999/"),
    "a shorter body than its length": partial(
        reply, content=OK + b"Content-Length: 9999\r\n\r\n" + SMALL
    ),
    "a longer body than its length": partial(
        reply, content=OK + b"Content-Length: 9\r\n\r\n" + SMALL
    ),
    "a negative length": partial(reply, content=OK + b"Content-Length: -1\r\n\r\nx"),
    "a length of a petabyte": partial(
        reply, content=OK + b"Content-Length: 1%s\r\n\r\nx" % (b"0" * 15)
    ),
    "a length that is not a number": partial(reply, content=OK + b"Content-Length: x\r\n\r\nx"),
    "a chunk of a negative size": partial(reply, content=CHUNKED + b"-5\r\nx\r\n"),
    "a chunk of a huge size": partial(reply, content=CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nx"),
    "a chunk size that is not a number": partial(reply, content=CHUNKED + b"oops\r\nx"),
    "no HTTP": partial(reply, content=b"\x00\xff" * 500),
    "a status of no number": partial(reply, content=b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status beyond 999": partial(reply, content=b"HTTP/1.1 99999 OK\r\n\r\n"),
    "an encoding that we did not ask for": partial(
        reply, content=OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 1_000_000)
    ),
    "headers that are not ASCII": partial(reply, content=OK + b"X: \xff\xfe\x00\r\n\r\nx"),
}

ADDRESSES = (
    "",
    "http://",
    "http://[",
    "http://[::1",
    "http://a:b@127.0.0.1:9/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:9/",
    "http://0.0.0.0:9/",
    "http://255.255.255.255/",
    "http://no-such-host.invalid/",
    "http://" + "a" * 5000 + ".invalid/",
    "http://a..b/",
    "http://127.0.0.1:9/" + "x" * 200_000,
    "http://127.0.0.1:9/\x00",
    "http://127.0.0.1:9/\r\nHost: other",
    "http://127.0.0.1:9/\ud800",
    "http://\u2100.invalid/",
    "HTTP://127.0.0.1:9/",
    "file:///etc/hostname",
    "ftp://127.0.0.1/x",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
)

HEADS: dict[str, Serve | str] = {
    "accepts and is silent": lambda _: time.sleep(SILENCE),
    "drips headers": partial(drip, head=OK, piece=b"X: y\r\n"),
    "drips a body": partial(drip, head=OK + b"\r\n", piece=b"x"),
    "floods a body": partial(flood, head=OK + b"\r\n", piece=b"x" * 65536),
    "a page": partial(reply, content=HTML),
    "a loop of redirects": partial(redirect, location="/again"),
    "another JSON": partial(reply, content=OK + b"Content-Length: 2\r\n\r\n[]"),
    "no HTTP": partial(reply, content=b"\x00" * 100),
    "a closed port": "http://127.0.0.1:9",
    "a port beyond 65535": "http://127.0.0.1:99999",
    "another scheme": "ftp://127.0.0.1:9",
    "the scheme of Ray's client": "ray://127.0.0.1:9",
    "a module of Python": "os://127.0.0.1:9",
    "no scheme": "127.0.0.1:9",
    "no host": "http://",
    "an unknown host": "http://no-such-host.invalid:8265",
}
