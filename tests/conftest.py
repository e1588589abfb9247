"""Fixtures of several test files. Spark and Ray start with the first test that needs them."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from mdsrec.jobs import lease

# Jobs of tests do not start at the same moment, but where a test says so.
lease.SETTLE_SECONDS = 0.05

# The tensors of tests are so small that a second thread only costs time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    from etl.spark.session import open_session
    from mdsrec.config import SparkConfig

    session = open_session(SparkConfig(master="local[2]", driver_memory="1g", partitions=2))
    yield session
    session.stop()


@pytest.fixture(scope="module")
def shared_ray() -> None:
    """Start Ray in this process, unless an earlier module did. It runs until the tests end."""
    import ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
