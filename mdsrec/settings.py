"""What a configuration says about each table: the ETL records it, training holds it to it."""

from typing import Any

from mdsrec.config import Experiment, FeatureConfig
from mdsrec.names import (
    centers_name,
    centroids_name,
    cooccurrence_name,
    features_name,
    neighbors_name,
)

Settings = dict[str, Any]

TIE_RULE = "time, then input order (file as configured, line)"
SPLIT_RULE = "leave-one-out; fewer than 3 events train only"


def text_fields(experiment: Experiment) -> tuple[str, ...]:
    """What `items.text` is joined from: the encoders' fields, which are equal, or the default."""
    encoders = [f for f in experiment.features.values() if f.encoder]
    fields: tuple[str, ...] = FeatureConfig.model_fields["fields"].default
    return encoders[0].fields if encoders else fields


def table_settings(experiment: Experiment) -> dict[str, Settings]:
    """The settings of every table by name, in an order in which they can be built."""
    edition = {"edition": experiment.input.edition}
    distance = {"distance": experiment.graph.distance}
    found: dict[str, Settings] = {
        "interactions": edition,
        "metadata": edition,
        "rejects": edition,
        "sequences": {
            **experiment.sequences.model_dump(mode="json"),
            "ties": TIE_RULE,
            "split": SPLIT_RULE,
            "rows_per_file": experiment.spark.rows_per_file,  # bounds what training shuffles
        },
        "items": {"text": list(text_fields(experiment))},
        cooccurrence_name(experiment): distance,
    }
    for modality in experiment.modalities:
        config = experiment.features[modality]
        encoder = {"encoder": config.encoder, "max_tokens": config.max_tokens}
        found[features_name(modality)] = encoder if config.encoder else {}
        found[neighbors_name(experiment, modality)] = {
            "mu": experiment.mu(modality),
            "normalize": experiment.graph.normalize,
            **distance,
            "num_neighbors": experiment.graph.max_neighbors,
        }
        for name in (centers_name(experiment, modality), centroids_name(experiment, modality)):
            found[name] = {"k": experiment.model.num_centers}
    return found
