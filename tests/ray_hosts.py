"""Ray on the hosts of `hosts.py`: a head that lends no CPU, and workers that lend one each."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import Host, hosts

ADDRESS = "http://10.77.0.1:8265"
STORE = "--object-store-memory=100000000"


@contextmanager
def ray_hosts(
    workers: int,
    folder: Path,
    before: Callable[[list[Host]], None] = lambda _: None,
    **environment: str,
) -> Iterator[list[Host]]:
    """[head, workers ..., a host outside of the cluster that has its token], with which something
    may be done `before` Ray starts.
    """
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **environment}
    with hosts(workers + 2, folder, **variables) as made:
        before(made)
        start_head(made[0])
        for host in made[1:-1]:
            start_worker(host)
        yield made


def start_head(host: Host) -> None:
    listens = ["--port=6379", "--dashboard-host=0.0.0.0", "--dashboard-port=8265"]
    _start(host, "--head", *listens, "--num-cpus=0")


def start_worker(host: Host, gpus: int = 0) -> None:
    _start(host, "--address=10.77.0.1:6379", "--num-cpus=1", f"--num-gpus={gpus}")


def _start(host: Host, *words: str) -> None:
    node = f"--node-ip-address={host.address}"
    host.do("ray", "start", *words, node, STORE, "--disable-usage-stats", seconds=240)
