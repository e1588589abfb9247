"""The Spark session of an experiment, and readable errors from its Python workers."""

import importlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyarrow import RecordBatch
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from etl.spark.java import java_home
from etl.spark.launch import start_java
from etl.spark.log import write_log_rules
from etl.spark.scratch import scratch_folder
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
)
from etl.spark.spark_submit import is_submitted, with_submitted_settings
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import SparkConfig
from mdsrec.errors import InputError
from mdsrec.files import first_line
from mdsrec.machine import machine_memory
from mdsrec.packages import SOURCE, child_environment, zip_packages

log = logging.getLogger("etl")

INPUT_ERROR = re.compile(r"mdsrec\.errors\.InputError: ([^\n]*)")
STOP_SECONDS = 10.0  # of a session that a signal ends
HEARTBEAT_TIMEOUT = "spark.storage.blockManagerHeartbeatTimeoutMs"
AFTER_SUSPENSION_MS = 10**12  # 30 years: after a laptop's sleep a single machine goes on
REQUIRED_MODULES = ("etl.run", "faiss")  # of every job; encoders import theirs where they run
WORKER_SETUP_ERROR = re.compile(
    r"No module named '[^']*'|Python in worker has different version[^\n]*?(?=, )|"
    r"Cannot run program [^\n]*"
)


def open_session(
    config: SparkConfig, input_bytes: int = 0, checkpoints: str | None = None
) -> SparkSession:
    """Return a session for `input_bytes` of raw input; `spark.settings` override all defaults.

    `checkpoints` is a folder that all nodes share, spelled as Spark does. It is used on a cluster
    only.
    """
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if is_submitted():
        config = with_submitted_settings(config)
    os.environ["JAVA_HOME"] = str(java_home())
    python = config.settings.get("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = python or sys.executable  # Spark reads it before its settings
    local = is_local(config.master)
    if local:  # its workers inherit the environment
        os.environ["PYTHONPATH"] = child_environment()["PYTHONPATH"]
    memory = machine_memory()
    sized = settings_for(config, input_bytes, driver_cores(config.master), memory)
    flags = java_flags(config.master, input_bytes)
    spark = _start(config.master, _base_settings(local, flags) | sized)
    if not local:
        _send_packages(spark)
        cores = spark.sparkContext.defaultParallelism  # of the executors that have registered
        cluster_settings = settings_for(config, input_bytes, cores, memory)
        spark.conf.set(PARTITIONS, cluster_settings[PARTITIONS])
        if checkpoints is not None:
            spark.sparkContext.setCheckpointDir(checkpoints)
    log.info(
        "spark: %s, driver memory %s, %d partitions for about %d MiB of raw input",
        config.master,
        sized[DRIVER_MEMORY],
        num_partitions(spark),
        input_bytes // MIB,
    )
    return spark


def _start(master: str, settings: dict[str, str]) -> SparkSession:
    builder = SparkSession.builder.master(master).appName("mdsrec etl")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        with heartbeat.within("starting Spark"):
            if not is_submitted():
                start_java({"spark.master": master, **settings}, scratch_folder() / "spark.conf")
            spark = builder.getOrCreate()
        _end_at_sigint_as_at_sigterm()
        return spark
    except (PySparkException, Py4JError, OSError) as error:
        raise InputError(
            f"Spark did not start ({first_line(error)}): check spark.master = {master!r}, "
            f"spark.driver_memory = {settings[DRIVER_MEMORY]!r} and spark.settings"
        ) from None


def _end_at_sigint_as_at_sigterm() -> None:
    """Replace Spark's handler of SIGINT, which raises what py4j logs with its traceback."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _send_packages(spark: SparkSession) -> None:
    """Send this program's packages to the executors and check that one can import them."""
    if SOURCE.is_dir():  # otherwise this program runs from the zip that spark-submit has sent
        spark.sparkContext.addPyFile(str(zip_packages(scratch_folder() / "mdsrec.zip")))
    with unwrap_worker_errors():
        spark.range(1, numPartitions=1).mapInArrow(_import_required, "id long").collect()


def _import_required(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
    """Fail in the first task, which also waits for an executor, if the executor lacks a module."""
    for name in REQUIRED_MODULES:
        importlib.import_module(name)
    yield from batches


def num_partitions(spark: SparkSession) -> int:
    """Return the number of shuffle partitions, which is also the number of encoding tasks."""
    return int(str(spark.conf.get(PARTITIONS)))


def task_memory(spark: SparkSession) -> int:
    """Return the bytes that the Python process of a task may hold."""
    settings = dict(spark.sparkContext.getConf().getAll())
    return memory_of_task(settings, tasks_per_executor(spark), machine_memory())


def tasks_per_executor(spark: SparkSession) -> int:
    """Return how many tasks run at a time in an executor, or on a single machine."""
    context = spark.sparkContext
    return task_slots(dict(context.getConf().getAll()), context.defaultParallelism)


def materialize(frame: DataFrame) -> DataFrame:
    """Compute `frame` now and return the stored result; its plan starts from there.

    With a checkpoint folder, as on a cluster, the result is in files and outlives its executors.
    Without one, as on a single machine, the executors store it.
    """
    if frame.sparkSession.sparkContext.getCheckpointDir() is None:
        return frame.localCheckpoint()
    return frame.checkpoint()


def stop_quietly(spark: SparkSession) -> None:
    """Stop a session whose jobs are still running, without the errors that they would log.

    Another thread does it, with a connection of its own to the JVM: that of this thread still waits
    for the answer to the call that a signal has interrupted. The JVM ends with this process anyway.
    """

    def stop() -> None:
        with suppress(PySparkException, Py4JError, OSError):
            log4j = spark.sparkContext._jvm.org.apache.logging.log4j  # type: ignore[union-attr]
            log4j.core.config.Configurator.setAllLevels("", log4j.Level.OFF)
            spark.stop()

    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    thread = threading.Thread(target=stop, name="stop", daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Raise an InputError of a Python worker as an InputError, without Spark's traceback.

    A worker whose Python lacks a package or has another version becomes an InputError too.
    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        if found := INPUT_ERROR.findall(str(error)):
            raise InputError(found[-1].strip()) from None
        if unfit := WORKER_SETUP_ERROR.search(str(error)):
            raise InputError(
                f"an executor's Python cannot run this program ({unfit[0].strip()}): it needs the "
                "driver's Python version and packages; spark.pyspark.python sets its path"
            ) from None
        raise


def _base_settings(local: bool, flags: list[str]) -> dict[str, str]:
    scratch = scratch_folder()
    rules = write_log_rules(scratch / "log4j2.properties")
    flags = [
        *flags,
        f"-Dlog4j2.configurationFile={rules.as_uri()}",
        f'"-Djava.io.tmpdir={scratch}"',
    ]
    settings = {
        "spark.driver.extraJavaOptions": " ".join(flags),
        "spark.executorEnv.PYTHONSAFEPATH": "1",  # no worker takes a folder named etl for ours
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",  # etl/spark/progress.py draws one line for all
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.cleaner.referenceTracking.cleanCheckpoints": "true",
    }
    if local:  # works without a host name; large values are compressed already, and no network
        settings |= {
            HEARTBEAT_TIMEOUT: str(AFTER_SUSPENSION_MS),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.shuffle.compress": "false",
        }
    return settings
