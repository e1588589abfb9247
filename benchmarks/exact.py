"""Ranks and recommendations of a run, compared with other ways to compute them:
`python -m benchmarks.exact CONFIG`

The ranks table is compared with all scores in float64, and with other sizes of batches and tiles.
The recommendations are compared with a plain sort of the scores that the exported tables give. The
run must have its ranks and recommendations (`python -m evaluation CONFIG` and
`python -m evaluation recommend CONFIG`).

Shapes: B targets, C channels, S sums of them, X items, D width.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from evaluation.channel_weights import load_weighted
from evaluation.metrics.run_metrics import BASELINES
from evaluation.ranking import rank_targets, ranked_names
from evaluation.vector_tables import VectorTables
from mdsrec import metrics, schema, tables
from mdsrec.arrays import Counts
from mdsrec.command import experiment_of, experiment_parser, run_command
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.text import markdown_table
from training.data.sequences import SequenceReader, Target
from training.inference import TrainedModel

PROG = "benchmarks.exact"
BATCH = 256  # targets
OTHER_SIZES = {"user_batch": 100, "item_block": 320}
CUTOFFS = (10, 20)
COLUMNS = [
    "compared with",
    "ranks",
    "that differ",
    "largest difference",
    "largest difference of recall and ndcg",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(PROG, __doc__ or "")
    experiment = experiment_of(parser.parse_intermixed_args(argv))
    paths, trained = RunPaths.of(experiment), load_weighted(experiment)
    reader = SequenceReader(experiment)
    targets = reader.targets(0, reader.num_users)
    ranks = tables.read_table(paths.ranks, schema.RANKS)
    sizes = ", ".join(f"{key} {value}" for key, value in OTHER_SIZES.items())
    rows = [
        _compare_ranks("all scores in float64", ranks, _better_in_float64(trained, targets)),
        _compare_ranks(sizes, ranks, _better_by_other_sizes(experiment, trained, targets)),
    ]
    print(markdown_table(COLUMNS, rows))
    print(_compare_recommendations(paths))


def _better_in_float64(trained: TrainedModel, targets: Sequence[Target]) -> Counts:
    """Count the items above each target in every channel, in the order of the ranks table."""
    sums_SC = torch.stack([*trained.sums.values()]).double()
    num_ranked = len(ranked_names(trained))
    better = [np.empty((0, num_ranked), dtype=np.int64)]
    for first in range(0, len(targets), BATCH):
        batch = targets[first : first + BATCH]
        queries = trained.queries([target.history for target in batch])
        all_items = torch.arange(trained.num_items).expand(len(batch), -1)
        channels = torch.einsum("bcd,cxd->bcx", queries.vectors.double(), queries.items.double())
        sparse = [scores.at(all_items).double()[:, None] for scores in queries.sparse]
        channels = torch.cat([channels, *sparse], dim=1)
        sums = torch.einsum("bcx,sc->bsx", channels, sums_SC)
        scores = torch.cat([sums, channels], dim=1)[:, :num_ranked]
        own_B11 = torch.tensor([target.target for target in batch])[:, None, None]
        own = scores.gather(2, own_B11.expand(-1, num_ranked, 1))
        better.append((scores > own).sum(2).numpy())
    return np.concatenate(better).ravel()


def _better_by_other_sizes(
    experiment: Experiment, trained: TrainedModel, targets: Sequence[Target]
) -> Counts:
    settings = experiment.eval.model_copy(update=OTHER_SIZES)
    better: Counts = rank_targets(trained, {}, targets, settings)["better"].to_numpy()
    return better


def _of_model(ranks: pa.Table) -> pa.Table:
    return ranks.filter(~pa.compute.field("channel").isin(BASELINES))


def _compare_ranks(name: str, ranks: pa.Table, better: Counts) -> list[str]:
    """Return the table row of a comparison of the stored ranks with others."""
    ranks = _of_model(ranks)
    stored, ties = ranks["better"].to_numpy(), ranks["ties"].to_numpy()
    differences = np.abs(stored - better)
    split, channel = ranks["split"].to_numpy(), ranks["channel"].to_numpy()
    of_metrics = max(
        abs(before[key] - after[key])
        for rows in _groups(split, channel)
        for before in [metrics.summary(stored[rows], ties[rows], CUTOFFS)]
        for after in [metrics.summary(better[rows], ties[rows], CUTOFFS)]
        for key in before
    )
    num_different = f"{(differences > 0).sum():,}"
    return [name, f"{len(better):,}", num_different, f"{differences.max()}", f"{of_metrics:.1e}"]


def _groups(*columns: NDArray[np.object_]) -> Iterator[NDArray[np.bool_]]:
    """Yield a mask of the rows of each combination of values."""
    keys = np.stack([column.astype(str) for column in columns])
    for key in np.unique(keys, axis=1).T:
        yield (keys == key[:, None]).all(axis=0)


def _compare_recommendations(paths: RunPaths) -> str:
    """Return how many users have the same recommendations by the exported tables."""
    stored = tables.read_table(paths.recommendations, schema.RECOMMENDATIONS)
    own, own_scores = (np.stack(stored[key].to_numpy()) for key in ("items", "scores"))
    exported, top = VectorTables.read(paths.uri), own.shape[1]
    same = reordered = 0
    difference = 0.0
    for first in range(0, len(own), BATCH):
        batch = slice(first, first + BATCH)
        scores, found = exported.scores(batch), exported.top(batch, top)
        is_same = (found == own[batch]).all(axis=1)
        same += int(is_same.sum())
        reordered += int(((np.sort(found) == np.sort(own[batch])).all(axis=1) & ~is_same).sum())
        of_own = np.take_along_axis(scores, own[batch], axis=1)
        difference = max(difference, float(np.abs(of_own - own_scores[batch]).max()))
    return (
        f"\ntop {top} of {len(own):,} users from the exported tables: {same:,} are the same, "
        f"{reordered:,} have another order, scores differ by at most {difference:.1e}"
    )


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
