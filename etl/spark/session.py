"""The Spark session of an experiment, and errors of Python workers as the one line they are."""

import importlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyarrow import RecordBatch
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from etl.spark.java import java_home
from etl.spark.log import write_rules
from etl.spark.sizing import (
    DRIVER_MEMORY,
    MIB,
    PARTITIONS,
    driver_cores,
    is_local,
    machine_memory,
    settings_for,
)
from etl.spark.submitted import as_submitted, is_submitted
from mdsrec.config import SparkConfig
from mdsrec.errors import InputError
from mdsrec.packages import OURS, zip_packages

log = logging.getLogger("etl")

IN_WORKER = re.compile(r"mdsrec\.errors\.InputError: ([^\n]*)")
OF_EVERY_JOB = ("etl.run", "faiss")  # what encoders need is loaded where they are
UNFIT = re.compile(
    r"No module named '[^']*'|Python in worker has different version[^\n]*?(?=, )|"
    r"Cannot run program [^\n]*"
)


def open_session(
    config: SparkConfig, input_bytes: int = 0, checkpoints: str | None = None
) -> SparkSession:
    """A session by `config` for `input_bytes` of raw input; `spark.settings` win over what is set
    here.

    On a cluster `checkpoints` is a folder, as Spark spells it, that all its nodes share.
    """
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if is_submitted():
        config = as_submitted(config)
    os.environ["JAVA_HOME"] = str(java_home())
    python = config.settings.get("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = python or sys.executable  # Spark reads it before its settings
    local = is_local(config.master)
    if local:
        _let_workers_import()
    memory = machine_memory()
    sized = settings_for(config, input_bytes, driver_cores(config.master), memory)
    builder = SparkSession.builder.master(config.master).appName("mdsrec etl")
    for key, value in (_settings(local) | sized).items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, Py4JError, OSError) as error:
        raise InputError(
            f"Spark did not start ({_line(error)}): check spark.master = {config.master!r}, "
            f"spark.driver_memory = {sized[DRIVER_MEMORY]!r} and spark.settings"
        ) from None
    if not local:
        if OURS.is_dir():  # else they are the zip that spark-submit has sent
            spark.sparkContext.addPyFile(str(zip_packages(_new_folder() / "mdsrec.zip")))
        with worker_errors():
            spark.range(1, numPartitions=1).mapInArrow(_importing_ours, "id long").collect()
        cores = spark.sparkContext.defaultParallelism  # of the executors that are there
        of_cluster = settings_for(config, input_bytes, cores, memory)
        spark.conf.set(PARTITIONS, of_cluster[PARTITIONS])
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


def num_partitions(spark: SparkSession) -> int:
    """Partitions of a shuffle: also the tasks that encoding and search are cut into."""
    return int(str(spark.conf.get(PARTITIONS)))


def materialized(frame: DataFrame) -> DataFrame:
    """`frame`, computed once and for all.

    With a folder for checkpoints it is kept in files, which outlive the executors that made it;
    without one, as on a single machine, by the executors themselves.
    """
    if frame.sparkSession.sparkContext.getCheckpointDir() is None:
        return frame.localCheckpoint()
    return frame.checkpoint()


@contextmanager
def worker_errors() -> Iterator[None]:
    """An InputError raised in a Python worker comes out as that InputError, without Spark's
    traceback; so does a worker that lacks what ours need.
    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        if found := IN_WORKER.findall(str(error)):
            raise InputError(found[-1].strip()) from None
        if unfit := UNFIT.search(str(error)):
            raise InputError(
                f"an executor's Python cannot do our work ({unfit[0].strip()}): it needs the "
                f"driver's Python version and packages; spark.pyspark.python says which it is"
            ) from None
        raise


def _importing_ours(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
    """The first task of a job: it waits for an executor, and finds what that one lacks."""
    for name in OF_EVERY_JOB:
        importlib.import_module(name)
    yield from batches


def _settings(local: bool) -> dict[str, str]:
    rules = write_rules(_new_folder() / "log4j2.properties")
    settings = {
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={rules.as_uri()}",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.cleaner.referenceTracking.cleanCheckpoints": "true",
    }
    if local:  # needs no name for this host; what is shuffled is packed and crosses no network
        settings |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.shuffle.compress": "false",
        }
    return settings


def _let_workers_import() -> None:
    """Workers of a local master inherit the environment: put the folder of our packages on their
    path.
    """
    ours = str(OURS)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if ours not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([ours, *filter(None, paths)])


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="mdsrec-"))


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
