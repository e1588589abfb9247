"""What a sweep's trials say of each key: curves, and how much the metric hangs on it."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from evaluation.report.svg import Interval, Line, interval_chart, line_chart
from mdsrec.config.tune import Domain
from tuning.trials import METRIC, Trial

LOG_SPAN = 20.0  # values whose ends are further apart than this factor stand on a log scale
FEWEST = 6  # trials for an importance


class Axis(NamedTuple):
    """A key with its value in each trial."""

    key: str
    values: list[Any]
    is_log: bool = False


def axes_of(trials: Sequence[Trial]) -> list[Axis]:
    """Every key that varies; of a simplex, all names but the last, which the others leave no
    choice.
    """
    found: list[Axis] = []
    for key, first in trials[0].values.items() if trials else ():
        values = [trial.values[key] for trial in trials]
        if isinstance(first, Mapping):
            for name in list(first)[:-1]:
                found.append(Axis(f"{key}.{name}", [shares[name] for shares in values]))
        else:
            found.append(Axis(key, values, is_number(values) and spans_far(values)))
    return [axis for axis in found if len({json.dumps(v) for v in axis.values}) > 1]


def is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def spans_far(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_SPAN * min(values)


def curves(trials: Sequence[Trial], space: Mapping[str, Domain]) -> list[tuple[str, str]]:
    """A chart for each key with numbers: the metric of every trial by its value, and where values
    were listed, the mean of the trials that finished, with a band of one standard deviation over
    trials and seeds.
    """
    drawn = []
    told = [trial for trial in trials if trial.best == trial.best]
    for key, values, is_log in axes_of(told):
        if not is_number(values):
            continue
        points = list(zip(values, told, strict=True))
        finished = [(x, t) for x, t in points if t.state == "finished"]
        others = [(x, t.best) for x, t in points if t.state != "finished"]
        lines = [Line("not trained to the end", "floor dots", sorted(others))] if others else []
        if any(d.is_finite for name, d in space.items() if key.startswith(name)):
            lines.append(mean_line(finished))
        else:
            dots = [(x, t.best) for x, t in finished]
            lines.append(Line("finished", "series-0 dots", sorted(dots)))
        ticks = sorted(set(values)) if len(set(values)) <= 8 else ()
        svg = line_chart(lines, key, f"{METRIC} by {key}", log_x=is_log, x_ticks=ticks)
        drawn.append((f"validation {METRIC} by {key}", svg))
    return drawn


def mean_line(finished: Sequence[tuple[float, Trial]]) -> Line:
    """The mean at each value, and one deviation to both sides."""
    by_value: dict[float, list[float]] = {}
    for x, trial in finished:
        by_value.setdefault(x, []).extend(outcome[METRIC] for outcome in trial.outcomes)
    points = [(x, mean(found)) for x, found in sorted(by_value.items())]
    spreads = {x: stdev(found) if len(found) > 1 else 0.0 for x, found in by_value.items()}
    band = [(x, y - spreads[x], y + spreads[x]) for x, y in points]
    return Line("mean of finished", "series-0", points, band if any(spreads.values()) else ())


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """The share of each key in what tells good trials from others (PED-ANOVA, arXiv 2304.10255),
    the largest first; empty of too few trials.
    """
    told = [trial for trial in trials if trial.best == trial.best]
    axes = axes_of(told)
    if len(told) < FEWEST or not axes:
        return {}
    of = {axis.key: _distribution(axis) for axis in axes}
    study = optuna.create_study(direction="maximize")
    for at, trial in enumerate(told):
        params = {key: _plain(values[at], of[key]) for key, values, _ in axes}
        study.add_trial(create_trial(params=params, distributions=of, value=trial.best))
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: share for key, share in found.items() if math.isfinite(share)}


def importance_chart(trials: Sequence[Trial]) -> str:
    bars = [
        Interval(key, "series-0", share, 0.0, share) for key, share in importance(trials).items()
    ]
    return interval_chart(bars, "importance of each key")


def _distribution(axis: Axis) -> BaseDistribution:
    if is_number(axis.values):
        return FloatDistribution(min(axis.values), max(axis.values), log=axis.is_log)
    return CategoricalDistribution(sorted({json.dumps(value) for value in axis.values}))


def _plain(value: Any, distribution: BaseDistribution) -> Any:
    return float(value) if isinstance(distribution, FloatDistribution) else json.dumps(value)
