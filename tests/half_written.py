"""A process that is killed in the middle of writing carried weights."""

import signal
import subprocess
import sys

KILLED_WRITE = """
import os, signal, sys
from training.warm import carry

def write(stream, tensors, metadata):
    stream.write(b"x" * 1000)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

carry.write_checked = write
"""


def run_until_killed(program: str, *words: str) -> None:
    """Run a Python program, which has to write carried weights and is killed as it does."""
    command = [sys.executable, "-c", KILLED_WRITE + program, *words]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
