"""A cable that is slow and loses frames, between a bridge and a host: what `tc netem` does to the
host's end of it, for kernels without.

    python bad_link.py PORT NAMESPACE DELAY LOSS

Frames that the host sends take DELAY seconds; of those in either direction the share LOSS is lost.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
LARGEST = 65536  # bytes of a frame


def main(port: str, namespace: str, delay: float, loss: float) -> None:
    """Runs where the bridge is, until it is killed; PORT and the host's eth0 go with it."""
    bridge = tap(port)
    with Path("/var/run/netns", namespace).open() as opened:
        if ctypes.CDLL(None, use_errno=True).setns(opened.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), namespace)
    host = tap("eth0")
    print("up", flush=True)
    forward(bridge, host, delay, loss)


def tap(name: str) -> int:
    """A network interface here whose other end is the file."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def forward(bridge: int, host: int, delay: float, loss: float) -> None:
    chance = random.Random(0)
    on_the_way: deque[tuple[float, bytes]] = deque()
    while True:
        wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        for end in select.select([bridge, host], [], [], wait)[0]:
            frame = os.read(end, LARGEST)
            if chance.random() < loss:
                continue
            if end == host:
                on_the_way.append((time.monotonic() + delay, frame))
            else:
                _put(host, frame)
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _put(bridge, on_the_way.popleft()[1])


def _put(end: int, frame: bytes) -> None:
    with suppress(OSError):  # the interface is down
        os.write(end, frame)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
