"""Several categories: one catalogue of all, or one after the other."""

import argparse
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import small_experiment, write_categories, write_dataset

from etl.synthetic.catalogue import write_catalogue
from evaluation.metrics.slices import CATEGORY, read_slicings
from evaluation.report.slices import slice_name
from evaluation.serving.catalogue import Catalogue
from evaluation.stored.categories import check_category
from mdsrec import schema, tables
from mdsrec.command import each_of
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.table_names import CATEGORIES
from mdsrec.tables import Recipe

ROOT = Path(__file__).parent.parent
TOML = """
name = "all"
root = "{folder}/root"
[input]
edition = "2018"
[input.categories.Arts]
reviews = ["{folder}/arts.json"]
metadata = ["{folder}/meta_arts.json"]
[input.categories.Music]
reviews = ["{folder}/music.json", "{folder}/more_music.json"]
[spark]
master = "local[2]"
driver_memory = "1g"
partitions = 2
[sequences]
k_core = 1
[model]
name = "sasrec"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "all.toml"
    path.write_text(TOML.format(folder=tmp_path))
    return str(path)


def test_the_files_of_all_categories_are_one_input_in_their_order(config, tmp_path):
    found = load_experiment(config).input
    names = ("arts.json", "music.json", "more_music.json")
    assert found.names("reviews") == tuple(f"{tmp_path}/{name}" for name in names)
    assert found.names("metadata") == (f"{tmp_path}/meta_arts.json",)


def test_one_category_has_its_files_below_a_root_of_its_own(config, tmp_path):
    found = load_experiment(config, ["input.only=Music"])
    assert found.root == f"{tmp_path}/root/Music"
    assert found.input.names("reviews") == found.input.reviews
    assert len(found.input.reviews) == 2 and found.input.metadata == ()
    assert found.input.only is None  # a stored configuration loads as it is


def test_each_takes_the_categories_one_after_the_other(config):
    given = argparse.Namespace(config=config, overrides=["seed=1"], each=True)
    found = [arguments.overrides for arguments in each_of(given)]
    assert found == [["seed=1", "input.only=Arts"], ["seed=1", "input.only=Music"]]
    given.each = False
    assert [arguments.overrides for arguments in each_of(given)] == [["seed=1"]]


def test_each_needs_categories(config):
    given = argparse.Namespace(config=config, overrides=["input.only=Arts"], each=True)
    with pytest.raises(InputError, match=r"--each needs \[input.categories.NAME\]"):
        list(each_of(given))


@pytest.mark.parametrize(
    "override, message",
    [
        ("input.only=Art", r"only = 'Art' is not one of the categories \(Arts, Music\)"),
        ('input.reviews=["a"]', "reviews and categories exclude each other"),
        ('input.categories.Food.metadata=["a"]', "key categories.Food.reviews is missing"),
        ('input.categories.Food.reviews=["music.json"]', "music.json is listed in categories"),
        ('input.categories.Arts.items=["a"]', 'categories.Arts.items needs format = "table"'),
        ('input.categories={"a/b" = {reviews = ["a"]}}', "'a/b' cannot name a category"),
    ],
)
def test_a_mistake_in_the_categories_is_one_line(config, override, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_experiment(config, [override])


@pytest.mark.spark
def test_the_first_metadata_or_else_the_first_interaction_decides_the_category(spark):
    from etl.catalogue.categories import Categories, build_categories, count_items

    items = spark.createDataFrame(
        [(n, i) for n, i in enumerate("abcd")], "item int, item_id string"
    )
    columns = "item_id string, file int"
    metadata = [("a", 1), ("a", 0), ("b", 1), ("x", 0)]
    interactions = [("a", 2), ("b", 0), ("c", 2), ("c", 1), ("d", 0)]
    of_files = Categories(("Arts", "Music", "Music"), ("Arts", "Music"))
    rows = build_categories(
        items,
        spark.createDataFrame(metadata, columns),
        spark.createDataFrame(interactions, columns),
        of_files,
    )
    found = {row["item"]: row.category for row in rows.collect()}
    assert found == {0: "Arts", 1: "Music", 2: "Music", 3: "Arts"}
    assert count_items(rows, ["Arts", "Music", "Food"]) == {"Arts": 2, "Music": 2, "Food": 0}
    without = build_categories(
        items,
        spark.createDataFrame([], columns),
        spark.createDataFrame(interactions, columns),
        Categories(of_files.of_interactions, ()),
    )
    assert {row["item"]: row.category for row in without.collect()}[1] == "Arts"


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(1200)
def test_categories_make_the_tables_of_all_files_and_then_those_of_one_each(tmp_path):
    for name, seed in (("arts", 1), ("music", 2), ("more_music", 3)):
        write_catalogue(tmp_path / name, num_users=60, num_items=20, seed=seed)
        for kind, stored in (("", "reviews"), ("meta_", "metadata")):
            raw = gzip.decompress((tmp_path / name / f"{stored}.json.gz").read_bytes())
            (tmp_path / f"{kind}{name}.json").write_bytes(raw)
    path = tmp_path / "all.toml"
    path.write_text(TOML.format(folder=tmp_path))
    files = [f"{tmp_path}/{name}.json" for name in ("arts", "music", "more_music", "meta_arts")]
    listed = f"input.reviews={files[:3]}", f"input.metadata={files[3:]}", "input.categories={}"
    run_etl(path)
    run_etl(path, *listed, f"root={tmp_path}/listed")
    run_etl(path, "--each")
    shared = ("interactions", "metadata", "sequences", "items", "cooccurrence")
    for name in shared:
        whole, plain = (files_of(tmp_path / root, name) for root in ("root", "listed"))
        assert whole == plain
    counters = tables.open_table(tables.table_uri(f"{tmp_path}/root", CATEGORIES)).counters
    assert list(counters) == ["Arts", "Music"] and min(counters.values()) > 0
    only_arts = f'{{Arts={{reviews=["{files[0]}"], metadata=["{files[3]}"]}}}}'
    run_etl(path, f"input.categories={only_arts}")
    for name in shared:
        one = files_of(tmp_path / "root", name)
        assert one == files_of(tmp_path / "root" / "Arts", name)
    assert tables.read_manifest(tables.table_uri(f"{tmp_path}/root/Music", CATEGORIES)) is None


def run_etl(*words: object) -> None:
    command = [sys.executable, "-m", "etl", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


def files_of(root: Path, name: str) -> list[pa.Table]:
    """Return the files of a table, in order, each with its schema and rows.

    Their bytes may differ: Java lists the encodings of a column in the order of a hash set, which
    changes from process to process.
    """
    folder = root / "dataset" / name
    listed = tables.open_table(str(folder)).files
    return [pq.read_table(folder / file.path) for file in listed]


@pytest.fixture(scope="module")
def categorized(tmp_path_factory):
    """Return an experiment whose items are of Arts and Music."""
    experiment = small_experiment(tmp_path_factory.mktemp("categories"))
    write_dataset(experiment)
    write_categories(experiment.root)
    return experiment


def test_targets_are_sliced_by_the_category_of_their_item(categorized):
    num_items = tables.open_table(tables.table_uri(categorized.root, "items")).rows
    slicing = read_slicings(categorized.root, ("text",), num_items)[CATEGORY]
    assert slicing.names == ("Arts", "Music", "Food")
    assert slicing.slices(np.array([5, 6]), np.array([2, 3])).tolist() == [1, 0]
    assert slice_name(CATEGORY, "Arts") == "category Arts"


def test_categories_of_other_items_are_not_used(categorized, tmp_path):
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    write_categories(experiment.root)
    uri = tables.table_uri(experiment.root, CATEGORIES)
    rows = tables.read_table(uri, schema.CATEGORIES)
    tables.write_table(uri, rows.to_batches(), schema.CATEGORIES, Recipe({}, {"items": "other"}))
    assert CATEGORY not in read_slicings(experiment.root, ("text",), len(rows))


def test_categories_are_in_the_order_of_names_whatever_item_comes_first():
    of_items = pa.chunked_array([["Music", "Arts"], ["Food", "Arts"]])
    columns = {"item_id": list("abcd"), "title": list("ABCD"), "num_train": [1] * 4}
    catalogue = Catalogue.of(pa.table({**columns, "category": of_items}))
    assert catalogue.category_names == ["Arts", "Food", "Music"]
    assert catalogue.in_category("Arts").tolist() == [False, True, False, True]


def test_only_items_of_a_category_are_recommended(categorized):
    check_category(categorized.root, "Music")
    catalogue = Catalogue.read(categorized)
    assert catalogue.in_category("Music")[:4].tolist() == [False, True, True, False]
    assert not catalogue.in_category("Food").any()
    with pytest.raises(InputError, match="--category Toys: choose from Arts, Music, Food"):
        check_category(categorized.root, "Toys")


def test_without_categories_none_can_be_chosen(tmp_path):
    with pytest.raises(InputError, match="the input has no categories: name them as"):
        check_category(str(tmp_path), "Arts")
