"""The demo by Spark, Ray, DeepSpeed and NCCL: ZeRO stages, offloading, a kill, ranks."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, PRETENDED_SECONDS
from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from benchmarks.measure import kill_session
from etl.synthetic.__main__ import DEMO_FOLDER
from mdsrec.packages import child_environment

FORMS = {
    "ZeRO 0": ["train.zero_stage=0"],
    "ZeRO 1": ["train.zero_stage=1"],
    "ZeRO 3": ["train.zero_stage=3"],
    "offloaded": ["train.zero_stage=1", "train.offload=optimizer"],
}
NDCG, MOST_DISTANCE = "ndcg@10", 0.01
KILL_SECONDS = 120.0
POLL_SECONDS = 0.05
SHARE_OF_TIME = 0.9


class Demo:
    """The demo in a folder, and its commands, which end before the check does.

    They run in sessions of their own, so they would outlive it.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.deadline = folder, time.monotonic() + seconds

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start `python -m WORDS` in a session of its own, with its output in a file."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=self.folder,
                env=child_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *words: str) -> None:
        """Run `python -m WORDS`; RuntimeError with its last line if it fails.

        TimeoutExpired after the deadline.
        """
        process = self.start(*words)
        try:
            code = process.wait(self.deadline - time.monotonic())
        finally:
            kill_session(process)
        if code:
            last = (self.folder / "log").read_text().strip().splitlines()[-1]
            raise RuntimeError(f"{' '.join(words)}: exit code {code}: {last}")

    def history(self, name: str) -> dict[str, Any]:
        path = self.folder / f"artifacts/demo/runs/{name}/history.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return content


def keys_of(gpu: Gpu, name: str, device: str) -> list[str]:
    """Return the configuration of a run, long enough to be killed after its first epoch."""
    epochs = gpu.size(8, 2)
    keys = [f"name={name}", f"train.device={device}", f"train.max_epochs={epochs}"]
    return ["configs/demo.toml", "train.num_workers=1", *keys]


def whole_path(gpu: Gpu, folder: Path, report: Report) -> None:
    seconds = gpu.size(CHECKS["whole path"].seconds, PRETENDED_SECONDS)
    demo, device = Demo(folder, SHARE_OF_TIME * seconds), gpu.size("gpu", "cpu")
    size = gpu.size([], ["--users", "400", "--items", "200"])
    demo.run("etl.synthetic", DEMO_FOLDER, *size)
    demo.run("etl", "configs/demo.toml")
    demo.run("training", *keys_of(gpu, "reference", "cpu"))
    expected = _ndcg(demo.history("reference"), 0)
    for form, keys in gpu.size(FORMS, {"ZeRO 0": FORMS["ZeRO 0"]}).items():
        name = form.lower().replace(" ", "-")
        demo.run("training", *keys_of(gpu, name, device), *keys)
        _check_history(gpu, report, form, demo.history(name), expected)
    _kill_and_resume(gpu, demo, device, report)
    demo.run("evaluation", *keys_of(gpu, "zero-0", device))
    metrics = demo.folder / "artifacts/demo/runs/zero-0/metrics.json"
    report.require(metrics.exists(), "the evaluation wrote no metrics.json")


def _check_history(
    gpu: Gpu, report: Report, form: str, history: dict[str, Any], expected: float
) -> None:
    epochs = history["epochs"]
    finite = all(math.isfinite(v) for e in epochs for v in e.values() if isinstance(v, float))
    report.require(finite and history["finished"], f"{form}: the history is not finite")
    found = _ndcg(history, 0)
    report.note(f"{form}: {NDCG} of the first epoch", f"{found:.4f}, on the CPU {expected:.4f}")
    report.require(abs(found - expected) <= MOST_DISTANCE, f"{form}: {NDCG} is {found:.4f}")
    if not gpu.is_pretended:
        report.require("gpu_memory_gib" in json.dumps(history), f"{form}: no gpu_memory_gib")


def _ndcg(history: dict[str, Any], epoch: int) -> float:
    return float(history["epochs"][epoch][NDCG])


def _kill_and_resume(gpu: Gpu, demo: Demo, device: str, report: Report) -> None:
    """Kill a training after its first epoch, and start it again."""
    words = ["training", *keys_of(gpu, "killed", device)]
    process = demo.start(*words)
    started = time.monotonic()
    until = min(started + gpu.size(KILL_SECONDS, 10 * KILL_SECONDS), demo.deadline)
    try:
        while not demo.history("killed").get("epochs") and process.poll() is None:
            if time.monotonic() > until:
                break
            time.sleep(POLL_SECONDS)
        was_running = process.poll() is None
    finally:
        kill_session(process)
    report.require(was_running, "the training ended before it was killed")
    demo.run(*words)
    resumed, plain = demo.history("killed"), demo.history("zero-0")
    report.require(bool(resumed.get("finished")), "the killed training does not end")
    distance = abs(_ndcg(resumed, -1) - _ndcg(plain, -1))
    report.note("resumed: distance from the run without a kill", distance)
    report.require(distance <= MOST_DISTANCE, f"resumed: {NDCG} is {distance:.4f} away")
