"""Names of the tables under `<root>/dataset/`, shared by the ETL and training."""

from decimal import Decimal

from mdsrec.config import Experiment, GraphConfig


def run_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/runs/{experiment.name}"


def cooccurrence_name(experiment: Experiment) -> str:
    return _keyed("cooccurrence", _changed_keys(experiment.graph, "distance", "max_distance"))


def features_name(modality: str) -> str:
    return f"features/{modality}"


def propagated_name(experiment: Experiment, modality: str) -> str:
    return _keyed(f"propagated/{modality}", _changed_graph_keys(experiment))


def neighbors_name(experiment: Experiment, modality: str, mu: float | None = None) -> str:
    """Return `neighbors/MODALITY/KEY`: KEY is `mu=0.2` and every graph key that is not the default.

    Without `mu` it is the model's.
    """
    chosen = experiment.model.mus(modality)[0] if mu is None else mu
    key = _keyed(f"mu={_decimal(chosen)}", _changed_graph_keys(experiment))
    return f"neighbors/{modality}/{key}"


def centers_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    """Return `centers/MODALITY/k=K`; without `k` it is the model's."""
    return f"centers/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def centroids_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    return f"centroids/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def _changed_graph_keys(experiment: Experiment) -> list[str]:
    return _changed_keys(experiment.graph, "normalize", "distance", "max_distance")


def _changed_keys(config: GraphConfig, *keys: str) -> list[str]:
    values = config.model_dump(mode="json")
    defaults = GraphConfig().model_dump(mode="json")
    return [f"{key}={values[key]}".lower() for key in keys if values[key] != defaults[key]]


def _keyed(name: str, changed: list[str]) -> str:
    return ",".join([name, *changed])


def _decimal(value: float) -> str:
    """Return the shortest decimal that parses to `value`, without exponent or trailing zeros."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
