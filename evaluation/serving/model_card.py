"""The model card of an exported run."""

from evaluation.metrics.run_metrics import RunMetrics
from evaluation.stored_weights import model_inputs
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.own_model import is_own
from mdsrec.run_paths import RunPaths
from training.trained_run import TrainedRun

FILES = """| file | content |
|---|---|
| `export.json` | version, weights of the channels, SHA-256 of the files below |
| `config.json` | configuration of the run |
| `items.parquet` | id, title and number of training events of every item |
| `item_tables.safetensors` | graphs, centers and features that the network reads |
| `weights.safetensors` | weights of the network, if the model has one |
| `memory.safetensors` | scores of what follows an item, if the model counts it |"""

LICENSE = """The program that wrote this folder has the license Apache-2.0. Weights, ids and titles
come from the data above, under the terms of that data: check them before you share the folder.
It holds no users and no histories."""

SPLITS = {
    "leave_one_out": "each user's last event is test, the one before it validation",
    "global_time": "by time, validation after the first cut and test after the second",
}


def model_card(experiment: Experiment, trained: TrainedRun, first_id: str) -> str:
    """Return README.md: how to load the model, what it was trained on, and its metrics.

    `first_id` is an item of the example.
    """
    paths = RunPaths.of(experiment)
    history = paths.read_history()
    inputs = model_inputs(trained)
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in trained.weight_of.items())
    made = [f"{key} {history[key]}" for key in ("version", "date") if key in history]
    facts = ", ".join([f"seed {experiment.seed}", *made])
    sections = {
        f"{experiment.name}: a sequential recommender": "It scores every item after a history of "
        f"item ids. It was trained with mdsrec ({facts}).",
        "Use": _own_text(experiment.model.name)
        + "```python\nfrom evaluation import Recommender\n\n"
        'model = Recommender.load("DIR")  # this folder; needs neither Ray nor Spark\n'
        f'model.recommend(["{first_id}"], top=10)\n```',
        "Model": f"`{experiment.model.name}`, {history.get('num_parameters', 0):,} parameters. "
        f"Weights of the channels in a score: {weights}.\n"
        f"Fingerprints: {', '.join(f'{name} `{value}`' for name, value in inputs.items())}."
        + (f"\n{trained.appended}." if trained.appended else ""),
        "Data": _data_text(experiment, trained),
        "Metrics": _metrics_text(paths.metrics, inputs["weights"]),
        "Files": FILES,
        "License": LICENSE,
    }
    headings = zip(["#", *["##"] * len(sections)], sections.items(), strict=False)
    return "\n".join(f"{mark} {title}\n\n{text}\n" for mark, (title, text) in headings)


def _own_text(model: str) -> str:
    """Return what a model of the user's own needs beside the folder, '' for ours."""
    if not is_own(model):
        return ""
    module = model.partition(":")[0]
    return (
        f"Needs the module `{module}`, which is not here: put it on PYTHONPATH, or install it.\n\n"
    )


def _data_text(experiment: Experiment, trained: TrainedRun) -> str:
    source = experiment.input
    names = [uri.rstrip("/").rpartition("/")[2] for uri in source.reviews or source.interactions]
    modalities = ", ".join(experiment.modalities) or "none"
    return (
        f"{trained.num_items:,} items. Interactions: {', '.join(f'`{name}`' for name in names)}. "
        f"Modalities: {modalities}. Split: {SPLITS[experiment.sequences.split]}."
    )


def _metrics_text(uri: str, weights: str) -> str:
    """Return a table of the test metrics, if the run was evaluated with these weights."""
    if files.read_bytes(uri) is None or (metrics := RunMetrics.read(uri)).weights != weights:
        return "This model was not evaluated before it was exported."
    names = [f"{name}@{metrics.cutoffs[0]}" for name in ("recall", "ndcg", "mrr")]
    seen = "except those that the user had before" if metrics.exclude_seen else "of the catalogue"
    lines = [
        f"{metrics.targets['test']:,} test events, each ranked among all items {seen}; ties count "
        "in expectation.",
        "",
        f"| scored by | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
    ]
    for channel, means in metrics.split["test"].items():
        values = [f"{means[name]:.4f}" if means else "" for name in names]
        lines.append(f"| {channel} | {' | '.join(values)} |")
    return "\n".join(lines)
