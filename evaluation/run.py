"""The evaluation stage: ranks table, metrics.json, report.html."""

import hashlib
import shlex
from collections.abc import Sequence

import torch

from evaluation.case_study import case_study
from evaluation.compare import text_table
from evaluation.metrics.coverage import list_metrics
from evaluation.metrics.run_metrics import RunMetrics
from evaluation.metrics.slices import slices_of
from evaluation.metrics.summary import summarise
from evaluation.pool import made_by_shards
from evaluation.ranking import POPULARITY, RankWorker
from evaluation.report.pictures import load_thumbnails
from evaluation.report.run_report import (
    ReportData,
    candidates_text,
    channel_rows,
    headline_metrics,
    report_page,
)
from mdsrec import files, table_names, tables
from mdsrec.config import Experiment
from mdsrec.tables import Manifest, Recipe
from training.inference import Trained, load_trained


def evaluate(experiment: Experiment, again: str = "python -m cluster run CONFIG") -> str:
    """Rank, reduce and report a trained run -> what to show of it on one screen.

    `again` runs all stages of this experiment; the commands that lead on are made from it.
    """
    run = table_names.run_uri(experiment)
    trained = load_trained(experiment)
    recipe = ranks_recipe(experiment, trained)
    ranks = tables.find_table(f"{run}/ranks", recipe) or rank_all(experiment, recipe)
    metrics = metrics_of(experiment, trained, ranks)
    metrics.write(f"{run}/metrics.json")
    cases = case_study(experiment, trained)
    cases.write(f"{run}/cases.json")
    told = cases.asins(case for _, case in cases.by_channel())
    shown = {key: value for key, value in experiment.resolved().items() if key != "spark"}
    facts = ReportData(
        config=shown,  # Spark's settings decide nothing here and may hold a store's credentials
        metrics=metrics,
        history=files.read_json(f"{run}/history.json"),
        manifests=standing_tables(experiment),
        next_steps=next_steps(experiment, run, again),
        cases=cases,
        pictures=load_thumbnails(cases.pictures, sorted(told)),
    )
    files.write_bytes(f"{run}/report.html", report_page(facts).encode())
    return _screen(metrics, run, facts.next_steps)


def ranks_recipe(experiment: Experiment, trained: Trained) -> Recipe:
    """What decides the ranks: the data, the weights, and the ranges that scores are computed in."""
    settings = experiment.eval
    return Recipe(
        settings={
            "run": experiment.identity(),
            "user_batch": settings.user_batch,
            "item_block": settings.item_block,
            "exclude_seen": settings.exclude_seen,
        },
        inputs={"tables": trained.dataset_fingerprint, "weights": weights_fingerprint(trained)},
    )


def weights_fingerprint(trained: Trained) -> str:
    """16 hex digits of the SHA-256 of the model's parameters, in order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(trained.model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()[:16]


def rank_all(experiment: Experiment, recipe: Recipe) -> Manifest:
    """Rank the held-out events of all users on Ray and commit the ranks table."""
    uri = f"{table_names.run_uri(experiment)}/ranks"
    return made_by_shards(experiment, RankWorker, uri, recipe, "ranked")


def metrics_of(experiment: Experiment, trained: Trained, ranks: Manifest) -> RunMetrics:
    """All of metrics.json."""
    run = table_names.run_uri(experiment)
    sequences = tables.open_table(tables.table_uri(experiment.root, "sequences"))
    slices = slices_of(experiment.root, experiment.modalities, trained.num_items)
    channels = (*trained.channels, POPULARITY)
    of_ranks = summarise(f"{run}/ranks", channels, experiment.eval.cutoffs, slices)
    return RunMetrics(
        name=experiment.name,
        dataset=sequences.fingerprint,
        tables=ranks.inputs["tables"],
        weights=ranks.inputs["weights"],
        ranks=ranks.fingerprint,
        num_items=trained.num_items,
        cutoffs=list(experiment.eval.cutoffs),
        exclude_seen=experiment.eval.exclude_seen,
        items_with={m: int((slices[m].kind_of == 0).sum()) for m in experiment.modalities},
        lists=list_metrics(experiment, ranks.inputs),
        **vars(of_ranks),
    )


def standing_tables(experiment: Experiment) -> dict[str, Manifest]:
    """Manifests of the data set's tables, in the order they are made."""
    wanted = ["interactions", "metadata", "rejects", "sequences", "items"]
    wanted.append(table_names.cooccurrence_name(experiment))
    for modality in experiment.modalities:
        wanted.append(table_names.features_name(modality))
        for mu in experiment.model.mus(modality):
            wanted.append(table_names.neighbors_name(experiment, modality, mu))
        for k in experiment.model.all_num_centers():
            wanted.append(table_names.centers_name(experiment, modality, k))
    found = {name: tables.read_manifest(tables.table_uri(experiment.root, name)) for name in wanted}
    return {name: manifest for name, manifest in found.items() if manifest}


def next_steps(experiment: Experiment, run: str, again: str) -> list[str]:
    """Commands that lead on from here: the run without what sets it apart, and the two compared."""
    simpler = experiment.model.simpler if experiment.modalities else None
    if simpler is None:
        return [f"python -m evaluation compare {run} RUN"]
    other, change = f"{experiment.name}-{simpler[0]}", simpler[1]
    return [
        f"{again} name={other} {shlex.quote(change)}",
        f"python -m evaluation compare {run} {experiment.root}/runs/{other}",
    ]


def _screen(metrics: RunMetrics, run: str, steps: Sequence[str]) -> str:
    header = ["test", *headline_metrics(metrics.cutoffs)]
    return "\n".join(
        [
            f"{metrics.name}: {metrics.targets['test']:,} test events, "
            f"{metrics.num_items:,} items, "
            f"each ranked {candidates_text(metrics)}",
            "",
            text_table(header, channel_rows(metrics)),
            "",
            f"report  {run}/report.html",
            "next    " + "\n        ".join(steps),
        ]
    )
