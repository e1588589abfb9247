"""Tables and inputs in folders whose names hold special characters of URIs, Spark and globs."""

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.catalogue.raw import raw_files, raw_lines
from etl.features.images import files_of_items
from etl.spark import table_io
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.files import read_bytes
from mdsrec.tables import Recipe

FOLDER = "a b%c%20#d[1]{e,f}*?é"
NAMES = ["a b", "b%20", "c%", "d#", "e?", "f[1]", "g{x,y}", "hé"]
SPELLINGS = [str, lambda path: f"file://{quote(str(path))}"]

pytestmark = pytest.mark.spark


@pytest.fixture(params=SPELLINGS, ids=["path", "uri"])
def spelled(request):
    """Return a function that spells a local path: as it is, or as a URI."""
    return request.param


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / FOLDER
    place.mkdir()
    return place


def test_spark_spells_uris_without_quoting():
    assert table_io.spark_uri("/x/a b%20") == "file:///x/a b%20"
    assert table_io.spark_uri("file:///x/a%20b%2520") == "file:///x/a b%20"
    assert table_io.spark_uri("s3://bucket/a%20b") == "s3a://bucket/a b"
    assert table_io.spark_uri("hdfs://user@host:9000/x%23") == "hdfs://user@host:9000/x#"


def test_a_table_is_written_and_read_by_spark(spark, folder, spelled):
    uri = tables.table_uri(spelled(folder), "centers/image/k=2")
    frame = spark.createDataFrame([(n, n % 2) for n in range(100)], "item int, center int")
    layout = table_io.files_by_id("item", 100, 3)  # 34 files, which Spark lists in a job
    table_io.write_table(frame, uri, schema.CENTERS, Recipe({}, {}), ["item"], layout, {})
    found = table_io.read_table(spark, uri, schema.CENTERS)
    assert sorted(tuple(row) for row in found.collect()) == [(n, n % 2) for n in range(100)]
    assert tables.read_table(uri, schema.CENTERS).num_rows == 100
    assert [path.name for path in folder.parent.iterdir()] == [FOLDER]


def test_raw_files_of_a_folder_are_read_by_spark(spark, folder, spelled):
    for name in NAMES:
        (folder / f"{name}.json").write_text(name)
    files = raw_files([spelled(folder)])
    rows = raw_lines(spark, files).orderBy("file").collect()
    assert [(row.line, row.raw.decode()) for row in rows] == [(1, name) for name in NAMES]


def test_images_of_a_folder_are_named_after_their_items(spark, folder, spelled):
    for name in NAMES:
        (folder / f"{name}.jpg").write_text(name)
    rows = files_of_items(spark, spelled(folder)).collect()
    found = {row.item_id: (read_bytes(row.content) or b"").decode() for row in rows}
    assert found == {name: name for name in NAMES}


@pytest.mark.slow
def test_all_tables_are_built_and_kept(spark, folder, spelled):
    from etl.run import build_tables

    place = Path(folder)
    rows = [
        {"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": 10 * u + i}
        for u in range(4)
        for i in range(4)
    ]
    for number, name in enumerate(["x y#1.json", "z%?.json"]):
        half = rows[8 * number : 8 * number + 8]
        (place / "raw").mkdir(exist_ok=True)
        (place / "raw" / name).write_text("".join(json.dumps(row) + "\n" for row in half))
    vectors = pa.array(np.eye(3).tolist(), pa.list_(pa.float32()))
    (place / "vectors").mkdir()
    pq.write_table(
        pa.table({"asin": ["B0", "B1", "B2"], "vector": vectors}), place / "vectors" / "v #.parquet"
    )
    experiment = experiment_from(
        {
            "name": "x",
            "root": spelled(place / "root"),
            "input": {"edition": "2018", "reviews": [spelled(place / "raw")]},
            "sequences": {"k_core": 1},
            "features": {"image": {"vectors": spelled(place / "vectors")}},
            "model": {"num_neighbors": 2, "num_centers": 2},
        },
        "test",
    )
    built = build_tables(experiment, spark)
    assert built["interactions"].rows == 16
    assert build_tables(experiment, spark) == built
    assert [path.name for path in folder.parent.iterdir()] == [FOLDER]
