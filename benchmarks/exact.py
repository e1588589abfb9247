"""`python -m benchmarks.exact CONFIG`: a run's ranks and lists beside other ways to the same.

The ranks table beside float64 scores in a full argsort and beside other batches and tiles; the
recommendations beside a flat faiss index over the exported vectors. Needs the run's evaluation, and
`python -m evaluation recommend`.
"""

import sys
from collections.abc import Iterator, Sequence

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks.measure import markdown
from evaluation.baselines import Popularity
from evaluation.ranking import rank_targets
from mdsrec import metrics, schema, table_names, tables
from mdsrec.command import experiment_of, experiment_parser, run_command
from mdsrec.config import Experiment
from training.data.sequences import SequenceReader, Target
from training.inference import TrainedModel, load_trained

PROG = "benchmarks.exact"
TOGETHER = 256  # targets
OTHER_SIZES = {"user_batch": 100, "item_block": 320}
CUTOFFS = (10, 20)

Ints = NDArray[np.int64]


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(PROG, __doc__ or "")
    experiment = experiment_of(parser.parse_intermixed_args(argv))
    uri, trained = table_names.run_uri(experiment), load_trained(experiment)
    reader = SequenceReader(experiment)
    targets = reader.targets(0, reader.num_users)
    written = tables.read_table(f"{uri}/ranks", schema.RANKS)
    rows = [
        _compared("float64, full argsort", written, _by_argsort(trained, targets)),
        _compared(
            ", ".join(f"{key} {value}" for key, value in OTHER_SIZES.items()),
            written,
            _by_other_sizes(experiment, trained, targets),
        ),
    ]
    columns = ["beside", "ranks", "that differ", "by at most", "recall and ndcg differ by at most"]
    print(markdown(columns, rows))
    print(_lists(uri))


def _by_argsort(trained: TrainedModel, targets: Sequence[Target]) -> Ints:
    """Items above each target in every channel, row by row of the ranks table."""
    items = trained.item_vectors().double()
    found = [np.empty((0, 1 + len(items)), dtype=np.int64)]
    for first in range(0, len(targets), TOGETHER):
        batch = targets[first : first + TOGETHER]
        queries = trained.user_vectors([target.history for target in batch]).double()
        channels = torch.einsum("bcd,cxd->bcx", queries, items)
        whole = torch.einsum("bcx,c->bx", channels, trained.channel_weights.double())
        order = torch.cat([whole[:, None], channels], dim=1).argsort(dim=2, descending=True)
        own = torch.tensor([target.target for target in batch])
        found.append((order == own[:, None, None]).nonzero()[:, 2].view(len(batch), -1).numpy())
    return np.concatenate(found).ravel()


def _by_other_sizes(
    experiment: Experiment, trained: TrainedModel, targets: Sequence[Target]
) -> Ints:
    settings = experiment.eval.model_copy(update=OTHER_SIZES)
    floor = Popularity(np.zeros(trained.num_items, dtype=np.int64))
    ranks = rank_targets(trained, trained.item_vectors(), floor, targets, settings)
    better: Ints = _of_model(ranks)["better"].to_numpy()
    return better


def _of_model(ranks: pa.Table) -> pa.Table:
    return ranks.filter(pa.compute.not_equal(ranks["channel"], "popularity"))


def _compared(name: str, written: pa.Table, better: Ints) -> list[str]:
    ranks = _of_model(written)
    former, ties = ranks["better"].to_numpy(), ranks["ties"].to_numpy()
    apart = np.abs(former - better)
    split, channel = ranks["split"].to_numpy(), ranks["channel"].to_numpy()
    means = max(
        abs(before[key] - after[key])
        for chosen in _groups(split, channel)
        for before in [metrics.summary(former[chosen], ties[chosen], CUTOFFS)]
        for after in [metrics.summary(better[chosen], ties[chosen], CUTOFFS)]
        for key in before
    )
    differ = f"{(apart > 0).sum():,}"
    return [name, f"{len(better):,}", differ, f"{apart.max()}", f"{means:.1e}"]


def _groups(*columns: NDArray[np.object_]) -> Iterator[NDArray[np.bool_]]:
    """The rows of each combination of values."""
    keys = np.stack([column.astype(str) for column in columns])
    for key in np.unique(keys, axis=1).T:
        yield (keys == key[:, None]).all(axis=0)


def _lists(uri: str) -> str:
    """How many users' recommendations are those of a flat index over the vectors."""
    lists = tables.read_table(f"{uri}/recommendations", schema.RECOMMENDATIONS)
    items = np.stack(
        tables.read_table(f"{uri}/vectors/items", schema.ITEM_VECTORS)["vector"].to_numpy()
    )
    users = tables.read_table(f"{uri}/vectors/users", schema.USER_VECTORS)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    top = len(lists["items"][0])
    scores, found = index.search(np.stack(users["vector"].to_numpy()), top)
    own, own_scores = (np.stack(lists[key].to_numpy()) for key in ("items", "scores"))
    same = (found == own).all(axis=1)
    apart = np.abs(scores - own_scores).max()
    swapped = (np.sort(found) == np.sort(own)).all(axis=1) & ~same
    return (
        f"\ntop-{top} of {len(own):,} users by a flat index: {same.sum():,} the same in the same "
        f"order, {swapped.sum():,} in another, scores within {apart:.1e}"
    )


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
