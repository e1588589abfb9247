"""A job killed in any stage and started again writes the same tables as one never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.synthetic.catalogue import write_catalogue
from mdsrec import tables

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "killed"
root = "{root}"

[input]
edition = "2018"
reviews = ["{raw}/reviews.json.gz"]
metadata = ["{raw}/metadata.json.gz"]

[sequences]
k_core = 3

[features.image]
vectors = "{raw}/image.parquet"

[graph]
max_neighbors = 12

[spark]
master = "local[2]"
driver_memory = "1g"
partitions = 2

[model]
num_centers = 4
"""
STAGES = [
    "interactions",
    "metadata",
    "rejects",
    "sequences",
    "items",
    "cooccurrence",
    "features/image",
    "propagated/image",
    "neighbors/image/mu=1",
    "centers/image/k=4",
    "centroids/image/k=4",
    "places/image/mu=1",
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_catalogue(folder, num_users=80, num_items=50, seed=1)
    return folder


@pytest.fixture(scope="module")
def never_killed(raw, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    job = start(raw, root)
    output = job.communicate()[0]
    assert job.returncode == 0, output
    return root


def start(raw, root, environment=None):
    config = root / "killed.toml"
    config.write_text(CONFIG.format(root=root / "tables", raw=raw))
    return subprocess.Popen(
        # A child of the test process may inherit an ignored SIGINT.
        ["env", "--default-signal=INT", sys.executable, "-m", "etl", str(config)],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_in(stage, raw, root):
    """Start the job and kill all its processes as soon as it logs that it builds `stage`."""
    job = start(raw, root)
    for line in job.stdout:
        if line.rstrip().endswith(f"{stage}: building"):
            os.killpg(job.pid, signal.SIGKILL)
            break
    job.communicate()
    assert job.returncode == -signal.SIGKILL


def rows_of(root, name):
    uri = tables.table_uri(str(root / "tables"), name)
    files = tables.data_files(uri, tables.open_table(uri))
    return pa.concat_tables([pq.read_table(path) for path in files])


def assert_same_tables(root, expected):
    for name in STAGES:
        assert rows_of(root, name).equals(rows_of(expected, name)), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_killed_in_a_stage_is_completed_by_the_next_one(raw, never_killed, tmp_path, stage):
    kill_in(stage, raw, tmp_path)
    manifest = Path(tables.table_uri(str(tmp_path / "tables"), stage)) / tables.MANIFEST
    assert not manifest.exists()
    again = start(raw, tmp_path)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    for done in STAGES[: STAGES.index(stage)]:
        assert f"{done}: up to date" in output
    assert f"{stage}: building" in output
    assert_same_tables(tmp_path, never_killed)


def test_jobs_killed_in_every_stage_in_turn_are_completed_by_the_next_one(
    raw, never_killed, tmp_path
):
    for stage in STAGES:
        kill_in(stage, raw, tmp_path)
    again = start(raw, tmp_path)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert_same_tables(tmp_path, never_killed)


@pytest.mark.parametrize(
    ("signum", "word", "stage"),
    [
        (signal.SIGTERM, "terminated", "rejects"),
        (signal.SIGINT, "interrupted", "sequences"),
    ],
)
def test_a_signal_ends_the_job_in_one_line_and_keeps_its_tables(raw, tmp_path, signum, word, stage):
    left = tmp_path / "temporary"
    left.mkdir()
    job = start(raw, tmp_path, {"TMPDIR": str(left)})
    for line in job.stdout:
        if line.rstrip().endswith(f"{stage}: building"):
            time.sleep(0.5)  # its Spark job runs
            job.send_signal(signum)
            break
    said = job.communicate()[0].splitlines()
    assert job.returncode == 128 + signum, said
    go_on = "what is finished is kept: run the same command again to go on"
    assert said == [f"etl: {word}: {go_on}"]
    assert not list(left.iterdir())  # no temporary folder of Spark, nor of ours
    for done in STAGES[: STAGES.index(stage)]:
        assert rows_of(tmp_path, done).num_rows
