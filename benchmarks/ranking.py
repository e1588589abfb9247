"""Exact ranks by tiles compared with dense scores: `python -m benchmarks.ranking`.

Random vectors of three channels, D 300 each, are scored against all items in every channel and in
the whole score, on one thread, as in a worker. The dense forms, topk and argsort, hold the scores
of all items at once.

Shapes: B users, C channels, X items.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import GIB, measure, print_result
from benchmarks.memory import process_bytes, trim_memory
from mdsrec.command import run_command
from mdsrec.config import EvalConfig
from mdsrec.text import markdown_table
from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_channels

PROG = "benchmarks.ranking"
LIMIT_GIB, LIMIT_SECONDS = 22.0, 1800.0
CHANNELS, DIM, USERS, SECONDS, LISTED = 3, 300, 256, 5.0, 20
WEIGHTS = torch.tensor([1.0, 0.5, 0.5])
BLOCK = EvalConfig().items_together
COLUMNS = [
    "items",
    "form",
    "users/s",
    "speed-up of tiles",
    "share of GEMM",
    "peak beyond the vectors",
    "ranks that differ by rounding",
]

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_tiles(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Count the items above each target in each channel and in the whole score -> [B, C + 1]."""
    counts, _ = count_channels(Queries(queries, items), WEIGHTS[None], targets, BLOCK)
    return counts.roll(-1, dims=1)


def by_topk(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Return the same for targets among the LISTED highest, and LISTED for all others."""
    return torch.stack(
        [
            torch.where(
                scores.topk(LISTED).indices == targets[:, None], torch.arange(LISTED), LISTED
            ).amin(1)
            for scores in _columns(queries, items)
        ],
        dim=1,
    )


def by_argsort(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return torch.stack(
        [
            (scores.argsort(dim=1, descending=True) == targets[:, None]).nonzero()[:, 1]
            for scores in _columns(queries, items)
        ],
        dim=1,
    )


def _columns(queries: Tensor, items: Tensor) -> Iterator[Tensor]:
    """Yield the scores of all items in each channel, then the whole ones (Eq. 22) -> [B, X]."""
    whole = queries.new_zeros(len(queries), items.shape[1])
    for channel, weight in enumerate(WEIGHTS.tolist()):
        scores = queries[:, channel] @ items[channel].T
        whole.add_(scores, alpha=weight)
        yield scores
    yield whole


FORMS: dict[str, Form] = {"tiles": by_tiles, "topk": by_topk, "argsort": by_argsort}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[4_000, 100_000, 1_000_000])
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.form:
        _measure_here(arguments.items[0], arguments.form)
        return
    rows = []
    for items in arguments.items:
        options = ["--items", str(items), "--form"]
        readings = {
            form: measure(PROG, [*options, form], LIMIT_GIB, LIMIT_SECONDS) for form in FORMS
        }
        tiles = readings["tiles"].result
        for form, reading in readings.items():
            result = reading.result
            if not result:
                rows.append([f"{items:,}", form, reading.outcome, "", "", "", ""])
                continue
            expected = np.minimum(tiles["ranks"], result["most"])
            differences = np.abs(expected - result["ranks"])
            rows.append(
                [
                    f"{items:,}",
                    form,
                    f"{result['users_per_second']:,.0f}",
                    f"{tiles['users_per_second'] / result['users_per_second']:.1f}",
                    f"{result['gemm_share']:.2f}" if form == "tiles" else "",
                    f"{result['peak'] / GIB:.3f} GiB",
                    f"{(differences > 0).sum()} of {differences.size}, by {differences.max()}",
                ]
            )
        print("\n".join(" | ".join(row) for row in rows[-len(FORMS) :]), flush=True)
    print(markdown_table(COLUMNS, rows))


def _measure_here(num_items: int, form: str) -> None:
    """Rank a batch of users again and again for SECONDS in this process, and print the result.

    A ranking among few items comes first.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rank = FORMS[form]
    queries = torch.randn(USERS, CHANNELS, DIM, generator=generator)
    targets = torch.randint(num_items, (USERS,), generator=generator)
    items = torch.randn(CHANNELS, num_items, DIM, generator=generator)
    few = min(num_items, 4 * BLOCK)
    rank(queries, items[:, :few], targets % few)
    trim_memory()
    before = process_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        started = time.perf_counter()
        ranks = rank(queries, items, targets)
        seconds.append(time.perf_counter() - started)
    peak = process_bytes("VmHWM") - before
    best = min(seconds)
    print_result(
        ranks=ranks.tolist(),
        most=LISTED if form == "topk" else num_items,
        users_per_second=USERS / best,
        gemm_share=_product_seconds(queries, items) / best,
        peak=peak,
    )


def _product_seconds(queries: Tensor, items: Tensor) -> float:
    """Return the seconds of only the matrix products of all tiles: the best of ten, once warm."""
    tiles = Tiles(Queries(queries, items), WEIGHTS[None], BLOCK)
    queries_CBD = queries.transpose(0, 1).contiguous()
    items_CnD = items[:, : tiles.width]
    out = queries.new_empty(CHANNELS, USERS, tiles.width)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        torch.bmm(queries_CBD, items_CnD.transpose(1, 2), out=out)
        seconds.append(time.perf_counter() - started)
    return min(seconds) * items.shape[1] / tiles.width


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
