"""Arrays that the processes of a host hold once.

The first rank of each host builds them in anonymous shared memory (memfd), and the others map it
through /proc/PID/fd. The memory has no name, so nothing is left behind: it is freed with the last
process that maps it. Where that is not possible, each process builds its own arrays.
"""

import logging
import mmap
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mdsrec.errors import InputError
from mdsrec.files import first_line

REPORT_SECONDS = 10.0  # while a rank builds it reports so often, so the others never time out
RUNNING = "running"

log = logging.getLogger("training")

Array = NDArray[Any]
Shape = int | tuple[int, ...]
Allocate = Callable[[Shape, DTypeLike], Array]
"""A function that returns an array of zeros, which takes memory only where it is written."""


class Ranks(Protocol):
    """The ranks of a process group."""

    rank: int

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in order. Collective."""


class Built(NamedTuple):
    """Arrays by name, and a small value beside them. Each is the start of an allocated one."""

    arrays: Mapping[str, Array]
    about: Any


class _Failure(NamedTuple):
    is_input_error: bool
    message: str


class _Place(NamedTuple):
    """An array in the memory of another process."""

    path: str
    shape: tuple[int, ...]
    dtype: str


def once_per_host(build: Callable[[Allocate], Built], ranks: Ranks | None = None) -> Built:
    """Return what `build` returns; the first rank of each host calls it. Collective.

    None means that this process is alone. If `build` fails, every rank raises the same message: an
    InputError if `build` raised one, or else a RuntimeError.
    """
    if ranks is None:
        return build(zeros)
    hosts = ranks.gather(host_of_process())
    own = hosts[ranks.rank]
    first = ranks.rank if own is None else hosts.index(own)
    with _SharedMemory() as memory:
        is_shared = own is not None and hosts.count(own) > 1
        building = partial(build, memory.zeros if is_shared else zeros)
        offer = memory.offer if is_shared else _nothing
        built, offers = _together(building if first == ranks.rank else None, ranks, offer)
        # The first rank maps them again too: what one rank writes must not reach the others.
        mapping = partial(_map_or_build, offers[first], build)
        mapped, _ = _together(mapping if is_shared else None, ranks, _nothing)
    found = mapped or built
    assert found is not None
    return found


def _nothing(_: Built) -> None:
    """Offer nothing."""


def zeros(shape: Shape, dtype: DTypeLike) -> Array:
    """Return zeros in memory of this process. Pages that are not written take none."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not num_bytes:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype).reshape(shape)


class _SharedMemory:
    """Arrays that other processes can map until the context ends."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._file_of: dict[int, int] = {}  # descriptor by address of the array

    def __enter__(self) -> "_SharedMemory":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)

    def zeros(self, shape: Shape, dtype: DTypeLike) -> Array:
        """Return zeros in anonymous shared memory."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not num_bytes:
            return np.zeros(shape, dtype)
        file = os.memfd_create("mdsrec")
        self._files.append(file)
        os.ftruncate(file, num_bytes)
        array = np.frombuffer(mmap.mmap(file, num_bytes), dtype).reshape(shape)
        self._file_of[array.ctypes.data] = file
        return array

    def offer(self, built: Built) -> tuple[dict[str, _Place], Any]:
        """Return where the arrays are, and the value beside them."""
        places = {}
        for name, array in built.arrays.items():
            file = self._file_of[array.ctypes.data] if array.size else ""
            path = f"/proc/{os.getpid()}/fd/{file}"
            places[name] = _Place(path, array.shape, array.dtype.str)
        return places, built.about


def _map_or_build(
    offer: tuple[dict[str, _Place], Any], build: Callable[[Allocate], Built]
) -> Built:
    """Map the arrays of another process; build own ones if its memory cannot be opened."""
    places, about = offer
    try:
        return Built({name: _mapped(place) for name, place in places.items()}, about)
    except OSError as error:
        log.warning("item tables are not shared with other ranks of this host: %s", error)
        return build(zeros)


def _mapped(place: _Place) -> Array:
    """Return an array of another process. Writing to it would copy the page, not change it."""
    num_bytes = int(np.prod(place.shape)) * np.dtype(place.dtype).itemsize
    if not num_bytes:
        return np.zeros(place.shape, place.dtype)
    with Path(place.path).open("rb") as file:
        memory = mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, place.dtype).reshape(place.shape)


def _together(
    work: Callable[[], Built] | None, ranks: Ranks, offer: Callable[[Built], Any]
) -> tuple[Built | None, list[Any]]:
    """Do this rank's work, if it has any -> its result, and what every rank offers.

    All ranks return together, or raise the first failure.
    """
    pool = ThreadPoolExecutor(1)
    future = None if work is None else pool.submit(work)
    pool.shutdown(wait=False)  # where another rank is gone, the work is not waited for
    reports: list[Any] = [RUNNING]
    while RUNNING in reports:
        reports = ranks.gather(_report(future, offer))
    failure = next((r for r in reports if isinstance(r, _Failure)), None)
    if failure is not None:
        own = None if future is None else future.exception()
        raise (InputError if failure.is_input_error else RuntimeError)(failure.message) from own
    return (None if future is None else future.result()), reports


def _report(future: Future[Built] | None, offer: Callable[[Built], Any]) -> Any:
    """Wait REPORT_SECONDS at most for a rank's work and return its offer, or a failure."""
    if future is None:
        return None
    wait([future], REPORT_SECONDS)
    if not future.done():
        return RUNNING
    error = future.exception()
    if error is None:
        return offer(future.result())
    is_input_error = isinstance(error, InputError)
    name = "" if is_input_error else f"{type(error).__name__}: "
    return _Failure(is_input_error, f"{name}{first_line(error)}")


def host_of_process() -> tuple[str, ...] | None:
    """Return what processes have in common that can map each other's memory; None if none can."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink()), socket.gethostname()
    except OSError:
        return None
