"""The files that a training writes into its run: checkpoints, best weights and history."""

from functools import partial
from typing import Any

from mdsrec import files
from training.checkpoints.format import save_checkpoint
from training.checkpoints.store import CheckpointStore, storage_error
from training.checkpoints.weights import WeightsFiles, delete_other_parts, parts_named
from training.distributed.control import CollectiveInputError, ControlGroup
from training.distributed.engine_protocol import Engine
from training.models.base import Model

MAX_FAILURES = 3  # in a row


class Saver:
    """A writer of checkpoints, and of single files before them, that survives failures of storage.

    Files that could not be written wait for the next checkpoint. CollectiveInputError after
    `MAX_FAILURES` failures in a row.
    """

    def __init__(self, run: str, group: ControlGroup) -> None:
        self.checkpoints = CheckpointStore(run, group)
        self._run, self._group = run, group
        self._waiting: dict[str, bytes] = {}  # content by file name; only on rank 0
        self._weights = WeightsFiles(None, None)  # not written yet
        self._failures = 0

    def add_file(self, name: str, content: bytes) -> None:
        """Write this file of the run before the next checkpoint is complete. Not collective."""
        self._waiting[name] = content

    def add_weights(self, weights: WeightsFiles) -> None:
        """Write these weights before the next checkpoint is complete. Not collective.

        The checkpoint is saved before the next step, which changes the rows of items.
        """
        self._weights = weights

    def save(
        self, engine: Engine[Model], name: str, state: dict[str, Any], is_last: bool = False
    ) -> bool:
        """Write the waiting files, then a checkpoint; return True if all of it is written.

        Collective. CollectiveInputError if the last save of a training fails.
        """
        write_checkpoint = partial(save_checkpoint, engine, state=state)
        error = self._group.first_message(storage_error(self._write_part))
        if error is None:
            error = self._group.first_message(storage_error(self._write_files))
        if error is None:
            error = self._group.first_message(self.checkpoints.save(name, write_checkpoint))
        if error is None:
            self._failures = 0
            return True
        self._failures += 1
        message = f"{self._run}: checkpoint {name} could not be written ({error})"
        if is_last or self._failures == MAX_FAILURES:
            raise CollectiveInputError(
                f"{message}: free disk space, then run the same command again to continue"
            )
        self._group.log_once(f"{message}: training continues and tries again later")
        return False

    def _write_part(self) -> None:
        """Write this rank's part of the weights, which the main file will name."""
        part = self._weights.part
        if part is None:
            return
        try:
            part.write(self._run)
        except files.STORAGE_ERRORS:
            self._weights = self._weights._replace(part=part.copy())
            raise
        self._weights = self._weights._replace(part=None)

    def _write_files(self) -> None:
        main = self._weights.main
        if main is not None:
            uri = f"{self._run}/{main.name}"
            former = parts_named(uri)  # somebody may be reading them
            files.write_bytes(uri, main.content)
            delete_other_parts(self._run, {*former, *parts_named(uri)})
        self._weights = WeightsFiles(None, None)
        for name in list(self._waiting):
            files.write_bytes(f"{self._run}/{name}", self._waiting[name])
            del self._waiting[name]
