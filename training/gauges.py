"""What Prometheus reads of a training: Ray exports it on a node's metrics port, as ray_NAME."""

from collections.abc import Mapping

from ray.util.metrics import Gauge

GAUGES = {  # by the name of an epoch's figure
    "epoch": ("mdsrec_epoch", "Epoch that the run is in, or ended last"),
    "loss": ("mdsrec_loss", "Training loss of the epoch so far"),
    "prefixes_per_second": ("mdsrec_prefixes_per_second", "Pace of all ranks together"),
    "ndcg@10": ("mdsrec_valid_ndcg_at_10", "Validation ndcg@10 of the epoch that ended last"),
}


class Gauges:
    """A run's gauges, kept by its rank 0 while that lives."""

    def __init__(self, run: str) -> None:
        self._gauges = {
            figure: Gauge(name, meaning, ("run",)) for figure, (name, meaning) in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def set(self, figures: Mapping[str, float]) -> None:
        """Those of an epoch that are known."""
        for figure in self._gauges.keys() & figures.keys():
            self._gauges[figure].set(figures[figure])
