"""The item graphs that carried weights are completed over."""

import logging

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.config.models import MDSRecConfig
from mdsrec.table_names import features_name, neighbors_name
from training.data.table_checks import checked_manifest
from training.warm.near_rows import Graph

log = logging.getLogger("training")


def graph_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment whose tables `neighbors` are read.

    For a model that has none it is that of MDSRec on the same tables, over all modalities.
    """
    if experiment.neighbor_modalities or not experiment.features:
        return experiment
    most = min(MDSRecConfig().num_neighbors, experiment.graph.max_neighbors)
    content = {**experiment.resolved(), "model": {"name": "mdsrec", "num_neighbors": most}}
    for section in ("train", "optim", "tune", "eval"):  # which may not fit another model
        content.pop(section)
    return experiment_from(content, source=experiment.name)


def open_graphs(experiment: Experiment) -> list[Graph]:
    """Open the tables `neighbors` of all modalities; one that does not exist is named in the log.

    InputError if one was made with other settings, or from other tables.
    """
    owner, found = graph_experiment(experiment), []
    inputs = {"items": tables.open_table(tables.table_uri(experiment.root, "items"))}
    for modality in owner.neighbor_modalities:
        name = neighbors_name(owner, modality)
        uri = tables.table_uri(owner.root, name)
        if tables.read_manifest(uri) is None:
            log.warning(
                "%s does not exist, so no item gets a row over this modality: an ETL with "
                'model.name = "mdsrec" builds it',
                uri,
            )
            continue
        features = features_name(modality)
        inputs[features] = checked_manifest(owner, features, inputs)
        found.append(Graph(uri, checked_manifest(owner, name, inputs)))
    return found
