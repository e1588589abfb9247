"""The Spark session: its size, materialized frames, readable errors and progress of long steps."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyspark.errors import PySparkRuntimeError

from etl.spark import gpu, launch
from etl.spark.java import java_home
from etl.spark.progress import task_progress
from etl.spark.session import materialize, open_session, unwrap_worker_errors
from etl.spark.sizing import (
    DRIVER_MEMORY,
    MIB,
    PARTITIONS,
    driver_cores,
    is_local,
    java_flags,
    memory_of_task,
    settings_for,
    task_slots,
    uncompressed_bytes,
)
from mdsrec.config import SparkConfig
from mdsrec.errors import InputError
from mdsrec.machine import machine_memory
from mdsrec.packages import SOURCE

GIB = 1 << 30
DEFAULT = SparkConfig()


def memory_of(settings):
    """Return the driver memory in bytes; Spark writes it as `600m` or `2g`."""
    amount, unit = re.fullmatch(r"(\d+)([mg])", settings[DRIVER_MEMORY]).groups()
    return int(amount) << {"m": 20, "g": 30}[unit]


def test_a_small_input_needs_one_gibibyte_and_four_partitions_per_core():
    found = settings_for(DEFAULT, input_bytes=10 << 20, cores=8, memory=64 * GIB)
    assert memory_of(found) == GIB + (10 << 20) // 8 // (1 << 20) * (1 << 20)
    assert found[PARTITIONS] == "32"


def test_memory_for_a_large_input_grows_with_the_cores_only():
    large, larger = (
        settings_for(DEFAULT, input_bytes=size * GIB, cores=4, memory=64 * GIB)
        for size in (100, 1000)
    )
    assert memory_of(large) == memory_of(larger) == GIB + 4 * GIB // 2
    assert int(large[PARTITIONS]) == 100 * GIB // (128 << 20)


def test_a_million_items_with_twenty_million_reviews_fit_on_a_small_machine():
    found = settings_for(DEFAULT, input_bytes=6 * GIB, cores=2, memory=8 * GIB)
    assert memory_of(found) <= 2 * GIB


@pytest.mark.parametrize(("memory", "driver_memory"), [(3 * GIB, 1.5 * GIB), (GIB // 2, GIB // 2)])
def test_the_driver_takes_half_of_the_memory_at_most_unless_it_could_not_start(
    memory, driver_memory
):
    found = settings_for(DEFAULT, input_bytes=100 * GIB, cores=16, memory=memory)
    assert memory_of(found) == driver_memory


def test_configured_values_override_derived_ones():
    config = SparkConfig(driver_memory="3g", partitions=7)
    found = settings_for(config, input_bytes=GIB, cores=2, memory=8 * GIB)
    assert (found[DRIVER_MEMORY], found[PARTITIONS]) == ("3g", "7")
    config = SparkConfig(driver_memory="3g", settings={DRIVER_MEMORY: "5g", "spark.x": "y"})
    found = settings_for(config, input_bytes=GIB, cores=2, memory=8 * GIB)
    assert (found[DRIVER_MEMORY], found["spark.x"]) == ("5g", "y")


def test_the_python_process_of_a_task_has_a_share_of_the_memory_of_its_executor():
    local = {"spark.master": "local[4]", DRIVER_MEMORY: "4g"}
    assert memory_of_task(local, 4, machine=36 * GIB) == (36 - 4) * GIB // 4 // 4
    assert memory_of_task(local, 4, machine=8 * GIB) == GIB // 2  # what a file's rows need
    cluster = {"spark.master": "yarn", "spark.executor.memory": "40g"}
    given = {"spark.executor.memoryOverhead": "8192"}  # MiB
    assert memory_of_task(cluster, 4, machine=GIB) == 4 * GIB // 4  # a tenth of the heap
    assert memory_of_task(cluster | given, 4, machine=GIB) == 2 * GIB
    python = {"spark.executor.pyspark.memory": "12g"}
    assert memory_of_task(cluster | given | python, 4, machine=GIB) == 3 * GIB


def test_a_size_that_is_none_is_named():
    settings = {"spark.master": "yarn", "spark.executor.memoryOverhead": "much"}
    with pytest.raises(
        InputError, match=r"'much' in spark\.settings is not a size: write it as 512m"
    ):
        memory_of_task(settings, 1, GIB)


def test_the_tasks_of_an_executor_are_its_cores_over_those_of_a_task():
    assert task_slots({"spark.executor.cores": "8", "spark.task.cpus": "2"}, cores=64) == 4
    assert task_slots({}, cores=6) == 6  # of a single machine


def test_a_gzip_file_counts_with_its_uncompressed_size():
    assert (
        uncompressed_bytes("s3://b/reviews.json.gz", 100)
        == 5 * uncompressed_bytes("reviews.json", 100)
        == 500
    )


@pytest.mark.parametrize(
    ("master", "local", "cores"),
    [
        ("local", True, 1),
        ("local[3]", True, 3),
        ("local[2,4]", True, 2),
        ("local-cluster[2,1,1024]", False, 1),
        ("spark://head:7077", False, 1),
    ],
)
def test_local_masters_run_tasks_in_the_driver(master, local, cores):
    assert (is_local(master), driver_cores(master)) == (local, cores)


def test_a_star_means_all_cores_of_the_machine(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert driver_cores("local[*]") == 12


@pytest.mark.parametrize("limit", ["max", str(256 << 20)])
def test_the_memory_limit_of_a_container_counts(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("mdsrec.machine.CONTAINER_LIMIT", tmp_path / "memory.max")
    whole = machine_memory()
    (tmp_path / "memory.max").write_text(limit + "\n")
    assert machine_memory() == (whole if limit == "max" else 256 << 20)


@pytest.mark.spark
def test_a_worker_does_not_search_the_folder_in_which_the_session_was_started(spark):
    def flags(batches):
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"is_safe": [sys.flags.safe_path]})

    [row] = spark.range(1, numPartitions=1).mapInArrow(flags, "is_safe boolean").collect()
    assert row.is_safe


@pytest.mark.spark
def test_a_local_session_needs_no_folder_for_checkpoints(spark, tmp_path):
    config = SparkConfig(master="local[2]", driver_memory="1g", partitions=2)
    assert open_session(config, checkpoints=f"file://{tmp_path}") is spark
    assert spark.sparkContext.getCheckpointDir() is None


@pytest.fixture
def checkpoint_folder(spark, tmp_path):
    """Set a checkpoint folder for one test."""
    spark.sparkContext.setCheckpointDir(f"file://{tmp_path}")
    yield tmp_path
    java = spark.sparkContext._jvm
    getattr(spark.sparkContext._jsc.sc(), "checkpointDir_$eq")(java.scala.Option.empty())


@pytest.mark.spark
def test_frames_are_materialized_in_files_if_there_is_a_checkpoint_folder(spark, checkpoint_folder):
    frame = materialize(spark.range(5))
    files = [path for path in checkpoint_folder.rglob("part-*") if path.is_file()]
    assert files
    assert sorted(row.id for row in frame.collect()) == [0, 1, 2, 3, 4]


KILL_EXECUTORS = """
import os, signal, sys
from pathlib import Path
from etl.spark.session import materialize
from etl.builders.workspace import Workspace
from mdsrec.config.loading import load_experiment

space = Workspace(load_experiment(sys.argv[1], ["spark.master=local-cluster[2,1,1024]"]))
frame = materialize(space.spark.range(1000, numPartitions=4))
executors = 0
for process in Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes() if (process / "cmdline").exists() else b""
    if b"ExecutorBackend" in words and space.spark.sparkContext.applicationId.encode() in words:
        os.kill(int(process.name), signal.SIGKILL)
        executors += 1
print(executors, frame.count(), len(list(Path(sys.argv[2]).glob("dataset/.checkpoints-*"))))
space.close()
"""


@pytest.mark.slow
def test_on_a_cluster_frames_outlive_their_executors_and_close_deletes_them(tmp_path):
    (tmp_path / "reviews.json").write_text("{}\n")
    config = tmp_path / "x.toml"
    config.write_text(
        f'name = "x"\nroot = "{tmp_path}/root"\n'
        f'[input]\nedition = "2018"\nreviews = ["{tmp_path}/reviews.json"]\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", KILL_EXECUTORS, str(config), f"{tmp_path}/root"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "1000", "1"]
    assert list((tmp_path / "root").rglob(".checkpoints-*")) == []


@pytest.mark.parametrize(
    "master, mebibytes, is_short",
    [("local[*]", 64, True), ("local[2]", 65, False), ("spark://head:7077", 1, False)],
)
def test_java_compiles_once_in_a_short_job_on_one_machine(master, mebibytes, is_short):
    flags = java_flags(master, mebibytes * MIB)
    assert ("-XX:TieredStopAtLevel=1" in flags) is is_short


@pytest.mark.spark
def test_a_session_without_input_runs_a_short_job(spark):
    management = spark.sparkContext._jvm.java.lang.management.ManagementFactory
    flags = list(management.getRuntimeMXBean().getInputArguments())
    assert set(java_flags("local[2]", 0)) <= set(flags)


SUBMITTED = """
import logging
from etl.spark.session import num_partitions, open_session
from mdsrec.config import SparkConfig

logging.basicConfig(level="INFO")
settings = {"spark.ours.first": "ours", "spark.driver.memory": "3g"}
config = SparkConfig(master="spark://nobody:7077", driver_memory="2g", settings=settings)
spark = open_session(config)
context = spark.sparkContext
heap = context._jvm.java.lang.Runtime.getRuntime().maxMemory() >> 20
keys = ["spark.ours.first", "spark.theirs", "spark.driver.memory"]
print(context.master, num_partitions(spark), *map(context.getConf().get, keys), heap)
spark.stop()
"""


@pytest.mark.slow
@pytest.mark.spark
def test_under_spark_submit_its_master_and_memory_and_unset_properties_are_used(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(SUBMITTED)
    given = {PARTITIONS: "3", "spark.ours.first": "theirs", "spark.theirs": "theirs"}
    options = ["--master", "local[1]", "--driver-memory", "600m"]
    options += [word for key, value in given.items() for word in ("--conf", f"{key}={value}")]
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "PYTHONPATH": str(SOURCE),
        "PYSPARK_PYTHON": sys.executable,
    }
    submit = Path(sys.executable).parent / "spark-submit"
    command = [str(submit), *options, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *log, last = done.stdout.splitlines()  # spark-submit mixes Python's two streams
    words = last.split()
    assert words[:-1] == ["local[1]", "3", "ours", "theirs", "600m"]
    assert int(words[-1]) <= 600
    assert [line.partition("spark: ")[2] for line in log[:2]] == [
        "spark.master spark://nobody:7077 is ignored: spark-submit set local[1]",
        "spark.driver.memory 3g is ignored: spark-submit set 600m",
    ]


def test_a_worker_with_another_python_version_is_an_error_of_one_line():
    versions = {"worker_version": "3.9", "driver_version": "3.11"}
    error = PySparkRuntimeError(errorClass="PYTHON_VERSION_MISMATCH", messageParameters=versions)
    text = r"\(Python in worker has different version: 3.9 than that in driver: 3.11\)"
    with pytest.raises(InputError, match=text), unwrap_worker_errors():
        raise error


@pytest.mark.spark
def test_a_materialized_frame_is_computed_once(spark):
    runs = spark.sparkContext.accumulator(0)

    def counted(batches):
        for batch in batches:
            runs.add(batch.num_rows)
            yield batch

    frame = materialize(spark.range(5).mapInArrow(counted, "id long"))
    assert frame.count() == len(frame.collect()) == 5
    assert runs.value == 5


@pytest.mark.spark
def test_adaptive_execution_does_not_change_partitions_by_id(spark):
    from pyspark.sql import functions as F

    assert spark.conf.get("spark.sql.adaptive.enabled") == "true"
    rows = spark.range(14).repartitionById(7, (F.col("id") % 7).cast("int"))
    found = rows.select("id", F.spark_partition_id().alias("partition")).collect()
    assert {row.id: row.partition for row in found} == {n: n % 7 for n in range(14)}


def slow_step(spark):
    def wait(batches):
        for batch in batches:
            time.sleep(0.4)
            yield batch

    spark.range(8, numPartitions=8).mapInArrow(wait, "id long").collect()


@pytest.mark.spark
def test_a_long_step_logs_how_many_of_its_tasks_are_done(spark, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with caplog.at_level(logging.INFO, "etl"), task_progress("items", lambda: spark, every=0.1):
        slow_step(spark)
    assert caplog.messages
    for message in caplog.messages:
        assert re.fullmatch(r"items: [0-8] of 8 tasks", message)


@pytest.mark.spark
def test_nothing_is_logged_for_a_short_step_or_on_a_terminal(spark, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with caplog.at_level(logging.INFO, "etl"):
        with task_progress("items", lambda: spark):
            spark.range(2).collect()
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        with task_progress("items", lambda: spark, every=0.1):
            slow_step(spark)
    assert caplog.messages == []


def test_nothing_is_logged_without_a_session(caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with caplog.at_level(logging.INFO, "etl"), task_progress("items", lambda: None, every=0.01):
        time.sleep(0.1)
    assert caplog.messages == []


@pytest.mark.parametrize(("address", "expected"), [("1", 1), ("5", 5 % 4), (None, 8 % 4)])
def test_a_task_uses_the_gpu_that_spark_assigned_to_it(monkeypatch, address, expected):
    assigned = {"gpu": SimpleNamespace(addresses=[address])} if address else {}
    context = SimpleNamespace(resources=lambda: assigned, partitionId=lambda: 8)
    monkeypatch.setattr(gpu.TaskContext, "get", lambda: context)
    gpu._first_partition_of_process.cache_clear()
    assert gpu.gpu_of_task(4) == expected
    gpu._first_partition_of_process.cache_clear()


@pytest.mark.parametrize(("visible", "expected"), [("GPU-b,GPU-a", 1), ("GPU-a", 0), ("", 2)])
def test_a_gpu_may_have_the_address_of_its_uuid(monkeypatch, visible, expected):
    context = SimpleNamespace(resources=lambda: {"gpu": SimpleNamespace(addresses=["GPU-a"])})
    monkeypatch.setattr(gpu.TaskContext, "get", lambda: context)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    uuids = [SimpleNamespace(uuid=uuid) for uuid in "cba"]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: uuids[index])
    num_visible = len(visible.split(",")) if visible else 3
    assert gpu.gpu_of_task(num_visible) == expected
    if not visible:
        with pytest.raises(InputError, match=r"assigned the GPU GPU-a to a task that sees GPU-c, "):
            gpu.gpu_of_task(2)


def test_settings_reach_java_in_a_file_and_not_on_its_command_line(tmp_path, monkeypatch):
    """PySpark starts Java with the words of PYSPARK_SUBMIT_ARGS."""
    started = []

    def start():
        words = os.environ[launch.ARGUMENTS].split()
        file = Path(words[words.index(launch.FILE_OPTION) + 1])
        started.append((words[2:], file.stat().st_mode & 0o777, file.read_text()))

    monkeypatch.setattr(launch.SparkContext, "_gateway", None)
    monkeypatch.setattr(launch.SparkContext, "_ensure_initialized", start)
    monkeypatch.delenv(launch.ARGUMENTS, raising=False)
    launch.start_java({"spark.a": "b\\c: =é", "spark.x y": "two\nlines"}, tmp_path / "spark.conf")
    written = "spark.a=b\\\\c: =é\nspark.x\\ y=two\\nlines\n"
    assert started == [(["--load-spark-defaults", "pyspark-shell"], 0o600, written)]
    assert not list(tmp_path.iterdir()) and launch.ARGUMENTS not in os.environ


@pytest.mark.slow
def test_a_machine_that_was_suspended_keeps_its_executor(tmp_path):
    """With Spark's own settings the executor fails each heartbeat, and ends after 60 of them."""
    code = """
import os, signal, time
from etl.spark.session import open_session
from mdsrec.config import SparkConfig
quick = {"spark.network.timeout": "4s", "spark.network.timeoutInterval": "1s"}
quick["spark.executor.heartbeatInterval"] = "1s"
config = SparkConfig(master="local[1]", driver_memory="512m", partitions=1, settings=quick)
spark = open_session(config)
[java] = map(int, os.popen(f"pgrep -P {os.getpid()} java").read().split())
spark.range(3).collect()
for _ in range(3):  # each time Spark may or may not look before the next heartbeat
    os.kill(java, signal.SIGSTOP)
    time.sleep(8)
    os.kill(java, signal.SIGCONT)
    time.sleep(3)
print(spark.range(3).localCheckpoint().count(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == ["3"]
    assert "spark: Ignoring error" not in done.stderr
