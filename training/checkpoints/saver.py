"""What a training writes as it goes: checkpoints, the best weights, its history."""

from functools import partial
from typing import Any

from mdsrec import files
from training.checkpoints.format import save_checkpoint
from training.checkpoints.store import Checkpoints, trouble_of
from training.distributed.control import JointError, Ranks

MAX_FAILURES = 3  # in a row


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
        trouble = trouble_of(self._write_waiting)
        if self._ranks.all(trouble is None):
            trouble = self.checkpoints.save(name, partial(save_checkpoint, engine, state=state))
        trouble = self._ranks.told_by_first(trouble)
        if trouble is None:
            self._failures = 0
            return True
        self._failures += 1
        where = f"{self._run}: checkpoint {name} could not be written ({trouble})"
        if is_last or self._failures == MAX_FAILURES:
            raise JointError(f"{where}: make room, then run the same command again to go on")
        self._ranks.log(f"{where}: training goes on and tries again later")
        return False

    def _write_waiting(self) -> None:
        for name in list(self._waiting):
            files.write_bytes(f"{self._run}/{name}", self._waiting[name])
            del self._waiting[name]
