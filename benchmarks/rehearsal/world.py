"""The experiment of a rehearsal, and its tables: of the large ones, only one rank's share."""

from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.catalogue.events import TAIL, Catalogue
from benchmarks.catalogue.order import Order
from benchmarks.catalogue.tables import TableMaker
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from training.sharding.ownership import Shards

NEIGHBORS = 10  # H, and all that are stored
DEGREE, MOST_COOCCURRENCES = 20, 100
USERS_OF_RANK = 64
VALIDATED_OF_RANK = 16  # of these users, in one batch of validation
MODALITIES = ("text", "image")
WIDTH = 4  # of the vectors, which are not read


class World(NamedTuple):
    """One rank of many, and the catalogue."""

    folder: Path
    items: int
    workers: int
    rank: int
    dim: int
    batch: int  # prefixes of a global step
    loss: str  # sampled | full

    @property
    def shards(self) -> Shards:
        return Shards(self.items, self.workers, self.rank)

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.items, self.workers * USERS_OF_RANK, longest=200)

    @property
    def experiment(self) -> Experiment:
        """Return MDSRec with two modalities and interest centers."""
        negatives = {"num_negatives": 1000} if self.loss == "sampled" else {}
        train = {"loss": self.loss, "batch_size": self.batch, **negatives}
        content = {
            "name": f"rehearsal-{self.loss}",
            "root": str(self.folder),
            "input": {"edition": "2018", "reviews": [str(self.folder / "none.json")]},
            "features": {m: {"vectors": str(self.folder / "none.parquet")} for m in MODALITIES},
            "graph": {"max_neighbors": NEIGHBORS, "max_cooccurrences": MOST_COOCCURRENCES},
            "model": {"dim": self.dim, "num_neighbors": NEIGHBORS, "memory": False},
            "train": {"item_table": "sharded", "device": "cpu", **train},
            "eval": {"user_batch": VALIDATED_OF_RANK},
        }
        return experiment_from(content, source="rehearsal")

    def draw_items(self, generator: np.random.Generator, count: int) -> Ints:
        """Draw items as often as events have them: the n-th most popular in proportion to n^-TAIL.

        They are distinct and ascend, except for a few that are there twice.
        """
        ranks = (self.items * generator.random(count) ** (1 / (1 - TAIL))).astype(np.int64)
        return np.sort(Order(self.items).by_popularity(ranks))

    def write_tables_apart(self) -> None:
        """Write the tables in a process of its own, so that its memory is not measured."""
        process = get_context("spawn").Process(target=write_tables, args=(self,))
        process.start()
        process.join()
        if process.exitcode:
            raise InputError(f"{self.folder}: the tables could not be written")


def write_tables(world: World) -> None:
    """Write the tables."""
    rows = world.shards.first, world.shards.last
    maker = TableMaker(world.experiment, world.catalogue, DEGREE, WIDTH, rows)
    maker.write_all()
