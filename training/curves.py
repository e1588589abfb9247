"""Learning curves for TensorBoard, under `<run>/events`."""

import logging
import tempfile
from pathlib import Path

import pyarrow as pa
from pyarrow import fs
from torch.utils.tensorboard import SummaryWriter

from mdsrec import files

log = logging.getLogger("training")


class LearningCurves:
    """Writes events beside the worker and copies them to the run's folder, which any file system
    may hold.
    """

    def __init__(self, run: str) -> None:
        self._target, self._path = files.file_system(f"{run}/events")
        self._local = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._local.name)

    def add(self, metrics: dict[str, float]) -> None:
        """One epoch's metrics, visible when this returns; a log line if they cannot be written."""
        for name, value in metrics.items():
            if name != "epoch":
                tag = name.replace("loss_", "loss/")
                self._writer.add_scalar(tag, value, int(metrics["epoch"]))
        try:
            self._writer.flush()
            self._copy()
        except (OSError, pa.ArrowException) as error:
            log.warning("learning curves: %s", files.first_line(error))

    def _copy(self) -> None:
        self._target.create_dir(self._path, recursive=True)
        for file in Path(self._local.name).iterdir():
            fs.copy_files(
                str(file),
                f"{self._path}/{file.name}",
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self._target,
            )
