"""Configuration of a driver that spark-submit started.

Its JVM is running already, so the master and the driver's memory cannot be changed.
"""

import logging
import os

from pyspark import SparkConf, SparkContext

from etl.spark.sizing import DRIVER_MEMORY
from mdsrec.config import SparkConfig

log = logging.getLogger("etl")

MASTER = "spark.master"
DEFAULT_DRIVER_MEMORY = "1g"  # if spark-submit received none


def is_submitted() -> bool:
    """Return whether spark-submit started this process."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def with_submitted_settings(config: SparkConfig) -> SparkConfig:
    """Return `config` with the settings that spark-submit received.

    Master and driver memory are those of spark-submit. `spark.settings` override its other
    properties, as properties that a program sets always do.
    """
    SparkContext._ensure_initialized()
    submitted = {DRIVER_MEMORY: DEFAULT_DRIVER_MEMORY, **dict(SparkConf().getAll())}
    fixed = {key: submitted[key] for key in (MASTER, DRIVER_MEMORY)}
    configured = {
        MASTER: config.master if "master" in config.model_fields_set else None,
        DRIVER_MEMORY: config.settings.get(DRIVER_MEMORY) or config.driver_memory,
    }
    for key, value in configured.items():
        if value not in (None, fixed[key]):
            log.info("spark: %s %s is ignored: spark-submit set %s", key, value, fixed[key])
    changes = {"master": fixed[MASTER], "settings": submitted | config.settings | fixed}
    return config.model_copy(update=changes)
