"""Runs of several variants over several seeds, and their test metrics beside the first variant's.

Every run is trained and ranked by the command-line stages. Finished runs are not repeated.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Events, Ranking, all_events, metric_names
from mdsrec.arrays import Floats
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.inference import ALL, NETWORK
from tuning.stages import RunSpec, train_and_rank

CUTOFFS = (10, 20)
Variants = Mapping[str, list[str]]  # overrides of each variant, by its name


def runs_of(
    config: str, common: Sequence[str], name: str, variants: Variants, seeds: int
) -> list[RunSpec]:
    """Return a run of each variant and seed, seed by seed; `{seed}` in an override is replaced."""
    return [
        RunSpec(
            variant,
            config,
            [
                *common,
                *(override.replace("{seed}", str(seed)) for override in overrides),
                f"name={name}-{_slug(variant)}-{seed}",
                f"seed={seed}",
            ],
        )
        for seed, (variant, overrides) in product(range(seeds), variants.items())
    ]


def train_all(runs: Sequence[RunSpec], jobs: int) -> None:
    """Train and rank all runs, `jobs` in parallel. InputError if one failed."""
    outcome = train_and_rank(runs, jobs)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))


def channels_of(experiment: Experiment) -> list[str]:
    """Return the channels to compare: the whole score, and with a memory the network without it."""
    return [ALL, NETWORK] if experiment.model.memory else [ALL]


def events_of(runs: Sequence[RunSpec], channel: str) -> dict[str, list[Events]]:
    """Return the test events of each variant's runs, as one channel ranks them."""
    found: dict[str, list[Events]] = {}
    for run in runs:
        events = all_events(Ranking(run.paths.uri, channel), CUTOFFS)
        found.setdefault(run.label, []).append(events)
    return found


def columns_of(names: Sequence[str]) -> list[int]:
    """Return the places of metrics in `Events.values`."""
    return [metric_names(CUTOFFS).index(name) for name in names]


def metric_cells(events: Sequence[Events], names: Sequence[str]) -> list[str]:
    """Return the mean of each metric over the runs, with its deviation."""
    columns = columns_of(names)
    of_runs = np.stack([each.values[:, columns].mean(axis=0) for each in events])
    return [mean_and_deviation(values) for values in of_runs.T]


def difference_cells(
    events: Sequence[Events], first: Sequence[Events], names: Sequence[str]
) -> list[str]:
    """Return by how much the runs are better than the first variant's, over users and seeds."""
    values, baseline = (np.mean([each.values for each in of], axis=0) for of in (events, first))
    found = difference(events[0].users, values, baseline)
    return [found.text(column) for column in columns_of(names)]


def mean_and_deviation(values: Floats) -> str:
    """Return `0.1486 ± 0.0007`; one value has no deviation."""
    deviation = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{deviation}"


def _slug(variant: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in variant)
