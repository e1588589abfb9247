"""The build of all tables of an experiment. Tables that are up to date are kept."""

import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from pyspark.sql import SparkSession

from etl.builders.catalogue import CatalogueBuilder
from etl.builders.centers import CenterBuilder
from etl.builders.features import FeatureBuilder
from etl.builders.graphs import GraphBuilder
from etl.builders.leftovers import clean_leftovers
from etl.builders.places import PlacesBuilder
from etl.builders.preflight import check_build
from etl.builders.transitions import TransitionsBuilder
from etl.builders.workspace import Workspace
from etl.leases import only_writer
from etl.reasons import reason_to_build
from etl.spark.progress import task_progress
from etl.spark.session import unwrap_worker_errors
from etl.status import Build
from mdsrec import files, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.jobs.promises import check, identity
from mdsrec.table_names import (
    CATEGORIES,
    centers_name,
    centroids_name,
    cooccurrence_name,
    features_name,
    memory_name,
    neighbors_name,
    places_name,
    propagated_name,
    transitions_name,
    whole_cooccurrence_name,
)
from mdsrec.tables import Manifest

log = logging.getLogger("etl")

BuildFunction = Callable[[], Manifest]


def build_tables(experiment: Experiment, spark: SparkSession | None = None) -> dict[str, Manifest]:
    """Build the tables that are missing or outdated, and return the manifest of every table.

    Without `spark`, a session starts for the first table that has to be built.
    """
    return build_with_reasons(experiment, spark).manifests


def build_with_reasons(experiment: Experiment, spark: SparkSession | None = None) -> Build:
    """Build the tables as `build_tables` does, and return what was built and why."""
    heartbeat.begin("checking the input")
    files.check_root(experiment.root)
    space = Workspace(experiment, spark)
    built = Build(files=space.file_counts)
    clean_leftovers(experiment.root)
    check_build(space)
    try:
        with only_writer(space) as leased, unwrap_worker_errors():
            build = partial(_build_outdated, space, leased, built)
            build(_shared_tables(space))
            for modality in experiment.modalities:
                builder = FeatureBuilder(space, modality)
                build({features_name(modality): builder.build_features})
                builder.check_settings()
                build(_derived_tables(space, modality))
            build(_joint_tables(space))
    except (KeyboardInterrupt, SystemExit):
        space.abandon()
        raise
    finally:
        space.close()
        tables.discard_uncommitted()
    return built


def _shared_tables(space: Workspace) -> dict[str, BuildFunction]:
    builder = CatalogueBuilder(space)
    found: dict[str, BuildFunction] = {
        "interactions": builder.build_interactions,
        "metadata": builder.build_metadata,
        "rejects": builder.build_rejects,
        "sequences": builder.build_sequences,
        "items": builder.build_items,
    }
    if space.experiment.input.categories:
        found[CATEGORIES] = builder.build_categories
    found[whole_cooccurrence_name(space.experiment)] = builder.build_cooccurrence
    if space.experiment.graph.max_cooccurrences is not None:
        found[cooccurrence_name(space.experiment)] = builder.build_heaviest
    return found


def _derived_tables(space: Workspace, modality: str) -> dict[str, BuildFunction]:
    experiment = space.experiment
    graphs, centers = GraphBuilder(space, modality), CenterBuilder(space, modality)
    found: dict[str, BuildFunction] = {}
    if any(experiment.mus(modality)):
        found[propagated_name(experiment, modality)] = graphs.build_propagated
    for mu in experiment.mus(modality):
        found[neighbors_name(experiment, modality, mu)] = partial(graphs.build_neighbors, mu)
    for k in experiment.all_num_centers():
        found[centers_name(experiment, modality, k)] = partial(centers.build_centers, k)
        found[centroids_name(experiment, modality, k)] = partial(centers.build_centroids, k)
    return found


def _joint_tables(space: Workspace) -> dict[str, BuildFunction]:
    """Return the functions of the tables that are made from all modalities."""
    experiment = space.experiment
    found: dict[str, BuildFunction] = {}
    if experiment.neighbor_modalities:
        found[places_name(experiment)] = PlacesBuilder(space).build_places
    if experiment.model.memory:
        transitions = TransitionsBuilder(space)
        found[transitions_name(experiment)] = transitions.build_transitions
        found[memory_name(experiment)] = transitions.build_memory
    return found


def _build_outdated(
    space: Workspace, leased: Collection[str], built: Build, functions: dict[str, BuildFunction]
) -> None:
    """Call the functions of the tables that are not up to date, and log each table.

    ReplacedError if one is not `leased`: it was up to date when this ETL began.
    """
    for name, build in functions.items():
        started = time.monotonic()
        manifest = space.find_table(name)
        if manifest is None:
            if name not in leased:
                check(space.uri(name), identity(space.uri(name)))
            built.reasons[name] = reason_to_build(space.uri(name), space.recipes[name])
            log.info("%s: to be built: %s", name, built.reasons[name])
            log.info("%s: building", name)
            heartbeat.begin(f"table {name}")
            with task_progress(name, lambda: space.spark_if_started):
                manifest = space.restore(name)
                if manifest is None:
                    manifest = build()
                else:
                    built.found.add(name)
            seconds = time.monotonic() - started
            figures = {"table": name, "rows": manifest.rows, "seconds": round(seconds, 1)}
            text = "%s: built, %d rows, %.1f s"
            log.info(text, name, manifest.rows, seconds, extra={"figures": figures})
        else:
            log.info("%s: up to date, %d rows", name, manifest.rows)
        built.manifests[name] = manifest
