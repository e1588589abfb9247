"""Models over several seeds on one data set: Table 2 of the paper.

All runs share the data, the optimizer, the budget and the evaluation of one configuration; the
section [study.MODEL] overrides keys for one model. Metrics are means over test events and seeds,
with 95% intervals of a bootstrap over users. Each model is compared with MDSRec on the same events.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import mean

import numpy as np

from evaluation.baselines import baseline_names
from evaluation.metrics.bootstrap import Difference, UserSums
from evaluation.metrics.events import Events, Ranking, aligned_events, metric_names
from evaluation.metrics.many_users import ManyUsers
from evaluation.metrics.run_metrics import RunMetrics
from mdsrec import files
from mdsrec.arrays import Floats
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment, to_overrides
from mdsrec.config.models import section_of, sections
from mdsrec.errors import InputError
from mdsrec.text import markdown_table
from tuning.stages import RunSpec, train_and_rank
from tuning.trials import commonest_cause

REFERENCE = "mdsrec"  # the model that the others are compared with
NETWORK = "network"  # the channel without memory
SHAPE = ("dim", "max_length", "num_layers", "num_heads", "inner_dim", "modalities")


def run_study(
    config: str,
    overrides: Sequence[str],
    models: Sequence[str],
    seeds: int,
    jobs: int = 1,
    minutes: float | None = None,
) -> str:
    """Make the runs that are left and return the study's table as Markdown.

    The finished table is also written to `<root>/studies/NAME.md`. If a run failed, the table is
    printed and InputError is raised at the end; the same call tries it again.
    """
    experiment = load_experiment(config, overrides)
    runs = list(study_runs(experiment, config, overrides, models, seeds))
    for run in runs:
        _ = run.experiment  # raises for a mistake in any run before the first one starts
    result = train_and_rank(runs, jobs, minutes)
    text = "no run is finished yet"
    if result.finished:
        baselines = baseline_rankings(experiment, result.finished[0])
        text = study_table(experiment, result.finished, baselines)
    if result.left:
        text += f"\n\n{len(result.left)} of {len(runs)} runs are left: the same command continues"
    elif not result.failed:
        uri = f"{experiment.root}/studies/{experiment.name}.md"
        files.write_bytes(uri, f"{text}\n".encode())
        text += f"\n\n{uri}"
    if result.failed:
        print(text)
        raise InputError(
            f"{len(result.failed)} of {len(runs)} runs failed: {commonest_cause(result.failed)}: "
            "correct that, then run the same command again; finished runs are kept"
        )
    return text


def study_runs(
    experiment: Experiment,
    config: str,
    overrides: Sequence[str],
    models: Sequence[str],
    seeds: int,
) -> Iterator[RunSpec]:
    """Yield a run for each seed and model. Raises InputError for an unknown model."""
    for name in (*models, *experiment.study):
        section_of(name)
    for seed, name in product(range(seeds), models or sections()):
        label = name.rpartition(":")[2]  # the class of a model of the user's own
        run_keys = [f"name={experiment.name}-{label}-{seed}", f"seed={seed}"]
        yield RunSpec(name, config, [*overrides, *model_overrides(experiment, name), *run_keys])


def model_overrides(experiment: Experiment, name: str) -> list[str]:
    """Return the overrides that turn the experiment into one of the model `name`.

    A model other than the configuration's takes over the keys of SHAPE that it has too. Its other
    keys have their defaults.
    """
    overrides = []
    if name != experiment.model.name:
        shape = experiment.model.model_dump(mode="json", include=set(SHAPE), exclude_unset=True)
        own_keys = section_of(name).model_fields
        shared = {key: value for key, value in shape.items() if key in own_keys}
        overrides = [f'model={{name = "{name}"}}', *to_overrides({"model": shared})]
    return overrides + list(to_overrides(experiment.study.get(name, {})))


def baseline_rankings(experiment: Experiment, run: RunSpec) -> dict[str, Ranking]:
    """Return the rankings of the baselines without training, which any run has."""
    return {name: _ranking(run, name) for name in baseline_names(experiment)}


def study_table(
    experiment: Experiment, runs: Sequence[RunSpec], baselines: Mapping[str, Ranking]
) -> str:
    """Return a Markdown table with a row per baseline and per model.

    A model with a memory has a second row for its network only.
    """
    cutoffs = experiment.eval.cutoffs
    runs_of_model: dict[str, list[RunSpec]] = {}
    for run in runs:
        runs_of_model.setdefault(run.label, []).append(run)
    reference = _rankings(runs_of_model.get(REFERENCE, []))
    rows = [
        [name, *_figures([ranking], reference, cutoffs), *[""] * 4]
        for name, ranking in baselines.items()
    ]
    for model, seeds in runs_of_model.items():
        figures = _figures(_rankings(seeds), reference if model != REFERENCE else [], cutoffs)
        rows.append([f"{model} ({len(seeds)})", *figures, *_cost(seeds)])
        if seeds[0].experiment.model.memory and seeds[0].experiment.model.is_trained:
            figures = _figures(_rankings(seeds, NETWORK), reference, cutoffs)
            rows.append([f"{model} without memory", *figures, *[""] * 4])
    metrics, compared = shown_metrics(cutoffs)
    header = [
        "model (seeds)",
        *metrics,
        *(f"{name} better than {REFERENCE} by" for name in compared),
    ]
    cost = ["parameters", "prefixes/s", "seconds to best", "best epoch"]
    return markdown_table([*header, *cost], rows)


def shown_metrics(cutoffs: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the metrics of a row, and those in which it is compared."""
    metrics, first = ("recall", "ndcg"), cutoffs[0]
    return [f"{m}@{n}" for m, n in product(metrics, cutoffs)], [f"{m}@{first}" for m in metrics]


def _rankings(runs: Sequence[RunSpec], channel: str = "all") -> list[Ranking]:
    return [_ranking(run, channel) for run in runs]


def _ranking(run: RunSpec, channel: str) -> Ranking:
    """Return the ranking that the run's metrics.json was made from.

    InputError if that has other [eval] keys than the study: another job has evaluated the run.
    """
    metrics, wanted = RunMetrics.read(run.paths.metrics), run.experiment.eval
    if (metrics.cutoffs, metrics.exclude_seen) != (list(wanted.cutoffs), wanted.exclude_seen):
        raise InputError(
            f"{run.paths.metrics}: made with other eval.cutoffs or eval.exclude_seen than this "
            "study's: another job evaluated the run; run the same command again"
        )
    return Ranking(run.paths.uri, channel, metrics.ranks)


def _figures(
    own: Sequence[Ranking], reference: Sequence[Ranking], cutoffs: tuple[int, ...]
) -> list[str]:
    """Return the cells of each metric, a mean over rankings, and of its difference.

    The difference is from the mean over the rankings of the reference, on the same events. Its
    cells are empty without a reference.
    """
    users, paired = ManyUsers(), ManyUsers()
    for events in aligned_events([*own, *reference], cutoffs):
        values = _mean_values(events[: len(own)])
        users.add(events[0].users, values)
        if reference:
            paired.add(events[0].users, values - _mean_values(events[len(own) :]))
    names, (metrics, compared) = metric_names(cutoffs), shown_metrics(cutoffs)
    cells = _mean_cells(users.sums(), [names.index(name) for name in metrics])
    if not reference:
        return [*cells, *[""] * len(compared)]
    found = Difference.of(paired.sums())
    return [*cells, *(found.text(names.index(name)) for name in compared)]


def _mean_values(events: Sequence[Events]) -> Floats:
    values: Floats = np.mean([each.values for each in events], axis=0)
    return values


def _mean_cells(users: UserSums, columns: Sequence[int]) -> list[str]:
    """Return `mean [low, high]` of each metric."""
    means, intervals = users.means(), users.intervals()
    return [f"{means[at]:.4f} [{intervals[at][0]:.4f}, {intervals[at][1]:.4f}]" for at in columns]


def _cost(runs: Sequence[RunSpec]) -> list[str]:
    """Return the cells on training.

    These are the parameters, the mean speed, the mean time to the best epoch, and the best epoch of
    each run. A model without training has only the first.
    """
    histories = [run.history() for run in runs]
    if not histories[0]["num_parameters"]:
        return ["0", "", "", ""]
    speeds = [mean(e["prefixes_per_second"] for e in h["epochs"]) for h in histories]
    to_best = [sum(e["seconds"] for e in h["epochs"][: h["best_epoch"] + 1]) for h in histories]
    best = ", ".join(f"{h['best_epoch'] + 1} of {len(h['epochs'])}" for h in histories)
    parameters = f"{histories[0]['num_parameters']:,}"
    return [parameters, f"{mean(speeds):,.0f}", f"{mean(to_best):,.0f}", best]
