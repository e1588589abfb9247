"""The results of a stage as digests, to compare with those of an undisturbed one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec import tables
from mdsrec.run_paths import RunPaths

STEPS = ("epoch", "loss", "ndcg@10", "recall@10", "learning_rate")  # of an epoch, without times
OUTCOME = ("run", "seed", "ndcg@10", "recall@10", "best_epoch", "epochs")  # of a trial's run

Results = dict[str, Any]


def table_results(root: Path) -> Results:
    """Return fingerprint and digest of the rows of every table of a root, by name.

    Parsed batches are a cache and no result.
    """
    dataset = root / "dataset"
    found = {}
    for manifest in sorted(dataset.rglob(tables.MANIFEST)):
        name = str(manifest.parent.relative_to(dataset))
        if not name.startswith((".", "parsed/")):
            stored = tables.open_table(str(manifest.parent))
            paths = tables.data_files(str(manifest.parent), stored)
            found[name] = [stored.fingerprint, _digest(paths)]
    return found


def run_results(root: Path, name: str) -> Results:
    """Return the epochs of a run, and the digest of its weights."""
    paths = RunPaths(f"{root}/runs/{name}")
    history = _json(paths.history)
    epochs = [[epoch.get(key) for key in STEPS] for epoch in history.get("epochs", [])]
    weights = Path(paths.best_weights)
    content = weights.read_bytes() if weights.is_file() else b""
    return {
        "epochs": epochs,
        "finished": history.get("finished"),
        "weights": hashlib.sha256(content).hexdigest(),
    }


def evaluation_results(root: Path, name: str) -> Results:
    """Return metrics.json of a run, the ranks that it names, and the cases' digest."""
    paths = RunPaths(f"{root}/runs/{name}")
    ranks = tables.open_table(paths.ranks)
    return {
        "metrics": _json(paths.metrics),
        "ranks": [ranks.fingerprint, _digest(tables.data_files(paths.ranks, ranks))],
        "cases": hashlib.sha256(Path(paths.cases).read_bytes()).hexdigest(),
    }


def sweep_results(root: Path, name: str) -> Results:
    """Return values and outcomes of each trial of a sweep."""
    trials = [_json(str(p)) for p in sorted((root / "sweeps" / name / "trials").glob("*.json"))]
    return {
        "trials": [
            [
                trial["number"],
                trial["state"],
                trial["values"],
                [[outcome[key] for key in OUTCOME] for outcome in trial["outcomes"]],
            ]
            for trial in trials
        ]
    }


def _digest(paths: list[str]) -> str:
    """Return the digest of the rows of Parquet files, in order."""
    rows = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _json(path: str) -> dict[str, Any]:
    file = Path(path)
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found
