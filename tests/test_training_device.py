"""What a run records about the machine that made it."""

import os
import re
from datetime import UTC, datetime

import torch

from mdsrec import __version__
from training.device import origin


def test_a_run_records_date_version_and_machine():
    before = datetime.now(UTC).replace(microsecond=0)
    found = origin(torch.device("cpu"))
    assert before <= datetime.fromisoformat(found["date"]) <= datetime.now(UTC)
    assert found["version"] == __version__
    assert re.fullmatch(rf".+, {os.cpu_count()} cores, \d+ GiB", found["machine"])
