"""The data sets of the checks: made tables of a few thousand items, without an ETL."""

from pathlib import Path
from typing import Any

from benchmarks.catalogue.events import Catalogue
from benchmarks.catalogue.tables import TableMaker
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.config.models import sections

MODALITIES = ("text", "image")
DRAWN = ("dropout", "adaptor_dropout", "item_mask")  # a GPU draws other random numbers
PLAIN = {"memory": False, **dict.fromkeys(DRAWN, 0.0)}
DEGREE, WIDTH = 20, 16
MODELS = [name for name in sections() if name != "transitions"]


def experiment_in(folder: Path, name: str, model: dict[str, Any], **train: Any) -> Experiment:
    """Return an experiment with a model of this name, and the keys of `model` that it has."""
    known = sections()[name].model_fields
    own = {key: value for key, value in {**PLAIN, **model}.items() if key in known}
    content = {
        "name": name,
        "root": str(folder),
        "input": {"edition": "2018", "reviews": [str(folder / "none.json")]},
        "features": {m: {"vectors": str(folder / "none.parquet")} for m in MODALITIES},
        "model": {"name": name, **own},
        "train": train,
    }
    return experiment_from(content, source="benchmarks.gpu")


def write_world(experiment: Experiment, items: int, users: int) -> None:
    """Write the tables that a training of the experiment reads."""
    TableMaker(experiment, Catalogue(items, users), DEGREE, WIDTH).write_all()
