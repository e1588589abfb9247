"""An experiment on a small raw catalogue, for tests that start stages as their users do."""

from pathlib import Path

from etl.synthetic.__main__ import write_catalogue

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
"""


def write_raw(folder: Path, users: int = 300, items: int = 100) -> None:
    """The files that `small_toml(folder)` reads."""
    write_catalogue(folder / "raw", users, items, seed=0)


def small_toml(folder: Path, more: str) -> str:
    """Path of the experiment. `more` goes on in [model], then with sections of its own."""
    path = folder / "small.toml"
    path.write_text(TOML.format(folder=folder) + more)
    return str(path)
