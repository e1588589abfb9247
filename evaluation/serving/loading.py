"""Everything that recommendations are made from: of a run's folder, or of an exported folder."""

import io
import json
from dataclasses import dataclass, replace
from typing import Self

import pyarrow.parquet as pq

from evaluation.baselines import Baseline, Popularity, read_baselines
from evaluation.metrics.run_metrics import POPULARITY
from evaluation.serving import export_format
from evaluation.serving.catalogue import Catalogue
from evaluation.stored_weights import with_stored_weights
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import run_fingerprints, stored_experiment
from training.inference import TrainedModel, load_model, load_trained, trained_model


@dataclass(frozen=True)
class Served:
    """A trained model, its configuration, its items, and the baselines that can be ranked."""

    experiment: Experiment
    trained: TrainedModel
    catalogue: Catalogue
    baselines: dict[str, Baseline]

    @classmethod
    def load(cls, folder: str) -> Self:
        """Load a run, ROOT/runs/NAME, or an exported folder. InputError if it is neither."""
        if files.read_bytes(f"{folder}/{export_format.MANIFEST}") is not None:
            return cls.of_export(folder)
        return cls.of_run(folder)

    @classmethod
    def of_run(cls, folder: str) -> Self:
        """Load a run with the tables of its root. Both may have been moved together."""
        experiment = run_experiment(folder)
        with promised(run_fingerprints(experiment)):
            trained = with_stored_weights(experiment, load_trained(experiment))
            baselines = dict(read_baselines(experiment))
            return cls(experiment, trained, Catalogue.read(experiment), baselines)

    @classmethod
    def of_export(cls, folder: str) -> Self:
        """Load an exported folder. Popularity is the only baseline in it."""
        manifest, contents = export_format.read_export(folder)
        config = json.loads(contents[export_format.CONFIG])
        source = f"{folder}/{export_format.CONFIG}"
        experiment = experiment_from({**config, "root": folder}, source)
        item_tables = export_format.unpack_item_tables(contents[export_format.ITEM_TABLES])
        model = memory = None
        if export_format.WEIGHTS in contents:
            model = load_model(experiment, item_tables, contents[export_format.WEIGHTS]).eval()
        if export_format.MEMORY in contents:
            memory = export_format.unpack_memory(
                contents[export_format.MEMORY], experiment.transitions
            )
        trained = trained_model(model, memory, item_tables)
        rows = pq.read_table(io.BytesIO(contents[export_format.CATALOGUE]))
        catalogue = Catalogue.of(rows)
        return cls(
            experiment,
            replace(trained, weight_of=manifest.weight_of),
            catalogue,
            {POPULARITY: Popularity(catalogue.num_train)},
        )


def run_experiment(folder: str) -> Experiment:
    """Return the configuration of the run in a folder ROOT/runs/NAME."""
    found = stored_experiment(folder)
    if found is None:
        raise InputError(
            f"{folder}: neither the folder of a trained run, ROOT/runs/NAME, nor one that "
            "`mdsrec export RUN DIR` wrote"
        )
    return found
