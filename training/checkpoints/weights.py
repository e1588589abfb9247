"""The best weights of a run, as inference reads them: `best.safetensors`.

Where ranks own items, the rows of items lie beside it in one file for each rank, and its metadata
name them. They are written first, so the main file never names what is absent.
"""

import io
import json
import re
from collections.abc import Collection, Mapping
from typing import BinaryIO, NamedTuple

from pyarrow import fs
from torch import Tensor, distributed, nn

from mdsrec import files
from training.checkpoints.tensor_file import ITEMS, TensorFile, write_tensors
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import full_shapes, iterate_full_weights, own_items

BEST = "best.safetensors"
PARTS = "parts"  # in the metadata: the files with rows of items, in order


class NamedFile(NamedTuple):
    name: str
    content: bytes


class RowsFile(NamedTuple):
    """Rows of items, which are in a file once it is written, and only in the training before."""

    name: str
    rows: Mapping[str, Tensor]

    def write(self, run: str) -> None:
        """Write the file into the run, without a copy of it in memory."""
        shapes = {name: tuple(rows.shape) for name, rows in self.rows.items()}

        def write(stream: BinaryIO) -> None:
            write_tensors(stream, shapes, self.rows.values(), {})

        files.write_stream(f"{run}/{self.name}", write)

    def copy(self) -> "RowsFile":
        """Return a copy, which the next step of the training does not change."""
        return self._replace(rows={name: rows.cpu().clone() for name, rows in self.rows.items()})


class WeightsFiles(NamedTuple):
    """The files that one rank writes of the weights."""

    part: RowsFile | None  # rows of its own items
    main: NamedFile | None  # everything else; only on rank 0


def gather_weights(engine: Engine[nn.Module], metadata: dict[str, str], tag: str) -> WeightsFiles:
    """Return the files of this rank. Collective.

    One parameter at a time is gathered on every rank; rows of items are not. `tag` is part of the
    names of files with rows, which differ from those of earlier weights.
    """
    items, world_size = engine.item_parameters, distributed.get_world_size()
    part, shapes = None, full_shapes(engine)
    if items is not None and items.shards is not None:
        names = [f"best-{tag}-{r:05d}-of-{world_size:05d}.safetensors" for r in range(world_size)]
        ids = own_items(engine)
        rows = items.weights if ids is None else {**items.weights, ITEMS: ids}
        part = RowsFile(names[distributed.get_rank()], rows)
        shapes = {name: shape for name, shape in shapes.items() if name not in rows}
        metadata = {**metadata, PARTS: json.dumps(names)}
    weights = (weight for _, weight in iterate_full_weights(engine))
    if distributed.get_rank():
        for _ in weights:
            pass
        return WeightsFiles(part, None)
    stream = io.BytesIO()
    write_tensors(stream, shapes, weights, metadata)
    return WeightsFiles(part, NamedFile(BEST, stream.getvalue()))


def parts_named(uri: str) -> list[str]:
    """Return the files with rows of items that a main file names; none if there is no file."""
    if not files.exists(uri):
        return []
    names: list[str] = json.loads(TensorFile.open(uri).metadata.get(PARTS, "[]"))
    return names


def delete_other_parts(run: str, kept: Collection[str]) -> None:
    """Delete all files with rows of items but these."""
    filesystem, path = files.file_system(run)
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        if re.fullmatch(r"best-.+\.safetensors", info.base_name) and info.base_name not in kept:
            files.delete_file(f"{run}/{info.base_name}")
