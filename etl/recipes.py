"""What decides the content of each table: its settings and the fingerprints of what it is made
from.

A table whose manifest carries the same fingerprint stands as it is. Partitions and memory are
not part of a recipe: they do not change a table's rows. Rows a file are part of that of
`sequences`: they bound what training shuffles.
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
class Inputs:
    """The raw files of an experiment; `file` in the tables is a position in these."""

    reviews: tuple[RawFile, ...]
    metadata: tuple[RawFile, ...]


def raw_inputs(experiment: Experiment) -> Inputs:
    config = experiment.input
    return Inputs(tuple(raw_files(config.reviews)), tuple(raw_files(config.metadata)))


def recipes(experiment: Experiment, inputs: Inputs) -> dict[str, Recipe]:
    """A recipe for each table by name, in an order in which they can be built."""
    found: dict[str, Recipe] = {}
    for name, settings in table_settings(experiment).items():
        found[name] = Recipe(settings, _inputs(name, settings, experiment, inputs, found))
    return found


def _inputs(
    name: str,
    settings: Mapping[str, Any],
    experiment: Experiment,
    raw: Inputs,
    found: dict[str, Recipe],
) -> dict[str, str]:
    """Fingerprints of what the table is made from; the tables among them are in `found`."""
    kind, *rest = name.split("/")
    match kind.split(",")[0]:
        case "interactions":
            return _identities(reviews=raw.reviews)
        case "metadata":
            return _identities(metadata=raw.metadata)
        case "rejects":
            return _identities(reviews=raw.reviews, metadata=raw.metadata)
        case "sequences":
            full = experiment.sequences.catalogue == "full"
            return _of(found, "interactions", *(["metadata"] if full else []))
        case "items":
            return _of(found, "sequences", "metadata")
        case "cooccurrence":
            return _of(found, "sequences")
        case "features":
            return _feature_sources(experiment.features[rest[0]]) | _of(found, "items")
        case "propagated":
            return _of(found, features_name(rest[0].split(",")[0]), cooccurrence_name(experiment))
        case "neighbors":
            moved = [propagated_name(experiment, rest[0])] if settings["mu"] else []
            return _of(found, features_name(rest[0]), *moved)
        case "centers" | "centroids":
            return _of(found, features_name(rest[0]))
    raise AssertionError(name)


def _feature_sources(config: FeatureConfig) -> dict[str, str]:
    if config.encoder is not None:
        encoder = {"encoder": fingerprint(encoder_identity(config.encoder))}
        if config.images in (None, "url"):
            return encoder
        return encoder | {"images": fingerprint(folder_identity(config.images))}
    files = raw_files([uri for uri in (config.vectors, config.asins) if uri], (".parquet",))
    return _identities(vectors=files)


def _of(found: dict[str, Recipe], *names: str) -> dict[str, str]:
    return {name: found[name].fingerprint for name in names}


def _identities(**files: Sequence[RawFile]) -> dict[str, str]:
    """Each file under a name such as reviews.0, by path, size and time of change."""
    return {
        f"{kind}.{number}": file.identity
        for kind, listed in files.items()
        for number, file in enumerate(listed)
    }
