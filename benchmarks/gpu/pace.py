"""Steps of MDSRec: prefixes per second, kernels by name, and a million items."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.gpu.world import experiment_in, write_world
from benchmarks.gpu_harness.stages import PlainEngine, new_model, one_rank
from benchmarks.measure import GIB
from benchmarks.memory import random_experiment, random_step, random_tables
from training.data.prefetch import Prefetch
from training.data.sequences import SequenceReader
from training.losses import softmax_tiles
from training.models.mdsrec.model import MDSRec
from training.step import Share, share_of, take_step

PRECISIONS = ("fp32", "tf32", "bf16")
ATTENTION = ("attention", "flash", "fmha", "softmax")  # in names of kernels
PLAIN_ATTENTION = "aten::_scaled_dot_product_attention_math"
MOST_WORKING_SET = 4 * GIB


def pace(gpu: Gpu, folder: Path, report: Report) -> None:
    model = gpu.size(
        {"dim": 300, "num_layers": 2, "num_centers": 32, "num_neighbors": 10, "max_length": 50},
        {"dim": 16, "num_centers": 4, "max_length": 8},
    )
    write_world(experiment_in(folder, "mdsrec", model), gpu.size(4000, 200), gpu.size(9000, 60))
    num_kernels = {}
    with one_rank(str(folder / "rendezvous")):
        for prefixes in gpu.size((512, 8192), (32, 128)):
            for precision in PRECISIONS:
                experiment = experiment_in(
                    folder, "mdsrec", model, batch_size=prefixes, precision=precision
                )
                label = f"{prefixes:,} prefixes, {precision}"
                num_kernels[label] = _pace(gpu, report, experiment, label)
    fewest, most = min(num_kernels.values()), max(num_kernels.values())
    report.require(most <= 2 * fewest, f"kernels a step: {num_kernels}")


def _pace(gpu: Gpu, report: Report, experiment: Any, label: str) -> int:
    """Note the pace of an experiment -> kernels of a step."""
    model = new_model(experiment)
    engine = PlainEngine(model.to(gpu.device), experiment)
    engine.train()
    steps = list(islice(SequenceReader(experiment).steps(0), gpu.size(5, 1)))
    shares = [
        share_of(model, experiment, step, (0, number), gpu.device)
        for number, step in enumerate(steps)
    ]

    def take(shares: Iterable[Share]) -> None:
        for share in shares:
            engine.optimizer.zero_grad()
            take_step(engine, experiment, share)  # type: ignore[arg-type]

    seconds = gpu.seconds(partial(take, shares), gpu.size(10, 1), gpu.size(3, 1)) / len(shares)
    repeated = list(enumerate(steps)) * gpu.size(10, 1)
    mean = sum(step.num_prefixes for step in steps) / len(steps)
    prepared = (share_of(model, experiment, step, (0, n), gpu.device) for n, step in repeated)
    with_host = gpu.seconds(partial(take, Prefetch(prepared)), 1, 0) / len(repeated)
    names, operators, busy_seconds = gpu.kernels(partial(take, shares))
    if gpu.is_pretended:  # the engine begins new counts for each part of a step
        names = sum((part.launches for part in engine.counts_of.values()), Counter[str]())
    count, busy = names.total() // len(shares), busy_seconds / len(shares) / seconds
    attention = [name for name in names if any(word in name.lower() for word in ATTENTION)]
    is_fused = gpu.is_pretended or PLAIN_ATTENTION not in operators
    report.require(is_fused, f"{label}: attention is not fused")
    report.note(
        label,
        {
            "prefixes/s": round(mean / seconds),
            "prefixes/s, prepared meanwhile": round(mean / with_host),
            "ms": round(1e3 * seconds, 2),
            "kernels": count,
            "busy share": round(busy, 2),
            "attention": sorted({name[:80] for name in attention}),
        },
    )
    return count


def million_items(gpu: Gpu, folder: Path, report: Report) -> None:
    num_items, prefixes = gpu.size(1_000_000, 500), gpu.size(512, 32)
    experiment = random_experiment(gpu.size(300, 16))
    model = MDSRec(experiment, random_tables(experiment, num_items))
    model.initialize(0)
    with one_rank(str(folder / "rendezvous")):
        engine = PlainEngine(model.to(gpu.device), experiment)
        engine.train()
        step = random_step(num_items, prefixes)
        share = share_of(model, experiment, step, (0, 0), gpu.device)
        take = partial(_take, engine, experiment, share)
        _compare_tiles(gpu, report, take)


def _take(engine: PlainEngine, experiment: Any, share: Any) -> Tensor:
    engine.optimizer.zero_grad()
    return take_step(engine, experiment, share)  # type: ignore[arg-type]


def _compare_tiles(gpu: Gpu, report: Report, take: Callable[[], Tensor]) -> None:
    """Compare the usual tiles of scores with small ones."""
    times = gpu.size(3, 1)
    large = gpu.seconds(take, times, warm_ups=1)
    added = gpu.added_bytes(take)
    tile = gpu.size(8 << 20, 1 << 12)
    with (
        patch.object(softmax_tiles, "GPU_SAVED_BYTES", 0),
        patch.object(softmax_tiles, "GPU_TILE_BYTES", tile),
    ):
        small = gpu.seconds(take, times, warm_ups=1)
    report.note("ms of a step", 1e3 * large)
    report.note(f"ms of a step in tiles of {tile:,} bytes", 1e3 * small)
    report.note("working set, GiB", added / GIB)
    report.require(added < MOST_WORKING_SET, f"the working set is {added / GIB:.1f} GiB")
    if not gpu.is_pretended:
        report.require(large <= small, "small tiles are faster")
