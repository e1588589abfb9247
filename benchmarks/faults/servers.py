"""Serve what holds a reader, floods it or lies to it; addresses and heads that lead nowhere.

Every download must end within its deadline, every image within its memory, and every submission
within 20 s: as a miss, as one line, or with the right image.
"""

import argparse
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.hostile_images import IMAGES
from benchmarks.faults.hostile_servers import ADDRESSES, HEADS, SERVERS, TIMEOUT, Serve, server
from benchmarks.faults.tries import Answer, Try, report
from etl.features.download import HostLimiters, fetch
from etl.features.images import decode_image
from mdsrec.errors import InputError
from mdsrec.images import ImageError

SLACK = 1.0  # seconds that a busy machine may add
SUBMIT_SECONDS = 20.0
MAX_MEMORY = 400 << 20  # bytes that decoding an image may take


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
