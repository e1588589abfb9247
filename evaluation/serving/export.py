"""`python -m evaluation export RUN DIR`: a folder that is enough to recommend, by itself.

The files are written a piece at a time: rows of weights come from their stored files by ranges, and
tables become arrays on the disk (export_arrays.py).
"""

import hashlib
import io
import json
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any, BinaryIO, NamedTuple, cast

from evaluation.serving import export_format
from evaluation.serving.catalogue import first_item_id, write_catalogue
from evaluation.serving.export_arrays import write_item_tables, write_memory, write_weights
from evaluation.serving.export_format import ExportManifest
from evaluation.serving.loading import run_experiment
from evaluation.serving.model_card import model_card
from evaluation.stored_weights import with_stored_weights
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.trained_run import TrainedRun, describe_trained

NOT_EXPORTED = ("root", "spark", "tune", "study")  # sections that no score depends on


class Written(NamedTuple):
    """A file of the export."""

    size: int
    sha256: str


def export(run: str, folder: str) -> str:
    """Write the folder, and return a summary for the screen.

    The manifest is written last, so a killed export leaves a folder that is not loaded and may be
    exported into again. InputError if the folder already holds an export.
    """
    if files.read_bytes(f"{folder}/{export_format.MANIFEST}") is not None:
        raise InputError(f"{folder}: already holds an export: delete it, or choose another folder")
    experiment = run_experiment(run)
    trained = with_stored_weights(experiment, describe_trained(experiment))
    written = write_files(experiment, trained, folder)
    sha256 = {name: file.sha256 for name, file in written.items()}
    del sha256[export_format.MODEL_CARD]  # may be edited
    manifest = ExportManifest(dict(trained.weight_of), sha256)
    files.write_json(f"{folder}/{export_format.MANIFEST}", vars(manifest))
    size = sum(file.size for file in written.values())
    return "\n".join(
        [
            f"{experiment.name}: {trained.num_items:,} items, {size / 2**20:,.1f} MiB",
            f"exported  {folder}",
            f"load      Recommender.load({folder!r})",
        ]
    )


def write_files(experiment: Experiment, trained: TrainedRun, folder: str) -> dict[str, Written]:
    """Write each file but the manifest -> by name, in the order of export_format.FILES.

    The weights come first, because damaged ones are refused.
    """
    config = {k: v for k, v in experiment.resolved().items() if k not in NOT_EXPORTED}
    writers: dict[str, Callable[[BinaryIO], Any]] = {}
    if experiment.model.is_trained:
        writers[export_format.WEIGHTS] = partial(write_weights, experiment, trained)
    if trained.memory_fingerprint is not None:
        writers[export_format.MEMORY] = partial(write_memory, experiment, trained)
    writers[export_format.ITEM_TABLES] = partial(write_item_tables, experiment, trained)
    writers[export_format.CATALOGUE] = partial(write_catalogue, experiment)
    contents = {
        export_format.CONFIG: json.dumps(config, indent=2) + "\n",
        export_format.MODEL_CARD: model_card(experiment, trained, first_item_id(experiment)),
    }
    for name, text in contents.items():
        writers[name] = methodcaller("write", text.encode())
    written = {name: _write(f"{folder}/{name}", write) for name, write in writers.items()}
    return {name: written[name] for name in export_format.FILES if name in written}


def _write(uri: str, write: Callable[[BinaryIO], Any]) -> Written:
    """Write a file, and return its size and checksum."""
    found: list[Written] = []

    def hashed(stream: BinaryIO) -> None:
        with HashedStream(stream) as counted:
            write(cast(BinaryIO, counted))
            found.append(Written(counted.tell(), counted.digest.hexdigest()))

    files.write_stream(uri, hashed)
    return found[0]


class HashedStream(io.RawIOBase):
    """A stream that counts and hashes what is written through it."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream, self._size, self.digest = stream, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, content: Any) -> int:
        self._stream.write(content)
        self.digest.update(content)
        size = memoryview(content).nbytes
        self._size += size
        return size
