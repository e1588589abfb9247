"""Check a machine with a GPU: `python -m benchmarks.gpu --out gpu.json`, or `make gpu`.

Every check is a process of its own with a time-out. The file holds what each has found beside what
is expected. The exit code is 1 if a check failed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, PRETENDED_SECONDS
from benchmarks.measure import DONE, Reading, measure
from mdsrec.command import run_command
from mdsrec.command.heartbeat import heartbeat
from mdsrec.files import write_bytes

PROG = "benchmarks.gpu"
ONE = "benchmarks.gpu.one"
LIMIT_GIB = 1000.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__)
    parser.add_argument("--out", metavar="FILE", default="gpu.json", help="(default: gpu.json)")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--pretend", action="store_true", help="without a GPU, at small sizes")
    given = parser.parse_args(argv)
    results = {}
    for number, name in enumerate(given.only, 1):
        heartbeat.begin(f"check {name}")
        results[name] = run_check(name, given.pretend)
        print(f"{number}/{len(given.only)} {summary(name, results[name])}", flush=True)
        content = {"pretended": given.pretend, "checks": results}
        out = Path(given.out).absolute()
        write_bytes(str(out), f"{json.dumps(content, indent=1)}\n".encode())
    failed = [name for name, result in results.items() if not is_passed(result)]
    print(f"{len(results) - len(failed)} of {len(results)} checks passed: {given.out}")
    sys.exit(1 if failed else 0)


def run_check(name: str, is_pretended: bool) -> dict[str, Any]:
    """Run a check in a process of its own -> what it found, beside what is expected."""
    check = CHECKS[name]
    seconds = PRETENDED_SECONDS if is_pretended else check.seconds
    options = ["--pretend"] if is_pretended else []
    return result_of(name, measure(ONE, [name, *options], LIMIT_GIB, seconds))


def result_of(name: str, reading: Reading) -> dict[str, Any]:
    found = reading.result or reading.partial
    return {
        "outcome": reading.outcome,
        "seconds": round(reading.seconds, 1),
        "limit": CHECKS[name].seconds,
        "failures": found.get("failures", []),
        "expected": CHECKS[name].expected,
        "found": found.get("values", {}),
    }


def is_passed(result: dict[str, Any]) -> bool:
    return result["outcome"] == DONE and not result["failures"]


def summary(name: str, result: dict[str, Any]) -> str:
    """Return the lines of a check: its outcome, then what it found."""
    outcome = result["outcome"]
    if outcome == DONE:
        outcome = f"{len(result['failures'])} FAILED" if result["failures"] else "passed"
    lines = [f"{name}: {outcome} ({result['seconds']:.0f} s of {result['limit']:g})"]
    lines += [f"    FAILED {failure}" for failure in result["failures"]]
    lines += [f"    {key}: {value}" for key, value in result["found"].items()]
    return "\n".join([*lines, f"    expected: {result['expected']}"])


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
