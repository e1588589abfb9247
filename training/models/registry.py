"""Models by name: ours, and `package:Class` for one of the user's own."""

from mdsrec.config import Experiment
from mdsrec.config.own_model import class_named
from training.data.item_tables import ItemTables
from training.models.base import Model

MODELS = {
    "mdsrec": "training.models.mdsrec.model:MDSRec",
    "gru4rec": "training.models.gru4rec:GRU4Rec",
    "sasrec": "training.models.sasrec:SASRec",
    "bert4rec": "training.models.bert4rec:BERT4Rec",
    "gru4recf": "training.models.gru4recf:GRU4RecF",
    "sasrecf": "training.models.sasrecf:SASRecF",
    "fdsa": "training.models.fdsa:FDSA",
    "unisrec": "training.models.unisrec:UniSRec",
    "mmmlp": "training.models.mmmlp:MMMLP",
    "missrec": "training.models.missrec:MISSRec",
}
"""Module and class of each `model.name`. Only the chosen one is imported."""


def model_class(experiment: Experiment) -> type[Model]:
    """Return the class of the model named `model.name`."""
    name = experiment.model.name
    found: type[Model] = class_named(MODELS.get(name, name))
    return found


def build_model(experiment: Experiment, tables: ItemTables) -> Model:
    """Build the model named `model.name`, with uninitialized weights."""
    return model_class(experiment)(experiment, tables)
