"""Jobs of a cluster of `ray_hosts.py`, and what they leave."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hosts import Host
from ray_hosts import ADDRESS


class Job:
    """`cluster submit` of one stage, from the host outside."""

    def __init__(self, folder: Path, outside: Host, stage: str, *words: str) -> None:
        config = str(folder / "small.toml")
        command = ["python", "-m", "cluster", "submit", config, *words, "--address", ADDRESS]
        self._process = outside.start(*command, "--stages", stage)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        """All that it said, once it has ended well."""
        said = self._process.communicate()[0]
        assert self._process.returncode == 0, said
        return said


def within_an_epoch(run: Path, workers: int = 2) -> list[Path]:
    """Whole checkpoints that are not an epoch's last."""
    return list(run.glob(f"checkpoints/*-*[1-9]/manifest-{workers - 1}.json"))


def history(run: Path) -> list[tuple[float, float]]:
    epochs = json.loads((run / "history.json").read_text())["epochs"]
    return [(epoch["loss"], epoch["ndcg@10"]) for epoch in epochs]


def ranks(run: Path) -> list[dict[str, Any]]:
    """Every row, by user."""
    parts = sorted(run.glob("ranks/*/part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]
