"""Places of items: near items are neighbors in the order, and ranks own ranges of it."""

import numpy as np
import pyarrow as pa
import pytest

from etl.builders import places as builder
from etl.builders.places import PlacesBuilder
from etl.builders.workspace import Workspace
from etl.graph import unit_vectors
from etl.graph.unit_vectors import unit_rows
from etl.places import bisection, order, remote
from etl.places.bisection import fit_tree, halve
from etl.places.remote import RemoteShares, count_remote, listed_pairs, owners_of
from etl.recipes import raw_inputs, recipes
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.table_names import features_name, neighbors_name, places_name

NUM_ITEMS = 40
WITHOUT_BOTH = [3, 4]
WITHOUT_IMAGE = [0, 1, 2, *WITHOUT_BOTH]


def clusters(sizes, width=6, noise=0.1, seed=0):
    """Return unit vectors near one axis each, in random order, and the axis of each [n]."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.eye(width)[labels] + noise * generator.normal(size=(len(labels), width))
    return unit_rows(rows).astype(np.float32), labels


def test_a_division_is_at_the_gap_nearest_to_the_middle():
    right, threshold = halve(np.array([3, 1, 1, 1, 2], np.float32))
    assert right.tolist() == [True, False, False, False, True] and threshold == 1.5
    right, _ = halve(np.array([5, 5, 5, 1], np.float32))
    assert right.tolist() == [True, True, True, False]
    least = np.float32(1e-45)  # nothing lies between 0 and this
    assert halve(np.array([0, least], np.float32))[0].tolist() == [False, True]
    assert not halve(np.array([2, 2], np.float32))[0].any()


def test_leaves_of_a_sample_have_equal_sizes_and_hold_one_cluster_each():
    rows, labels = clusters([128] * 4)
    tree = fit_tree(rows, rows)
    leaves, _ = tree.locate(rows)
    assert np.bincount(leaves).tolist() == [64] * 8
    assert [len(set(labels[leaves // 2 == half])) for half in range(4)] == [1] * 4


def test_more_rows_than_are_gathered_at_a_time_are_located_alike(monkeypatch):
    rows, _ = clusters([100] * 3)
    tree = fit_tree(rows, rows)
    whole = tree.locate(rows)
    monkeypatch.setattr(bisection, "ROWS_AT_A_TIME", 7)
    assert all(map(np.array_equal, tree.locate(rows), whole))


@pytest.mark.parametrize("count", [0, 1, 64, 200])
def test_equal_vectors_share_a_leaf_and_a_position(count):
    rows = np.tile(unit_rows(np.array([[0.1, 0.7, 0.3]])), (count, 1)).astype(np.float32)
    tree = fit_tree(rows, rows)
    leaves, positions = tree.locate(rows)
    assert not leaves.any() and len(set(positions.tolist())) <= 1
    assert tree.num_leaves == (4 if count == 200 else 1)


def test_halves_are_improved_among_the_vectors_that_are_searched():
    searched, labels = clusters([50, 50])
    plain = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    right_of = {}
    for name, rows in (("plain", plain), ("searched", searched)):
        leaves, _ = fit_tree(plain, rows).locate(rows)
        right_of[name] = sorted((labels[leaves == 1] == leaf).mean() for leaf in (0, 1))
    assert right_of["plain"][0] > 0.2  # these know nothing of the clusters
    assert right_of["searched"] == [0, 1]


@pytest.mark.parametrize("num_items", [1, 5, 63, 64, 65, 1585])
def test_shards_of_the_figures_are_equal_and_unions_of_the_smallest(num_items):
    places = np.arange(num_items)
    owners = owners_of(places, num_items)
    for number in remote.SHARDS:
        starts = num_items * np.arange(number + 1) // number
        expected = np.searchsorted(starts, places, side="right") - 1
        assert (owners // (remote.MOST // number) == expected).all()


def test_remote_neighbors_are_counted_as_by_hand():
    lists = [[7, 1], [0], [], [2, 4, 5]]  # of items 0, 1, 2 and 3 of 8
    rows = pa.table({"item": [0, 1, 2, 3], "neighbors": pa.array(lists, pa.list_(pa.int32()))})
    items, neighbors = listed_pairs(rows.slice(0, 4), 2)
    assert list(zip(items, neighbors, strict=True)) == [(0, 7), (0, 1), (1, 0), (3, 2), (3, 4)]
    owners = owners_of(np.arange(8), 8)
    # 2 shards of 4 places: (0, 7) and (3, 4) are remote; 8 and 64 shards: an item each at most
    assert count_remote(owners[items], owners[neighbors]).tolist() == [2, 5, 5]
    swapped = owners_of(np.array([0, 7, 2, 3, 4, 5, 6, 1]), 8)  # items 1 and 7 change places
    # (0, 1), (1, 0) and (3, 4)
    assert count_remote(swapped[items], swapped[neighbors]).tolist() == [3, 5, 5]


def experiment_at(folder, vectors="{}\n", **sections):
    folder.mkdir(exist_ok=True)
    for name in ("reviews.json", "text.parquet", "image.parquet"):
        (folder / name).write_text(vectors)
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(folder / "reviews.json")]},
        "features": {m: {"vectors": str(folder / f"{m}.parquet")} for m in ("text", "image")},
        "graph": {"max_neighbors": 3, "whiten": False},
        "model": {"num_neighbors": 2, "mu": 0.0, "memory": False},
        "spark": {"rows_per_file": 15},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    return experiment_from(content, "test")


def write(space, name, table_schema, rows, **counters):
    batch = pa.RecordBatch.from_pylist(rows, schema=table_schema)
    uri, recipe = space.uri(name), space.recipes[name]
    tables.write_table(uri, [batch], table_schema, recipe, counters)


def write_world(space, text, image):
    """Write items and their vectors by item; the first two neighbors of i are i + 20 and i + 2."""
    write(space, "items", schema.ITEMS, [{"item": item} for item in range(NUM_ITEMS)])
    for modality, vectors in (("text", text), ("image", image)):
        rows = [{"item": item, "vector": vector} for item, vector in sorted(vectors.items())]
        width = len(rows[0]["vector"])
        write(space, features_name(modality), schema.FEATURES, rows, width=width)
        lists = [
            {
                "item": item,
                "neighbors": [(item + step) % NUM_ITEMS for step in (20, 2, 1)],
                "similarities": [0.9, 0.8, 0.7],
            }
            for item in range(NUM_ITEMS)
        ]
        write(space, neighbors_name(space.experiment, modality), schema.NEIGHBORS, lists)


def two_clusters():
    """Return vectors of text and image: those of odd items lie elsewhere than those of even ones.

    Items that have only a text are near the others of their kind by this.
    """
    generator = np.random.default_rng(0)
    text, image = {}, {}
    for item in range(NUM_ITEMS):
        axis = np.eye(2)[item % 2]
        text[item], image[item] = ([*axis, *(0.1 * generator.normal(size=size))] for size in (3, 2))
    for item in WITHOUT_IMAGE:
        del image[item]
    for item in WITHOUT_BOTH:
        del text[item]
    return text, image


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """Build the places of two clusters; return the manifest and the place of each item."""
    folder = tmp_path_factory.mktemp("places")
    return build(spark, folder, *two_clusters())


def build(spark, folder, text, image):
    space = Workspace(experiment_at(folder), spark)
    write_world(space, text, image)
    manifest = PlacesBuilder(space).build_places()
    found = tables.read_table(space.uri(places_name(space.experiment)), schema.PLACES)
    assert found.column("item").to_pylist() == list(range(NUM_ITEMS))
    places = found.column("place").to_numpy()
    assert sorted(places) == list(range(NUM_ITEMS))
    return manifest, places


@pytest.mark.spark
def test_two_clusters_are_on_different_shards_and_items_without_vectors_come_last(built):
    manifest, places = built
    assert places[WITHOUT_BOTH].tolist() == [38, 39]
    located = [item for item in range(NUM_ITEMS) if item not in WITHOUT_BOTH]
    on_the_left = {item % 2 for item in located if places[item] < 19}
    assert len(on_the_left) == 1  # 19 even and 19 odd items have a vector
    assert [file.rows for file in manifest.files] == [14, 14, 12]


def test_the_log_says_the_shares_in_one_line():
    shares = RemoteShares(10, np.array([0.1, 0.25, 0.5]), np.array([0.5, 0.875, 1]))
    assert str(shares) == (
        "of the 10 nearest neighbors 0.100, 0.250, 0.500 are remote at 2, 8, 64 shards, "
        "0.500, 0.875, 1.000 in the order of items"
    )


@pytest.mark.spark
def test_the_manifest_says_which_share_of_the_neighbors_is_remote(built):
    manifest, places = built
    shares = {}
    for name, at in (("remote_at", places), ("remote_by_item_at", np.arange(NUM_ITEMS))):
        for number in (2, 8, 64):
            owner = [sum(NUM_ITEMS * r // number <= p for r in range(1, number)) for p in at]
            pairs = [(i, (i + step) % NUM_ITEMS) for i in range(NUM_ITEMS) for step in (20, 2)]
            share = sum(owner[i] != owner[j] for i, j in pairs) / len(pairs)
            shares[f"{name}_{number}_shards"] = pytest.approx(share, abs=5e-5)
    assert manifest.counters == {"nearest_counted": 2, **shares}
    assert shares["remote_by_item_at_2_shards"] == 0.55  # all i + 20, and 4 of 40 i + 2
    assert manifest.counters["remote_at_2_shards"] < 0.15


@pytest.mark.spark
def test_places_do_not_depend_on_partitions_or_blocks(spark, built, tmp_path, monkeypatch):
    for module in (order, unit_vectors):
        monkeypatch.setattr(module, "block_size", lambda width: 7)
    monkeypatch.setattr(remote, "LISTS_AT_A_TIME", 9)
    spark.conf.set("spark.sql.shuffle.partitions", 3)
    try:
        manifest, places = build(spark, tmp_path, *two_clusters())
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", 2)
    assert places.tolist() == built[1].tolist()
    assert manifest.counters == built[0].counters


@pytest.mark.spark
def test_a_sample_is_enough_to_divide_all_items(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SAMPLE_ITEMS", 20)
    monkeypatch.setattr(bisection, "LEAF_SIZE", 4)
    _, places = build(spark, tmp_path, *two_clusters())
    left = {int(item) % 2 for item in np.argsort(places)[:15]}
    assert len(left) == 1


@pytest.mark.spark
def test_equal_items_keep_their_order(spark, tmp_path):
    text = {item: [0.6, 0.8] for item in range(NUM_ITEMS)}
    _, places = build(spark, tmp_path, text, {NUM_ITEMS - 1: [1.0]})
    assert places[:-1].tolist() == sorted(places[:-1])


def test_places_are_built_again_if_vectors_change_and_not_for_other_keys(tmp_path):
    def recipe(vectors="{}\n", **sections):
        experiment = experiment_at(tmp_path, vectors, **sections)
        return places_name(experiment), recipes(experiment, raw_inputs(experiment))

    name, first = recipe()
    assert name == "places/text+image/mu=0,whiten=false"
    assert set(first[name].inputs) == {
        f"neighbors/{m}/mu=0,whiten=false" for m in ("text", "image")
    }
    model = {"num_neighbors": 1, "num_centers": 5, "dim": 16}
    others = [{"model": model}, {"optim": {"lr": 0.5}}, {"graph": {"mu": [1.0]}}]
    for sections in others:
        _, again = recipe(**sections)
        assert again[name] == first[name]
    _, changed = recipe(vectors="[]\n")
    assert changed[name].fingerprint != first[name].fingerprint
    _, longer = recipe(graph={"max_neighbors": 4, "whiten": False})
    assert longer[name].fingerprint != first[name].fingerprint


def test_models_have_places_of_their_own_and_those_without_neighbors_none(tmp_path):
    by_modality = experiment_at(tmp_path, model={"mu": {"text": 0.2, "image": 0.5}})
    assert places_name(by_modality) == "places/text+image/mu=0.2+0.5,whiten=false"
    one = experiment_at(tmp_path, model={"modalities": ["image"]})
    assert places_name(one) == "places/image/mu=0,whiten=false"
    for model in ({"modalities": [], "num_neighbors": 2}, {"name": "sasrec"}):
        content = experiment_at(tmp_path).resolved() | {"model": model}
        without = experiment_from(content, "test")
        assert without.neighbor_modalities == ()
        kinds = {name.split("/")[0] for name in recipes(without, raw_inputs(without))}
        assert "places" not in kinds and "items" in kinds
