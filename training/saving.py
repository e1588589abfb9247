"""What a training writes as it goes: checkpoints, the best weights, its history."""

import logging
import resource
from functools import partial
from typing import Any

import torch

from mdsrec import files
from training import engine as ds
from training.checkpoints import WRITE_ERRORS, Checkpoints
from training.ranks import JointError, Ranks

log = logging.getLogger("training")

MAX_FAILURES = 3  # in a row
PIECE = 1 << 22  # weights looked at together


class Saver:
    """Collective, like the checkpoints. What could not be written is kept and tried again with the
    next checkpoint; JointError when it fails `MAX_FAILURES` times in a row.
    """

    def __init__(self, run: str, ranks: Ranks) -> None:
        self.checkpoints = Checkpoints(run, ranks)
        self._run, self._ranks = run, ranks
        self._waiting: dict[str, bytes] = {}  # by name in the run's folder, rank 0's
        self._failures = 0

    def keep(self, name: str, content: bytes) -> None:
        """Write the file before the next checkpoint stands."""
        self._waiting[name] = content

    def save(self, engine: Any, name: str, state: dict[str, Any], is_last: bool = False) -> bool:
        """Whether the files that wait and the checkpoint are written."""
        trouble = self._written()
        if self._ranks.all(trouble is None):
            trouble = self.checkpoints.save(name, partial(ds.save_checkpoint, engine, state=state))
        trouble = self._ranks.told_by_first(trouble)
        if trouble is None:
            self._failures = 0
            return True
        self._failures += 1
        where = f"{self._run}: checkpoint {name} could not be written ({trouble})"
        if is_last or self._failures == MAX_FAILURES:
            raise JointError(f"{where}: make room, then run the same command again to go on")
        log_first(self._ranks, f"{where}: training goes on and tries again later")
        return False

    def _written(self) -> str | None:
        try:
            for name in list(self._waiting):
                files.write_bytes(f"{self._run}/{name}", self._waiting[name])
                del self._waiting[name]
        except WRITE_ERRORS as error:
            return files.first_line(error)
        return None


def log_first(ranks: Ranks, line: str) -> None:
    """A line in the log, once."""
    if ranks.rank == 0:
        log.info("%s", line)


@torch.no_grad()
def weights_are_finite(engine: Any) -> bool:
    """Of this rank's share of the weights."""
    shares = (getattr(p, "ds_tensor", p) for p in engine.module.parameters())
    parts = (part for share in shares for part in share.flatten().split(PIECE))
    return bool(torch.stack([part.isfinite().all() for part in parts]).all())


def memory_used(device: torch.device) -> dict[str, float]:
    """The most that this process held so far, in GiB."""
    found = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found
