"""Write the tables that training reads for CONFIG, of N items and U users, without an ETL.

They have the schemas, settings and names that the configuration expects, so `mdsrec train CONFIG`
accepts them. Their rows are computed by formula: events as `raw` draws them, graphs as `graph.py`
defines them. Their recipes say so, and `mdsrec etl` would build all of them again.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import csr_array

from benchmarks.catalogue.disk import Writing
from benchmarks.catalogue.events import (
    CHUNK_USERS,
    LONGEST,
    Catalogue,
    Chunk,
    held_out_events,
    ids,
    sequence_rows,
)
from benchmarks.catalogue.graph import Cooccurrence, Modality
from benchmarks.catalogue.parts import PART_BYTES, write_parts
from benchmarks.catalogue.raw_lines import ITEM_DIGITS
from benchmarks.catalogue.vectors import Groups
from etl.graph.row_cuts import keep_heaviest
from mdsrec import schema, tables
from mdsrec.arrays import Floats, Ints, fixed_lists
from mdsrec.command import add_experiment, positive_int
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.files import file_system
from mdsrec.table_names import cooccurrence_name, whole_cooccurrence_name
from mdsrec.table_settings import table_settings

NumTrain = npt.NDArray[np.int32]

MARK = "synthetic"  # the input of every table that this module writes
NOT_READ = (  # by training
    *("interactions", "metadata", "rejects", "propagated", "centroids"),
)
PAIR_BYTES = 16  # of an entry of O


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--items", type=positive_int, required=True)
    parser.add_argument("--users", type=positive_int, required=True)
    parser.add_argument("--longest", type=positive_int, default=LONGEST, help="most of a user")
    parser.add_argument("--degree", type=positive_int, default=20, help="entries of O an item")
    parser.add_argument("--width", type=positive_int, default=64, help="of the vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside-disk", action="store_true", help="time a plain write as well")


def run(arguments: argparse.Namespace) -> None:
    experiment = load_experiment(arguments.config, arguments.overrides)
    catalogue = Catalogue(
        arguments.items, arguments.users, longest=arguments.longest, seed=arguments.seed
    )
    maker = TableMaker(experiment, catalogue, arguments.degree, arguments.width)
    folder = Path(file_system(tables.table_uri(experiment.root, "x"))[1]).parent
    with Writing(folder, arguments.beside_disk):
        for name, manifest in maker.write_all().items():
            print(f"{name}: {manifest.rows:,} rows in {len(manifest.files)} files", flush=True)
    print(f"next: mdsrec train {arguments.config}")


class TableMaker:
    """The tables of an experiment; `degree` others co-occur with an item on average.

    Features, neighbors and co-occurrences are written only for the items in `rows`; None: all. With
    `rows`, whose owner has a range of items, there are no places.
    """

    def __init__(
        self,
        experiment: Experiment,
        catalogue: Catalogue,
        degree: int = 20,
        width: int = 64,
        rows: tuple[int, int] | None = None,
    ) -> None:
        if catalogue.num_items < 100:
            raise InputError(f"--items {catalogue.num_items}: must be at least 100")
        self.experiment, self.catalogue, self.width = experiment, catalogue, width
        self.graph = Cooccurrence(catalogue.order, degree)
        self.modalities = {
            name: Modality(catalogue.num_items, stream)
            for stream, name in enumerate(experiment.modalities)
        }
        self.settings = table_settings(experiment)
        self.rows = (0, catalogue.num_items) if rows is None else rows
        size = [catalogue.num_items, catalogue.num_users, catalogue.longest, catalogue.seed]
        self.content = tables.fingerprint([*size, degree, width, *self.rows])

    def write_all(self) -> dict[str, tables.Manifest]:
        """Write every table that training reads -> their manifests by name.

        InputError if a table was made by the ETL, which is kept.
        """
        left_out = NOT_READ if self.rows == (0, self.catalogue.num_items) else (*NOT_READ, "places")
        names = [name for name in self.settings if name.split("/")[0] not in left_out]
        if (whole := whole_cooccurrence_name(self.experiment)) != cooccurrence_name(
            self.experiment
        ):
            names.remove(whole)  # training reads the bounded one
        for name in names:
            manifest = tables.read_manifest(self._uri(name))
            if manifest is not None and MARK not in manifest.inputs:
                raise InputError(
                    f"{self._uri(name)}: made by the ETL, which this command would replace: "
                    "choose another root"
                )
        num_train = np.zeros(self.catalogue.num_items, dtype=np.int32)
        written = {"sequences": self._write_sequences(num_train)}
        written["items"] = self._write_items(num_train)
        for name in names:
            if name not in written:
                written[name] = self._writer(name)()
        return written

    def _writer(self, name: str) -> Callable[[], tables.Manifest]:
        kind, _, rest = name.partition("/")
        modality = rest.partition("/")[0]
        match kind.partition(",")[0]:
            case "cooccurrence" | "transitions":
                return partial(self._write_pairs, name, schema.COOCCURRENCE)
            case "memory":
                return partial(self._write_pairs, name, schema.MEMORY)
            case "features":
                return partial(self._write_features, name, self.modalities[modality])
            case "neighbors":
                return partial(self._write_neighbors, name, self.modalities[modality])
            case "centers":
                return partial(self._write_centers, name, self.modalities[modality])
            case "places":
                first = self.modalities[self.experiment.neighbor_modalities[0]]
                return partial(self._write_places, name, first)
        raise AssertionError(name)

    def _write_sequences(self, num_train: NumTrain) -> tables.Manifest:
        """Write the sequences, and count the training events of each item in `num_train`."""
        counters = dict.fromkeys(("train", "valid", "test", "prefixes"), 0)
        lock = Lock()
        _ = self.catalogue.shares  # before the threads would each compute them

        def part(first: int, last: int) -> pa.Table:
            chunk = self.catalogue.chunk_at(first)
            with lock:
                _count(chunk, num_train, counters)
            return sequence_rows(chunk)

        uri, recipe = self._uri("sequences"), self._recipe("sequences")
        return write_parts(uri, recipe, part, self.catalogue.num_users, CHUNK_USERS, counters)

    def _write_items(self, num_train: NumTrain) -> tables.Manifest:
        def part(first: int, last: int) -> pa.Table:
            items = np.arange(first, last)
            empty = [pa.nulls(len(items), pa.string())] * 3
            return _table(
                schema.ITEMS, items, ids("B", items, ITEM_DIGITS), *empty, num_train[first:last]
            )

        keys = self.experiment.spark.rows_per_file
        uri, recipe = self._uri("items"), self._recipe("items")
        return write_parts(uri, recipe, part, self.catalogue.num_items, keys)

    def _write_pairs(self, name: str, table_schema: pa.Schema) -> tables.Manifest:
        most = self.settings[name].get("max_cooccurrences")
        start, stop = self.rows

        def part(number: int, end: int) -> pa.Table:
            first, last = start + number, start + end
            items, others, scores = self.graph.rows(first, last)
            if most is not None:
                starts = np.searchsorted(items, np.arange(first, last + 1))
                shape = (last - first, self.catalogue.num_items)
                kept, _ = keep_heaviest(csr_array((scores, others, starts), shape=shape), most)
                items = np.repeat(np.arange(first, last), np.diff(kept.indptr))
                others, scores = kept.indices, kept.data
            return _table(table_schema, items, others, scores)

        keys = max(1, PART_BYTES // (PAIR_BYTES * self.graph.degree))
        uri, recipe = self._uri(name), self._recipe(name)
        return write_parts(uri, recipe, part, stop - start, keys)

    def _write_features(self, name: str, modality: Modality) -> tables.Manifest:
        groups = Groups.of(modality.size, self.width, modality.stream)
        start, stop = map(modality.index, self.rows)

        def part(first: int, last: int) -> pa.Table:
            indices = start + np.arange(first, last)
            vectors = groups.draw(modality.clusters(indices, groups.num_groups), first)
            return _table(schema.FEATURES, modality.items(indices), fixed_lists(vectors))

        keys = max(1, PART_BYTES // (4 * self.width))
        counters = {
            "width": self.width,
            "items": modality.size,
            "items_without": modality.num_items - modality.size,
        }
        uri, recipe = self._uri(name), self._recipe(name)
        return write_parts(uri, recipe, part, stop - start, keys, counters)

    def _write_neighbors(self, name: str, modality: Modality) -> tables.Manifest:
        count = min(self.experiment.graph.max_neighbors, modality.size - 1)
        similarities = (1 - np.arange(1, count + 1) / (count + 1)).astype(np.float32)
        start, stop = map(modality.index, self.rows)

        def part(number: int, end: int) -> pa.Table:
            first, last = start + number, start + end
            lists = modality.neighbors(first, last, count).astype(np.int32)
            items = modality.items(np.arange(first, last))
            similar = fixed_lists(np.tile(similarities, (len(lists), 1)))
            return _table(schema.NEIGHBORS, items, fixed_lists(lists), similar)

        keys, counters = max(1, PART_BYTES // (8 * count)), {"items": modality.size}
        repetitive = ("similarities.list.element",)
        uri, recipe = self._uri(name), self._recipe(name)
        return write_parts(uri, recipe, part, stop - start, keys, counters, repetitive)

    def _write_centers(self, name: str, modality: Modality) -> tables.Manifest:
        k = int(self.settings[name]["k"])
        if k > modality.size:
            raise InputError(f"model.num_centers = {k}: there are only {modality.size} vectors")

        def part(first: int, last: int) -> pa.Table:
            indices = np.arange(first, last)
            return _table(schema.CENTERS, modality.items(indices), modality.clusters(indices, k))

        return write_parts(
            self._uri(name), self._recipe(name), part, modality.size, PART_BYTES // 8
        )

    def _write_places(self, name: str, modality: Modality) -> tables.Manifest:
        """Write places in the order of the line on which neighbors of the modality are near."""

        def part(first: int, last: int) -> pa.Table:
            items = np.arange(first, last)
            return _table(schema.PLACES, items, modality.places(items))

        keys = PART_BYTES // 8
        return write_parts(
            self._uri(name), self._recipe(name), part, self.catalogue.num_items, keys
        )

    def _uri(self, name: str) -> str:
        return tables.table_uri(self.experiment.root, name)

    def _recipe(self, name: str) -> tables.Recipe:
        return tables.Recipe(self.settings[name], {MARK: self.content})


def _count(chunk: Chunk, num_train: NumTrain, counters: dict[str, int]) -> None:
    held_out = held_out_events(chunk)
    train = chunk.lengths - held_out
    before = np.cumsum(chunk.lengths) - chunk.lengths
    place = np.arange(len(chunk.items)) - np.repeat(before, chunk.lengths)
    np.add.at(num_train, chunk.items[place < np.repeat(train, chunk.lengths)], 1)
    counters["train"] += int(train.sum())
    counters["valid"] += int(held_out.sum()) // 2
    counters["test"] += int(held_out.sum()) // 2
    counters["prefixes"] += int(np.maximum(train - 1, 0).sum())


def _table(
    table_schema: pa.Schema, *columns: Ints | Floats | pa.Array | pa.ChunkedArray
) -> pa.Table:
    arrays = [
        column
        if isinstance(column, pa.Array | pa.ChunkedArray)
        else pa.array(_as_type(column, field.type))
        for column, field in zip(columns, table_schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=table_schema)


def _as_type(column: Ints | Floats, kind: pa.DataType) -> Ints | Floats:
    wanted: Ints | Floats = column.astype(kind.to_pandas_dtype(), copy=False)
    return wanted
