"""One check in this process: `python -m benchmarks.gpu.one CHECK`; its last line is the result."""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.measure import print_result
from mdsrec.command import run_command
from mdsrec.files import first_line

PROG = "benchmarks.gpu.one"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--pretend", action="store_true")
    given = parser.parse_args(argv)
    report = check(given.name, given.pretend)
    print_result(values=report.values, failures=report.failures)  # also if nothing was noted


def check(name: str, is_pretended: bool) -> Report:
    """Run a check -> what it found; an error in it is a failure."""
    module, function = CHECKS[name].function.split(":")
    report, run = Report(), getattr(import_module(module), function)
    with tempfile.TemporaryDirectory() as folder, Gpu.used(is_pretended) as gpu:
        try:
            run(gpu, Path(folder), report)
        except Exception as error:
            traceback.print_exc()
            report.require(False, f"{type(error).__name__}: {first_line(error)}")
    return report


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
