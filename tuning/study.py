"""Models over several seeds on one data set under one budget: Table 2 of the paper.

Every run has the data, the optimizer's settings, the budget and the evaluation of one
configuration, and what its section [study.MODEL] lays over them. Figures are means over users and
seeds, with 95% intervals of a bootstrap over users; a model and MDSRec are set against each other
on the same test events.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from evaluation.baselines import itemknn_events
from evaluation.metrics.bootstrap import Users, difference
from evaluation.metrics.events import Events, events_of
from evaluation.ranking import POPULARITY
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.models import sections
from mdsrec.errors import InputError
from tuning.overrides import overrides_of
from tuning.stages import Run, make

Floats = NDArray[np.float64]

FIRST = "mdsrec"  # what the others are set against
SHAPE = ("dim", "max_length", "num_layers", "num_heads", "inner_dim", "modalities")


def study(
    config: str,
    overrides: Sequence[str],
    models: Sequence[str],
    seeds: int,
    jobs: int = 1,
    minutes: float | None = None,
) -> str:
    """Make what is left of the study's runs -> its table as Markdown, which stands in
    `<root>/studies/NAME.md` too. InputError at the end if a run failed.
    """
    experiment = load_experiment(config, overrides)
    runs = list(runs_of(experiment, config, overrides, models, seeds))
    for run in runs:
        _ = run.experiment  # what is wrong with one is said before any begins
    outcome = make(runs, jobs, minutes)
    shown = "no run is made yet"
    if outcome.made:
        shown = table_of(experiment, outcome.made, floors_of(experiment, outcome.made[0]))
    if outcome.left:
        shown += f"\n\n{len(outcome.left)} of {len(runs)} runs are left: the same command goes on"
    else:
        uri = f"{experiment.root}/studies/{experiment.name}.md"
        files.write_bytes(uri, f"{shown}\n".encode())
        shown += f"\n\n{uri}"
    if outcome.failed:
        print(shown)
        raise InputError("; ".join(outcome.failed))
    return shown


def runs_of(
    experiment: Experiment,
    config: str,
    overrides: Sequence[str],
    models: Sequence[str],
    seeds: int,
) -> Iterator[Run]:
    """A run for each seed and model; InputError for a model that there is not."""
    known = sections()
    for name in (*models, *experiment.study):
        if name not in known:
            raise InputError(f"no model {name!r}; there is {', '.join(known)}")
    for seed, name in product(range(seeds), models or known):
        identity = [f"name={experiment.name}-{name}-{seed}", f"seed={seed}"]
        words = [*overrides, *words_of(experiment, name), *identity]
        yield Run(name, config, words)


def words_of(experiment: Experiment, name: str) -> list[str]:
    """The overrides that make the experiment one of the model `name`.

    Another model than the configuration's keeps the shape of its [model] (SHAPE), as far as it has
    those keys, and has its own defaults beside it.
    """
    words = []
    if name != experiment.model.name:
        shape = experiment.model.model_dump(mode="json", include=set(SHAPE), exclude_unset=True)
        of_model = sections()[name].model_fields
        kept = {key: value for key, value in shape.items() if key in of_model}
        words = [f'model={{name = "{name}"}}', *overrides_of({"model": kept})]
    return words + list(overrides_of(experiment.study.get(name, {})))


def floors_of(experiment: Experiment, run: Run) -> dict[str, Events]:
    """What needs no training: the items' popularity, and what was met beside a history."""
    cutoffs = experiment.eval.cutoffs
    return {
        POPULARITY: events_of(run.uri, cutoffs, POPULARITY),
        "itemknn": itemknn_events(experiment, cutoffs),
    }


def table_of(experiment: Experiment, runs: Sequence[Run], floors: Mapping[str, Events]) -> str:
    """A row a floor, and one a model from the runs that are made."""
    cutoffs = experiment.eval.cutoffs
    names = [f"{metric}@{n}" for metric, n in product(("recall", "ndcg"), cutoffs)]
    compared = [f"{metric}@{cutoffs[0]}" for metric in ("recall", "ndcg")]
    by_model: dict[str, list[Run]] = {}
    for run in runs:
        by_model.setdefault(run.kind, []).append(run)
    events = {model: _events(of, cutoffs) for model, of in by_model.items()}
    rows = [
        [name, *_means(floor, names), *_apart(floor, events, compared), "", "", "", ""]
        for name, floor in floors.items()
    ]
    for model, of in by_model.items():
        found = events[model]
        apart = _apart(found, events, compared) if model != FIRST else [""] * len(compared)
        rows.append([f"{model} ({len(of)})", *_means(found, names), *apart, *_cost(of)])
    header = ["model (seeds)", *names, *(f"{name}, less {FIRST}'s" for name in compared)]
    return markdown([*header, "parameters", "prefixes/s", "seconds to best", "best epoch"], rows)


def _events(runs: Sequence[Run], cutoffs: tuple[int, ...]) -> Events:
    """The test events' metrics, each the mean over the runs."""
    first, *others = (events_of(run.uri, cutoffs) for run in runs)
    return first._replace(values=np.mean([first.values, *(o.values for o in others)], axis=0))


def _means(events: Events, names: Sequence[str]) -> list[str]:
    users = Users.of(events.users, events.values)
    means, intervals = users.means(), users.intervals()
    places = [events.names.index(name) for name in names]
    return [f"{means[at]:.4f} [{intervals[at][0]:.4f}, {intervals[at][1]:.4f}]" for at in places]


def _apart(events: Events, of_models: Mapping[str, Events], names: Sequence[str]) -> list[str]:
    """How far from MDSRec on the same events; empty where it is no part of the study."""
    if FIRST not in of_models:
        return [""] * len(names)
    apart = difference(events.users, events.values, of_models[FIRST].values)
    return [apart.words(events.names.index(name)) for name in names]


def _cost(runs: Sequence[Run]) -> list[str]:
    """Parameters, the pace of training and the time to the best epoch, means over the runs; which
    epoch of how many is the best of each.
    """
    histories = [run.history() for run in runs]
    paces = [mean(e["prefixes_per_second"] for e in h["epochs"]) for h in histories]
    to_best = [sum(e["seconds"] for e in h["epochs"][: h["best_epoch"] + 1]) for h in histories]
    best = ", ".join(f"{h['best_epoch'] + 1} of {len(h['epochs'])}" for h in histories)
    parameters = f"{histories[0]['num_parameters']:,}"
    return [parameters, f"{mean(paces):,.0f}", f"{mean(to_best):,.0f}", best]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
