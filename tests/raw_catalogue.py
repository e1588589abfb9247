"""An experiment on a small raw catalogue, for tests that run the stages as commands."""

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
memory = false
dim = 16
inner_dim = 16
num_centers = 4
"""


def write_raw(folder: Path, users: int = 300, items: int = 100) -> None:
    """Write the input files of the experiment `small_toml(folder)`."""
    write_catalogue(folder / "raw", users, items, seed=0)


def small_toml(folder: Path, more: str) -> str:
    """Write the experiment and return its path.

    `more` continues the section [model]; further sections may follow.
    """
    path = folder / "small.toml"
    path.write_text(TOML.format(folder=folder) + more)
    return str(path)
