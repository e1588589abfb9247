"""A driver knows a trained run from its files as it would from the loaded model."""

from pathlib import Path
from typing import Any

import pytest
from random_runs import write_weights
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of

from evaluation.ranking import ranked_names
from evaluation.stored_weights import model_inputs
from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.config.model_base import TransformerConfig
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.checkpoints import tensor_file
from training.data.item_tables import ItemTables
from training.inference import load_trained, weights_fingerprint
from training.models.sasrec import SASRec
from training.trained_run import describe_trained


class Own(SASRec):
    """A model of the user's own, with channels of its own."""

    config: TransformerConfig  # type: ignore[assignment]

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        self.set_channels({"mine": 0.1})


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("mdsrec", {"memory": True}),
        ("mdsrec", {"item_graph": False, "rho": {"text": 0.3, "image": 0.7}}),
        ("sasrec", {}),
        ("test_trained_run:Own", {}),
    ],
)
def test_a_run_is_described_as_it_would_be_loaded(
    tmp_path: Path, name: str, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "READ_BYTES", 100)
    experiment = experiment_of(tmp_path, name, model=model)
    write_dataset(experiment_of(tmp_path, "mdsrec", model={"memory": True}))
    write_weights(experiment, seed=3)
    loaded = load_trained(experiment)
    described = describe_trained(experiment)
    assert described.weights_fingerprint == weights_fingerprint(loaded.model)
    assert described.num_items == loaded.num_items
    assert model_inputs(described) == model_inputs(loaded)
    assert list(described.weight_of.items()) == list(loaded.weight_of.items())
    assert ranked_names(described) == ranked_names(loaded)


def test_describing_a_run_reads_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small_experiment(tmp_path, model={"memory": True})
    write_dataset(experiment)
    write_weights(experiment, seed=3)
    for name in ("read_table", "stream_table"):
        monkeypatch.setattr(tables, name, None)
    assert describe_trained(experiment).num_items == 40


def test_a_run_on_other_data_and_one_without_weights_are_refused(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    with pytest.raises(InputError, match="no trained weights"):
        describe_trained(experiment)
    write_weights(experiment, seed=3)
    write_dataset(experiment, seed=1)
    for open_run in (describe_trained, load_trained):
        with pytest.raises(InputError, match=f"{RunPaths.of(experiment).uri}: trained on data set"):
            open_run(experiment)
