"""Settings of every table: the ETL writes them to its manifest, training checks them.

The values are part of fingerprints. Changing one, even a word, rebuilds tables.
"""

from typing import Any

from mdsrec.config import Experiment, FeatureConfig
from mdsrec.jobs.promises import current, identity
from mdsrec.table_names import (
    CATEGORIES,
    COUNTING_KEYS,
    SPREADING_KEYS,
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
from mdsrec.tables import table_uri

Settings = dict[str, Any]

TIE_RULE = "time, then input order (file as configured, line)"
SPLIT_RULES = {
    "leave_one_out": "the last event tests, the one before validates; fewer than 3 events train",
    "global_time": "events before the first cut train, before the second validate, later ones test",
}
PLACE_RULE = "leaves of a balanced tree by 2-means of the vectors that neighbors are searched in"
CATEGORY_RULE = "the file of the first metadata, or else of the first interaction, decides"
COLD_RULE = "an item is cold where CRC-32 of its id (UTF-8) is below cold_share * 2^32"


ONLY_ETL = {"interactions", "metadata", "rejects", "propagated"}  # tables that no run reads
EVENT_COLUMNS = {"user", "item", "time"}
ITEM_COLUMNS = {"item", "item_key", "title", "text", "image"}


def text_fields(experiment: Experiment) -> tuple[str, ...]:
    """Return the metadata fields of `items.text`: those of the text encoders, or the default.

    Of tables, the text columns are joined in the field `description`.
    """
    if experiment.input.format == "table":
        return ("description",)
    encoders = [f for f in experiment.features.values() if f.sees == "text"]
    fields: tuple[str, ...] = FeatureConfig.model_fields["fields"].default
    return encoders[0].fields if encoders else fields


def table_settings(experiment: Experiment) -> dict[str, Settings]:
    """Return the settings of every table by name, in an order in which they can be built."""
    graph = experiment.graph
    pairs = {"distance": graph.distance, "max_distance": graph.max_distance}
    found: dict[str, Settings] = {
        "interactions": _input_settings(experiment, EVENT_COLUMNS),
        "metadata": _input_settings(experiment, ITEM_COLUMNS),
        "rejects": _input_settings(experiment, EVENT_COLUMNS | ITEM_COLUMNS),
        "sequences": _sequence_settings(experiment),
        "items": {"text": list(text_fields(experiment))},
        **({CATEGORIES: {"rule": CATEGORY_RULE}} if experiment.input.categories else {}),
        whole_cooccurrence_name(experiment): pairs,
    }
    if graph.max_cooccurrences is not None:  # otherwise tables built before that key stay valid
        pairs = {**pairs, "max_cooccurrences": graph.max_cooccurrences}
        found[cooccurrence_name(experiment)] = pairs
    search = {
        "search": graph.search,
        "min_recall": graph.min_recall,
        "max_overlap": graph.max_overlap,
    }
    for modality in experiment.modalities:
        mus = experiment.mus(modality)
        found[features_name(modality)] = _feature_settings(experiment.features[modality])
        if any(mus):
            found[propagated_name(experiment, modality)] = {**pairs, "normalize": graph.normalize}
        for mu in mus:
            found[neighbors_name(experiment, modality, mu)] = {
                "mu": mu,
                "normalize": graph.normalize,
                **pairs,
                "num_neighbors": graph.max_neighbors,
                "whiten": graph.whiten,
                **search,
            }
        for k in experiment.all_num_centers():
            found[centers_name(experiment, modality, k)] = {"k": k}
            found[centroids_name(experiment, modality, k)] = {"k": k}
    if experiment.neighbor_modalities:
        found[places_name(experiment)] = {"rule": PLACE_RULE}
    if experiment.model.memory:
        values = experiment.transitions.model_dump(mode="json")
        counting = {key: values[key] for key in COUNTING_KEYS}
        spreading = {key: values[key] for key in SPREADING_KEYS}
        found[transitions_name(experiment)] = counting
        found[memory_name(experiment)] = counting | spreading
    return found


def run_tables(experiment: Experiment) -> list[str]:
    """Return the tables that a training or an evaluation of the experiment may read."""
    names = [name for name in table_settings(experiment) if name.split("/")[0] not in ONLY_ETL]
    return list(dict.fromkeys([*names, *map(features_name, experiment.features)]))


def run_table_fingerprints(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprints of the tables of `run_tables` that exist, by name.

    A table that was promised to this job has the promised one.
    """
    promised, root = current(), experiment.root
    uris = {name: table_uri(root, name) for name in run_tables(experiment)}
    found = {name: promised.get(uri) or identity(uri) for name, uri in uris.items()}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}


def stored_fingerprints(experiment: Experiment) -> dict[str, str]:
    """Return the fingerprints of the experiment's tables that exist, by URI.

    A job that begins with these is held to them (`mdsrec.jobs.promises`).
    """
    uris = [table_uri(experiment.root, name) for name in table_settings(experiment)]
    found = {uri: identity(uri) for uri in uris}
    return {uri: fingerprint for uri, fingerprint in found.items() if fingerprint is not None}


def _input_settings(experiment: Experiment, columns: set[str]) -> Settings:
    """Return the settings of a table that is made from the `columns` of the raw input."""
    config = experiment.input
    if config.format == "amazon":
        return {"edition": config.edition}
    keys = {"format", "separator", "source", "snapshot"}
    keys |= {"time_unit"} if "time" in columns else set()
    found = config.model_dump(mode="json", include=keys, exclude_none=True)
    return found | config.columns.model_dump(mode="json", include=columns, exclude_none=True)


def _sequence_settings(experiment: Experiment) -> Settings:
    """Return the settings of `sequences`.

    Cold items appear only if there are any, so that tables built before that key stay valid.
    """
    config = experiment.sequences
    held_out = {"cold_share": config.cold_share, "cold_rule": COLD_RULE}
    return {
        **config.model_dump(mode="json", exclude={"cold_share"}),
        "ties": TIE_RULE,
        "split_rule": SPLIT_RULES[config.split],
        "rows_per_file": experiment.spark.rows_per_file,  # bounds what training shuffles
        **(held_out if config.cold_share else {}),
    }


def _feature_settings(config: FeatureConfig) -> Settings:
    match config.sees:
        case "text":
            return {"encoder": config.encoder_name, "max_tokens": config.max_tokens}
        case "images":
            by_address = config.images == "url"
            source = {"images": "url" if by_address else "files"}
            return {"encoder": config.encoder_name, **source, "max_shared": config.max_shared}
    column = {} if config.column is None else {"column": config.column}
    return {"max_shared": config.max_shared, **column}
