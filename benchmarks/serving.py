"""How long recommendations take: `python -m benchmarks.serving RUN`

Histories are random. Every one is recommended alone, by one process on one core: from Python, and
over HTTP by the FastAPI service of docs/serving.md. The last row shares the work of a batch.
"""

import gc
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import Recommender
from mdsrec.command import path, positive_int, run_command, stage_parser
from mdsrec.text import markdown_table

PROG = "benchmarks.serving"
PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
LENGTHS = (5, 20, 50)  # events of a history
BATCH = 256
URL = "http://127.0.0.1:8765/recommend"


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(PROG, __doc__ or "")
    parser.add_argument("run", metavar="RUN", type=path, help="ROOT/runs/NAME, or an export")
    parser.add_argument("--repeats", type=positive_int, default=200, help="(default: 200)")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    model = Recommender.load(arguments.run)
    print(f"{model!r}, loaded in {time.perf_counter() - started:.2f} s beside imports\n")
    generator = np.random.default_rng(0)

    def histories(length: int, count: int) -> list[list[str]]:
        return [generator.choice(model.item_ids, length).tolist() for _ in range(count)]

    rows = []
    with service(arguments.run):
        for length in LENGTHS:
            asked = histories(length, arguments.repeats)
            rows.append([f"alone, {length} events", *timed(model.recommend, asked)])
            rows.append([f"over HTTP, {length} events", *timed(ask, asked)])
    together = [histories(LENGTHS[0], BATCH) for _ in range(5)]
    *times, cpu = timed(model.recommend, together, BATCH)
    rows.append([f"{BATCH} together, {LENGTHS[0]} events each", *times, cpu])
    print(markdown_table(["a history", "median ms", "95% below ms", "CPU ms"], rows))


def timed(call: Callable[[Any], object], calls: Sequence[Any], share: int = 1) -> list[str]:
    """Return median and 95th percentile of the time of a call, and its CPU time in this process.

    `share` histories are answered by each call.
    """
    call(calls[0])
    gc.collect()
    seconds, cpu = [], time.process_time()
    for argument in calls:
        started = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / len(calls)
    times = [*np.quantile(seconds, (0.5, 0.95)), cpu]
    return [f"{1000 * each / share:.1f}" for each in times]


def ask(history: list[str]) -> object:
    """Ask the service."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(URL, json.dumps(history).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def service(run: str) -> Iterator[None]:
    """Run the FastAPI service of the page, as its first block under that heading says."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text().split("\n## FastAPI\n")[1], re.S)[0]
    start = f"{code}\nimport uvicorn\nuvicorn.run(app, port=8765, log_level='error')\n"
    process = subprocess.Popen([sys.executable, "-c", start], env=os.environ | {"RUN": run})
    try:
        while not _answers():
            if process.poll() is not None:
                raise RuntimeError('the service ended: pip install ".[serve]"')
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers() -> bool:
    try:
        urllib.request.urlopen(URL.replace("/recommend", "/docs"), timeout=5).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
