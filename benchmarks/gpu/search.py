"""Search of neighbors by faiss on a GPU, and the memory of several processes that share it."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from etl.graph.flat_search import kmeans, nearest_rows

NEAR = 1e-5  # between products of two items that may change places
PROCESSES = 8
HOLD = """
import sys, numpy
from etl.graph.flat_search import nearest_rows
rows = numpy.ones((4096, 384), numpy.float32)
nearest_rows(rows, rows, 10)
print("ready", flush=True)
sys.stdin.read()
"""
MEMORY = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]


def search(gpu: Gpu, _folder: Path, report: Report) -> None:
    num_rows, width, count = gpu.size((100_000, 384, 50), (500, 16, 5))
    rows = np.random.default_rng(0).standard_normal((num_rows, width), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rows[: gpu.size(512, 20)]
    products, numbers = nearest_rows(queries, rows, count)
    exact = queries.astype(np.float64) @ rows.T.astype(np.float64)
    best = -np.sort(-exact, axis=1)[:, :count]
    of_found = np.take_along_axis(exact, numbers, 1)
    report.note("largest error of a product", float(np.abs(products - of_found).max()))
    report.require(bool((of_found >= best - NEAR).all()), "the search misses nearer items")
    distinct = all(len(set(row)) == count for row in numbers.tolist())
    report.require(distinct, "an item is found twice")
    centroids = kmeans(rows, gpu.size(1024, 4), 5, spherical=True)
    lengths = np.linalg.norm(centroids, axis=1)
    report.require(bool(np.allclose(lengths, 1, atol=1e-4)), "centroids have other lengths")
    report.note("GiB of a process that searches", _memory_of_processes(gpu))


def _memory_of_processes(gpu: Gpu) -> float:
    """Return the mean memory of the GPU that processes take which have searched."""
    number, before = gpu.size(PROCESSES, 2), _used(gpu)
    command = [sys.executable, "-c", HOLD]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout and process.stdout.readline() == b"ready\n"
        return (_used(gpu) - before) / 1024 / number
    finally:
        for process in processes:
            process.communicate()


def _used(gpu: Gpu) -> float:
    """Return the MiB of the first GPU that are in use."""
    return 0.0 if gpu.is_pretended else float(subprocess.check_output(MEMORY, text=True))
