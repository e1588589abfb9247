"""Remote neighbors by the order of items: `python -m benchmarks.places CONFIG [KEY=VALUE ...]`

Each shard owns an equal range of an order. The table shows which share of the neighbors that the
model reads are owned by another shard than the item, at 2, 8 and 64 shards: for items by number, as
the ETL sorts them, at random, and by the table `places` that the ETL has built.
"""

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from etl.places.remote import SHARDS, count_remote, listed_pairs, owners_of
from mdsrec import schema, tables
from mdsrec.arrays import Counts, Floats, Ints
from mdsrec.command import experiment_of, experiment_parser, run_command
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.table_names import neighbors_name, places_name
from mdsrec.text import markdown_table

PROG = "benchmarks.places"
SEED = 0  # of the random order


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(PROG, __doc__ or "")
    experiment = experiment_of(parser.parse_intermixed_args(argv))
    if not experiment.neighbor_modalities:
        raise InputError("model: has no neighbors in any modality, so there are no places")
    orders = read_orders(experiment)
    num_items = len(orders["item"])
    print(f"{num_items:,} items, the {experiment.nearest_read} nearest neighbors of each")
    rows = [
        [modality, name, *(f"{share:.3f}" for share in shares)]
        for modality in experiment.neighbor_modalities
        for name, shares in remote_shares(experiment, modality, orders).items()
    ]
    shards = [f"{number} shards" for number in SHARDS]
    print(markdown_table(["neighbors by", "order by", *shards], rows))


def read_orders(experiment: Experiment) -> dict[str, Ints]:
    """Return the place of each item in every order."""
    uri = tables.table_uri(experiment.root, places_name(experiment))
    places = tables.read_table(uri, schema.PLACES).column("place").to_numpy()
    return {
        "item": np.arange(len(places)),
        "random": np.random.default_rng(SEED).permutation(len(places)),
        "places": places,
    }


def remote_shares(
    experiment: Experiment, modality: str, orders: dict[str, Ints]
) -> dict[str, Floats]:
    """Return the shares of remote neighbors at SHARDS for every order."""
    uri = tables.table_uri(experiment.root, neighbors_name(experiment, modality))
    owners = {name: owners_of(places, len(places)) for name, places in orders.items()}
    counts: dict[str, Counts] = {name: np.zeros(len(SHARDS), np.int64) for name in orders}
    total = 0
    columns = ["item", "neighbors"]
    for batch in tables.stream_table(uri, tables.open_table(uri), schema.NEIGHBORS, columns):
        items, neighbors = listed_pairs(pa.Table.from_batches([batch]), experiment.nearest_read)
        total += len(items)
        for name, of_order in owners.items():
            counts[name] += count_remote(of_order[items], of_order[neighbors])
    return {name: count / total for name, count in counts.items()}


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
