"""The evaluation stage: ranks table, metrics.json, cases.json and report.html of a run."""

import logging
import shlex
from collections.abc import Callable, Sequence

from evaluation.actors.job_groups import keeping_groups
from evaluation.baselines import baseline_names, itemknn_obstacle
from evaluation.case_study import case_study
from evaluation.channel_weights import describe_weighted
from evaluation.metrics.coverage import list_metrics
from evaluation.metrics.run_metrics import RunMetrics
from evaluation.metrics.slices import modalities_of_data, read_slicings
from evaluation.metrics.summary import summarize
from evaluation.pool import write_table_in_shards
from evaluation.ranking import ranked_names
from evaluation.report.pictures import check_pictures, load_thumbnails
from evaluation.report.run_report import (
    ReportData,
    candidates_text,
    channel_rows,
    headline_metrics,
    report_page,
)
from evaluation.stored.held_run import check_held, held_run
from evaluation.stored_weights import model_inputs, weights_in_recipe
from evaluation.workers import RankWorker
from mdsrec import files, table_names, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.names import spelled
from mdsrec.config import Experiment
from mdsrec.jobs.promises import hold
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Manifest, Recipe
from mdsrec.text import text_table
from training.distributed.ray_session import ray_session, uses_gpu
from training.tracking import Tracking
from training.trained_run import Trained

RAW_TABLES = ("interactions", "metadata", "rejects")

log = logging.getLogger("evaluation")


def run_command_with(*overrides: str) -> str:
    """Return a command that runs all stages of an experiment, changed by overrides."""
    return shlex.join(["mdsrec", "run", "CONFIG", *overrides])


def evaluate(experiment: Experiment, command_with: Callable[..., str] = run_command_with) -> str:
    """Rank a trained run and write its metrics, cases and report -> summary for the screen.

    `command_with` is for the suggested next commands: overrides -> a command of all stages.
    InputError if another job replaces its tables, weights or ranks meanwhile.
    """
    with held_run(experiment):
        return _evaluate(experiment, command_with)


def _evaluate(experiment: Experiment, command_with: Callable[..., str]) -> str:
    paths = RunPaths.of(experiment)
    heartbeat.begin("loading the run")
    check_pictures(experiment)
    with ray_session(), keeping_groups():
        trained = describe_weighted(experiment)
        experiment = experiment.sized_for(uses_gpu(experiment))
        recipe = ranks_recipe(experiment, trained)
        ranks = tables.find_table(paths.ranks, recipe) or rank_all(experiment, trained, recipe)
        hold({paths.ranks: ranks.fingerprint})
        heartbeat.begin("the case study")
        cases = case_study(experiment, trained.weight_of, ranks)
    heartbeat.begin("metrics and their intervals")
    metrics = compute_metrics(experiment, trained, ranks)
    check_held()
    metrics.write(paths.metrics)
    track_test(experiment, metrics)
    heartbeat.begin("the report")
    cases.write(paths.cases)
    ids = cases.item_ids(case for _, case in cases.by_channel())
    data = ReportData(
        config=experiment.resolved(),
        metrics=metrics,
        history=paths.read_history(),
        manifests=dataset_manifests(experiment),
        next_steps=next_steps(experiment, command_with),
        cases=cases,
        pictures=load_thumbnails(cases.pictures, sorted(ids)),
        appended=trained.appended,
    )
    files.write_bytes(paths.report, report_page(data).encode())
    return _screen(metrics, paths.report, data.next_steps)


def track_test(experiment: Experiment, metrics: RunMetrics) -> None:
    """Send the metrics of the test events to the tracker, if the run has one."""
    if tracking := Tracking.of(experiment):
        whole = metrics.split["test"]["all"]
        tracking.report_epoch({})  # those of a model without training
        tracking.summarize({f"test/{name}": whole[name] for name in whole})
        tracking.close()


def ranks_recipe(experiment: Experiment, trained: Trained) -> Recipe:
    """Return everything that decides the ranks: data, weights, batch and block sizes, seen items.

    The sizes are included because they decide how a product is rounded.
    """
    settings = experiment.eval
    return Recipe(
        settings={
            "run": experiment.identity(),
            "user_batch": settings.users_together,
            "item_block": settings.items_together,
            "exclude_seen": settings.exclude_seen,
            "baselines": list(baseline_names(experiment)),
            **weights_in_recipe(trained),
        },
        inputs=model_inputs(trained),
    )


def rank_all(experiment: Experiment, trained: Trained, recipe: Recipe) -> Manifest:
    """Rank the held-out events of all users on Ray and commit the ranks table."""
    uri = RunPaths.of(experiment).ranks
    if obstacle := itemknn_obstacle(experiment):
        log.warning(f"ItemKNN is not ranked: {obstacle}")
    return write_table_in_shards(experiment, trained.weight_of, RankWorker, uri, recipe, "ranked")


def compute_metrics(experiment: Experiment, trained: Trained, ranks: Manifest) -> RunMetrics:
    """Reduce the ranks table, and add what identifies the run, its data and its weights."""
    sequences = tables.open_table(tables.table_uri(experiment.root, "sequences"))
    in_data = modalities_of_data(experiment.root, experiment.features)
    modalities = tuple(dict.fromkeys([*experiment.modalities, *in_data]))
    slicings = read_slicings(experiment.root, modalities, trained.num_items)
    names = (*ranked_names(trained), *baseline_names(experiment))
    uri = RunPaths.of(experiment).ranks
    rank_metrics = summarize(uri, names, experiment.eval.cutoffs, slicings)
    return RunMetrics(
        name=experiment.name,
        dataset=sequences.fingerprint,
        tables=ranks.inputs["tables"],
        weights=ranks.inputs["weights"],
        ranks=ranks.fingerprint,
        num_items=trained.num_items,
        cutoffs=list(experiment.eval.cutoffs),
        exclude_seen=experiment.eval.exclude_seen,
        channel_weights=dict(trained.weight_of),
        items_with={
            modality: _num_items_with(experiment, modality) for modality in experiment.modalities
        },
        lists=list_metrics(experiment, ranks.inputs),
        **vars(rank_metrics),
    )


def _num_items_with(experiment: Experiment, modality: str) -> int:
    uri = tables.table_uri(experiment.root, table_names.features_name(modality))
    return tables.open_table(uri).rows


def dataset_manifests(experiment: Experiment) -> dict[str, Manifest]:
    """Return the manifests of the data set's tables that exist, in the order the ETL makes them.

    The tables of raw lines are left out where newer data have replaced them.
    """
    names = [*RAW_TABLES, "sequences", "items"]
    names.append(table_names.cooccurrence_name(experiment))
    if experiment.model.memory:
        names += [table_names.transitions_name(experiment), table_names.memory_name(experiment)]
    for modality in experiment.modalities:
        names.append(table_names.features_name(modality))
        for mu in experiment.model.mus(modality):
            names.append(table_names.neighbors_name(experiment, modality, mu))
        for k in experiment.model.all_num_centers():
            names.append(table_names.centers_name(experiment, modality, k))
    manifests = {n: tables.read_manifest(tables.table_uri(experiment.root, n)) for n in names}
    found = {name: manifest for name, manifest in manifests.items() if manifest}
    replaced = {
        name
        for manifest in found.values()
        for name, fingerprint in manifest.inputs.items()
        if name in RAW_TABLES and name in found and found[name].fingerprint != fingerprint
    }
    replaced |= {"rejects"} if replaced else set()
    return {name: found[name] for name in found if name not in replaced}


def next_steps(experiment: Experiment, command_with: Callable[..., str]) -> list[str]:
    """Return commands to try next: train a simpler variant of the model, and compare the two."""
    run = RunPaths.of(experiment).uri
    compare = " ".join(spelled("evaluation compare"))
    simpler = experiment.model.simpler if experiment.modalities else None
    if simpler is None:
        return [f"{compare} {run} RUN"]
    suffix, override = simpler
    other = f"{experiment.name}-{suffix}"
    return [
        command_with(f"name={other}", override),
        f"{compare} {run} {experiment.root}/runs/{other}",
    ]


def _screen(metrics: RunMetrics, report: str, steps: Sequence[str]) -> str:
    header = ["test", *headline_metrics(metrics.cutoffs)]
    return "\n".join(
        [
            f"{metrics.name}: {metrics.targets['test']:,} test events, "
            f"{metrics.num_items:,} items, "
            f"each ranked {candidates_text(metrics)}",
            "",
            text_table(header, channel_rows(metrics)),
            "",
            f"report  {report}",
            "next    " + "\n        ".join(steps),
        ]
    )
