"""A slow network cable that loses frames, between a bridge and a host.

It does what `tc netem` does, for kernels without it.

    python lossy_link.py PORT NAMESPACE DELAY LOSS

Frames that the host sends arrive DELAY seconds later. The share LOSS of the frames in either
direction is lost.
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
MAX_FRAME = 65536  # bytes


def main(port: str, namespace: str, delay: float, loss: float) -> None:
    """Forward frames until killed; the interfaces PORT and eth0 of the host end with the process.

    It starts in the network namespace of the bridge.
    """
    bridge = open_tap(port)
    with Path("/var/run/netns", namespace).open() as opened:
        if ctypes.CDLL(None, use_errno=True).setns(opened.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), namespace)
    host = open_tap("eth0")
    print("up", flush=True)
    forward(bridge, host, delay, loss)


def open_tap(name: str) -> int:
    """Create a TAP interface and return its file descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def forward(bridge: int, host: int, delay: float, loss: float) -> None:
    rng = random.Random(0)
    in_flight: deque[tuple[float, bytes]] = deque()  # (time of arrival, frame)
    while True:
        wait = max(0.0, in_flight[0][0] - time.monotonic()) if in_flight else None
        for end in select.select([bridge, host], [], [], wait)[0]:
            frame = os.read(end, MAX_FRAME)
            if rng.random() < loss:
                continue
            if end == host:
                in_flight.append((time.monotonic() + delay, frame))
            else:
                _send(host, frame)
        while in_flight and in_flight[0][0] <= time.monotonic():
            _send(bridge, in_flight.popleft()[1])


def _send(end: int, frame: bytes) -> None:
    with suppress(OSError):  # the interface is down
        os.write(end, frame)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
