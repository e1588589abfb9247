"""Sweeps as a user runs them, on a small catalogue from raw files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
CPUS = len(os.sched_getaffinity(0))
TOML = """
name = "small"
root = "ROOT/root"
[input]
edition = "2018"
reviews = ["ROOT/raw/reviews.json.gz"]
metadata = ["ROOT/raw/metadata.json.gz"]
[features.image]
vectors = "ROOT/raw/image.parquet"
[spark]
master = "local[2]"
driver_memory = "1g"
partitions = 2
[model]
dim = 16
inner_dim = 16
num_centers = 4
num_neighbors = 5
[optim]
lr = 3e-3
[train]
max_epochs = 2
[tune]
scheduler = "none"
"""

pytestmark = [pytest.mark.ray, pytest.mark.spark]


class Shop:
    """A folder with raw files, a configuration and what sweeps leave of it."""

    def __init__(self, folder):
        self.folder = folder
        self.config = str(folder / "small.toml")
        Path(self.config).write_text(TOML.replace("ROOT", str(folder)))
        done = self.run("etl.synthetic", "raw", "--users", "300", "--items", "100")
        assert done.returncode == 0, done.stderr

    def start(self, *words):
        command = [sys.executable, "-m", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words):
        process = self.start(*words)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def sweep(self, name, *words):
        done = self.run("tuning", self.config, f"name={name}", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trials(self, name):
        return pq.read_table(self.folder / f"root/sweeps/{name}/trials.parquet").to_pylist()

    def records(self, name):
        found = sorted((self.folder / f"root/sweeps/{name}/trials").glob("*.json"))
        return [json.loads(path.read_text()) for path in found]

    def history(self, run):
        return json.loads((self.folder / f"root/runs/{run}/history.json").read_text())


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.mark.timeout(600)
def test_a_grid_ends_with_a_winner_that_alone_is_ranked(shop):
    space = "tune.space={model.num_neighbors={grid=[0,5]}}"
    said = shop.sweep("grid", "tune.searcher=grid", space)
    trials = shop.trials("grid")
    assert [(t["trial"], t["model.num_neighbors"], t["state"]) for t in trials] == [
        (0, 0, "finished"),
        (1, 5, "finished"),
    ]
    for trial in trials:
        assert trial["built"] == []
        history = shop.history(f"grid-{trial['trial']:05d}")
        assert trial["ndcg@10"] == history["epochs"][history["best_epoch"]]["ndcg@10"]
        assert not (shop.folder / f"root/runs/grid-{trial['trial']:05d}/checkpoints").exists()
    best = max(trials, key=lambda t: t["ndcg@10"])["trial"]
    ranked = [p.parent.name for p in (shop.folder / "root/runs").glob("*/metrics.json")]
    assert ranked == [f"grid-{best:05d}"]
    metrics = json.loads((shop.folder / f"root/runs/{ranked[0]}/metrics.json").read_text())
    test = metrics["split"]["test"]["all"]
    assert f"test        recall@10 {test['recall@10']:.4f}  ndcg@10 {test['ndcg@10']:.4f}" in said
    page = (shop.folder / "root/sweeps/grid/report.html").read_text()
    assert "grid: 2 trials" in page and f"{test['ndcg@10']:.4f}" in page
    assert shop.sweep("grid", "tune.searcher=grid", space) == said
    other = shop.run("tuning", shop.config, "name=grid", "tune.searcher=grid", f"{space[:-3]},3]}}}}")
    assert other.returncode == 2
    assert "sweep grid has another configuration or space" in other.stderr
