"""The item graphs that carried weights are completed over."""

import logging

from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.config.models import MDSRecConfig
from mdsrec.errors import InputError
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
    """Open the tables `neighbors` of all modalities.

    A table that is missing or outdated is named in the log and left out: the ETL of a model that
    has no neighbors does not build them.
    """
    owner, found = graph_experiment(experiment), []
    items = tables.open_table(tables.table_uri(experiment.root, "items"))
    for modality in owner.neighbor_modalities:
        features, name = features_name(modality), neighbors_name(owner, modality)
        inputs = {"items": items}
        try:
            inputs[features] = checked_manifest(owner, features, inputs)
            manifest = checked_manifest(owner, name, inputs)
        except InputError as error:
            log.warning(
                "new items get no rows over the modality %s (%s); the ETL of a configuration with "
                'model.name = "mdsrec" builds its table neighbors',
                modality,
                error,
            )
            continue
        found.append(Graph(tables.table_uri(owner.root, name), manifest))
    return found
