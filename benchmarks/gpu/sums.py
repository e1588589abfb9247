"""Sums over item graphs: the same bits in every run, and the time of long rows."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.gpu.world import experiment_in, write_world
from benchmarks.gpu_harness.stages import first_step, new_model, one_rank, step_on
from benchmarks.gpu_harness.tensor import host_value
from training.data.device_matrices import DeviceMatrix
from training.data.long_rows import LongRows
from training.data.sparse import SparseMatrix

DIM, CENTERS = 300, 32
ROUNDING = 1e-5
ENTRIES_AN_ITEM = 9  # of the centers' products with a graph of 10 neighbors


def random_matrix(rows: int, columns: int, entries: int) -> SparseMatrix:
    """Return a matrix with `entries` in each row."""
    generator = np.random.default_rng(0)
    ids = generator.integers(columns, size=rows * entries).astype(np.int32)
    weights = generator.random(rows * entries, np.float32)
    return SparseMatrix(np.arange(rows + 1) * entries, ids, weights)


def determinism(gpu: Gpu, folder: Path, report: Report) -> None:
    items, entries = gpu.size(100_000, 500), 50
    matrix = random_matrix(items, items, entries)
    dense = torch.randn(items, gpu.size(DIM, 8), generator=torch.Generator().manual_seed(0))
    parts = matrix.weights.astype(np.float64), matrix.columns, matrix.starts
    exact = torch.from_numpy(csr_array(parts, shape=(items, items)).T @ dense.double().numpy())
    on_gpu, dense_on_gpu = DeviceMatrix(matrix).to(gpu.device), dense.to(gpu.device)

    def transposed() -> Tensor:
        out = torch.zeros_like(dense_on_gpu)
        on_gpu.add_transposed(0, out, dense_on_gpu, items)
        return host_value(out)

    first = transposed()
    report.require(torch.equal(first, transposed()), "sums by column have other bits")
    error = float((first.double() - exact).abs().max() / exact.abs().max())
    report.note("sums by column: error", error)
    report.require(error < ROUNDING, f"sums by column are {error:.1e} from float64")
    _whole_step(gpu, folder, report)


def _whole_step(gpu: Gpu, folder: Path, report: Report) -> None:
    """Take a step of MDSRec twice, and note the gradients that have other bits."""
    model = {"dim": gpu.size(64, 16), "max_length": gpu.size(50, 8)}
    experiment = experiment_in(folder, "mdsrec", model, batch_size=gpu.size(512, 32))
    write_world(experiment, gpu.size(1000, 200), gpu.size(200, 40))
    with one_rank(str(folder / "rendezvous")):
        step = first_step(experiment)
        one, other = (
            step_on(new_model(experiment), experiment, step, gpu.device) for _ in range(2)
        )
    differ = [n for n, g in one.gradients.items() if not torch.equal(g, other.gradients[n])]
    report.note("gradients of a step with other bits", differ)
    report.require(torch.equal(one.losses, other.losses), "losses of a step have other bits")


def long_bags(gpu: Gpu, _folder: Path, report: Report) -> None:
    most = {4_000: 0.1, 100_000: 0.5, 1_000_000: 5.0}  # ms on a GPU
    for items in gpu.size(list(most), [500]):
        matrix = random_matrix(CENTERS, items, items * ENTRIES_AN_ITEM // CENTERS)
        rows = LongRows(matrix, items).to(gpu.device)
        table = torch.ones(items, gpu.size(DIM, 8)).to(gpu.device)
        of_centers = torch.ones(CENTERS, table.shape[1]).to(gpu.device)
        forward = 1e3 * gpu.seconds(partial(rows.times, table), 20)
        backward = 1e3 * gpu.seconds(partial(rows.add_transposed, table, of_centers, items), 20)
        report.note(f"{items:,} items", f"{forward:.3f} ms, transposed {backward:.3f} ms")
        if not gpu.is_pretended:
            report.require(forward < most[items], f"{items:,} items: {forward:.3f} ms")
