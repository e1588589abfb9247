"""Runs that start in different ways: the time to the first form's best, and quality."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from evaluation.metrics.bootstrap import difference
from evaluation.metrics.events import Events, Ranking, all_events, metric_names
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from training.inference import ALL, NETWORK
from tuning.stages import RunSpec, train_and_rank

CUTOFFS = (10, 20)
VALIDATION = "ndcg@10"  # decides the best epoch
SHOWN = ("recall@10", "ndcg@10")
Forms = Mapping[str, list[str]]  # overrides of each form, by its name


class Reached(NamedTuple):
    """When a run first reaches a validation metric, None if it never does."""

    epochs: float | None
    seconds: float | None


def runs_of(
    config: str, common: Sequence[str], name: str, forms: Forms, seeds: int
) -> list[RunSpec]:
    """Return a run of each form and seed; `{seed}` in an override is replaced."""
    return [
        RunSpec(
            form,
            config,
            [
                *common,
                *(override.replace("{seed}", str(seed)) for override in overrides),
                f"name={name}-{_slug(form)}-{seed}",
                f"seed={seed}",
            ],
        )
        for seed, (form, overrides) in product(range(seeds), forms.items())
    ]


def train_all(runs: Sequence[RunSpec], jobs: int) -> None:
    """Train and rank all runs. InputError if one failed."""
    outcome = train_and_rank(runs, jobs)
    if outcome.failed:
        raise InputError("; ".join(outcome.failed))


def print_tables(runs: Sequence[RunSpec], untrained: Sequence[RunSpec] = ()) -> None:
    """Print a table of the whole score, and with a memory one of the network without it.

    `untrained` are runs that were trained on other events, so their epochs are not compared.
    """
    has_memory = runs[0].experiment.model.memory
    for channel in [ALL, NETWORK] if has_memory else [ALL]:
        print(f"channel {channel}\n\n{_table(runs, untrained, channel)}\n")


def _table(runs: Sequence[RunSpec], untrained: Sequence[RunSpec], channel: str) -> str:
    """Return a table of the starts, each compared with the first one, over all seeds.

    Seconds count the steps and the validation of epochs, not what comes before the first step.
    """
    of_form: dict[str, list[RunSpec]] = {}
    for run in (*runs, *untrained):
        of_form.setdefault(run.label, []).append(run)
    first, *_ = of_form
    histories = {form: [run.history() for run in these] for form, these in of_form.items()}
    events = {form: [_events(run, channel) for run in these] for form, these in of_form.items()}
    no_epochs = {run.label for run in untrained}
    rows = [
        [
            form,
            *(["", "", ""] if form in no_epochs else _times(histories[form], histories[first])),
            *_quality(events[form]),
            *(_differences(events[form], events[first]) if form != first else ["", ""]),
        ]
        for form in of_form
    ]
    header = [
        "start",
        "best epoch",
        f"epochs to the best of {first}",
        f"seconds to it, of those of {first}",
        *SHOWN,
        *(f"{name} better than {first} by" for name in SHOWN),
    ]
    return markdown_table(header, rows)


def reached(epochs: Sequence[Mapping[str, Any]], value: float) -> Reached:
    """Return the epochs and seconds after which the validation metric is at least `value`."""
    seconds = 0.0
    for number, epoch in enumerate(epochs, 1):
        seconds += epoch["seconds"]
        if epoch[VALIDATION] >= value:
            return Reached(number, seconds)
    return Reached(None, None)


def _times(
    histories: Sequence[Mapping[str, Any]], of_first: Sequence[Mapping[str, Any]]
) -> list[str]:
    best = [str(history["best_epoch"] + 1) for history in histories]
    epochs, shares = [], []
    for history, first in zip(histories, of_first, strict=True):
        value = first["epochs"][first["best_epoch"]][VALIDATION]
        found, base = reached(history["epochs"], value), reached(first["epochs"], value)
        epochs.append("never" if found.epochs is None else str(found.epochs))
        assert base.seconds is not None
        shares.append("-" if found.seconds is None else f"{found.seconds / base.seconds:.2f}")
    return [", ".join(column) for column in (best, epochs, shares)]


def _quality(events: Sequence[Events]) -> list[str]:
    means = np.array([each.values.mean(axis=0)[_columns()] for each in events])
    spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.zeros(len(SHOWN))
    return [
        f"{mean:.4f} ± {each:.4f}" for mean, each in zip(means.mean(axis=0), spread, strict=True)
    ]


def _differences(events: Sequence[Events], first: Sequence[Events]) -> list[str]:
    values, baseline = (np.mean([each.values for each in of], axis=0) for of in (events, first))
    found = difference(events[0].users, values, baseline)
    return [found.text(column) for column in _columns()]


def _columns() -> list[int]:
    return [metric_names(CUTOFFS).index(name) for name in SHOWN]


def _events(run: RunSpec, channel: str) -> Events:
    return all_events(Ranking(run.paths.uri, channel), CUTOFFS)


def _slug(form: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in form)
