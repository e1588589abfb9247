"""The maker of catalogues writes what the ETL and training read, at any size."""

import gzip
import json

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from small_dataset import small_experiment

from benchmarks.catalogue.events import Catalogue
from benchmarks.catalogue.graph import Cooccurrence, Modality
from benchmarks.catalogue.order import Order
from benchmarks.catalogue.raw import configuration, write_raw
from benchmarks.catalogue.raw_lines import RawLines
from benchmarks.catalogue.tables import TableMaker
from etl.catalogue.amazon import ASIN, TIME, USER, metadata_record, review_record
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.table_names import places_name
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.table_checks import check_item_tables
from training.models.registry import build_model
from training.step import noise_of

ITEMS, USERS = 300, 70


@pytest.mark.parametrize("n", [100, 101, 128, 1000])
def test_an_order_is_a_bijection_whose_most_popular_have_the_highest_levels(n):
    order, numbers = Order(n), np.arange(n)
    assert sorted(order.numbers(numbers)) == numbers.tolist()
    assert (order.positions(order.numbers(numbers)) == numbers).all()
    assert sorted(order.by_popularity(numbers)) == numbers.tolist()
    levels = order.levels(order.positions(order.by_popularity(np.arange(3))))
    assert levels[0] == order.top and levels[1] == order.top - 1


def test_levels_count_how_often_two_divides_a_position():
    assert Order(100).levels(np.array([0, 1, 2, 12, 64])).tolist() == [7, 0, 1, 2, 6]


@pytest.mark.parametrize("n", [128, 301])
def test_items_co_occur_if_they_are_within_reach_of_the_higher_level(n):
    graph, items = Cooccurrence(Order(n), 20), np.arange(n)
    positions = graph.order.positions(items)
    reach = graph.reaches[graph.order.levels(positions)]
    distance = np.abs(positions[:, None] - positions)
    expected = (distance <= np.maximum(reach[:, None], reach)) & (distance > 0)
    rows, others, scores = graph.rows(0, n)
    assert np.array_equal(np.argwhere(expected), np.stack([rows, others], axis=1))
    assert np.array_equal(scores, 1 / distance[rows, others])
    assert 0.8 * 20 < len(rows) / n < 1.2 * 20
    parts = [graph.rows(first, min(first + 37, n)) for first in range(0, n, 37)]
    assert all(map(np.array_equal, map(np.concatenate, zip(*parts, strict=True)), graph.rows(0, n)))


@pytest.mark.parametrize("count", [1, 10, 50])
def test_neighbors_are_other_items_of_the_modality_and_some_are_popular(count):
    modality = Modality(1000, stream=1)
    items = modality.items(np.arange(modality.size))
    lists = modality.neighbors(0, modality.size, count)
    for item, neighbors in zip(items, lists, strict=True):
        assert len({item, *neighbors}) == 1 + count
    assert np.isin(lists, items).all()
    most = np.bincount(lists.ravel()).max()
    assert most == 1 if count == 1 else most > 5 * count
    assert np.array_equal(modality.neighbors(5, 9, count), lists[5:9])


def test_made_places_put_the_nearest_neighbors_side_by_side():
    modality = Modality(1000, stream=1)
    places = modality.places(np.arange(1000))
    assert sorted(places) == list(range(1000))
    items = modality.items(np.arange(modality.size))
    lists = modality.neighbors(0, modality.size, count=2)
    distances = np.abs(places[lists] - places[items][:, None])
    assert np.isin(distances, [1, modality.size - 1]).all()  # the line is a ring


def made(root, **sections):
    sections = {"graph": {"max_neighbors": 10}, **sections}
    experiment = small_experiment(root, **sections)
    return experiment, TableMaker(experiment, Catalogue(ITEMS, USERS, longest=30), 8, width=4)


def test_made_tables_are_those_that_the_configuration_expects(tmp_path):
    experiment, maker = made(tmp_path)
    written = maker.write_all()
    places = tables.read_table(maker._uri(places_name(experiment)), schema.PLACES)["place"]
    assert sorted(places.to_pylist()) == list(range(ITEMS))
    del written[places_name(experiment)]  # which only a sharded training reads
    assert check_item_tables(experiment) == {
        name: manifest.fingerprint for name, manifest in written.items()
    }
    found = load_item_tables(experiment)
    assert found.num_items == ITEMS
    assert found.cooccurrence.num_rows == ITEMS
    rows = tables.read_table(maker._uri("sequences"), schema.SEQUENCES).to_pylist()
    train = np.concatenate([row["items"][: row["train_end"]] for row in rows])
    items = tables.read_table(maker._uri("items"), schema.ITEMS)
    assert items["num_train"].to_pylist() == np.bincount(train, minlength=ITEMS).tolist()
    assert items["item_id"].to_pylist() == sorted(items["item_id"].to_pylist())
    reader = SequenceReader(experiment)
    prefixes = sum(step.num_prefixes for step in reader.steps(0))
    assert written["sequences"].counters["prefixes"] == prefixes
    assert len(reader.targets(0, USERS, "test")) == written["sequences"].counters["test"]


def test_made_tables_do_not_depend_on_the_parts_or_the_run(tmp_path, monkeypatch):
    _, maker = made(tmp_path / "one")
    maker.write_all()
    monkeypatch.setattr("benchmarks.catalogue.tables.PART_BYTES", 1024)
    _, again = made(tmp_path / "two")
    written = again.write_all()
    for name, manifest in written.items():
        kind = schema.__dict__[name.split("/")[0].upper()]
        rows = [tables.read_table(m._uri(name), kind) for m in (maker, again)]
        if not name.startswith("features"):  # the noise of a vector is that of its part
            assert rows[0].equals(rows[1]), name
            assert len(manifest.files) > 1 or name in ("sequences", "items")


def test_threads_may_write_the_parts_of_a_table_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.catalogue.parts.os.cpu_count", lambda: 8)
    for module in ("events", "tables"):
        monkeypatch.setattr(f"benchmarks.catalogue.{module}.CHUNK_USERS", 8)
    catalogue = Catalogue(ITEMS, 1500, longest=30)
    maker = TableMaker(small_experiment(tmp_path), catalogue, width=4)
    num_train = np.zeros(ITEMS, np.int32)
    maker._write_sequences(num_train)
    rows = tables.read_table(maker._uri("sequences"), schema.SEQUENCES)
    chunks = list(catalogue.chunks())
    assert rows["items"].combine_chunks().flatten().to_pylist() == [
        item for chunk in chunks for item in chunk.items
    ]
    assert num_train.sum() == pc.sum(rows["train_end"]).as_py()
    last = catalogue.chunk_at(1496)
    assert [column.tolist() for column in last[1:]] == [c.tolist() for c in chunks[-1][1:]]


def test_tables_of_the_etl_are_not_replaced(tmp_path):
    _, maker = made(tmp_path)
    maker.write_all()
    maker.write_all()
    manifest = tables.read_manifest(maker._uri("items"))
    recipe = tables.Recipe(manifest.settings, {"sequences": "0"})
    batches = tables.read_table(maker._uri("items"), schema.ITEMS).to_batches()
    tables.write_table(maker._uri("items"), batches, schema.ITEMS, recipe)
    with pytest.raises(InputError, match="items: made by the ETL, which this command would"):
        maker.write_all()


def test_a_bounded_row_keeps_its_heaviest_entries(tmp_path):
    experiment, maker = made(tmp_path, graph={"max_neighbors": 10, "max_cooccurrences": 5})
    written = maker.write_all()
    assert {*check_item_tables(experiment), places_name(experiment)} == set(written)
    matrix = load_item_tables(experiment).cooccurrence
    items, others, scores = maker.graph.rows(0, ITEMS)
    for item in range(ITEMS):
        own = sorted(zip(-scores[items == item], others[items == item], strict=True))[:5]
        kept = matrix.columns[matrix.starts[item] : matrix.starts[item + 1]]
        assert kept.tolist() == sorted(other for _, other in own)


def test_a_training_runs_on_made_tables(tmp_path):
    experiment, maker = made(tmp_path)
    maker.write_all()
    model = build_model(experiment, load_item_tables(experiment))
    model.initialize(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step = next(SequenceReader(experiment).steps(0))
    batch = batch_of(step, 0, 1, noise_of(model, experiment, step, (0, 0)), torch.device("cpu"))
    losses = []
    for _ in range(10):
        loss = model.channel_weights @ model(batch) / step.num_prefixes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("edition", ["2014", "2018", "2023"])
def test_raw_lines_are_those_of_the_edition(tmp_path, edition):
    catalogue = Catalogue(ITEMS, interactions=900)
    lines = RawLines(edition, text_bytes=17)
    counts = write_raw(tmp_path / "raw", catalogue, lines, width=3, zipped=True)
    with gzip.open(tmp_path / "raw" / "reviews" / "part-00000.json.gz") as file:
        reviews = file.read().splitlines()
    assert len(reviews) == counts["reviews"]
    expected = [
        (f"A{f'{user:012d}'[::-1]}", f"B{item:09d}", time * (1000 if edition == "2023" else 1))
        for chunk in catalogue.chunks()
        for user, item, time in zip(
            np.repeat(chunk.users, chunk.lengths), chunk.items, chunk.times, strict=True
        )
    ]
    fields = USER[edition], ASIN[edition], TIME[edition]
    assert [tuple(json.loads(line)[field] for field in fields) for line in reviews] == expected
    assert len(json.loads(reviews[0])["text" if edition == "2023" else "reviewText"]) == 17
    assert review_record(edition, reviews[0])["time"] == expected[0][2]
    with gzip.open(tmp_path / "raw" / "metadata" / "part-00000.json.gz") as file:
        records = [metadata_record(edition, line) for line in file]
    assert [record["item_id"] for record in records] == [f"B{item:09d}" for item in range(ITEMS)]
    assert all(record["title"] in record["description"] for record in records)


@pytest.mark.slow
@pytest.mark.spark
def test_the_etl_builds_all_tables_from_raw_files(tmp_path, spark):
    from etl.run import build_tables

    folder = tmp_path / "raw"
    counts = write_raw(folder, Catalogue(ITEMS, interactions=3000), RawLines("2018"), width=8)
    content = configuration(folder, "2018", 8)
    content["graph"] = {"max_neighbors": 10}
    manifests = build_tables(experiment_from(content, "test"), spark)
    assert manifests["items"].rows == manifests["features/text"].rows == counts["items"]
    assert manifests["rejects"].rows == 0
    assert manifests["sequences"].counters["interactions"] == counts["reviews"]
