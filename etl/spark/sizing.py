"""Spark's memory, partitions and batches by the size of the input and of the machine.

Tasks spill what does not fit, so memory goes by what the cores hold at a time: a larger input fills
it, but needs no more. `spark.driver_memory`, `spark.partitions` and `spark.settings` win over what
is derived here.
"""

import os
import re
from pathlib import Path

from mdsrec.config import SparkConfig

MIB = 1 << 20
GZIP_RATIO = 5  # of the publisher's files
BASE_MEMORY, MEMORY_A_CORE = 1024 * MIB, 512 * MIB
LEAST_MEMORY = 512 * MIB  # Spark refuses to start with less than 450
INPUT_A_BYTE = 8  # bytes of raw input for each byte of memory beyond the base
PARTITIONS_A_CORE = 4
PARTITION_BYTES = 128 * MIB  # of raw input
BATCH_BYTES = 16 * MIB  # handed to Python at a time, where they take several times as much

DRIVER_MEMORY = "spark.driver.memory"
PARTITIONS = "spark.sql.shuffle.partitions"
ARROW_BATCH = "spark.sql.execution.arrow.maxBytesPerBatch"
LOCAL = re.compile(r"local(?:\[(\d+|\*)(?:, *\d+)?\])?")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def settings_for(config: SparkConfig, input_bytes: int, cores: int, memory: int) -> dict[str, str]:
    """Spark properties for `input_bytes` of raw input, uncompressed, and `cores` that compute.

    `memory` is the machine's in bytes: at most half of it is taken.
    """
    wanted = BASE_MEMORY + min(input_bytes // INPUT_A_BYTE, cores * MEMORY_A_CORE)
    heap = max(min(wanted, memory // 2), LEAST_MEMORY)
    partitions = max(cores * PARTITIONS_A_CORE, -(-input_bytes // PARTITION_BYTES))
    return {
        DRIVER_MEMORY: config.driver_memory or f"{heap // MIB}m",
        PARTITIONS: str(config.partitions or partitions),
        ARROW_BATCH: str(BATCH_BYTES),
    } | config.settings


def raw_bytes(uri: str, size: int) -> int:
    """About how many bytes a file of `size` holds once decompressed."""
    return size * GZIP_RATIO if uri.endswith(".gz") else size


def is_local(master: str) -> bool:
    """Whether the driver computes, too: there are no other processes to lose."""
    return LOCAL.fullmatch(master) is not None


def driver_cores(master: str) -> int:
    """Tasks that the driver runs at a time; 1 where executors run them."""
    found = LOCAL.fullmatch(master)
    if found is None or found[1] is None:
        return 1
    return os.cpu_count() or 1 if found[1] == "*" else int(found[1])


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container where that is limited to less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical
