"""Ranks on a GPU: equal bits of equal items, the pace by size of a tile, and the CPU's ranks."""

from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.gpu_harness.tensor import host_value
from training.layers import scoring
from training.layers.queries import Queries
from training.layers.scoring import Tiles, count_channels

CHANNELS, DIM = 2, 300
WEIGHTS = torch.tensor([[1.0, 0.5]])
NEAR = 1e-5  # of a score: items within it may change places with the target
LEAST_SPEED_UP = 3.0


def _vectors(gpu: Gpu, users: int, items: int) -> tuple[Tensor, Tensor]:
    """Draw vectors of users [B, C, D] and of items [C, X, D] in host memory."""
    generator, dim = torch.Generator().manual_seed(0), gpu.size(DIM, 16)
    users_BCD = torch.randn(users, CHANNELS, dim, generator=generator)
    return users_BCD, torch.randn(CHANNELS, items, dim, generator=generator)


def equal_items(gpu: Gpu, _folder: Path, report: Report) -> None:
    for block in gpu.size([1024, 65_536], [64, 128]):
        num_items = 3 * block + 17
        users, items = _vectors(gpu, gpu.size(256, 16), num_items)
        places = [0, 63, 64, block - 1, block, num_items - 1]
        items[:, places] = items[:, :1]
        queries = Queries(users.to(gpu.device), items.to(gpu.device))
        found = []
        for start, scores in Tiles(queries, WEIGHTS, block):
            inside = [place - start for place in places if 0 <= place - start < scores.shape[2]]
            found.append(host_value(scores[:, :, inside].clone()))
        same = torch.cat(found, dim=2)
        report.require(
            same.shape[2] == len(places) and bool((same == same[:, :, :1]).all()),
            f"tiles of {block:,}: equal items have other scores",
        )
        passes = _passes(gpu, queries, num_items, block)
        report.note(f"tiles of {block:,}: passes over the items", passes)
        report.require(passes <= 2, f"tiles of {block:,}: {passes} passes")


def _passes(gpu: Gpu, queries: Queries, num_items: int, block: int) -> int:
    """Return how often `count_channels` goes over the items for random targets."""
    targets = torch.arange(len(queries.vectors)) * 7919 % num_items
    with patch.object(scoring, "count_against", wraps=scoring.count_against) as counting:
        count_channels(queries, WEIGHTS, targets.to(gpu.device), block)
    return counting.call_count


def pace(gpu: Gpu, _folder: Path, report: Report) -> None:
    num_items, num_users = gpu.size(1_000_000, 1000), gpu.size(2048, 64)
    users, items = _vectors(gpu, num_users, num_items)
    items_on_gpu = items.to(gpu.device)
    targets = torch.arange(num_users) * 7919 % num_items
    rates = []
    for batch, block in gpu.size([(256, 1024), (2048, 65_536)], [(16, 64), (64, 512)]):
        queries = Queries(users[:batch].to(gpu.device), items_on_gpu)
        some = targets[:batch].to(gpu.device)
        work = partial(count_channels, queries, WEIGHTS, some, block)
        seconds = gpu.seconds(work, 1, warm_ups=1)
        rates.append(batch / seconds)
        report.note(f"{batch:,} x {block:,}: targets/s", rates[-1])
    if not gpu.is_pretended:
        speed_up = rates[1] / rates[0]
        report.require(speed_up > LEAST_SPEED_UP, f"large tiles are {speed_up:.1f} times as fast")
    _compare(gpu, report, Queries(users[:64], items), targets[:64])


def _compare(gpu: Gpu, report: Report, queries: Queries, targets: Tensor) -> None:
    """Compare ranks with the CPU's, which may differ by the items near the target's score."""
    with gpu.left_out():
        better, _ = count_channels(queries, WEIGHTS, targets, 1024)
    on_gpu = Queries(queries.vectors.to(gpu.device), queries.items.to(gpu.device))
    found, _ = count_channels(on_gpu, WEIGHTS, targets.to(gpu.device), gpu.size(65_536, 512))
    channels = torch.einsum("bcd,cxd->bcx", queries.vectors, queries.items)
    scores = torch.cat([torch.einsum("bcx,sc->bsx", channels, WEIGHTS), channels], dim=1)
    own = scores.gather(2, targets[:, None, None].expand(-1, scores.shape[1], 1))
    num_near = ((scores - own).abs() <= NEAR * own.abs().clamp(min=1)).sum(2)
    differences = (host_value(found) - better).abs()
    report.note("ranks other than the CPU's", int((differences > 0).sum()))
    report.require(bool((differences <= num_near).all()), "ranks differ from the CPU's")
