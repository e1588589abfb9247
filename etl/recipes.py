"""What decides the content of each table: its settings and the fingerprints of what it is made
from.

A table whose manifest carries the same fingerprint stands as it is. Partitions, memory and file
sizes are not part of a recipe: they do not change a table's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from etl.features import encoder_identity
from etl.raw import RawFile, raw_files
from etl.sequences import TIE_RULE
from mdsrec.config import Experiment, FeatureConfig
from mdsrec.names import (
    centers_name,
    centroids_name,
    cooccurrence_name,
    features_name,
    neighbors_name,
)
from mdsrec.tables import Recipe


@dataclass(frozen=True)
class Inputs:
    """The raw files of an experiment; `file` in the tables is a position in these."""

    reviews: tuple[RawFile, ...]
    metadata: tuple[RawFile, ...]


def raw_inputs(experiment: Experiment) -> Inputs:
    config = experiment.input
    return Inputs(tuple(raw_files(config.reviews)), tuple(raw_files(config.metadata)))


def text_fields(experiment: Experiment) -> tuple[str, ...]:
    """What `items.text` is joined from: the encoders' fields, which are equal, or the default."""
    encoders = [f for f in experiment.features.values() if f.encoder]
    return encoders[0].fields if encoders else FeatureConfig.model_fields["fields"].default


def recipes(experiment: Experiment, inputs: Inputs) -> dict[str, Recipe]:
    """A recipe for each table by name, in an order in which they can be built."""
    edition = {"edition": experiment.input.edition}
    found = {
        "interactions": Recipe(edition, _identities(reviews=inputs.reviews)),
        "metadata": Recipe(edition, _identities(metadata=inputs.metadata)),
        "rejects": Recipe(edition, _identities(reviews=inputs.reviews, metadata=inputs.metadata)),
    }
    sequences = experiment.sequences.model_dump(mode="json")
    split = {"ties": TIE_RULE, "split": "leave-one-out; fewer than 3 events train only"}
    found["sequences"] = Recipe(sequences | split, _of(found, "interactions"))
    found["items"] = Recipe(
        {"text": list(text_fields(experiment))}, _of(found, "sequences", "metadata")
    )
    graph = cooccurrence_name(experiment)
    found[graph] = Recipe({"distance": experiment.graph.distance}, _of(found, "sequences"))
    for modality in experiment.modalities:
        features = features_name(modality)
        found[features] = _features_recipe(experiment.features[modality], found)
        found[neighbors_name(experiment, modality)] = Recipe(
            {
                "mu": experiment.mu(modality),
                "normalize": experiment.graph.normalize,
                "distance": experiment.graph.distance,
                "num_neighbors": experiment.graph.max_neighbors,
            },
            _of(found, features, graph),
        )
        centers = Recipe(
            {"k": experiment.model.num_centers, "seed": experiment.seed}, _of(found, features)
        )
        found[centers_name(experiment, modality)] = centers
        found[centroids_name(experiment, modality)] = centers
    return found


def _features_recipe(config: FeatureConfig, found: dict[str, Recipe]) -> Recipe:
    if config.encoder is not None:
        settings = {
            "encoder": encoder_identity(config.encoder),
            "max_tokens": config.max_tokens,
        }
        return Recipe(settings, _of(found, "items"))
    files = raw_files([uri for uri in (config.vectors, config.asins) if uri], (".parquet",))
    return Recipe({}, _identities(vectors=files) | _of(found, "items"))


def _of(found: dict[str, Recipe], *names: str) -> dict[str, str]:
    return {name: found[name].fingerprint for name in names}


def _identities(**files: Sequence[RawFile]) -> dict[str, str]:
    """Each file under a name such as reviews.0, by path, size and time of change."""
    return {
        f"{kind}.{number}": file.identity
        for kind, listed in files.items()
        for number, file in enumerate(listed)
    }
