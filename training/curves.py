"""Learning curves for TensorBoard, under `<run>/events`."""

import tempfile
from pathlib import Path

from pyarrow import fs
from torch.utils.tensorboard import SummaryWriter

from mdsrec import files


class LearningCurves:
    """Writes events beside the worker and copies them to the run's folder, which any file system
    may hold.
    """

    def __init__(self, run: str) -> None:
        self._target, self._path = files.file_system(f"{run}/events")
        self._local = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._local.name)

    def add(self, metrics: dict[str, float]) -> None:
        """One epoch's metrics, visible when this returns."""
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name.replace("_", "/", 1), value, int(metrics["epoch"]))
        self._writer.flush()
        self._target.create_dir(self._path, recursive=True)
        for file in Path(self._local.name).iterdir():
            fs.copy_files(
                str(file),
                f"{self._path}/{file.name}",
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self._target,
            )
