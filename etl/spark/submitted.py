"""A driver that spark-submit started: its Java runs already, so master and memory are set."""

import logging
import os

from pyspark import SparkConf, SparkContext

from etl.spark.sizing import DRIVER_MEMORY
from mdsrec.config import SparkConfig

log = logging.getLogger("etl")

MASTER = "spark.master"
MEMORY_OF_JAVA = "1g"  # where nothing is asked for


def is_submitted() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ  # of the Java that started this process


def as_submitted(config: SparkConfig) -> SparkConfig:
    """`config` with what spark-submit was given: master and driver memory are its own, and
    `spark.settings` win over its other properties, as what a program sets does.
    """
    SparkContext._ensure_initialized()
    given = {DRIVER_MEMORY: MEMORY_OF_JAVA, **dict(SparkConf().getAll())}
    fixed = {key: given[key] for key in (MASTER, DRIVER_MEMORY)}
    asked = {
        MASTER: config.master if "master" in config.model_fields_set else None,
        DRIVER_MEMORY: config.settings.get(DRIVER_MEMORY) or config.driver_memory,
    }
    for key, written in asked.items():
        if written not in (None, fixed[key]):
            log.info("spark: %s %s is not used: spark-submit gave %s", key, written, fixed[key])
    changes = {"master": fixed[MASTER], "settings": given | config.settings | fixed}
    return config.model_copy(update=changes)
