"""Models by name. A new model is a file, a line below and a section in mdsrec/config/models.py."""

from importlib import import_module

from mdsrec.config import Experiment
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


def build_model(experiment: Experiment, tables: ItemTables) -> Model:
    """Build the model named `model.name`, with uninitialized weights."""
    module, _, name = MODELS[experiment.model.name].partition(":")
    model: Model = getattr(import_module(module), name)(experiment, tables)
    return model
