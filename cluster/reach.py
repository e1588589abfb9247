"""Checks between nodes: a root that all of them share, and an all-reduce over the network.

A check on a node returns one line of what is wrong; an empty text means nothing is.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

WARM_UPS, SUMS = 3, 10  # all-reduces: NCCL connects in the first ones


class SharedRoot:
    """A folder below the root where the driver and every node write a marker for each other."""

    def __init__(self, root: str) -> None:
        self.root, self.marker = root, secrets.token_hex(8)
        self.folder = f"{root}/.preflight-{self.marker}"

    def write_marker(self) -> None:
        """Write the driver's marker; InputError if the driver cannot write there."""
        from mdsrec import files

        files.check_root(self.root)
        files.write_bytes(f"{self.folder}/driver", self.marker.encode())

    def check_from_node(self, node: str) -> str:
        """On a node: read the driver's marker, write the node's own, and return what is wrong."""
        try:
            from mdsrec import files

            content = files.read_bytes(f"{self.folder}/driver")
            if content != self.marker.encode():
                return "does not contain the file that the driver wrote"
            files.write_bytes(f"{self.folder}/{node}", self.marker.encode())
        except Exception as error:
            return f"cannot be used: {' '.join(str(error).split())}"
        return ""

    def check_from_driver(self, node: str) -> str:
        """On the driver: read the node's marker and return what is wrong."""
        from mdsrec import files

        content = files.read_bytes(f"{self.folder}/{node}")
        return (
            ""
            if content == self.marker.encode()
            else "does not show the driver the file that the node wrote"
        )

    def delete(self) -> None:
        from mdsrec import files

        with contextlib.suppress(OSError):
            files.delete_folder(self.folder)


def open_store(world_size: int) -> tuple[Any, int]:
    """On the driver: open a TCPStore for the nodes' rendezvous -> (store, port)."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("0.0.0.0", 0, world_size, is_master=True, wait_for_workers=False)
    return store, store.port


def check_all_reduce(host: str, port: int, rank: int, world_size: int, seconds: float) -> str:
    """On a node: all-reduce a one over all nodes by gloo and return what is wrong."""
    try:
        import torch
        from torch import distributed

        with _process_group("gloo", host, port, rank, world_size, seconds):
            ones = torch.ones(1)
            distributed.all_reduce(ones)
    except Exception as error:
        return " ".join(str(error).split())
    return "" if ones.item() == world_size else f"the sum is {ones.item():g}"


def measure_all_reduce(
    host: str, port: int, rank: int, world_size: int, seconds: float, backend: str, num_bytes: int
) -> str | float:
    """All-reduce ones over all ranks and return the bandwidth in GB/s, or what is wrong.

    It is NCCL's "bus bandwidth": what the slowest link carries in each direction.
    """
    try:
        import torch
        from torch import distributed

        device = torch.device("cuda:0" if backend == "nccl" else "cpu")
        with _process_group(backend, host, port, rank, world_size, seconds):
            ones = torch.ones(num_bytes // 4, device=device)
            distributed.all_reduce(ones)
            if not bool((ones == world_size).all()):
                return f"the sum is {ones[0].item():g}"
            for number in range(WARM_UPS + SUMS):
                if number == WARM_UPS:
                    _wait_for(ones)
                    started = time.perf_counter()
                distributed.all_reduce(ones.fill_(1))
            _wait_for(ones)
            duration = (time.perf_counter() - started) / SUMS
    except Exception as error:
        return " ".join(str(error).split())
    return 2 * (world_size - 1) / world_size * num_bytes / duration / 1e9


def _wait_for(tensor: Any) -> None:
    """Wait until the device has computed the tensor."""
    tensor[0].item()


@contextlib.contextmanager
def _process_group(
    backend: str, host: str, port: int, rank: int, world_size: int, seconds: float
) -> Iterator[None]:
    """Join the process group that meets in the driver's store."""
    from torch import distributed
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    timeout = timedelta(seconds=seconds)
    store = TCPStore(host, port, is_master=False, timeout=timeout)
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
