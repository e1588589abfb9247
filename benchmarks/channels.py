"""What each part of the score of finished runs is worth: `python -m benchmarks.channels RUN ...`

The first table compares the whole score with the network, the memory and each channel on the test
events: means over the runs, which differ by their seed. The second one is of the first run: the
validation ndcg@10 with weights chosen for fewer channels.
"""

import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.seeds import CUTOFFS, columns_of, metric_cells
from evaluation.channel_weights import read_rivals
from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Ranking, all_events
from evaluation.metrics.run_metrics import BASELINES, RunMetrics
from evaluation.weight_search import Rivals, search_weights
from mdsrec import files
from mdsrec.command import path, run_command, stage_parser
from mdsrec.run_paths import RunPaths
from mdsrec.text import markdown_table
from training.inference import ALL, MEMORY, SEEN

PROG = "benchmarks.channels"
NAMES = [f"{metric}@{n}" for metric in ("recall", "ndcg") for n in CUTOFFS]


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(PROG, __doc__ or "")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=path, help="ROOT/runs/NAME")
    runs: list[str] = parser.parse_args(argv).runs
    print(_test_table(runs))
    print()
    print(_validation_table(RunPaths(runs[0])))


def _test_table(runs: Sequence[str]) -> str:
    ranked = RunMetrics.read(RunPaths(runs[0]).metrics).split["test"]
    channels = [name for name in ranked if name not in BASELINES]
    rows, whole = [], None
    for channel in channels:
        events = [all_events(Ranking(run, channel), CUTOFFS) for run in runs]
        values = np.mean([each.values for each in events], axis=0)
        columns = columns_of(NAMES)
        row = metric_cells(events, NAMES)
        whole = values if channel == ALL else whole
        assert whole is not None  # the first channel
        differs = difference(events[0].users, whole, values)
        compared = [differs.text(columns[at]) if channel != ALL else "" for at in (0, 2)]
        rows.append([channel, *row, *compared])
    compared = [f"{name}: all channels better by" for name in (NAMES[0], NAMES[2])]
    return markdown_table(["channel", *NAMES, *compared], rows)


def _validation_table(paths: RunPaths) -> str:
    """Choose weights for the network, the memory and both, each with and without seen items."""
    channels = list(files.read_json(paths.weights)["weights"])
    rivals = read_rivals(paths.rivals, len(channels))
    network = [name for name in channels if name not in (MEMORY, SEEN)]
    rows = []
    for label, chosen in (
        ("network", network),
        ("memory", [MEMORY]),
        ("network and memory", [*network, MEMORY]),
    ):
        row = [label]
        for names in (chosen, [*chosen, SEEN]):
            columns = [channels.index(name) for name in names]
            start = [float(name != SEEN) for name in names]
            signed = [at for at, name in enumerate(names) if name == SEEN]
            of_names = Rivals(rivals.differences[:, columns], rivals.counts)
            row.append(f"{search_weights(of_names, start, signed).ndcg:.4f}")
        rows.append(row)
    header = ["channels", "validation ndcg@10", "with a weight for seen items"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
