"""Simulated hosts on this machine, for tests of a cluster.

Each host has its own network, mount, process and host-name namespaces. All are on one bridge that
no other network reaches. Killing a host's first process is a power-off. The namespaces' names hold
this process's id, so concurrent test runs do not collide.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ray_processes import ray_processes

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SHARED_MEMORY = 3 << 30  # bytes of /dev/shm

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter", "mount"))),
    reason="needs root, ip, unshare, nsenter and mount",
)

# First process of a host: mounts its own /dev/shm, /tmp/ray and names, then waits and reaps.
INIT = f"""
hostname "$1"
mount -t tmpfs -o size={SHARED_MEMORY} none /dev/shm
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
touch "$2/$1.up"
while :; do sleep 1000 & wait $!; done
"""


class Host:
    """One host at `address`; its processes have `environment` and this machine's PATH."""

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

    def use_lossy_link(self, delay: float, loss: float) -> None:
        """Replace the cable by that of lossy_link.py.

        Frames from the host arrive `delay` seconds later; the share `loss` of all frames is lost.
        """
        _ip("-n", self.namespace, "link", "delete", "eth0")
        script = Path(__file__).with_name("lossy_link.py")
        words = [sys.executable, str(script), self._port, self.namespace, str(delay), str(loss)]
        inside = ["ip", "netns", "exec", self._switch]
        self._cable = subprocess.Popen([*inside, *words], stdout=subprocess.PIPE)
        assert self._cable.stdout is not None and self._cable.stdout.readline() == b"up\n"
        self._plug_in()

    def power_on(self) -> None:
        up = self._folder / f"{self.name}.up"
        up.unlink(missing_ok=True)
        namespaces = ["unshare", "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc"]
        script = ["bash", "-c", INIT, "init", self.name, str(self._folder)]
        self._power = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *namespaces, *script]
        )
        wait_until(up.exists, 20)
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
        """Set the host's link `up` or `down`."""
        _ip("-n", self._switch, "link", "set", self._port, state)

    def command(self, *words: str, folder: Path = ROOT) -> list[str]:
        """Return the command of this machine that runs `words` on the host."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["nsenter", "-t", str(self._init), "-m", "-n", "-u", "-p", "--"]
        return [*inside, "env", "-i", "-C", str(folder), *variables, *words]

    def start(self, *words: str, folder: Path = ROOT) -> subprocess.Popen[str]:
        """Start a process on the host; its stdout is one stream of all its text."""
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
        """Run a process on the host and return its exit code and output."""
        with self.start(*words, folder=folder) as process:
            try:
                output = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(
                    f"{words} in {seconds} s: {process.communicate()[0]}"
                ) from None
        return process.returncode, output

    def check_output(self, *words: str, seconds: float = 120, folder: Path = ROOT) -> str:
        """Run a process on the host, which must succeed, and return its output."""
        code, output = self.run(*words, seconds=seconds, folder=folder)
        assert code == 0, f"{words}: {output}"
        return output


@contextmanager
def hosts(count: int, folder: Path, **environment: str) -> Iterator[list[Host]]:
    """Create hosts node1, node2, ...; remove them afterwards."""
    switch = f"mdsrec{os.getpid()}"
    names = [f"10.77.0.{n} node{n}\n" for n in range(1, count + 1)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
    (folder / "nsswitch.conf").write_text("passwd: files\nhosts: files\n")  # no name server
    _ip("netns", "add", switch)
    created: list[Host] = []
    try:
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(1, count + 1):
            created.append(Host(number, switch, folder, environment))
        yield created
    finally:
        for host in created:
            with suppress(subprocess.CalledProcessError):
                host.remove()
        _ip("netns", "delete", switch)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Return when `condition()` is true; AssertionError if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
