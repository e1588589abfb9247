"""Hosts on this machine, for tests: each in network, mount, process and name spaces of its own, all
on one bridge that no other network reaches. Killing a host is a power-off.

Their names hold this process's id, so test runs do not meet.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ray_processes import ray_processes

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SHARED = 3 << 30  # bytes of /dev/shm

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter", "mount"))),
    reason="needs root, ip, unshare, nsenter and mount",
)

# The first process of a host: its own /dev/shm, /tmp/ray, names; then it waits and reaps.
INIT = f"""
hostname "$1"
mount -t tmpfs -o size={SHARED} none /dev/shm
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
touch "$2/$1.up"
while :; do sleep 1000 & wait $!; done
"""


class Host:
    """One host at `address`; its processes see `environment` and the machine's PATH."""

    def __init__(self, number: int, switch: str, folder: Path, environment: Mapping[str, str]):
        self.name, self.address = f"node{number}", f"10.77.0.{number}"
        self.namespace, self._port = f"{switch}-{number}", f"port{number}"
        self._switch, self._folder = switch, folder
        self.environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            **environment,
        }
        _ip("netns", "add", self.namespace)
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        self._cable: subprocess.Popen[bytes] | None = None
        veth = ["link", "add", self._port, "netns", switch, "type", "veth"]
        _ip(*veth, "peer", "name", "eth0", "netns", self.namespace)
        self._plug_in()
        self.power_on()

    def _plug_in(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "master", "bridge", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def bad_link(self, delay: float, loss: float) -> None:
        """Another cable (`bad_link.py`): what the host sends takes `delay` seconds, and of what
        comes and goes the share `loss` is lost.
        """
        _ip("-n", self.namespace, "link", "delete", "eth0")
        script = Path(__file__).with_name("bad_link.py")
        words = [sys.executable, str(script), self._port, self.namespace, str(delay), str(loss)]
        inside = ["ip", "netns", "exec", self._switch]
        self._cable = subprocess.Popen([*inside, *words], stdout=subprocess.PIPE)
        assert self._cable.stdout is not None and self._cable.stdout.readline() == b"up\n"
        self._plug_in()

    def power_on(self) -> None:
        up = self._folder / f"{self.name}.up"
        up.unlink(missing_ok=True)
        spaces = ["unshare", "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc"]
        script = ["bash", "-c", INIT, "init", self.name, str(self._folder)]
        self._power = subprocess.Popen(["ip", "netns", "exec", self.namespace, *spaces, *script])
        until(up.exists, 20)
        self._init = psutil.Process(self._power.pid).children()[0].pid

    def power_off(self) -> None:
        self._power.kill()
        self._power.wait()

    def remove(self) -> None:
        self.power_off()
        if self._cable:
            self._cable.kill()
            self._cable.communicate()
        _ip("netns", "delete", self.namespace)

    def link(self, state: str) -> None:
        """`down` pulls the host's cable, `up` puts it back."""
        _ip("-n", self._switch, "link", "set", self._port, state)

    def command(self, *words: str, folder: Path = ROOT) -> list[str]:
        """What runs `words` there."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["nsenter", "-t", str(self._init), "-m", "-n", "-u", "-p", "--"]
        return [*inside, "env", "-i", "-C", str(folder), *variables, *words]

    def start(self, *words: str, folder: Path = ROOT) -> subprocess.Popen[str]:
        """A process there; out of it comes one stream of text."""
        return subprocess.Popen(
            self.command(*words, folder=folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ray_processes(self, title: str) -> list[psutil.Process]:
        return ray_processes(psutil.Process(self._init), title)

    def run(self, *words: str, seconds: float = 120, folder: Path = ROOT) -> tuple[int, str]:
        """A process there to its end -> exit code and what it said."""
        with self.start(*words, folder=folder) as process:
            try:
                said = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(
                    f"{words} in {seconds} s: {process.communicate()[0]}"
                ) from None
        return process.returncode, said

    def do(self, *words: str, seconds: float = 120, folder: Path = ROOT) -> str:
        """As `run`, of what must succeed."""
        code, said = self.run(*words, seconds=seconds, folder=folder)
        assert code == 0, f"{words}: {said}"
        return said


@contextmanager
def hosts(count: int, folder: Path, **environment: str) -> Iterator[list[Host]]:
    """Hosts node1, node2, ...; nothing of them is left afterwards."""
    switch = f"mdsrec{os.getpid()}"
    names = [f"10.77.0.{n} node{n}\n" for n in range(1, count + 1)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
    (folder / "nsswitch.conf").write_text("passwd: files\nhosts: files\n")  # no name server
    _ip("netns", "add", switch)
    made: list[Host] = []
    try:
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(1, count + 1):
            made.append(Host(number, switch, folder, environment))
        yield made
    finally:
        for host in made:
            with suppress(subprocess.CalledProcessError):
                host.remove()
        _ip("netns", "delete", switch)


def until(holds: object, seconds: float) -> None:
    """Wait for `holds()`; AssertionError if it does not come in time."""
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
