"""Fixtures that several test files share. Spark starts with the first test that asks for it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    from etl.spark.session import open_session
    from mdsrec.config import SparkConfig

    config = SparkConfig(master="local[2]", driver_memory="1g", partitions=2)
    session = open_session(config)
    yield session
    session.stop()
