"""A model of the user's own: the example of the documentation, and mistakes in its name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo import on_ranks
from random_runs import run_of, write_weights
from small_dataset import small_experiment, toml_of, write_dataset
from small_models import initialized_model, scores_of

from cluster.package import write_job_folder
from evaluation import Recommender
from evaluation.serving.export import export
from mdsrec import files
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.inference import load_trained
from training.loop import train
from training.reporting import Reporter

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
NAME = "my_models:LastEvents"
MISTAKES = """
from mdsrec.config.etl import SparkConfig
from training.models.next_item import NextItem

class WrongSection(NextItem):
    config: SparkConfig

class NoModel:
    pass

class Reserved(NextItem):
    def __init__(self, experiment, tables):
        super().__init__(experiment, tables)
        self.set_channels({"fused": 1.0, "memory": 1.0})
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return the current folder, which holds the module of the documentation's example."""
    page = (ROOT / "docs" / "adding-a-model.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_models.py").write_text(example)
    (tmp_path / "wrong.py").write_text(MISTAKES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def experiment_of(root, **model):
    model = {"name": NAME, "dim": 8, "max_length": 6, "window": 3, **model}
    content = {**small_experiment(root).resolved(), "model": model}
    return experiment_from(content, source="small.toml")


def finished(resolved):
    experiment = experiment_from(resolved, source="test")
    return train(experiment, CPU, Reporter()).finished


def test_the_example_of_the_documentation_is_trained_and_recommends(here):
    experiment = experiment_of(here)
    write_dataset(small_experiment(here))
    files.write_json(RunPaths.of(experiment).config, experiment.resolved())
    assert on_ranks(1, finished, experiment.resolved()) == [True]
    epochs = files.read_json(RunPaths.of(experiment).history)["epochs"]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    trained = load_trained(experiment, CPU)
    histories = [np.array([1, 2, 3, 4]), np.array([9, 2, 3, 4])]
    first, second = trained.user_vectors(histories)
    assert torch.equal(first, second)  # the query sees the last three events


def test_the_card_of_an_export_names_the_module_that_is_not_in_it(here):
    experiment = experiment_of(here)
    write_dataset(small_experiment(here))
    write_weights(experiment, seed=1)
    export(run_of(experiment), str(here / "exported"))
    card = (here / "exported" / "README.md").read_text()
    assert "Needs the module `my_models`, which is not here: put it on PYTHONPATH, or" in card
    assert len(Recommender.load(here / "exported").recommend(["B0004"])) == 10


def test_the_query_of_the_example_sees_no_event_before_its_window(here):
    experiment = experiment_of(here, window=2)
    write_dataset(small_experiment(here))
    model = initialized_model(experiment)
    before, after, other = scores_of(model, [[5, 1, 2], [6, 1, 2], [5, 7, 2]])
    assert torch.equal(before, after) and not torch.equal(before, other)


def test_the_keys_of_the_section_are_those_of_the_class(here):
    experiment = experiment_of(here)
    assert experiment.resolved()["model"]["window"] == 3
    assert experiment.identity()["model"]["name"] == NAME
    assert experiment_from(experiment.resolved(), source="config.json") == experiment


@pytest.mark.slow
@pytest.mark.ray
def test_workers_find_the_model_in_the_current_folder_and_our_packages_nowhere_else(here):
    for name in ("training", "evaluation", "mdsrec"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text("raise SystemExit('a decoy was imported')")
    experiment = experiment_of(here)
    write_dataset(small_experiment(here))
    for stage in ("train", "evaluate"):
        command = [sys.executable, "-P", "-m", "mdsrec", stage, toml_of(experiment, here)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=here, env=environment, check=True)
    assert files.read_json(RunPaths.of(experiment).metrics)["name"] == "small"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"windov": 3}, "unknown key model.windov; the nearest key is window"),
        ({"window": "3"}, 'model.window = "3": expected a whole number'),
        ({"num_heads": 2}, "model.num_heads: the model my_models:LastEvents has no such key"),
        ({"name": "my_model:LastEvents"}, "no module my_model: put it on PYTHONPATH, or"),
        ({"name": "my_models:Last"}, "the module my_models has no class Last"),
        ({"name": "my_models:"}, "expected package.module:Class"),
        ({"name": "wrong:NoModel"}, "not a model: the class must extend training.models.base."),
        ({"name": "wrong:WrongSection"}, "the annotation `config` must be a class that extends"),
        ({"name": "training.models.sasrek:A"}, "no module training.models.sasrek"),
    ],
)
def test_a_mistake_in_the_name_or_the_keys_is_one_line(here, keys, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        experiment_of(here, **keys)
    assert str(error.value).startswith("small.toml: ") and "\n" not in str(error.value)


def test_item_shards_are_refused_in_one_line(here):
    content = experiment_of(here).resolved()
    content["eval"]["item_shards"] = 2
    with pytest.raises(InputError, match=r"eval\.item_shards 2 cannot serve model\.name") as error:
        experiment_from(content, source="small.toml")
    assert NAME in str(error.value) and "\n" not in str(error.value)


def test_a_module_that_the_users_module_misses_is_named_itself(here):
    (here / "incomplete.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        experiment_of(here, name="incomplete:Model")


def test_a_channel_with_the_name_of_one_beside_the_models_is_refused(here):
    write_dataset(small_experiment(here))
    content = {**small_experiment(here).resolved(), "model": {"name": "wrong:Reserved", "dim": 8}}
    with pytest.raises(InputError, match="the model wrong:Reserved has a channel 'memory'"):
        initialized_model(experiment_from(content, source="test"))


def test_a_job_takes_the_module_along(here):
    (here / "small.toml").write_text(
        f'name = "a"\nroot = "out"\n[input]\nedition = "2018"\nreviews = ["a"]\n'
        f'[model]\nname = "{NAME}"\n'
    )
    write_job_folder(here / "job", "small.toml", [])
    assert (here / "job" / "my_models.py").read_text() == (here / "my_models.py").read_text()
