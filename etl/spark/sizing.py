"""Spark's memory, partitions and batch size, derived from the input and the machine.

Memory grows with the number of cores, not with the input, because tasks spill to disk what does not
fit. `spark.driver_memory`, `spark.partitions` and `spark.settings` override the derived values.
"""

import os
import re
from collections.abc import Mapping

from mdsrec.config import SparkConfig
from mdsrec.errors import InputError

MIB = 1 << 20
COMPRESSED = (".gz", ".bz2", ".zst")
GZIP_RATIO = 5  # of the Amazon files
BASE_MEMORY, MEMORY_PER_CORE = 1024 * MIB, 512 * MIB
MIN_MEMORY = 512 * MIB  # Spark does not start with less than 450
INPUT_PER_MEMORY = 8  # bytes of raw input per byte of memory beyond BASE_MEMORY
SHORT_JOB = 64 * MIB  # of raw input
PARTITIONS_PER_CORE = 4
PARTITION_BYTES = 128 * MIB  # of raw input
PYTHON_PART = 4  # of what the driver leaves of one machine; the rest caches files
LEAST_TASK_MEMORY = 512 * MIB
OVERHEAD_PART, LEAST_OVERHEAD = 10, 384 * MIB  # Spark's defaults
BATCH_BYTES = 16 * MIB  # of an Arrow batch; as Python objects it is several times larger

DRIVER_MEMORY = "spark.driver.memory"
PARTITIONS = "spark.sql.shuffle.partitions"
ARROW_BATCH = "spark.sql.execution.arrow.maxBytesPerBatch"
LOCAL = re.compile(r"local(?:\[(\d+|\*)(?:, *\d+)?\])?")


def settings_for(config: SparkConfig, input_bytes: int, cores: int, memory: int) -> dict[str, str]:
    """Return Spark properties for `input_bytes` of uncompressed raw input on `cores`.

    `memory` is that of the machine in bytes. The driver gets half of it at most, unless Spark could
    not start with so little.
    """
    wanted = BASE_MEMORY + min(input_bytes // INPUT_PER_MEMORY, cores * MEMORY_PER_CORE)
    heap = max(min(wanted, memory // 2), MIN_MEMORY)
    partitions = max(cores * PARTITIONS_PER_CORE, -(-input_bytes // PARTITION_BYTES))
    return {
        DRIVER_MEMORY: config.driver_memory or f"{heap // MIB}m",
        PARTITIONS: str(config.partitions or partitions),
        ARROW_BATCH: str(BATCH_BYTES),
    } | config.settings


def java_flags(master: str, input_bytes: int) -> list[str]:
    """Return the flags of the JVM: for a short job on one machine, less compilation and one thread.

    C2, the optimizing compiler, and a parallel garbage collector then cost more than they save.
    """
    is_short = is_local(master) and input_bytes <= SHORT_JOB
    return ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"] if is_short else []


def task_slots(settings: Mapping[str, str], cores: int) -> int:
    """Return how many tasks run at a time in an executor; `cores` are those of all executors.

    Executors may share them in a way that is not in the settings. Then it is the highest number.
    """
    of_executor = int(settings.get("spark.executor.cores", cores))
    return max(1, min(of_executor, cores) // int(settings.get("spark.task.cpus", 1)))


def memory_of_task(settings: Mapping[str, str], num_tasks: int, machine: int) -> int:
    """Return the bytes that the Python process of one of `num_tasks` of an executor may hold.

    On one machine they share a part of what the driver leaves. Elsewhere they share the executor's
    `spark.executor.pyspark.memory`, or its memory overhead.
    """
    if is_local(settings["spark.master"]):
        shared = (machine - parse_bytes(settings.get(DRIVER_MEMORY, "1g"))) // PYTHON_PART
    elif given := settings.get("spark.executor.pyspark.memory") or settings.get(
        "spark.executor.memoryOverhead"
    ):
        shared = parse_bytes(given)
    else:
        heap = parse_bytes(settings.get("spark.executor.memory", "1g"))
        shared = max(heap // OVERHEAD_PART, LEAST_OVERHEAD)
    return max(shared // num_tasks, LEAST_TASK_MEMORY)


def parse_bytes(text: str) -> int:
    """Return the bytes of a size as Spark writes it: 512m, 4g; without a unit it is in MiB."""
    found = re.fullmatch(r"(\d+)\s*([kmgtp]?)b?", text.strip().lower())
    if found is None:
        raise InputError(f"{text!r} in spark.settings is not a size: write it as 512m or 4g")
    return int(found[1]) << {"k": 10, "m": 20, "": 20, "g": 30, "t": 40, "p": 50}[found[2]]


def uncompressed_bytes(uri: str, size: int) -> int:
    """Return the approximate size of a file after decompression."""
    return size * GZIP_RATIO if uri.endswith(COMPRESSED) else size


def is_local(master: str) -> bool:
    """Return whether the driver itself runs the tasks, without executor processes."""
    return LOCAL.fullmatch(master) is not None


def driver_cores(master: str) -> int:
    """Return how many tasks the driver runs in parallel; 1 if executors run them."""
    found = LOCAL.fullmatch(master)
    if found is None or found[1] is None:
        return 1
    return os.cpu_count() or 1 if found[1] == "*" else int(found[1])
