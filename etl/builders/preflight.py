"""Checks of what a build needs before its first table: encoders, vectors, room on disk."""

import logging
import tempfile
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from etl.builders.workspace import Workspace
from etl.features.encoders import check_encoder
from etl.features.vectors import open_vectors
from etl.spark.sizing import driver_cores, is_local
from etl.tabular.columns import check_present
from etl.tabular.table_input import TableInput
from mdsrec.errors import InputError
from mdsrec.files import check_room, check_root
from mdsrec.schema import VERSION
from mdsrec.table_names import features_name
from mdsrec.tables import OtherVersionError, read_manifest

log = logging.getLogger("etl")

ROOM_PER_INPUT = 1 / 10  # bytes of tables, and of Spark's shuffles, per byte of raw input at least
TASKS_PER_GPU = 8  # each with its own 2 to 3 GB of CUDA, encoder and temporaries


def check_build(space: Workspace) -> None:
    """Raise InputError for the first need of an outdated table that is not met."""
    outdated = space.outdated()
    source = space.experiment.input.source
    if source is not None and "interactions" not in outdated:
        log.info("the %s source is not read again: change input.snapshot to read it", source)
    if not outdated:
        return
    _log_other_versions(space, outdated)
    if find_spec("faiss") is None:
        raise InputError(
            "faiss is not installed: install mdsrec[cpu], or mdsrec[gpu] on machines with GPUs"
        )
    config = space.experiment.input
    if config.format == "table":
        TableInput(config, space.inputs.interactions, space.inputs.items).check_columns()
    for modality in space.experiment.modalities:
        if features_name(modality) in outdated:
            _check_source(space, modality)
    _check_room(space)
    num_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    warn_of_many_tasks(space.experiment.spark.master, num_gpus)


def warn_of_many_tasks(master: str, num_gpus: int) -> None:
    """Warn if the tasks of this machine may fill the memory of its GPUs."""
    tasks = driver_cores(master)
    if num_gpus and tasks > TASKS_PER_GPU * num_gpus:
        log.warning(
            "%d tasks share %d GPUs, and each takes 2 to 3 GB of their memory: if it runs out, set "
            "spark.master=local[%d]",
            tasks,
            num_gpus,
            TASKS_PER_GPU * num_gpus,
        )


def _log_other_versions(space: Workspace, outdated: Collection[str]) -> None:
    """Log how many tables are built again because an earlier version of this program wrote them."""
    count = 0
    for name in outdated:
        try:
            read_manifest(space.uri(name))
        except OtherVersionError:
            count += 1
        except InputError:
            continue
    if count:
        log.warning(
            "%d tables are of another schema version than %d: they are built again", count, VERSION
        )


def _check_source(space: Workspace, modality: str) -> None:
    """Raise InputError if the encoder cannot be found or the vectors cannot be read."""
    config = space.experiment.features[modality]
    if config.encoder is not None:
        check_encoder(config)
        if (cache := space.experiment.features.cache) is not None:
            check_root(cache, "features.cache")
    elif config.column is not None:
        _check_column(space, modality, config.column)
    else:
        open_vectors(str(config.vectors))


def _check_column(space: Workspace, modality: str, column: str) -> None:
    """Raise InputError if a file of items lacks the column of vectors."""
    config = space.experiment.input
    tables = TableInput(config, space.inputs.interactions, space.inputs.items)
    for file in tables.item_files if config.source is None else ():
        check_present(f"features.{modality}.column", column, file.uri, file.names)


def _check_room(space: Workspace) -> None:
    needed = int(space.input_bytes * ROOM_PER_INPUT)
    check_room(space.experiment.root, needed, "the tables of this input")
    spark = space.experiment.spark
    if is_local(spark.master):
        scratch = spark.settings.get("spark.local.dir", tempfile.gettempdir()).split(",")[0]
        check_room(scratch, needed, "Spark's shuffles (its folder is spark.local.dir)")
