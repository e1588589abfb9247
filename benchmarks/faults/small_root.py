"""A small root with every kind of file: tables, a run, a sweep and an exported folder."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from etl.synthetic.catalogue import write_catalogue

TOML = """
name = "small"
root = "{folder}/root"
[input]
edition = "2018"
reviews = ["{folder}/raw/reviews.json.gz"]
metadata = ["{folder}/raw/metadata.json.gz"]
[features.image]
vectors = "{folder}/raw/image.parquet"
[spark]
master = "local[2]"
driver_memory = "1g"
partitions = 2
[model]
dim = 16
inner_dim = 16
num_centers = 4
[train]
max_epochs = 2
[tune]
trials = 2
scheduler = "none"
[tune.space]
optim.lr = {{ choice = [1e-3, 3e-3] }}
"""
USERS, ITEMS = 200, 80


def make_root(folder: Path) -> Path:
    """Run every stage in `folder`, where that was not done before; return its configuration."""
    config, done = folder / "small.toml", folder / "made"
    if done.exists():
        return config
    folder.mkdir(parents=True, exist_ok=True)
    write_catalogue(folder / "raw", USERS, ITEMS, seed=0)
    config.write_text(TOML.format(folder=folder))
    for stage in ("etl", "training", "evaluation", "evaluation recommend", "tuning"):
        _run([*stage.split(), str(config)])
    _run(["evaluation", "export", f"{folder}/root/runs/small", f"{folder}/export"])
    done.touch()
    return config


def _run(words: Sequence[str]) -> None:
    package, *rest = words
    subprocess.run([sys.executable, "-m", package, *rest], check=True)
