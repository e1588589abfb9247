"""`python -m benchmarks.ranking`: exact ranks by tiles beside dense scores, topk and argsort.

Made vectors of three channels, D 300 each, scored against all items in the whole score and in every
channel alone, on one thread, as a worker has. The dense forms hold a column's scores of all items.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import GIB, answer, markdown, measured
from benchmarks.memory import memory, trim
from mdsrec.command import run_command
from mdsrec.config import EvalConfig
from training.layers.scoring import Tiles, count_channels

PROG = "benchmarks.ranking"
LIMIT_GIB, LIMIT_SECONDS = 22.0, 1800.0
CHANNELS, DIM, USERS, SECONDS, LISTED = 3, 300, 256, 5.0, 20
WEIGHTS = torch.tensor([1.0, 0.5, 0.5])
BLOCK = EvalConfig().item_block
COLUMNS = [
    "items",
    "form",
    "users/s",
    "tiles over it",
    "share of GEMM",
    "peak beside the table",
    "ranks that rounding moves",
]

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_tiles(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Items above each target in each channel, then in the whole score -> [B, C + 1]."""
    return count_channels(queries, items, WEIGHTS, targets, BLOCK)[0].roll(-1, dims=1)


def by_topk(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """The same for targets among the LISTED highest; LISTED for all others."""
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
    """Scores of all items by channel, then whole (Eq. 22) -> [B, X], one after the other."""
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
        _one(arguments.items[0], arguments.form)
        return
    rows = []
    for items in arguments.items:
        words = ["--items", str(items), "--form"]
        readings = {
            form: measured(PROG, [*words, form], LIMIT_GIB, LIMIT_SECONDS) for form in FORMS
        }
        tiles = readings["tiles"].answer
        for form, reading in readings.items():
            found = reading.answer
            if not found:
                rows.append([f"{items:,}", form, reading.outcome, "", "", "", ""])
                continue
            expected = np.minimum(tiles["ranks"], found["most"])
            apart = np.abs(expected - found["ranks"])
            rows.append(
                [
                    f"{items:,}",
                    form,
                    f"{found['users_per_second']:,.0f}",
                    f"{tiles['users_per_second'] / found['users_per_second']:.1f}",
                    f"{found['gemm_share']:.2f}" if form == "tiles" else "",
                    f"{found['beside'] / GIB:.3f} GiB",
                    f"{(apart > 0).sum()} of {apart.size}, by {apart.max()}",
                ]
            )
        print("\n".join(" | ".join(row) for row in rows[-len(FORMS) :]), flush=True)
    print(markdown(COLUMNS, rows))


def _one(num_items: int, form: str) -> None:
    """A batch of users ranked again for SECONDS, in this process, after one among few items."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rank = FORMS[form]
    queries = torch.randn(USERS, CHANNELS, DIM, generator=generator)
    targets = torch.randint(num_items, (USERS,), generator=generator)
    items = torch.randn(CHANNELS, num_items, DIM, generator=generator)
    few = min(num_items, 4 * BLOCK)
    rank(queries, items[:, :few], targets % few)
    trim()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        began = time.perf_counter()
        ranks = rank(queries, items, targets)
        seconds.append(time.perf_counter() - began)
    beside = memory("VmHWM") - before
    best = min(seconds)
    answer(
        ranks=ranks.tolist(),
        most=LISTED if form == "topk" else num_items,
        users_per_second=USERS / best,
        gemm_share=_product_seconds(queries, items) / best,
        beside=beside,
    )


def _product_seconds(queries: Tensor, items: Tensor) -> float:
    """What the products of all tiles alone would take, at the best of ten warm ones."""
    tiles = Tiles(queries, items, WEIGHTS, BLOCK)
    queries_CBD = queries.transpose(0, 1).contiguous()
    items_CnD = items[:, : tiles.width]
    out = queries.new_empty(CHANNELS, USERS, tiles.width)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        torch.bmm(queries_CBD, items_CnD.transpose(1, 2), out=out)
        seconds.append(time.perf_counter() - began)
    return min(seconds) * items.shape[1] / tiles.width


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
