"""The whole ETL on a small synthetic catalogue, with given vectors instead of an encoder."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from etl.graph.unit_vectors import unit_rows
from etl.graph.whitening import Whitening
from etl.synthetic.catalogue import write_catalogue
from mdsrec import files, schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

pytestmark = pytest.mark.spark

SCHEMAS = {
    "interactions": schema.INTERACTIONS,
    "metadata": schema.METADATA,
    "rejects": schema.REJECTS,
    "items": schema.ITEMS,
    "sequences": schema.SEQUENCES,
    "cooccurrence": schema.COOCCURRENCE,
    "transitions": schema.TRANSITIONS,
    "memory": schema.MEMORY,
    "features": schema.FEATURES,
    "propagated": schema.PROPAGATED,
    "neighbors": schema.NEIGHBORS,
    "places": schema.PLACES,
    "centers": schema.CENTERS,
    "centroids": schema.CENTROIDS,
}
RAW_TABLES = ("interactions", "metadata", "rejects", "sequences")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_catalogue(folder, num_users=80, num_items=50, seed=1)
    return folder


def experiment(raw, root, **changes):
    content = {
        "name": "x",
        "root": str(root),
        "input": {
            "edition": "2018",
            "reviews": [str(raw / "reviews.json.gz")],
            "metadata": [str(raw / "metadata.json.gz")],
        },
        "sequences": {"k_core": 3},
        "features": {"image": {"vectors": str(raw / "image.parquet")}},
        "graph": {"max_neighbors": 12},
        "spark": {"rows_per_file": 100},
        "model": {"num_centers": 4, "memory": True, "mu": 0.2},
        "transitions": {"max_entries": 20},
    }
    return experiment_from(content | changes, "test")


@pytest.fixture(scope="module")
def built(spark, raw, tmp_path_factory):
    """Build the catalogue once; return (experiment, manifests)."""
    from etl.run import build_tables

    first = experiment(raw, tmp_path_factory.mktemp("root"))
    spark.conf.set("spark.sql.shuffle.partitions", 1)
    return first, build_tables(first, spark)


def table(experiment, name):
    uri = tables.table_uri(experiment.root, name)
    return tables.read_table(uri, SCHEMAS[name.split("/")[0].split(",")[0]])


@pytest.mark.parametrize("partitions", [pytest.param(3, marks=pytest.mark.slow), 8])
def test_any_partitioning_gives_the_same_bits_in_the_same_files(
    spark, raw, built, tmp_path, partitions
):
    from etl.run import build_tables

    first, expected = built
    again = experiment(raw, tmp_path)
    spark.conf.set("spark.sql.shuffle.partitions", partitions)
    spark.conf.set("spark.sql.adaptive.enabled", False)
    try:
        manifests = build_tables(again, spark)
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", True)
        spark.conf.set("spark.sql.shuffle.partitions", 2)
    assert manifests.keys() == expected.keys()
    for name, manifest in manifests.items():
        assert table(again, name).equals(table(first, name)), name
        assert [f.rows for f in manifest.files] == [f.rows for f in expected[name].files]
        assert manifest.counters == expected[name].counters


def test_ids_are_dense_and_tables_are_in_order(built):
    first, manifests = built
    for name, key in [("items", "item"), ("sequences", "user")]:
        assert table(first, name).column(key).to_pylist() == list(range(manifests[name].rows))
    ids = table(first, "items").column("item_id").to_pylist()
    assert ids == sorted(ids, key=str.encode)
    pairs = table(first, "cooccurrence").select(["item", "other"]).to_pylist()
    assert [(p["item"], p["other"]) for p in pairs] == sorted(
        (p["item"], p["other"]) for p in pairs
    )
    lines = table(first, "interactions").column("line").to_pylist()
    assert lines == sorted(lines)
    assert len(manifests["interactions"].files) > 1


def test_cooccurrence_and_num_train_equal_plain_python_over_training_events(built):
    first, _ = built
    expected, num_train = {}, {}
    for row in table(first, "sequences").to_pylist():
        items = row["items"][: row["train_end"]]
        for p, a in enumerate(items):
            num_train[a] = num_train.get(a, 0) + 1
            for q in range(p + 1, len(items)):
                if a != items[q]:
                    for pair in ((a, items[q]), (items[q], a)):
                        expected[pair] = expected.get(pair, 0) + 1 / (q - p)
    rows = table(first, "cooccurrence").to_pylist()
    assert {(r["item"], r["other"]) for r in rows} == expected.keys()
    for row in rows:
        assert row["score"] == pytest.approx(expected[row["item"], row["other"]], rel=1e-9)
    for row in table(first, "items").to_pylist():
        assert row["num_train"] == num_train.get(row["item"], 0)


def test_held_out_items_never_reach_a_table_that_training_reads(spark, raw, built, tmp_path):
    from etl.run import build_tables

    first, manifests = built
    rows = table(first, "sequences").to_pylist()
    held_out = [item for row in rows for item in row["items"][row["train_end"] :]]
    permuted = iter(np.random.default_rng(0).permutation(held_out).tolist())
    for row in rows:
        row["items"] = [
            item if position < row["train_end"] else next(permuted)
            for position, item in enumerate(row["items"])
        ]
    assert rows != table(first, "sequences").to_pylist()
    other = experiment(raw, tmp_path / "root")
    shutil.copytree(first.root, other.root)
    derived = [name for name in manifests if name.split("/")[0] not in RAW_TABLES]
    assert {"transitions", "memory/image,max_entries=20"} <= set(derived)
    for name in derived:
        files.delete_folder(tables.table_uri(other.root, name))
    original = manifests["sequences"]
    tables.write_table(
        tables.table_uri(other.root, "sequences"),
        pa.Table.from_pylist(rows, schema.SEQUENCES).to_batches(),
        schema.SEQUENCES,
        tables.Recipe(original.settings, original.inputs),
        original.counters,
    )
    build_tables(other, spark)
    assert len(derived) > 4
    for name in derived:
        assert table(other, name).equals(table(first, name)), name


def test_neighbors_are_sorted_by_similarity_and_exclude_the_item_itself(built):
    first, manifests = built
    with_vector = set(table(first, "features/image").column("item").to_pylist())
    assert manifests["features/image"].counters["items_without"] > 0
    rows = table(first, "neighbors/image/mu=0.2").to_pylist()
    assert {row["item"] for row in rows} == with_vector
    for row in rows:
        assert len(row["neighbors"]) == min(12, len(with_vector) - 1)
        assert row["item"] not in row["neighbors"]
        assert set(row["neighbors"]) <= with_vector
        assert row["similarities"] == sorted(row["similarities"], reverse=True)


def test_neighbors_are_the_nearest_of_whitened_vectors_unless_whitening_is_off(
    spark, raw, built, tmp_path
):
    from etl.run import build_tables

    first, _ = built
    graph = {"max_neighbors": 12, "whiten": False}
    plain = experiment(raw, tmp_path / "root", graph=graph)
    shutil.copytree(first.root, plain.root)
    build_tables(plain, spark)
    features, smoothed = table(first, "features/image"), table(first, "propagated/image")
    items = np.array(features["item"])
    Ebar = np.array(features["vector"].to_pylist())
    changed = np.searchsorted(items, np.array(smoothed["item"]))
    Ebar[changed] += 0.2 * np.array(smoothed["vector"].to_pylist())
    white = Whitening.fit(Ebar.astype(np.float32))(Ebar)
    lists = []
    for owner, name, rows in [
        (first, "neighbors/image/mu=0.2", white),
        (plain, "neighbors/image/mu=0.2,whiten=false", Ebar),
    ]:
        cosines = unit_rows(rows) @ unit_rows(rows).T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.argsort(-cosines, axis=1)[:, :12]
        found = table(owner, name)
        lists.append(found["neighbors"].to_pylist())
        assert found["item"].to_pylist() == items.tolist()
        assert lists[-1] == items[nearest].tolist()
        expected = np.take_along_axis(cosines, nearest, 1)
        np.testing.assert_allclose(found["similarities"].to_pylist(), expected, atol=1e-6)
    assert lists[0] != lists[1]


def test_every_input_line_and_event_is_counted(built, raw):
    first, manifests = built
    counters = manifests["interactions"].counters
    assert counters["lines"] == (
        manifests["interactions"].rows + counters["blank"] + counters["rejected"]
    )
    assert manifests["rejects"].counters == {
        "reviews: missing asin": 1,
        "reviews: not JSON": 1,
        "reviews: unixReviewTime is string, not number": 1,
        "metadata: not JSON": 1,
    }
    reject = table(first, "rejects").to_pylist()[0]
    assert (reject["source"], reject["line"]) == (str(raw / "metadata.json.gz"), 11)
    assert reject["raw"] == '{"reviewerID": "A1", "asin": '
    events = manifests["sequences"].counters
    assert manifests["interactions"].rows == (
        events["interactions"] + events["k_core_dropped_events"] + events["repeats_dropped"]
    )
    assert events["repeats_dropped"] > 0
    assert events["train"] + events["valid"] + events["test"] == events["interactions"]
    items = manifests["items"].counters
    assert items["metadata_duplicates"] > 0
    assert "A later record" not in table(first, "items").column("title").to_pylist()


@pytest.mark.parametrize(
    ("changes", "rebuilt"),
    [
        ({"graph": {"max_neighbors": 12, "mu": [0.5]}}, ["neighbors/image/mu=0.5"]),
        (
            {"graph": {"max_neighbors": 13}},
            [
                "neighbors/image/mu=0.2",
                "neighbors/image/mu=1",
                "places/image/mu=0.2",
                "memory/image,max_entries=20",
            ],
        ),
        (
            {"graph": {"max_neighbors": 12, "normalize": "none"}},
            [
                "propagated/image,normalize=none",
                "neighbors/image/mu=0.2,normalize=none",
                "neighbors/image/mu=1,normalize=none",
                "places/image/mu=0.2,normalize=none",
                "memory/image,max_entries=20,graph.normalize=none",
            ],
        ),
        (
            {"graph": {"max_neighbors": 12, "whiten": False}},
            [
                "neighbors/image/mu=0.2,whiten=false",
                "neighbors/image/mu=1,whiten=false",
                "places/image/mu=0.2,whiten=false",
                "memory/image,max_entries=20,graph.whiten=false",
            ],
        ),
        (
            {"graph": {"max_neighbors": 12, "num_centers": [2]}},
            ["centers/image/k=2", "centroids/image/k=2"],
        ),
        ({"model": {"num_centers": 3, "mu": 0.2}}, ["centers/image/k=3", "centroids/image/k=3"]),
    ],
)
def test_a_changed_setting_rebuilds_only_what_depends_on_it(spark, raw, built, changes, rebuilt):
    from etl.builders.workspace import Workspace

    space = Workspace(experiment(raw, built[0].root, **changes), spark)
    assert [name for name in space.recipes if space.find_table(name) is None] == rebuilt


def test_up_to_date_tables_are_not_rebuilt_and_several_mu_and_k_are_built_in_one_run(
    spark, raw, built
):
    from etl.run import build_tables

    first, manifests = built
    assert build_tables(first) == manifests  # without a session: none is started
    graph = {"max_neighbors": 12, "normalize": "symmetric", "mu": [0.0, 1.5], "num_centers": [2, 6]}
    found = build_tables(experiment(raw, first.root, graph=graph), spark)
    for mu in ("0.2", "0", "1.5"):
        assert found[f"neighbors/image/mu={mu},normalize=symmetric"].counters["recall"] == 1
    assert [found[f"centers/image/k={k}"].counters["smallest"] > 0 for k in (4, 2, 6)] == [True] * 3
    assert found["centers/image/k=4"] == manifests["centers/image/k=4"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"sequences": {"k_core": 99}},
            "no user is left after sequences.k_core = 99: the input has",
        ),
        ({"model": {"num_neighbors": 50}}, "items have the modality image: set it to"),
        ({"model": {"num_centers": 51}}, "items have the modality image: set it to"),
    ],
)
def test_a_setting_that_needs_more_data_than_there_is_is_named(spark, raw, built, changes, words):
    from etl.run import build_tables

    with pytest.raises(InputError, match=words) as error:
        build_tables(experiment(raw, built[0].root, graph={}, **changes), spark)
    assert "\n" not in str(error.value)


def test_the_synthetic_catalogue_has_the_same_bytes_for_the_same_seed(raw, tmp_path):
    write_catalogue(tmp_path, num_users=80, num_items=50, seed=1)
    for name in ("reviews.json.gz", "metadata.json.gz", "image.parquet"):
        assert (tmp_path / name).read_bytes() == (raw / name).read_bytes()
    pictures = sorted(path.name for path in (raw / "images").iterdir())
    assert pictures == sorted(path.name for path in (tmp_path / "images").iterdir())
    for name in pictures:
        assert (tmp_path / "images" / name).read_bytes() == (raw / "images" / name).read_bytes()


def test_the_manifest_names_the_rule_for_ties(built):
    first, _ = built
    uri = tables.table_uri(first.root, "sequences") + "/" + tables.MANIFEST
    assert "input order" in json.loads(files.read_bytes(uri))["settings"]["ties"]
