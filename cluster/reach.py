"""Whether nodes share the root, and reach each other in a collective. Runs on every node; what is
wrong comes back as words, none = nothing is.
"""

import contextlib
import secrets
from datetime import timedelta
from typing import Any


class SharedRoot:
    """A folder below the root in which the driver and every node leave a word for each other."""

    def __init__(self, root: str) -> None:
        self.root, self.word = root, secrets.token_hex(8)
        self.folder = f"{root}/.preflight-{self.word}"

    def say(self) -> None:
        """InputError if the driver cannot write there."""
        from mdsrec import files

        files.check_root(self.root)
        files.write_bytes(f"{self.folder}/driver", self.word.encode())

    def answer(self, node: str) -> str:
        """On a node: read the driver's word and leave one -> what is wrong."""
        try:
            from mdsrec import files

            found = files.read_bytes(f"{self.folder}/driver")
            if found != self.word.encode():
                return "does not hold what the driver wrote there"
            files.write_bytes(f"{self.folder}/{node}", self.word.encode())
        except Exception as error:
            return f"cannot be used: {' '.join(str(error).split())}"
        return ""

    def unheard(self, node: str) -> str:
        """On the driver: what is wrong if the node's word did not arrive."""
        from mdsrec import files

        found = files.read_bytes(f"{self.folder}/{node}")
        return "" if found == self.word.encode() else "does not show what the node wrote there"

    def forget(self) -> None:
        from mdsrec import files

        with contextlib.suppress(OSError):
            files.delete_folder(self.folder)


def meeting(world_size: int) -> tuple[Any, int]:
    """On the driver: a store by which nodes find each other, and its port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("0.0.0.0", 0, world_size, is_master=True, wait_for_workers=False)
    return store, store.port


def all_reduce(host: str, port: int, rank: int, world_size: int, seconds: float) -> str:
    """On a node: sum a one over all nodes by gloo -> what is wrong."""
    try:
        import torch
        from torch import distributed
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        wait = timedelta(seconds=seconds)
        store = TCPStore(host, port, is_master=False, timeout=wait)
        distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=world_size, timeout=wait
        )
        ones = torch.ones(1)
        distributed.all_reduce(ones)
        distributed.destroy_process_group()
    except Exception as error:
        return " ".join(str(error).split())
    return "" if ones.item() == world_size else f"the sum is {ones.item():g}"
