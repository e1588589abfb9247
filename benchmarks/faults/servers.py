"""Serve what holds a reader, floods it or lies to it; addresses and heads that lead nowhere.

Every download must end within its deadline, every image within its memory, and every submission
within 20 s: as a miss, as one line, or with the right image.
"""

import argparse
import gzip
import io
import multiprocessing
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from benchmarks.faults.tries import Answer, Try, report
from etl.features.download import HostLimiters, fetch
from etl.features.images import decode_image
from mdsrec.errors import InputError
from mdsrec.images import MAX_PIXELS, ImageError

TIMEOUT = 1.0  # seconds of an attempt
SLACK = 1.0  # seconds that a busy machine may add
SUBMIT_SECONDS = 20.0
MAX_MEMORY = 400 << 20  # bytes that decoding an image may take
DRIP_INTERVAL = 0.05
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[socket.socket], None]


class Fault(NamedTuple):
    """A fault of one kind, and the function that tries it."""

    kind: str
    name: str
    attempt: Callable[[], tuple[Answer, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--tries", type=int, help="default: each fault once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("servers", "addresses", "images", "heads"))


def run(arguments: argparse.Namespace) -> None:
    """Try the faults, in an order by the seed, and report."""
    found = [
        fault
        for fault in faults(arguments.folder)
        if arguments.only is None or fault.kind == arguments.only
    ]
    random.Random(arguments.seed).shuffle(found)
    tries = []
    for fault in islice(cycle(found), arguments.tries or len(found)):
        answer, said = fault.attempt()
        tries.append(Try(fault.kind, fault.name, answer, said))
    tries.sort(key=lambda one: one.kind)
    report(arguments.folder, "servers", tries)


def faults(folder: Path) -> Iterator[Fault]:
    """Yield every fault."""
    for name, serve in SERVERS.items():
        yield Fault("servers", name, partial(_download_from, serve))
    for address in ADDRESSES:
        yield Fault("addresses", address[:60], partial(_download, address))
    for name, make in IMAGES.items():
        yield Fault("images", name, partial(_decode, make))
    for name, head in HEADS.items():
        yield Fault("heads", name, partial(_submit, folder, head))


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


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SMALL = _encoded(Image.new("RGB", (40, 36), "teal"), "PNG")
WHOLE = OK + b"Content-Length: %d\r\n\r\n" % len(SMALL) + SMALL

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
    "a length that is no number": partial(reply, content=OK + b"Content-Length: x\r\n\r\nx"),
    "a chunk of a negative size": partial(reply, content=CHUNKED + b"-5\r\nx\r\n"),
    "a chunk of a huge size": partial(reply, content=CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nx"),
    "a chunk size that is no number": partial(reply, content=CHUNKED + b"oops\r\nx"),
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


def _download_from(serve: Serve) -> tuple[Answer, str]:
    with server(serve) as address:
        return _download(f"http://{address}/1.png")


def _download(address: str) -> tuple[Answer, str]:
    """Download and decode, and hold the attempt to its deadline."""
    start = time.monotonic()
    answer, said = _image_or_miss(lambda: fetch(address, TIMEOUT, 0, HostLimiters(0.0)))
    spent = time.monotonic() - start
    if spent > TIMEOUT + SLACK:
        return Answer.SILENT, f"held for {spent:.1f} s: {said}"
    return answer, said


def _image_or_miss(content: Callable[[], bytes]) -> tuple[Answer, str]:
    try:
        image = decode_image(content())
    except ImageError as error:
        return Answer.LINE, str(error)
    except Exception as error:
        return Answer.TRACEBACK, repr(error)
    return Answer.SAME, f"{image.width} x {image.height}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png(width: int, height: int, depth: int = 8, color: int = 2, rows: bytes = b"") -> bytes:
    """Return a PNG of a size that its rows need not have."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _plain(side: int, mode: str, kind: str, **options: Any) -> bytes:
    return _encoded(Image.new(mode, (side, side - 1)), kind, **options)


def _animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (400, 400), (shade, 0, 0)) for shade in range(200)]
    return _encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _gif_with_large_frame() -> bytes:
    """Return a GIF of 10 x 10 pixels whose first frame claims 20000 x 20000."""
    head = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 20000, 20000, 0) + b"\x02\x02\x4c\x01\x00;"
    return head + frame


LIMIT = int(MAX_PIXELS**0.5)
IMAGES: dict[str, Callable[[], bytes]] = {
    "a PNG of 8192 x 8191 in 8 kB": partial(
        _png, 8192, 8191, depth=1, color=0, rows=b"\x00" * (1025 * 8191)
    ),
    "a PNG of 8192 x 8191 in RGBA": partial(_plain, 8192, "RGBA", "PNG"),
    "a PNG at the limit": partial(_plain, LIMIT, "RGB", "PNG"),
    "a transparent PNG at the limit": partial(_plain, LIMIT, "RGBA", "PNG"),
    "a PNG of 16 bits at the limit": partial(_plain, LIMIT, "I;16", "PNG"),
    "a PNG of 65535 x 65535 without rows": partial(_png, 65535, 65535),
    "a PNG of 2147483647 pixels a side": partial(_png, 2**31 - 1, 2**31 - 1),
    "a PNG of no pixels": partial(_png, 0, 0),
    "a PNG without its rows": partial(_png, 400, 400),
    "a truncated PNG": lambda: SMALL[: len(SMALL) // 2],
    "a JPEG of 8000 x 7999": partial(_plain, 8000, "RGB", "JPEG"),
    "a progressive JPEG of 8000 x 7999": partial(_plain, 8000, "RGB", "JPEG", progressive=True),
    "a JPEG of 20000 x 19999": partial(_plain, 20_000, "L", "JPEG"),
    "a truncated JPEG": lambda: _plain(400, "RGB", "JPEG")[:300],
    "a WebP at the limit": partial(_plain, LIMIT, "RGB", "WEBP"),
    "a WebP of 8000 x 7999": partial(_plain, 8000, "L", "WEBP"),
    "a truncated WebP": lambda: _plain(400, "RGB", "WEBP")[:100],
    "an animated GIF": partial(_animated, "GIF"),
    "an animated WebP": partial(_animated, "WEBP"),
    "an animated PNG": partial(_animated, "PNG"),
    "a GIF with a frame beyond its size": _gif_with_large_frame,
    "an SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "nothing": lambda: b"",
    "noise": lambda: random.Random(0).randbytes(10_000),
}


def _decode(make: Callable[[], bytes]) -> tuple[Answer, str]:
    """Decode an image in a process of its own, and hold it to its memory."""
    content = make()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_decode_into, args=(theirs, content))
    child.start()
    theirs.close()
    try:
        answer, said, memory = ours.recv()
    except EOFError:
        return Answer.TRACEBACK, "the process died"
    child.join()
    if memory > MAX_MEMORY:
        return Answer.SILENT, f"took {memory >> 20} MiB: {said}"
    return answer, f"{said}, {memory >> 20} MiB"


def _decode_into(pipe: Any, content: bytes) -> None:
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    answer, said = _image_or_miss(lambda: content)
    pipe.send((answer, said, _memory("VmHWM") - before))


def _memory(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [found] = [line for line in lines if line.startswith(f"{name}:")]
    return int(found.split()[1]) << 10


HTML = OK + b"Content-Length: 6\r\n\r\n<html>"
HEADS: dict[str, Serve | str] = {
    "accepts and is silent": lambda _: time.sleep(3 * SUBMIT_SECONDS),
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


def _submit(folder: Path, head: Serve | str) -> tuple[Answer, str]:
    """Submit to a head, and hold the command to its deadline."""
    from cluster import submit  # noqa: F401  its imports take seconds of their own
    from cluster.__main__ import main

    config = folder / "submitted.toml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(f'name = "a"\nroot = "{folder}"\n[input]\nedition="2018"\nreviews=["a"]\n')
    with server(head) if callable(head) else _no_server(head) as address:
        url = address if "//" in address or isinstance(head, str) else f"http://{address}"
        start = time.monotonic()
        try:
            main(["submit", str(config), "--address", url])
            answer, said = Answer.SILENT, "was submitted"
        except InputError as error:
            answer, said = Answer.LINE, str(error)
        except Exception as error:
            answer, said = Answer.TRACEBACK, repr(error)
        spent = time.monotonic() - start
    if spent > SUBMIT_SECONDS:
        return Answer.SILENT, f"held for {spent:.1f} s: {said}"
    return answer, said


@contextmanager
def _no_server(address: str) -> Iterator[str]:
    yield address
