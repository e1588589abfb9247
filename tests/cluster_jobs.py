"""Jobs on a cluster of `ray_hosts.py`, and readers of the files they write."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hosts import Host
from ray_hosts import ADDRESS


class Job:
    """`cluster submit` of one stage, run on the host outside the cluster."""

    def __init__(self, folder: Path, outside: Host, stage: str, *words: str) -> None:
        config = str(folder / "small.toml")
        command = ["python", "-m", "cluster", "submit", config, *words, "--address", ADDRESS]
        self._process = outside.start(*command, "--stages", stage)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        """Wait for the job, which must succeed, and return its output."""
        output = self._process.communicate()[0]
        assert self._process.returncode == 0, output
        return output


def checkpoints_within_an_epoch(run: Path, workers: int = 2) -> list[Path]:
    """Return the complete checkpoints that are not at the end of an epoch."""
    return list(run.glob(f"checkpoints/*-*[1-9]/manifest-{workers - 1}.json"))


def history(run: Path) -> list[tuple[float, float]]:
    """Return (loss, validation ndcg@10) of every epoch."""
    epochs = json.loads((run / "history.json").read_text())["epochs"]
    return [(epoch["loss"], epoch["ndcg@10"]) for epoch in epochs]


def ranks(run: Path) -> list[dict[str, Any]]:
    """Return every row of the ranks, by user."""
    parts = sorted(run.glob("ranks/*/part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]
