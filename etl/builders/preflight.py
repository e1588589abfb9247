"""Checks of what a build needs before its first table: encoders, vectors, room on disk."""

import logging
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

from etl.builders.workspace import Workspace
from etl.features.encoders import check_encoder
from etl.features.vectors import open_vectors
from etl.spark.sizing import is_local
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.files import check_room
from mdsrec.schema import VERSION
from mdsrec.table_names import features_name
from mdsrec.tables import OtherVersionError, read_manifest

log = logging.getLogger("etl")

ROOM_PER_INPUT = 1 / 10  # bytes of tables, and of Spark's shuffles, per byte of raw input at least


def check_build(space: Workspace) -> None:
    """Raise InputError for the first need of an outdated table that is not met."""
    outdated = [name for name in space.recipes if space.find_table(name) is None]
    if not outdated:
        return
    _log_other_versions(space, outdated)
    if find_spec("faiss") is None:
        raise InputError(
            "faiss is not installed: install mdsrec[cpu], or mdsrec[gpu] on machines with GPUs"
        )
    for modality in space.experiment.modalities:
        if features_name(modality) in outdated:
            _check_source(space.experiment.features[modality])
    _check_room(space)


def _log_other_versions(space: Workspace, outdated: Sequence[str]) -> None:
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


def _check_source(config: FeatureConfig) -> None:
    """Raise InputError if the encoder cannot be found or the file of vectors cannot be read."""
    if config.encoder is not None:
        check_encoder(config)
    else:
        open_vectors(str(config.vectors))


def _check_room(space: Workspace) -> None:
    needed = int(space.input_bytes * ROOM_PER_INPUT)
    check_room(space.experiment.root, needed, "the tables of this input")
    spark = space.experiment.spark
    if is_local(spark.master):
        scratch = spark.settings.get("spark.local.dir", tempfile.gettempdir()).split(",")[0]
        check_room(scratch, needed, "Spark's shuffles (its folder is spark.local.dir)")
