"""Recipes of the tables: their settings, and the fingerprints of the inputs they are made from.

A table is up to date if its manifest has the fingerprint of its recipe. Input files are identified
by their content, so they may be copied or moved. Partitions and memory are not part of a recipe
because they do not change the rows. `spark.rows_per_file` is part of the recipe of `sequences`
because training shuffles within files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from etl.catalogue.categories import Categories
from etl.catalogue.content_hashes import ContentHashes
from etl.catalogue.raw import RawFile, raw_files
from etl.features.encoders import encoder_identity
from etl.features.images import folder_identity
from etl.tabular.listing import input_files
from mdsrec.config import Experiment, FeatureConfig, InputConfig
from mdsrec.errors import InputError
from mdsrec.table_names import (
    cooccurrence_name,
    features_name,
    neighbors_name,
    propagated_name,
    transitions_name,
    whole_cooccurrence_name,
)
from mdsrec.table_settings import table_settings
from mdsrec.tables import Recipe, fingerprint


@dataclass(frozen=True)
class RawInputs:
    """The raw files of an experiment. The column `file` of a table is a position in these."""

    interactions: tuple[RawFile, ...]
    items: tuple[RawFile, ...]
    categories: Categories | None = None  # None if there are none


def raw_inputs(experiment: Experiment) -> RawInputs:
    """List the raw files. Raises InputError if one is missing or empty."""
    config = experiment.input
    if not config.categories:
        return RawInputs(*_listed_files(config))
    parts = {name: _listed_files(config.of_category(name)) for name in config.categories}
    interactions, items = zip(*parts.values(), strict=True)
    of_files = (tuple(name for name, part in parts.items() for _ in part[kind]) for kind in (0, 1))
    return RawInputs(tuple(chain(*interactions)), tuple(chain(*items)), Categories(*of_files))


def _listed_files(config: InputConfig) -> tuple[tuple[RawFile, ...], tuple[RawFile, ...]]:
    """Return the files of interactions and those of items."""
    if config.format == "table":
        interactions = input_files(config, config.interactions)
        items = input_files(config, config.items)
    else:
        interactions, items = (raw_files(names) for names in (config.reviews, config.metadata))
        if empty := [file.uri for file in (*interactions, *items) if file.size == 0]:
            raise InputError(f"{empty[0]}: the file is empty")
    return tuple(interactions), tuple(items)


def recipes(experiment: Experiment, inputs: RawInputs) -> dict[str, Recipe]:
    """Return the recipe of each table by name, in an order in which they can be built.

    Input files that have changed are read once, to hash them.
    """
    hashes = _file_hashes(experiment, inputs)
    found: dict[str, Recipe] = {}
    for name, settings in table_settings(experiment).items():
        made_from = _fingerprints(found, *_tables_read(name, settings, experiment))
        found[name] = Recipe(settings, hashes.get(name, {}) | made_from)
    return found


def _tables_read(name: str, settings: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Return the tables that a table is made from."""
    kind, *rest = name.split("/")
    match kind.split(",")[0]:
        case "interactions" | "metadata" | "rejects":
            return []
        case "sequences":
            full = experiment.sequences.catalogue == "full"
            return ["interactions", "metadata"] if full else ["interactions"]
        case "items":
            return ["sequences", "metadata"]
        case "categories":
            return ["interactions", "metadata", "items"]
        case "cooccurrence" if "max_cooccurrences" in settings:
            return [whole_cooccurrence_name(experiment)]
        case "cooccurrence" | "transitions":
            return ["sequences"]
        case "features":
            return ["items"]
        case "propagated":
            return [features_name(rest[0].split(",")[0]), cooccurrence_name(experiment)]
        case "neighbors":
            propagated = [propagated_name(experiment, rest[0])] if settings["mu"] else []
            return [features_name(rest[0]), *propagated]
        case "centers" | "centroids":
            return [features_name(rest[0])]
        case "places":  # the vectors too, but neighbors change whenever these do
            return [neighbors_name(experiment, m) for m in experiment.neighbor_modalities]
        case "memory":
            mu, modalities = settings["mu"], experiment.memory_modalities
            neighbors = [neighbors_name(experiment, modality, mu) for modality in modalities]
            return [transitions_name(experiment), *neighbors]
    raise AssertionError(name)


def _file_hashes(experiment: Experiment, inputs: RawInputs) -> dict[str, dict[str, str]]:
    """Return, for each table that is made from files, the hashes of their content."""
    hashes = ContentHashes(experiment.root)
    reviews = _numbered("reviews", _hashes_of(inputs.interactions, experiment, hashes))
    metadata = _numbered("metadata", _hashes_of(inputs.items, experiment, hashes))
    found = {"interactions": reviews, "metadata": metadata, "rejects": reviews | metadata}
    if inputs.categories is not None:
        found["categories"] = {"categories of files": fingerprint(asdict(inputs.categories))}
    for modality in experiment.modalities:
        config = experiment.features[modality]
        has_column = config.column is not None
        found[features_name(modality)] = metadata if has_column else _feature_hashes(config, hashes)
    return found


def _hashes_of(
    files: Sequence[RawFile], experiment: Experiment, hashes: ContentHashes
) -> list[str]:
    """Return the hashes of the raw files. What a Spark source loads is known by its name only."""
    config = experiment.input
    if config.source is None:
        return hashes.of_files(files)
    return [fingerprint([config.source, file.uri, config.snapshot]) for file in files]


def _feature_hashes(config: FeatureConfig, hashes: ContentHashes) -> dict[str, str]:
    """Return the hashes of an encoder and its images, or of the files of vectors."""
    if config.encoder is not None:
        encoder = {"encoder": fingerprint(encoder_identity(config.encoder, hashes))}
        if config.images in (None, "url"):
            return encoder
        return encoder | {"images": folder_identity(config.images, hashes)}
    files = raw_files([uri for uri in (config.vectors, config.ids) if uri], (".parquet",))
    return _numbered("vectors", hashes.of_files(files))


def _fingerprints(found: dict[str, Recipe], *names: str) -> dict[str, str]:
    return {name: found[name].fingerprint for name in names}


def _numbered(kind: str, content_hashes: Sequence[str]) -> dict[str, str]:
    """Return each hash under a name such as `reviews.0`."""
    return {f"{kind}.{number}": text for number, text in enumerate(content_hashes)}
