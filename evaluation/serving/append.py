"""`python -m evaluation append CONFIG`: rows for items that a finished run has not trained.

They are items that the tables have and the run has not, and those without a training event, which
the run only saw as negatives. All other rows and weights stay bit for bit. From then on the run is
evaluated, served and exported with them, on the tables as they are now.
"""

from evaluation.stored.held_run import held_run
from mdsrec import files, schema, tables
from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.table_settings import run_table_fingerprints
from training.checkpoints.carried_record import CarriedRecord
from training.checkpoints.stored_weights import StoredWeights
from training.checkpoints.weights_in_use import appended_text
from training.data.table_checks import check_item_tables
from training.inference import check_can_load, item_parameters
from training.warm.carry import write_carried
from training.warm.source import ItemIds, SourceRun


def append(experiment: Experiment) -> str:
    """Write the appended weights of a run, and return a summary for the screen.

    InputError if the run was never trained, or has another configuration.
    """
    with held_run(experiment, on_current_tables=True):
        check_can_load(experiment)
        if not experiment.model.is_trained:
            return f"{experiment.name} has no weights: its model reads the tables as they are"
        return _append(experiment)


def undo(experiment: Experiment) -> str:
    """Delete the appended weights, so that the run has those of its training again."""
    with held_run(experiment):
        paths = RunPaths.of(experiment)
        if not files.exists(paths.appended_weights):
            return f"{experiment.name}: nothing was appended"
        files.delete_file(paths.appended_weights)
        files.delete_file(paths.appended)
        return f"deleted     {paths.appended_weights}"


def _append(experiment: Experiment) -> str:
    paths = RunPaths.of(experiment)
    heartbeat.begin("comparing the items of the run with those of the tables")
    source = SourceRun.open(paths.uri)
    if reason := _nothing_to_append(experiment, source):
        return f"{experiment.name}: {reason}"
    heartbeat.begin("writing rows of items")
    files.write_json(paths.appended, run_table_fingerprints(experiment))
    record = write_carried(source, experiment, paths.appended_weights)
    return "\n".join(
        [
            f"{experiment.name}: {appended_text(StoredWeights(paths.appended_weights))}",
            f"unchanged   {record.items_carried:,} rows of trained items; "
            f"{record.items_dropped:,} items are not in the tables any more",
            f"written     {paths.appended_weights}",
            f"in use      from now on, with data set {record.dataset}",
        ]
    )


def _nothing_to_append(experiment: Experiment, source: SourceRun) -> str | None:
    """Return why no rows are needed, None if some are."""
    uri, dataset = RunPaths.of(experiment).appended_weights, _dataset(experiment)
    if files.exists(uri):
        record = CarriedRecord.of(StoredWeights(uri).metadata, uri)
        if (record.source_mark, record.dataset) == (source.weights.mark(), dataset):
            return "appended before, for these weights and tables"
    if source.weights.metadata.get("dataset") != dataset:
        return None
    if not item_parameters(experiment):
        return "the model has no rows of items: it reads the tables as they are"
    return None if _num_untrained(source.items) else "every item was trained"


def _dataset(experiment: Experiment) -> str:
    return tables.fingerprint(check_item_tables(experiment))


def _num_untrained(items: ItemIds) -> int:
    """Return how many items have no training event."""
    batches = tables.stream_table(items.uri, items.manifest, schema.ITEMS, ["num_train"])
    return sum(int((batch.column(0).to_numpy() == 0).sum()) for batch in batches)
