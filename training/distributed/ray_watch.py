"""A watch over Ray: the driver ends when Ray is gone, and within a minute of a signal.

A call to a Ray that is gone may wait for minutes, and meanwhile no signal handler of Python runs.
So a thread asks Ray's servers for an answer, and gets the signals through a pipe.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from training.distributed.ray_internals import health, server_addresses

RECONNECT_KEY = "RAY_gcs_rpc_server_reconnect_timeout_s"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PROBE_SECONDS = 2.0  # between two probes
ANSWER_SECONDS = 5.0  # for the answer of one server
# Without an answer until the driver ends. Ray's processes wait as long for a GCS to restart.
SILENT_SECONDS = float(os.environ.get(RECONNECT_KEY, 60))
SILENT_AFTER_SIGNAL = 30.0
GONE_SECONDS = 6.0  # from a raylet's end; after 10 s Ray may end the driver itself, without a line
END_SECONDS = 30.0  # for Ray to end, from a signal that does not ask to save
DUPLICATE_SECONDS = 1.0  # a second signal this soon is the first one, forwarded by the parent

RAY_IS_GONE = (
    "Ray no longer answers: its raylet or GCS has ended (out of memory, a lost node, `ray stop`): "
    "run the same command again; Ray's logs are in /tmp/ray/session_latest/logs"
)


class RayWatch:
    """The state of a watch: signals received, and when Ray's servers last answered.

    `signal` is the first one, or 0. One of `graceful` asks the driver to save and end; it has
    time for that as long as Ray answers.
    """

    def __init__(self, graceful: Collection[int]) -> None:
        self._graceful = graceful
        self._addresses: tuple[str, ...] = ()
        self._answered = self._raylet_seen = time.monotonic()
        self.signal, self._signaled = 0, 0.0
        self._end_at = float("inf")

    def connected(self) -> None:
        """Begin with probes, as Ray has started, and replace its handler of SIGTERM.

        That one prints a stack of C++.
        """
        self._addresses = server_addresses()
        self._answered = self._raylet_seen = time.monotonic()
        if _in_main_thread():
            signal.signal(signal.SIGTERM, _exit)

    def disconnecting(self) -> None:
        """End the probes, as Ray will shut down. If it is gone, that has END_SECONDS."""
        if not self.probe():
            self._end_at = min(self._end_at, time.monotonic() + END_SECONDS)
        self._addresses = ()

    def probe(self) -> bool:
        """Return True if Ray answers."""
        found = [health(address, ANSWER_SECONDS) for address in self._addresses]
        if found[-1:] != ["is gone"]:
            self._raylet_seen = time.monotonic()
        answers = all(each == "answers" for each in found)
        if answers:
            self._answered = time.monotonic()
        return answers

    def receive(self, signum: int) -> None:
        """Record a signal."""
        now = time.monotonic()
        is_first = not self.signal
        if is_first:
            self.signal, self._signaled = signum, now
        elif now - self._signaled < DUPLICATE_SECONDS:
            return
        if not (is_first and signum in self._graceful):
            self._end_at = min(self._end_at, now + END_SECONDS)

    @property
    def exit_code(self) -> int:
        return 128 + self.signal if self.signal else 2

    def reason_to_end(self) -> str:
        """Return why the driver has to end now, or an empty text."""
        now = time.monotonic()
        longest = SILENT_AFTER_SIGNAL if self.signal else SILENT_SECONDS
        is_gone = now - self._raylet_seen > GONE_SECONDS
        if self._addresses and (is_gone or now - self._answered > longest):
            return RAY_IS_GONE
        if now > self._end_at:
            return f"Ray did not end within {END_SECONDS:g} s: the driver ends without it"
        return ""


@contextmanager
def watch_ray(graceful: Collection[int] = ()) -> Iterator[RayWatch]:
    """Watch Ray in a thread, which ends the process when it must.

    An exit at a signal gets the exit code of shells; Ray's own handlers exit with 0, 1 or 15.
    """
    watch = RayWatch(graceful)
    try:
        with _thread_of(watch):
            yield watch
    except SystemExit:
        if watch.signal:
            raise SystemExit(watch.exit_code) from None
        raise


@contextmanager
def _thread_of(watch: RayWatch) -> Iterator[None]:
    ours, pythons = socket.socketpair()
    ended = threading.Event()

    def loop() -> None:
        while True:
            if select.select([ours], [], [], PROBE_SECONDS)[0]:
                for signum in set(ours.recv(1024)) & set(SIGNALS):
                    watch.receive(signum)
            if ended.is_set():
                return
            watch.probe()
            if not ended.is_set() and (reason := watch.reason_to_end()):
                print(reason, file=sys.stderr, flush=True)
                os._exit(watch.exit_code)

    with ours, pythons, _signals_to(pythons):
        thread = threading.Thread(target=loop, name="ray watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            pythons.send(b"\0")
            thread.join()


@contextmanager
def _signals_to(pipe: socket.socket) -> Iterator[None]:
    """Write the number of each signal to the pipe, at once, and restore the handler at the end."""
    if not _in_main_thread():  # no signals here
        yield
        return
    pipe.setblocking(False)
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.set_wakeup_fd(pipe.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _exit(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)
