"""A Ray cluster on the hosts of `hosts.py`: a head without CPUs, and workers with one CPU each."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import Host, hosts

ADDRESS = "http://10.77.0.1:8265"
STORE = "--object-store-memory=100000000"
# Ray counts a node as lost after 10 s without a health check, instead of a minute.
QUICK = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}


@contextmanager
def ray_hosts(
    workers: int,
    folder: Path,
    before_ray: Callable[[list[Host]], None] = lambda _: None,
    **environment: str,
) -> Iterator[list[Host]]:
    """Yield [head, *workers, a host outside the cluster that has its token].

    `before_ray` is called with the hosts before Ray starts on them.
    """
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **environment}
    with hosts(workers + 2, folder, **variables) as created:
        before_ray(created)
        start_head(created[0])
        for host in created[1:-1]:
            start_worker(host)
        yield created


def start_head(host: Host) -> None:
    ports = ["--port=6379", "--dashboard-host=0.0.0.0", "--dashboard-port=8265"]
    _start(host, "--head", *ports, "--num-cpus=0")


def start_worker(host: Host, gpus: int = 0) -> None:
    _start(host, "--address=10.77.0.1:6379", "--num-cpus=1", f"--num-gpus={gpus}")


def _start(host: Host, *words: str) -> None:
    node = f"--node-ip-address={host.address}"
    host.check_output("ray", "start", *words, node, STORE, "--disable-usage-stats", seconds=240)


def is_alive(head: Host, host: Host) -> bool:
    """Return whether the head counts the host as alive."""
    nodes = head.check_output("ray", "list", "nodes", "--format", "json", "--address", ADDRESS)
    found: list[dict[str, Any]] = json.loads(nodes[nodes.index("[") :])
    return any(n["state"] == "ALIVE" and n["node_ip"] == host.address for n in found)
