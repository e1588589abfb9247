"""The heap of a training process."""

import subprocess
import sys

import pytest

FREE = """
import psutil
import torch
from training.device import keep_freed_memory

{call}
before = psutil.Process().memory_info().rss
arrays = [torch.ones(1 << 20) for _ in range(40)]  # 160 MiB
del arrays
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.parametrize(("call", "stays"), [("pass", False), ("keep_freed_memory()", True)])
def test_the_memory_of_freed_arrays_stays_in_the_process(call: str, stays: bool) -> None:
    command = [sys.executable, "-c", FREE.format(call=call)]
    found = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (found > 100 << 20) == stays
