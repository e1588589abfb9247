"""`Recommender` gives the lists of `python -m evaluation recommend`, from a run or an export."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from random_runs import run_of, write_weights
from small_dataset import NUM_USERS, small_experiment, write_dataset

from evaluation import Recommender
from evaluation.recommend import Options, recommend
from evaluation.run import evaluate
from evaluation.serving.export import export
from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths

ROOT = Path(__file__).parent.parent
TOP = 7


class Run(NamedTuple):
    """An evaluated run, its table of recommendations, and the histories of its users."""

    experiment: Experiment
    rows: list[dict]
    histories: list[list[str]]  # of item ids

    @property
    def uri(self) -> str:
        return run_of(self.experiment)


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_ray) -> Run:
    """Return a run with a memory and random weights, evaluated and with recommendations."""
    experiment = small_experiment(
        tmp_path_factory.mktemp("run"),
        model={"dim": 16, "inner_dim": 16, "memory": True, "max_length": 10, "temperature": 0.2},
        eval={"user_batch": 7, "item_block": 16},
    )
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    evaluate(experiment)
    recommend(experiment, Options(TOP, False))
    rows = read(RunPaths.of(experiment).recommendations, schema.RECOMMENDATIONS)
    return Run(experiment, rows, histories_of(experiment))


@pytest.fixture(scope="module")
def model(run) -> Recommender:
    return Recommender.load(run.uri)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("exported") / "demo")
    export(run.uri, folder)
    return folder


def read(uri: str, table_schema) -> list[dict]:
    return tables.read_table(uri, table_schema).to_pylist()


def histories_of(experiment: Experiment) -> list[list[str]]:
    rows = read(tables.table_uri(experiment.root, "sequences"), schema.SEQUENCES)
    return [[f"B{item:04d}" for item in row["items"]] for row in rows]


def columns_of(frame: pd.DataFrame) -> dict[str, list]:
    """Return the columns of one list, named as in the table of recommendations."""
    names = {"item_ids": "item_id", "titles": "title", "scores": "score", "channels": "channel"}
    return {name: frame[column].tolist() for name, column in names.items()}


def assert_lists_of_the_table(frames: Iterator[pd.DataFrame], rows: list[dict]) -> None:
    for frame, row in zip(frames, rows, strict=True):
        listed = columns_of(frame)
        assert listed == {name: row[name] for name in listed}  # scores too: bit for bit


@pytest.mark.ray
def test_each_history_by_itself_gives_the_list_of_the_table_bit_for_bit(model, run):
    alone = (model.recommend(history, top=TOP) for history in run.histories)
    assert_lists_of_the_table(alone, run.rows)


@pytest.mark.ray
@pytest.mark.parametrize("size", [5, NUM_USERS])
def test_histories_together_give_the_lists_of_the_table_bit_for_bit(model, run, size):
    for first in range(0, NUM_USERS, size):
        frame = model.recommend(run.histories[first : first + size], top=TOP)
        lists = (rows for _, rows in frame.groupby("history"))
        assert_lists_of_the_table(lists, run.rows[first : first + size])


@pytest.mark.ray
def test_the_number_of_threads_changes_no_bit_and_is_restored(model, run):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        alone = [model.recommend(history, top=TOP) for history in run.histories[:9]]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert_lists_of_the_table(iter(alone), run.rows[:9])


@pytest.mark.ray
def test_an_exported_folder_recommends_where_ray_and_spark_cannot_be_imported(
    run, exported, tmp_path
):
    program = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("ray", "pyspark", "deepspeed"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
from evaluation import Recommender
model = Recommender.load(sys.argv[1])
model.recommend(json.load(sys.stdin), top=7).to_parquet(sys.argv[2])
"""
    subprocess.run(
        [sys.executable, "-c", program, exported, tmp_path / "lists.parquet"],
        input=json.dumps(run.histories),
        cwd=ROOT,
        text=True,
        check=True,
    )
    frame = pd.read_parquet(tmp_path / "lists.parquet")
    lists = (rows for _, rows in frame.groupby("history"))
    assert_lists_of_the_table(lists, run.rows)
