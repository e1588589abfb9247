"""Recommendations in one process: threads, events of the caller, exports of several models."""

import datetime as dt
import json
import threading

import pandas as pd
import pyarrow as pa
import pytest
import torch
from random_runs import run_of, write_weights
from small_dataset import NUM_ITEMS, small_experiment, write_categories, write_dataset
from small_models import experiment_of

from evaluation import Recommender
from evaluation.serving.catalogue import Catalogue
from evaluation.serving.export import export
from evaluation.serving.histories import known_histories, padded_hint
from evaluation.serving.one_thread import one_thread
from evaluation.serving.own_split import targets_of
from evaluation.stored_weights import rivals_recipe, with_stored_weights
from mdsrec import files, tables
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.inference import load_trained
from training.models.registry import MODELS

ITEMS = {"1": 0, "2": 1, "3": 2}


@pytest.mark.parametrize("first_out", [0, 1])
def test_threads_that_overlap_all_get_their_number_of_threads_back(first_out):
    entered, may_leave, left = ([threading.Event() for _ in range(2)] for _ in range(3))
    inside, after = {}, {}

    def call(number: int) -> None:
        with one_thread(), one_thread():
            entered[number].set()
            may_leave[number].wait(10)
            inside[number] = torch.get_num_threads()
        left[number].set()
        after[number] = torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads = [threading.Thread(target=call, args=[number]) for number in range(2)]
        for number, thread in enumerate(threads):
            thread.start()
            assert entered[number].wait(10)
        for number in (first_out, 1 - first_out):
            may_leave[number].set()
            assert left[number].wait(10)
            threads[number].join()
        assert inside == {0: 1, 1: 1}
        assert after == {0: 3, 1: 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def history_of(items, **columns):
    """Return the items of one user in the order in which they are ranked."""
    events = pd.DataFrame({"user_id": "u", "item_id": items, **columns})
    [target], unknown = targets_of(events, ITEMS)
    assert not unknown
    return [*target.history.tolist(), target.target]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-02T01:00:00+02:00", "2024-01-02T00:30:00+00:00", "2024-01-01T23:15:00+00:00"],
        ["2024-01-02 09:00", "2024-01-10", "2024-01-02 10:00"],
        [dt.date(2024, 1, 2), dt.date(2024, 1, 10), dt.date(2024, 1, 3)],
        [9, 100, 10],
    ],
    ids=["offsets", "dates and times", "date objects", "numbers"],
)
@pytest.mark.parametrize("dtype", [None, object])
def test_events_of_a_user_are_in_the_order_of_their_times(times, dtype):
    assert history_of([1, 2, 3], time=pd.Series(times, dtype=dtype)) == [0, 2, 1]


def test_events_of_equal_times_keep_the_order_of_their_rows():
    assert history_of([3, 1, 2, 1], time=[5, 5, 4, 5]) == [1, 2, 0, 0]


def test_whole_numbers_that_pandas_made_floats_are_the_ids_that_they_were():
    with_gap = pd.DataFrame({"user_id": [7, 7, None], "item_id": [3, 1, None]})
    [target], unknown = targets_of(with_gap.dropna(), ITEMS)
    assert (target.history.tolist(), target.target, unknown) == ([2], 0, {})


@pytest.mark.parametrize("column", ["user_id", "item_id", "time"])
def test_an_event_without_a_user_an_item_or_a_time_is_refused(column):
    events = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [1, 2, 3], "time": [1, 2, 3]})
    events[column] = [1, None, None]
    message = f"the column {column} has no value in 2 of 3 rows, first in row 1: leave them out"
    with pytest.raises(InputError, match=message):
        targets_of(events, ITEMS)


@pytest.mark.parametrize(
    "times", [["10/2/2024", "9/2/2024"], ["1700000000", "900000000"], [5, "x"]]
)
def test_times_in_another_format_are_refused_in_one_line(times):
    with pytest.raises(InputError, match="the column time: expected numbers, timestamps") as error:
        history_of([1, 2], time=times)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def trained_experiment(root, name):
    """Return an experiment with random weights that was trained with dropout and negatives."""
    experiment = experiment_of(
        root,
        name,
        model={"dropout": 0.5},
        train={"loss": "sampled", "negatives": "popularity", "num_negatives": 9},
    )
    write_weights(experiment, seed=1)
    return experiment


@pytest.mark.parametrize("name", MODELS)
def test_an_export_of_every_model_recommends_as_its_run_does(root, tmp_path, name):
    run = run_of(trained_experiment(root, name))
    export(run, str(tmp_path))
    histories = [["B0004", "B0017"], ["B0009"] * 9, ["B0001", "B0002", "B0003"]]
    of_run, of_export = (Recommender.load(each) for each in (run, tmp_path))
    for call in (
        lambda model: model.recommend(histories),
        lambda model: model.user_vectors(histories),
        lambda model: model.item_vectors(),
    ):
        pd.testing.assert_frame_equal(call(of_export), call(of_run), check_exact=True)


def test_a_run_and_its_export_recommend_the_items_of_one_category(tmp_path):
    write_dataset(small_experiment(tmp_path))
    experiment = trained_experiment(tmp_path, "sasrec")
    write_categories(experiment.root)  # every third item is of Arts, the others of Music
    run, folder = run_of(experiment), str(tmp_path / "exported")
    export(run, folder)
    history = ["B0004", "B0017"]
    for model in (Recommender.load(run), Recommender.load(folder)):
        assert model.categories == ["Arts", "Music"]
        listed = model.recommend(history, top=NUM_ITEMS)
        is_of_arts = listed["item_id"].str[1:].astype(int) % 3 == 0
        of_arts = model.recommend([history, history], top=5, category="Arts")
        expected = listed[is_of_arts].head(5).reset_index(drop=True)
        for _, rows in of_arts.groupby("history"):
            rows = rows.drop(columns="history").reset_index(drop=True)
            pd.testing.assert_frame_equal(rows, expected, check_exact=True)
        assert len(model.recommend(history, NUM_ITEMS, category="Arts")) == is_of_arts.sum()
        with pytest.raises(InputError, match="category 'Food': choose from Arts, Music"):
            model.recommend(history, category="Food")


def test_a_category_is_refused_where_the_items_have_none(root):
    model = Recommender.load(run_of(trained_experiment(root, "sasrec")))
    assert model.categories == []
    with pytest.raises(InputError, match="category 'Arts': the items of small have no categories"):
        model.recommend(["B0004"], category="Arts")


def test_an_export_names_no_place_of_the_tables_no_cluster_and_no_sweep(root, tmp_path):
    export(run_of(trained_experiment(root, "sasrec")), str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert not config.keys() & {"root", "spark", "tune", "study"}
    assert config["model"]["name"] == "sasrec"
    assert "Needs the module" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 2, "more": "of it"}])
def test_an_export_of_another_version_is_refused_as_such(root, tmp_path, change):
    export(run_of(trained_experiment(root, "sasrec")), str(tmp_path))
    manifest = tmp_path / "export.json"
    files.write_json(str(manifest), files.read_json(str(manifest)) | change)
    with pytest.raises(InputError, match="exported as version 2, this program reads 1: export the"):
        Recommender.load(tmp_path)
    for damaged in ("{", "[1]", "{}", '{"version": 1, "more": 2}'):
        manifest.write_text(damaged)
        with pytest.raises(InputError, match=r"export\.json: damaged \(.+\): export the run again"):
            Recommender.load(tmp_path)


def test_an_export_reads_the_item_tables_once(root, tmp_path, monkeypatch):
    run, plain, read = run_of(trained_experiment(root, "mdsrec")), tables.stream_table, []
    monkeypatch.setattr(tables, "stream_table", lambda uri, *a: read.append(uri) or plain(uri, *a))
    export(run, str(tmp_path))
    graphs = [uri for uri in read if "/neighbors" in uri]
    assert len(graphs) == len(set(graphs)) == 2


def test_only_the_weights_chosen_for_the_model_are_used(tmp_path):
    experiment = small_experiment(tmp_path, model={"memory": True})
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    trained, uri = load_trained(experiment), RunPaths.of(experiment).weights
    chosen = dict.fromkeys(trained.channels, 0.25)
    fingerprint = rivals_recipe(experiment, trained).fingerprint
    files.write_json(uri, {"rivals": fingerprint, "targets": 0, "weights": chosen, "ndcg": {}})
    assert with_stored_weights(experiment, trained).weight_of == chosen
    write_weights(experiment, seed=2)
    with pytest.raises(InputError, match="no weights of the channels for this model: run `"):
        with_stored_weights(experiment, load_trained(experiment))


def test_a_number_is_answered_by_the_text_id_that_has_zeros_before_it(caplog):
    ids = ["0001", "0010", "7"]
    rows = {"item_id": ids, "title": ids, "num_train": [1, 1, 1]}
    catalogue = Catalogue.of(pa.table(rows))
    known = "'1' is not in the catalogue; there is '0001': ids are text"
    with pytest.raises(InputError, match=f"the history has no known item: {known}$"):
        known_histories([1, 5], catalogue)
    with pytest.raises(InputError, match=r"'5' is not in the catalogue$"):
        known_histories([5], catalogue)
    assert len(known_histories([[7, 10], ["0001"]], catalogue).items) == 2
    assert caplog.messages[-1].endswith("left out: '10'; there is '0010': ids are text")
    assert padded_hint("07", catalogue) == "; there is '7': ids are text"
    assert padded_hint("0001", catalogue) == ""
