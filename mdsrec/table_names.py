"""Where things stand under a root: runs, and tables by the keys that ETL and training share."""

from decimal import Decimal

from mdsrec.config import Experiment, GraphConfig


def run_uri(experiment: Experiment) -> str:
    return f"{experiment.root}/runs/{experiment.name}"


def cooccurrence_name(experiment: Experiment) -> str:
    return _keyed("cooccurrence", _departures(experiment.graph, "distance", "max_distance"))


def features_name(modality: str) -> str:
    return f"features/{modality}"


def propagated_name(experiment: Experiment, modality: str) -> str:
    return _keyed(f"propagated/{modality}", _graph_departures(experiment))


def neighbors_name(experiment: Experiment, modality: str, mu: float | None = None) -> str:
    """`neighbors/MODALITY/KEY`; KEY is `mu=0.2` and what departs from the graph's defaults.

    `mu` None is the model's.
    """
    chosen = experiment.mu(modality) if mu is None else mu
    key = _keyed(f"mu={_decimal(chosen)}", _graph_departures(experiment))
    return f"neighbors/{modality}/{key}"


def centers_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    """`k` None is the model's."""
    return f"centers/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def centroids_name(experiment: Experiment, modality: str, k: int | None = None) -> str:
    return f"centroids/{modality}/k={k or experiment.model.all_num_centers()[0]}"


def _graph_departures(experiment: Experiment) -> list[str]:
    return _departures(experiment.graph, "normalize", "distance", "max_distance")


def _departures(config: GraphConfig, *keys: str) -> list[str]:
    values = config.model_dump(mode="json")
    defaults = GraphConfig().model_dump(mode="json")
    return [f"{key}={values[key]}".lower() for key in keys if values[key] != defaults[key]]


def _keyed(name: str, departures: list[str]) -> str:
    return ",".join([name, *departures])


def _decimal(value: float) -> str:
    """The shortest decimal that reads back as `value`, without exponent or trailing zeros."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
