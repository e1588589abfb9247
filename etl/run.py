"""All tables of an experiment, each built only if it does not stand."""

import logging
import time
from collections.abc import Callable
from functools import partial

from pyspark.sql import SparkSession

from etl.builders.catalogue import CatalogueBuilder
from etl.builders.centers import CenterBuilder
from etl.builders.features import FeatureBuilder
from etl.builders.graphs import GraphBuilder
from etl.builders.workspace import Workspace
from etl.spark.progress import task_progress
from etl.spark.session import unwrap_worker_errors
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.table_names import (
    centers_name,
    centroids_name,
    cooccurrence_name,
    features_name,
    neighbors_name,
    propagated_name,
)
from mdsrec.tables import Manifest

log = logging.getLogger("etl")

Builder = Callable[[], Manifest]


def build_tables(experiment: Experiment, spark: SparkSession | None = None) -> dict[str, Manifest]:
    """The manifest of every table of the experiment. Spark starts with the first that has to be
    built.
    """
    files.check_root(experiment.root)
    space = Workspace(experiment, spark)
    manifests: dict[str, Manifest] = {}
    try:
        with unwrap_worker_errors():
            manifests |= _stand_or_build(space, _base_builders(space))
            for name in experiment.modalities:
                modality = FeatureBuilder(space, name)
                features = {features_name(name): modality.features}
                manifests |= _stand_or_build(space, features)
                modality.check()
                manifests |= _stand_or_build(space, _derived_builders(space, name))
    finally:
        space.close()
    return manifests


def _base_builders(space: Workspace) -> dict[str, Builder]:
    base = CatalogueBuilder(space)
    builders = {
        "interactions": base.interactions,
        "metadata": base.metadata,
        "rejects": base.rejects,
        "sequences": base.sequences,
        "items": base.items,
    }
    return builders | {cooccurrence_name(space.experiment): base.cooccurrence}


def _derived_builders(space: Workspace, modality: str) -> dict[str, Builder]:
    experiment = space.experiment
    graphs, clusters = GraphBuilder(space, modality), CenterBuilder(space, modality)
    builders: dict[str, Builder] = {}
    if any(experiment.mus(modality)):
        builders[propagated_name(experiment, modality)] = graphs.propagated
    for mu in experiment.mus(modality):
        builders[neighbors_name(experiment, modality, mu)] = partial(graphs.neighbors, mu)
    for k in experiment.all_num_centers():
        builders[centers_name(experiment, modality, k)] = partial(clusters.centers, k)
        builders[centroids_name(experiment, modality, k)] = partial(clusters.centroids, k)
    return builders


def _stand_or_build(space: Workspace, builders: dict[str, Builder]) -> dict[str, Manifest]:
    manifests = {}
    for name, build in builders.items():
        began = time.monotonic()
        manifest = space.current_manifest(name)
        if manifest is None:
            log.info("%s: building", name)
            with task_progress(name, lambda: space.running):
                manifest = build()
            seconds = time.monotonic() - began
            figures = {"table": name, "rows": manifest.rows, "seconds": round(seconds, 1)}
            built = "%s: built, %d rows, %.1f s"
            log.info(built, name, manifest.rows, seconds, extra={"figures": figures})
        else:
            log.info("%s: stands, %d rows", name, manifest.rows)
        manifests[name] = manifest
    return manifests
