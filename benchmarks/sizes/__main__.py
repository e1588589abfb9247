"""Print what a catalogue needs: `python -m benchmarks.sizes [--items 48.2e6 --dim 128 ...]`.

Without options these are the tables of docs/cluster.md and docs/scale.md for the replicated form.
With `--items` they are memory, bytes sent, operations and seconds of one rank, in both forms.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.sizes import replicated, table
from benchmarks.sizes.seconds import Gpu, Use
from benchmarks.sizes.shape import Shape, expected_counts
from mdsrec.command import positive_int, run_command, stage_parser

PROG = "benchmarks.sizes"
GPU = "80, 2, 230, 25, 150"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.items is None:
        print(replicated.table(), "", replicated.full_catalogue(), sep="\n")
        return
    print("\n\n".join(tables_of(arguments)))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = stage_parser(PROG, __doc__ or "")
    parser.add_argument("--items", type=_count, help="X, as 48.2e6")
    parser.add_argument("--dim", type=positive_int, default=128, help="D (default: 128)")
    parser.add_argument("--workers", type=positive_int, default=64, help="W (default: 64)")
    parser.add_argument("--modalities", type=positive_int, default=2)
    parser.add_argument("--neighbors", type=positive_int, default=10, help="H (default: 10)")
    parser.add_argument("--centers", type=positive_int, default=32, help="K (default: 32)")
    parser.add_argument("--cooccurring", type=positive_int, default=100, help="of an item")
    parser.add_argument("--sequences", type=positive_int, default=64, help="of a rank in a step")
    parser.add_argument("--length", type=positive_int, default=8, help="of a sequence")
    parser.add_argument("--negatives", type=positive_int, default=1000)
    parser.add_argument("--users", type=_count, default=54_000_000, help="who are ranked")
    parser.add_argument("--gpu", default=GPU, help=f'memory GB, TB/s, ... (default: "{GPU}")')
    return parser


def tables_of(arguments: argparse.Namespace) -> list[str]:
    """Return the tables of memory, bytes sent, operations and seconds of a catalogue."""
    shape = Shape(
        arguments.items,
        arguments.dim,
        arguments.workers,
        arguments.modalities,
        arguments.neighbors,
        arguments.centers,
        arguments.cooccurring,
        negatives=arguments.negatives,
    )
    counts = expected_counts(shape, arguments.sequences, arguments.length)
    use, gpu = Use(arguments.users), Gpu.parse(arguments.gpu)
    return [
        table.memory_table(shape, counts),
        table.traffic_table(shape, counts, use),
        table.flops_table(shape, counts),
        table.seconds_table(shape, counts, use, gpu),
    ]


def _count(text: str) -> int:
    """Return a whole number, which may be written as 48.2e6."""
    number = float(text)
    if number < 1 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: not a whole number above 0")
    return int(number)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
