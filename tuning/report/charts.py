"""Charts of a sweep: the metric by each key, and the importance of the keys."""

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

LOG_RATIO = 20.0  # positive values whose extremes differ by more than this get a log scale
MIN_TRIALS = 6  # for an importance
MAX_TICKS = 8  # up to this many values, each gets a tick


class Axis(NamedTuple):
    """A key with its value in each trial."""

    key: str
    values: list[Any]
    is_log: bool = False


def varying_axes(trials: Sequence[Trial]) -> list[Axis]:
    """Return an axis for every key whose value differs between the trials.

    A simplex of n names gives n - 1 axes; the last share follows from the others.
    """
    axes: list[Axis] = []
    for key, first in trials[0].values.items() if trials else ():
        values = [trial.values[key] for trial in trials]
        if isinstance(first, Mapping):
            for name in list(first)[:-1]:
                axes.append(Axis(f"{key}.{name}", [shares[name] for shares in values]))
        else:
            axes.append(Axis(key, values, all_numbers(values) and needs_log_scale(values)))
    return [axis for axis in axes if len({json.dumps(v) for v in axis.values}) > 1]


def all_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def needs_log_scale(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_RATIO * min(values)


def metric_charts(trials: Sequence[Trial], space: Mapping[str, Domain]) -> list[tuple[str, str]]:
    """Return (title, SVG) of the metric of every trial by each numeric key.

    If the key's values are listed, the chart shows the mean of the finished trials at each value,
    with a band of one standard deviation over trials and seeds.
    """
    charts = []
    scored = [trial for trial in trials if trial.has_score]
    for key, values, is_log in varying_axes(scored):
        if not all_numbers(values):
            continue
        points = list(zip(values, scored, strict=True))
        finished = [(x, t) for x, t in points if t.state == "finished"]
        others = [(x, t.score) for x, t in points if t.state != "finished"]
        lines = [Line("not finished", "floor dots", sorted(others))] if others else []
        if any(d.is_finite for name, d in space.items() if key.startswith(name)):
            lines.append(mean_line(finished))
        else:
            dots = [(x, t.score) for x, t in finished]
            lines.append(Line("finished", "series-0 dots", sorted(dots)))
        ticks = sorted(set(values)) if len(set(values)) <= MAX_TICKS else ()
        x_label = f"{key} (log scale)" if is_log else key
        svg = line_chart(lines, x_label, f"{METRIC} by {key}", log_x=is_log, x_ticks=ticks)
        charts.append((f"validation {METRIC} by {key}", svg))
    return charts


def mean_line(finished: Sequence[tuple[float, Trial]]) -> Line:
    """Return the mean at each value, with a band of one standard deviation to both sides."""
    by_value: dict[float, list[float]] = {}
    for x, trial in finished:
        by_value.setdefault(x, []).extend(outcome[METRIC] for outcome in trial.outcomes)
    points = [(x, mean(ys)) for x, ys in sorted(by_value.items())]
    spreads = {x: stdev(ys) if len(ys) > 1 else 0.0 for x, ys in by_value.items()}
    band = [(x, y - spreads[x], y + spreads[x]) for x, y in points]
    return Line("mean of finished", "series-0", points, band if any(spreads.values()) else ())


def key_importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Return each key's share in separating the best tenth of the trials from the others.

    This is PED-ANOVA (arXiv 2304.10255). The largest share comes first. Returns {} for fewer than
    MIN_TRIALS trials with a score.
    """
    scored = [trial for trial in trials if trial.has_score]
    axes = varying_axes(scored)
    if len(scored) < MIN_TRIALS or not axes:
        return {}
    distributions = {axis.key: _distribution(axis) for axis in axes}
    study = optuna.create_study(direction="maximize")
    for at, trial in enumerate(scored):
        params = {key: _optuna_value(values[at], distributions[key]) for key, values, _ in axes}
        study.add_trial(create_trial(params=params, distributions=distributions, value=trial.score))
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: share for key, share in shares.items() if math.isfinite(share)}


def importance_chart(trials: Sequence[Trial]) -> str:
    bars = [
        Interval(key, "series-0", share, 0.0, share)
        for key, share in key_importance(trials).items()
    ]
    return interval_chart(bars, "importance of each key")


def _distribution(axis: Axis) -> BaseDistribution:
    if all_numbers(axis.values):
        return FloatDistribution(min(axis.values), max(axis.values), log=axis.is_log)
    return CategoricalDistribution(sorted({json.dumps(value) for value in axis.values}))


def _optuna_value(value: Any, distribution: BaseDistribution) -> Any:
    return float(value) if isinstance(distribution, FloatDistribution) else json.dumps(value)
