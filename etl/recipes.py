"""Recipes of the tables: their settings, and the fingerprints of the inputs they are made from.

A table is up to date if its manifest has the fingerprint of its recipe. Partitions and memory are
not part of a recipe because they do not change the rows. `spark.rows_per_file` is part of the
recipe of `sequences` because training shuffles within files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etl.catalogue.raw import RawFile, raw_files
from etl.features.encoders import encoder_identity
from etl.features.images import folder_identity
from mdsrec.config import Experiment, FeatureConfig
from mdsrec.table_names import cooccurrence_name, features_name, propagated_name
from mdsrec.table_settings import table_settings
from mdsrec.tables import Recipe, fingerprint


@dataclass(frozen=True)
class RawInputs:
    """The raw files of an experiment. The column `file` of a table is a position in these."""

    reviews: tuple[RawFile, ...]
    metadata: tuple[RawFile, ...]


def raw_inputs(experiment: Experiment) -> RawInputs:
    """List the raw files. Raises InputError if one is missing."""
    config = experiment.input
    return RawInputs(tuple(raw_files(config.reviews)), tuple(raw_files(config.metadata)))


def recipes(experiment: Experiment, inputs: RawInputs) -> dict[str, Recipe]:
    """Return the recipe of each table by name, in an order in which they can be built."""
    found: dict[str, Recipe] = {}
    for name, settings in table_settings(experiment).items():
        found[name] = Recipe(
            settings, _input_fingerprints(name, settings, experiment, inputs, found)
        )
    return found


def _input_fingerprints(
    name: str,
    settings: Mapping[str, Any],
    experiment: Experiment,
    raw: RawInputs,
    found: dict[str, Recipe],
) -> dict[str, str]:
    """Return the fingerprints of a table's inputs. `found` has the recipes of earlier tables."""
    kind, *rest = name.split("/")
    match kind.split(",")[0]:
        case "interactions":
            return _file_identities(reviews=raw.reviews)
        case "metadata":
            return _file_identities(metadata=raw.metadata)
        case "rejects":
            return _file_identities(reviews=raw.reviews, metadata=raw.metadata)
        case "sequences":
            full = experiment.sequences.catalogue == "full"
            return _fingerprints(found, "interactions", *(["metadata"] if full else []))
        case "items":
            return _fingerprints(found, "sequences", "metadata")
        case "cooccurrence":
            return _fingerprints(found, "sequences")
        case "features":
            sources = _feature_sources(experiment.features[rest[0]])
            return sources | _fingerprints(found, "items")
        case "propagated":
            features = features_name(rest[0].split(",")[0])
            return _fingerprints(found, features, cooccurrence_name(experiment))
        case "neighbors":
            propagated = [propagated_name(experiment, rest[0])] if settings["mu"] else []
            return _fingerprints(found, features_name(rest[0]), *propagated)
        case "centers" | "centroids":
            return _fingerprints(found, features_name(rest[0]))
    raise AssertionError(name)


def _feature_sources(config: FeatureConfig) -> dict[str, str]:
    """Return the fingerprints of an encoder and its images, or of the files of vectors."""
    if config.encoder is not None:
        encoder = {"encoder": fingerprint(encoder_identity(config.encoder))}
        if config.images in (None, "url"):
            return encoder
        return encoder | {"images": fingerprint(folder_identity(config.images))}
    files = raw_files([uri for uri in (config.vectors, config.asins) if uri], (".parquet",))
    return _file_identities(vectors=files)


def _fingerprints(found: dict[str, Recipe], *names: str) -> dict[str, str]:
    return {name: found[name].fingerprint for name in names}


def _file_identities(**files: Sequence[RawFile]) -> dict[str, str]:
    """Return path, size and time of change of each file under a name such as `reviews.0`."""
    return {
        f"{kind}.{number}": file.identity
        for kind, listed in files.items()
        for number, file in enumerate(listed)
    }
