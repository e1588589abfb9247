"""`Recommender` gives the lists of `python -m evaluation recommend`, from a run or an export."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from random_runs import run_of, write_weights
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation import Recommender
from evaluation.recommend import Options, recommend
from evaluation.run import evaluate
from evaluation.serving.catalogue import Catalogue
from evaluation.serving.export import export
from evaluation.serving.loading import run_experiment
from evaluation.serving.model_card import model_card
from mdsrec import schema, tables
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.trained_run import describe_trained

ROOT = Path(__file__).parent.parent
TOP = 7
ABSENT = (  # where only the packages are installed that docs/serving.md names
    *("ray", "pyspark", "deepspeed", "sentence_transformers", "PIL", "lxml", "tensorboard"),
    *("optuna", "rich", "tqdm", "tomli_w", "packaging", "requests", "aiohttp", "faiss"),
)


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
        if name.split(".")[0] in json.loads(sys.argv[3]):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
from evaluation import Recommender
model = Recommender.load(sys.argv[1])
model.recommend(json.load(sys.stdin), top=7).to_parquet(sys.argv[2])
"""
    subprocess.run(
        [sys.executable, "-c", program, exported, tmp_path / "lists.parquet", json.dumps(ABSENT)],
        input=json.dumps(run.histories),
        cwd=ROOT,
        text=True,
        check=True,
    )
    frame = pd.read_parquet(tmp_path / "lists.parquet")
    lists = (rows for _, rows in frame.groupby("history"))
    assert_lists_of_the_table(lists, run.rows)


def test_importing_the_recommender_loads_neither_ray_nor_spark_nor_deepspeed():
    program = "import sys; from evaluation import Recommender; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in ended.stdout.split()}
    assert "torch" in loaded
    assert loaded & {"ray", "pyspark", "deepspeed"} == set()


@pytest.mark.ray
def test_seen_items_are_left_out_on_request(model, run):
    frame = model.recommend(run.histories[0], top=NUM_ITEMS, exclude_seen=True)
    assert sorted([*frame["item_id"], *set(run.histories[0])]) == model.item_ids


@pytest.mark.ray
def test_unknown_ids_are_left_out_counted_and_logged_in_one_line(model, run, caplog):
    plain = model.recommend(run.histories[3])
    mixed = model.recommend(["gone", *run.histories[3], 77, "gone"])
    pd.testing.assert_frame_equal(plain, mixed)
    assert plain.attrs["unknown_ids"] == {}
    assert mixed.attrs["unknown_ids"] == {"gone": 2, "77": 1}
    [line] = caplog.messages
    assert line == (
        "2 item ids (3 events) are not in the catalogue and were left out: 'gone', '77'"
    )


@pytest.mark.ray
def test_histories_without_a_known_item_get_no_rows_and_are_listed(model, run, caplog):
    frame = model.recommend({"ann": run.histories[0], "ben": [], "cid": ["gone"]}, top=2)
    assert frame["history"].tolist() == ["ann", "ann"]
    assert frame.attrs["empty_histories"] == ["ben", "cid"]
    assert "2 of 3 histories have no known item and no recommendations" in caplog.messages
    assert model.recommend([["gone"]]).empty


@pytest.mark.ray
def test_mistakes_of_the_caller_are_one_line(model):
    for call, message in (
        (lambda: model.recommend([]), "the history is empty: give the item ids of at least one"),
        (lambda: model.recommend(["gone"]), "no known item: 'gone' is not in the catalogue"),
        (lambda: model.recommend("B0004"), "history 'B0004': expected a list of item ids"),
        (lambda: model.recommend({"ann": "B0004"}), "history 'B0004': expected a list"),
        (lambda: model.recommend(["B0004"], top=41), "top = 41: choose 1 to 40, all items"),
        (lambda: model.recommend(["B0004"], top=0), "top = 0: choose 1 to 40, all items"),
        (lambda: model.similar("B0004", top=0), "top = 0: choose 1 to 40, all items"),
        (lambda: model.recommend(["B0004"], top="5"), "top = '5': expected a whole number"),
        (lambda: model.similar("B0004", top=True), "top = True: expected a whole number"),
        (lambda: model.similar(4), "item '4' is not in the catalogue of small$"),
        (lambda: model.similar("gone"), "item 'gone' is not in the catalogue of small"),
        (lambda: model.similar("B0004", channel="audio"), "channel 'audio': choose from"),
        (lambda: Recommender.load("/tmp"), "/tmp: neither .*, nor one that `mdsrec export "),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.ray
def test_similar_items_have_the_largest_cosines_of_their_channel(model):
    vectors = model.item_vectors()["image"]
    cosines = pd.Series(
        torch.nn.functional.cosine_similarity(
            torch.tensor(vectors.to_numpy()), torch.tensor(vectors.loc["B0004"].to_numpy())[None]
        ),
        vectors.index,
    ).drop("B0004")
    best = cosines.sort_values(ascending=False, kind="stable")[:5]
    frame = model.similar("B0004", top=5, channel="image")
    assert frame["item_id"].tolist() == best.index.tolist()
    assert frame["score"].tolist() == pytest.approx(best.tolist(), abs=1e-6)
    assert set(frame["channel"]) == {"image"}
    assert model.similar("B0004")["channel"].tolist() == ["fused"] * 10


@pytest.mark.ray
def test_similar_items_of_the_memory_are_those_that_followed_the_item(model, run):
    followers = {
        following
        for history in run.histories
        for item, following in pairwise(history)
        if item == "B0004" != following
    }
    assert set(model.similar("B0004", top=NUM_ITEMS, channel="memory")["item_id"]) == followers


@pytest.mark.ray
def test_products_of_user_and_item_vectors_are_the_terms_of_the_network(model, run):
    users, items = model.user_vectors(run.histories[:3]), model.item_vectors()
    assert users.index.tolist() == [0, 1, 2]
    assert items.index.tolist() == model.item_ids
    assert [*dict.fromkeys(items.columns.get_level_values("channel"))] == ["fused", "text", "image"]
    weighted = read(RunPaths(run.uri).user_vectors, schema.USER_VECTORS)[:3]
    assert users.to_numpy().tolist() == [row["vector"] for row in weighted]
    assert users.columns.equals(items.columns)


@pytest.mark.ray
@pytest.mark.parametrize("order", ["in order", "shuffled, with times"])
def test_the_runs_own_split_gives_the_metrics_of_its_metrics_json(model, run, order):
    rows = read(tables.table_uri(run.experiment.root, "sequences"), schema.SEQUENCES)
    events = [
        (row["user_id"], f"B{item:04d}", place, split_of(row, place))
        for row in rows
        for place, item in enumerate(row["items"])
    ]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "time", "split"])
    if order == "in order":
        frame = frame.drop(columns="time")
    else:
        frame = frame.sample(frac=1, random_state=0)
    found = model.evaluate(frame)
    stored = json.loads(Path(RunPaths(run.uri).metrics).read_text())
    assert found.attrs["targets"] == stored["targets"]
    for split, channels in stored["split"].items():
        assert set(found.loc[split].index.get_level_values("channel")) == set(channels)
        for channel, means in channels.items():
            own = found.loc[(split, channel)]
            assert own["mean"].to_dict() == means
            interval = stored["interval"][split][channel]
            assert own[["low", "high"]].apply(list, axis=1).to_dict() == interval


def split_of(row: dict, place: int) -> str:
    if place < row["train_end"]:
        return "train"
    return "valid" if place < row["valid_end"] else "test"


@pytest.mark.ray
def test_without_a_split_the_last_event_of_each_user_is_the_test(model, caplog):
    events = pd.DataFrame(
        {"user_id": [1, 1, 1, 2, 2], "item_id": ["B0004", "gone", "B0009", "B0004", "gone"]}
    )
    found = model.evaluate(events)
    assert found.attrs["targets"] == {"valid": 0, "test": 1}  # the item of user 2 is not known
    assert found.attrs["unknown_ids"] == {"gone": 2}
    assert "1 item id (2 events) is not in the catalogue and was left out" in caplog.text
    for frame, message in (
        (events.drop(columns="item_id"), "no column item_id"),
        (events.assign(split="dev"), "split 'dev': expected train, valid or test"),
        (events[:1], "no event can be ranked"),
    ):
        with pytest.raises(InputError, match=message):
            model.evaluate(frame)


@pytest.mark.ray
def test_an_exported_folder_gives_everything_that_its_run_gives(model, run, exported):
    moved = Recommender.load(exported)
    pd.testing.assert_frame_equal(moved.item_vectors(), model.item_vectors(), check_exact=True)
    for call in (
        lambda m: m.recommend(run.histories, exclude_seen=True),
        lambda m: m.user_vectors(run.histories),
        lambda m: m.similar("B0004", channel="memory"),
    ):
        pd.testing.assert_frame_equal(call(moved), call(model), check_exact=True)
    own = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["B0001", "B0002", "B0003"]})
    of_run, of_export = (each.evaluate(own) for each in (model, moved))
    channels = of_export.index.get_level_values("channel")
    assert "itemknn" not in channels  # its table is not exported
    pd.testing.assert_frame_equal(of_export, of_run.loc[of_export.index], check_exact=True)


@pytest.mark.ray
def test_an_exported_folder_names_no_user_and_describes_the_model(run, exported):
    files_of = {path.name: path.read_bytes() for path in Path(exported).iterdir()}
    assert not [name for name, content in files_of.items() if b"U0001" in content]
    card = files_of["README.md"].decode()
    stored = json.loads(Path(RunPaths(run.uri).metrics).read_text())
    test = stored["split"]["test"]["all"]
    assert f"| all | {test['recall@10']:.4f} | {test['ndcg@10']:.4f} |" in card
    assert "40 items. Interactions: `reviews.json`. Modalities: text, image." in card


@pytest.mark.ray
def test_the_card_shows_no_metrics_of_other_weights(run, tmp_path):
    shutil.copytree(run.experiment.root, tmp_path / "moved")
    experiment = run_experiment(str(tmp_path / "moved" / "runs" / "small"))
    write_weights(experiment, seed=2)
    card = model_card(experiment, describe_trained(experiment), Catalogue.read(experiment))
    assert "This model was not evaluated before it was exported." in card
    assert "| all |" not in card


@pytest.mark.ray
def test_a_changed_file_of_an_export_is_refused_but_its_model_card_may_be_edited(
    exported, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "README.md").write_text("ours")
    assert Recommender.load(copy).name == "small"
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"weights.safetensors: the file was changed: export"):
        Recommender.load(copy)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights.safetensors: the file is missing: export"):
        Recommender.load(copy)


@pytest.mark.ray
def test_an_export_never_replaces_another_and_a_killed_one_is_completed(run, tmp_path, monkeypatch):
    folder = str(tmp_path / "folder")
    with monkeypatch.context() as patched:
        patched.setattr("mdsrec.files.write_json", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            export(run.uri, folder)
    with pytest.raises(InputError, match="neither the folder of a trained run"):
        Recommender.load(folder)
    export(run.uri, folder)
    assert Recommender.load(folder).name == "small"
    with pytest.raises(InputError, match="already holds an export: delete it"):
        export(run.uri, folder)


@pytest.mark.ray
def test_a_run_whose_root_moved_is_loaded_from_where_it_is(run, tmp_path):
    shutil.copytree(run.experiment.root, tmp_path / "moved")
    moved = Recommender.load(tmp_path / "moved" / "runs" / "small")
    assert_lists_of_the_table([moved.recommend(run.histories[0], top=TOP)], run.rows[:1])


@pytest.mark.ray
def test_a_run_whose_weights_were_not_chosen_is_refused(run, tmp_path):
    shutil.copytree(run.experiment.root, tmp_path / "moved")
    (tmp_path / "moved" / "runs" / "small" / "weights.json").unlink()
    with pytest.raises(InputError, match="no weights of the channels for this model: run `"):
        Recommender.load(tmp_path / "moved" / "runs" / "small")


@pytest.mark.ray
def test_threads_of_a_service_get_the_same_lists(model, run):
    with ThreadPoolExecutor(4) as threads:
        lists = threads.map(lambda history: model.recommend(history, top=TOP), run.histories)
        assert_lists_of_the_table(lists, run.rows)


@pytest.mark.ray
def test_histories_may_come_from_a_generator(model, run):
    several = model.recommend((history for history in run.histories[:4]), top=2)
    pd.testing.assert_frame_equal(several, model.recommend(run.histories[:4], top=2))
    one = model.recommend(iter(run.histories[0]), top=2)
    pd.testing.assert_frame_equal(one, model.recommend(pd.Series(run.histories[0]), top=2))
