"""Names of the tables under `<root>/dataset/`, shared by the ETL and training."""

from decimal import Decimal

from mdsrec.config import Experiment, GraphConfig, TransitionsConfig

CATEGORIES = "categories"
COUNTING_KEYS = ("decay", "max_distance", "reverse")
SPREADING_KEYS = ("mu", "num_neighbors", "spread", "similarity", "max_entries")


def run_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/runs/{experiment.name}"


def cooccurrence_name(experiment: Experiment) -> str:
    """Return the table that holds O: all of it, or the heaviest entries of each row."""
    keys = ("distance", "max_distance", "max_cooccurrences")
    return _keyed("cooccurrence", _changed_keys(experiment.graph, *keys))


def whole_cooccurrence_name(experiment: Experiment) -> str:
    """Return the table of all entries of O."""
    return _keyed("cooccurrence", _changed_keys(experiment.graph, "distance", "max_distance"))


def transitions_name(experiment: Experiment) -> str:
    return _keyed("transitions", _changed_keys(experiment.transitions, *COUNTING_KEYS))


def memory_name(experiment: Experiment) -> str:
    """Return `memory/MODALITIES`, or `memory` if it is not spread, and every changed key.

    Keys of the graph, which decide the neighbors, are written as `graph.KEY`.
    """
    modalities = experiment.memory_modalities
    name = f"memory/{'+'.join(modalities)}" if modalities else "memory"
    changed = _changed_keys(experiment.transitions, *COUNTING_KEYS, *SPREADING_KEYS)
    graph = [f"graph.{key}" for key in _changed_neighbor_keys(experiment)] if modalities else []
    return _keyed(name, changed + graph)


def features_name(modality: str) -> str:
    return f"features/{modality}"


def propagated_name(experiment: Experiment, modality: str) -> str:
    return _keyed(f"propagated/{modality}", _changed_graph_keys(experiment))


def neighbors_name(experiment: Experiment, modality: str, mu: float | None = None) -> str:
    """Return `neighbors/MODALITY/KEY`: KEY is `mu=0.2` and every graph key that is not the default.

    Without `mu` it is the model's.
    """
    chosen = experiment.model.mus(modality)[0] if mu is None else mu
    key = _keyed(f"mu={_decimal(chosen)}", _changed_neighbor_keys(experiment))
    return f"neighbors/{modality}/{key}"


def places_name(experiment: Experiment) -> str:
    """Return `places/MODALITIES/KEY`: KEY is that of the model's neighbors.

    If mu differs by modality it is that of each, joined by `+`. An experiment without
    `neighbor_modalities` has no such table: there, the place of an item is the item.
    """
    modalities = experiment.neighbor_modalities
    mus = [_decimal(experiment.model.mus(modality)[0]) for modality in modalities]
    joined = mus[0] if len(set(mus)) == 1 else "+".join(mus)
    key = _keyed(f"mu={joined}", _changed_neighbor_keys(experiment))
    return f"places/{'+'.join(modalities)}/{key}"


def centers_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    """Return `centers/MODALITY/k=K`; without `k` it is the model's."""
    return f"centers/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def centroids_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    return f"centroids/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def _changed_graph_keys(experiment: Experiment) -> list[str]:
    keys = ("normalize", "distance", "max_distance", "max_cooccurrences")
    return _changed_keys(experiment.graph, *keys)


def _changed_neighbor_keys(experiment: Experiment) -> list[str]:
    return _changed_graph_keys(experiment) + _changed_keys(experiment.graph, "whiten")


def _changed_keys(config: GraphConfig | TransitionsConfig, *keys: str) -> list[str]:
    """Return `key=value` of every key that is not the default."""
    defaults = type(config)()
    values = {key: getattr(config, key) for key in keys}
    return [
        f"{key}={_decimal(value) if isinstance(value, float) else value}".lower()
        for key, value in values.items()
        if value != getattr(defaults, key)
    ]


def _keyed(name: str, changed: list[str]) -> str:
    return ",".join([name, *changed])


def _decimal(value: float) -> str:
    """Return the shortest decimal that parses to `value`, without exponent or trailing zeros."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
