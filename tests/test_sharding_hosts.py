"""Item rows owned by three hosts: the training is that of one process, also after a lost host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_jobs import Job, checkpoints_within_an_epoch, history
from hosts import ROOT, needs_hosts, wait_until
from raw_catalogue import small_toml, write_raw
from ray_hosts import QUICK, ray_hosts, start_worker
from torch.testing import assert_close

from mdsrec import tables
from training.checkpoints.tensor_file import TensorFile
from training.checkpoints.weights import BEST, PARTS

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_hosts, pytest.mark.timeout(1500)]

MORE = """dropout = 0.0
item_mask = 0.0
[sequences]
k_core = 1
[train]
batch_size = 32
max_epochs = 2
checkpoint_minutes = 0.02
"""
SHARDED = ("train.item_table=sharded", "train.num_workers=3")


def here(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True)


def test_three_hosts_that_own_items_train_as_one_process_with_all(tmp_path: Path) -> None:
    write_raw(tmp_path, users=1500, items=4000)
    config = small_toml(tmp_path, MORE)
    here("etl", config)
    items = tables.open_table(tables.table_uri(str(tmp_path / "root"), "items")).rows
    assert items > 2 * 1024  # three blocks: every host owns one
    here("training", config, "name=one", "train.num_workers=1", "train.item_table=replicated")
    runs = tmp_path / "root" / "runs"
    with ray_hosts(3, tmp_path, **QUICK) as cluster:
        *_, last, outside = cluster
        Job(tmp_path, outside, "training", *SHARDED, "name=owned").log()
        job = Job(tmp_path, outside, "training", *SHARDED, "name=killed")
        wait_until(lambda: bool(checkpoints_within_an_epoch(runs / "killed", 3)), 240)
        last.link("down")
        last.power_off()
        last.link("up")
        last.power_on()
        start_worker(last)
        assert "resumed at epoch " in job.log()
    for name in ("owned", "killed"):
        parts = TensorFile.open(str(runs / name / BEST)).metadata[PARTS]
        assert len(json.loads(parts)) == 3  # a file with the rows of each host
        assert json.loads((runs / name / "history.json").read_text())["num_workers"] == 3
        assert_close(history(runs / name), history(runs / "one"), atol=1e-5, rtol=0)
