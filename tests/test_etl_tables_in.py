"""Tables of the user's own, through Spark: rows, rejects, and tiny worlds up to the last table."""

import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.builders.features import FeatureBuilder
from etl.builders.raw_input import open_input
from etl.builders.workspace import Workspace
from etl.catalogue import amazon, raw
from etl.catalogue.raw import raw_files, raw_lines
from etl.tabular.listing import input_files
from etl.tabular.spark_source import copy_columns
from etl.tabular.table_input import TableInput
from mdsrec import schema, tables
from mdsrec.config import InputConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

pytestmark = pytest.mark.spark

DAY = 86_400
NOON = 1_500_000_000


def write(path, content):
    path.write_text(content)
    return str(path)


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def table_input(paths, items=(), **keys):
    config = InputConfig(format="table", interactions=paths, items=items, **keys)
    return TableInput(config, input_files(config, paths), input_files(config, items))


def interactions_of(spark, paths, **keys):
    """Return the usable rows, the rejects by (file, line), and the unit of the stored times."""
    rows, unit = table_input(paths, **keys).interactions(spark)
    found = sorted(rows.collect(), key=lambda row: (row.file, row.line))
    usable = [(r.file, r.line, r.user_id, r.item_id, r.time) for r in found if r.reason is None]
    rejects = {(r.file, r.line): r.reason for r in found if r.reason is not None}
    assert all(r.raw for r in found if r.reason not in (None, "blank"))
    return usable, rejects, unit


def test_bad_rows_of_every_kind_of_file_are_rejects_with_their_number_and_reason(spark, tmp_path):
    csv = [
        "user,item,time",
        "007,a,1500000000",
        ",a,1500000000",
        "u,NULL,1500000000",
        "u,a,",
        "u,a,soon",
        "u,a,1500000000,more",
        "",
        "u,a,1500000000000",
        "u,a,9999999999",
        "u,a,-5",
        'u,"a\nb",1500000000',
        "u,a,2017-07-14",
        *(f"u,a{n},{NOON + n}" for n in range(20)),
    ]
    lines = [
        *({"user": 1, "item": 2.0, "time": NOON}, {"user": 1, "item": None, "time": NOON}),
        *({"user": [1], "item": 2, "time": NOON}, {"item": 2, "time": NOON}),
        *(
            {"user": 1, "item": {"a": 1}, "time": NOON},
            {"user": "x", "item": "y", "time": "1500000000"},
        ),
        {"user": True, "item": 2, "time": NOON},
    ]
    text = json_lines(lines) + "not JSON\n\n"
    columns = {
        "user": pa.array([1.0, None, 3.0, 4.5]),
        "item": pa.array(["a", "b", "", "d"]),
        "time": pa.array([NOON, NOON, NOON, NOON]),
    }
    pq.write_table(pa.table(columns), tmp_path / "c.parquet", row_group_size=2)
    paths = [
        write(tmp_path / "a.csv", "\n".join(csv)),
        write(tmp_path / "b.jsonl", text),
        str(tmp_path / "c.parquet"),
    ]
    usable, rejects, unit = interactions_of(spark, paths)
    assert unit.name == "seconds"
    assert [row for row in usable if row[0] or row[1] < 14] == [
        (0, 2, "007", "a", NOON),
        (1, 1, "1", "2", NOON),
        (1, 6, "x", "y", NOON),
        (2, 1, "1", "a", NOON),
        (2, 4, "4.5", "d", NOON),
    ]
    assert len(usable) == 5 + 20
    assert rejects == {
        (0, 3): "user is empty",
        (0, 4): "item is null",
        (0, 5): "time is null",
        (0, 6): "time is not readable",
        (0, 7): "4 columns instead of 3",
        (0, 8): "blank",
        (0, 9): "time in milliseconds, most are in seconds",
        (0, 10): "time in the future",
        (0, 11): "time before 1970",
        (0, 12): "item holds a line break",
        (0, 13): "time in dates, most are in seconds",
        (1, 2): "item is null",
        (1, 3): "user is a list, not text or a whole number",
        (1, 4): "user is null",
        (1, 5): "item is an object, not text or a whole number",
        (1, 7): "user is a boolean, not text or a whole number",
        (1, 8): "not JSON",
        (1, 9): "blank",
        (2, 2): "user is null",
        (2, 3): "item is empty",
    }


def test_rejected_times_have_the_users_column_names_and_are_not_in_the_logged_range(
    spark, tmp_path, caplog
):
    rows = [*(f"2024-01-{n + 1:02d}" for n in range(20)), "1960-01-01", "2199-01-01"]
    lines = "".join(f"K{n},A,{time}\n" for n, time in enumerate(rows))
    path = write(tmp_path / "a.csv", f"Kunde,Artikelnr,Datum\n{lines}")
    caplog.set_level("INFO", "etl")
    found, _ = table_input([path]).interactions(spark)
    raw = [row.raw for row in found.where("reason is not null").orderBy("line").collect()]
    assert raw == [
        '{"Kunde":"K20","Artikelnr":"A","Datum":"1960-01-01T00:00:00.000Z"}',
        '{"Kunde":"K21","Artikelnr":"A","Datum":"2199-01-01T00:00:00.000Z"}',
    ]
    expected = "times of the column 'Datum': dates, from 2024-01-01 to 2024-01-20"
    assert expected in caplog.messages


@pytest.mark.parametrize(
    ("times", "stored", "unit"),
    [
        (["2017-07-14T02:40:00Z", "2017-07-14 02:40:01"], [NOON, NOON + 1], "seconds"),
        (["2017-07-14T02:40:00.5Z"], [NOON * 1000 + 500], "milliseconds"),
        ([NOON * 1000, NOON * 1000 + 7], [NOON * 1000, NOON * 1000 + 7], "milliseconds"),
        ([3, 1, 2], [3, 1, 2], "seconds"),
    ],
)
def test_times_are_stored_in_seconds_unless_that_would_round_them(
    spark, tmp_path, times, stored, unit
):
    records = [{"user": 1, "item": n, "time": time} for n, time in enumerate(times)]
    path = write(tmp_path / "a.jsonl", json_lines(records))
    usable, rejects, found = interactions_of(spark, [path])
    assert ([row[-1] for row in usable], rejects, found.name) == (stored, {}, unit)


def test_a_column_that_mixes_units_is_refused_unless_the_unit_is_given(spark, tmp_path):
    path = write(tmp_path / "a.csv", f"user,item,time\n1,1,{NOON}\n1,2,{NOON * 1000}\n")
    with pytest.raises(InputError, match="1 are milliseconds, 1 are seconds"):
        interactions_of(spark, [path])
    usable, _, unit = interactions_of(spark, [path], time_unit="milliseconds")
    assert ([row[-1] for row in usable], unit.ticks) == ([NOON, NOON * 1000], 1000)


def workspace(spark, root, section, **sections):
    content = {"name": "x", "root": str(root), "model": {"name": "sasrec"}}
    section = {"format": "table"} | section
    return Workspace(experiment_from(content | {"input": section} | sections, "test"), spark)


def test_every_row_is_counted_and_tables_without_a_usable_one_are_refused(spark, tmp_path):
    first = write(tmp_path / "a.csv", "user,item,time\n1,1,soon\n\n1,2,later\n")
    good = write(tmp_path / "b.csv", f"user,item,time\n1,1,{NOON}\n")
    found = open_input(workspace(spark, tmp_path, {"interactions": [first, good]})).interactions
    assert found.counters == {"files": 2, "lines": 4, "blank": 1, "rejected": 2}
    assert found.usable_rows.count() == 1
    also = write(tmp_path / "c.csv", "user,item,time\n1,1,\n")
    for paths, words in [
        ([first], r"a\.csv: no usable interaction in 3 lines \(time is not readable\): are input"),
        ([first, also], r"a\.csv and 1 more files: no usable interaction in 4 lines"),
    ]:
        raw = open_input(workspace(spark, tmp_path, {"interactions": paths}))
        with pytest.raises(InputError, match=words):
            _ = raw.interactions


REVIEWS = {
    "2014": ("reviewerID", "asin", "unixReviewTime", NOON),
    "2018": ("reviewerID", "asin", "unixReviewTime", NOON),
    "2023": ("user_id", "parent_asin", "timestamp", NOON * 1000 + 123),
}


@pytest.mark.parametrize("edition", REVIEWS)
def test_amazon_reviews_read_as_a_table_are_the_rows_of_the_amazon_reader(
    spark, tmp_path, monkeypatch, edition
):
    monkeypatch.setattr(raw, "SHARE_BYTES", 1)
    user, item, time, start = REVIEWS[edition]
    records = [
        {"asin": "x", user: f"A{n % 3}", item: f"B00{n}", time: start + DAY * n} for n in range(9)
    ]
    records.insert(4, {user: None, item: "B1", time: start})
    path = write(tmp_path / "r.json", json_lines(records) + "broken\n\n")
    lines = raw_lines(spark, raw_files([path]))
    columns = [field.name for field in schema.INTERACTIONS]
    expected = amazon.parse_reviews(lines, edition).where("reason is null").select(columns)
    rows, unit = table_input([path], columns={"item": item}).interactions(spark)
    assert rows.rdd.getNumPartitions() == raw.MAX_READERS  # of a file that counts as large
    found = rows.where("reason is null").select(columns)
    assert sorted(found.collect()) == sorted(expected.collect())
    assert found.count() == 9 and unit.ticks == amazon.TICKS_PER_SECOND[edition]


@pytest.mark.parametrize("edition", ["2018", "2023"])
def test_amazon_metadata_read_as_a_table_have_the_same_titles_texts_and_images(
    spark, tmp_path, edition
):
    item, features = ("asin", "feature") if edition == "2018" else ("parent_asin", "features")
    image = {"imageURLHighRes": ["http://i/1.jpg"]}
    if edition == "2023":
        image = {
            "images": [{"large": "http://i/2.jpg"}, {"variant": "MAIN", "large": "http://i/1.jpg"}]
        }
    texts = {
        "title": "A <b>red</b> hat",
        features: ["Warm", "&amp; soft"],
        "description": ["It is."],
    }
    records = [{item: "B1", **texts, **image}, {item: "B2", "title": "<b></b>"}, {"title": "T"}]
    path = write(tmp_path / "m.json", json_lines(records))
    expected = amazon.parse_metadata(raw_lines(spark, raw_files([path])), edition).collect()
    columns = {
        "item_key": item,
        "title": "title",
        "text": ["title", features, "description"],
        "image": next(iter(image)),
    }
    events = write(tmp_path / "r.jsonl", json_lines([{"user": 1, "item": "B1", "time": NOON}]))
    found = table_input([events], items=[path], columns=columns).items(spark).collect()
    found, expected = (sorted(rows, key=lambda row: row.line) for rows in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        same = ("line", "item_id", "title", "image_url")
        assert [ours[name] for name in same] == [theirs[name] for name in same]
        assert (ours.reason is None) == (theirs.reason is None)
    assert found[0].description == "A red hat. Warm & soft. It is."
    assert found[1].notes == expected[1].notes == ["titles_of_markup"]


def test_a_spark_source_gives_the_same_rows_for_any_partitioning(spark, tmp_path):
    rows = [(f"u{n % 4}", n % 5, datetime.fromtimestamp(NOON + n)) for n in range(40)]
    frame = spark.createDataFrame(rows, "customer string, sku int, at timestamp")
    columns = {"user": "customer", "item": "sku", "time": "at"}
    found = []
    for parts in (1, 3):
        frame.repartition(parts).write.orc(str(tmp_path / f"{parts}"))
        source = {"source": "orc", "options": {"mergeSchema": True}}
        found.append(
            interactions_of(spark, [str(tmp_path / f"{parts}")], columns=columns, **source)
        )
    assert found[0] == found[1]
    assert len(found[0][0]) == 40 and found[0][0][0][1:3] == (1, "u0")
    with pytest.raises(InputError, match=r"input.source = 'nonsense' cannot load") as error:
        interactions_of(spark, ["x"], source="nonsense", options={"password": "hunter2"})
    assert "hunter2" not in str(error.value) and "\n" not in str(error.value)


def write_orc(spark, path, rows, schema):
    spark.createDataFrame(rows, schema).write.orc(str(path))
    return str(path)


def test_every_table_of_a_spark_source_needs_the_columns(spark, tmp_path):
    row = [("u", "i", NOON)]
    paths = [
        write_orc(spark, tmp_path / "a", row, "user string, item string, time long"),
        write_orc(spark, tmp_path / "b", row, "user string, sku string, time long"),
    ]
    words = r"/b: no column 'item'; there are 'user', 'sku', 'time'$"
    with pytest.raises(InputError, match=words):
        interactions_of(spark, paths, source="orc")
    config = InputConfig(format="table", interactions=paths, source="orc")
    with pytest.raises(InputError, match=words):
        copy_columns(spark, config, paths[1], ["user", "item"], str(tmp_path / "copy"))


def test_of_several_items_tables_of_a_source_the_first_one_has_the_first_rows(spark, tmp_path):
    paths = [
        write_orc(
            spark, tmp_path / f"{n}", [("i", [1.0, float(n)])], "item string, v array<double>"
        )
        for n in range(5)
    ]
    section = {"source": "orc", "interactions": ["orders"], "items": paths}
    features = {"ready": {"column": "v"}}
    space = workspace(spark, tmp_path / "root", section, features=features)
    columns = FeatureBuilder(space, "ready").open_column("v")
    blocks = [batch for block in range(len(columns)) for batch in columns.batches(block)]
    assert [batch.values.tolist() for batch in blocks] == [[1, n] for n in range(5)]
    space.close()


@pytest.mark.slow
def test_a_shop_with_vectors_in_a_column_becomes_tables(spark, tmp_path):
    from etl.run import build_tables

    events = [
        (f"c{u}", f"00{(u + n) % 6}", NOON + DAY * (10 * u + n)) for u in range(6) for n in range(4)
    ]
    customers, skus, times = zip(*events, strict=True)
    orders = {"customer": customers, "sku": skus, "ts": pa.array(times).cast(pa.timestamp("s"))}
    pq.write_table(pa.table(orders), tmp_path / "orders.parquet")
    vectors = [[1.0, n] for n in range(5)] + [None, [9.0, 9.0], [1.0, 1.0]]
    items = {
        "sku": [*(f"00{n}" for n in range(6)), None, "000"],  # no id; a repeated item
        "name": [f"Thing {n}" for n in range(8)],
        "description": ["Nice", None, *["Good"] * 6],
        "tags": [["a", "b"]] * 8,
        "photo": [f"img/{n}.jpg" for n in range(8)],
        "embedding": vectors,
    }
    pq.write_table(pa.table(items), tmp_path / "products.parquet", row_group_size=3)
    columns = {"user": "customer", "item": "sku", "title": "name", "image": "photo"}
    content = {
        "name": "x",
        "root": str(tmp_path / "root"),
        "input": {
            "format": "table",
            "interactions": [str(tmp_path / "orders.parquet")],
            "items": [str(tmp_path / "products.parquet")],
            "columns": columns | {"text": ["name", "description", "tags"]},
        },
        "sequences": {"k_core": 1, "split": "global_time", "cut": ["2017-08-20", "2017-09-01"]},
        "features": {"ready": {"column": "embedding"}},
        "model": {"num_centers": 2, "num_neighbors": 2, "memory": False},
    }
    experiment = experiment_from(content, "test")
    manifests = build_tables(experiment, spark)
    uri = tables.table_uri(experiment.root, "items")
    found = tables.read_table(uri, schema.ITEMS).to_pylist()
    assert [row["item_id"] for row in found] == [f"00{n}" for n in range(6)]
    assert found[0]["text"] == "Thing 0. Nice. a b" and found[0]["image_url"] == "img/0.jpg"
    assert found[1]["text"] == "Thing 1. a b"
    assert manifests["rejects"].counters == {"items: item is null": 1}
    counters = manifests["features/ready"].counters
    assert (counters["items"], counters["items_without"]) == (5, 1)
    assert counters["items_without_vector"] == 1
    features = tables.read_table(
        tables.table_uri(experiment.root, "features/ready"), schema.FEATURES
    )
    assert features["vector"].to_pylist() == [[1.0, n] for n in range(5)]
    sequences = manifests["sequences"].counters
    assert sequences["valid_from"] == "2017-08-20T00:00:00Z"
    assert manifests["interactions"].counters["time_unit"] == "seconds"
    assert build_tables(experiment, spark) == manifests  # up to date
