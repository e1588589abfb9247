"""The items of the catalogue, and the text that an encoder reads."""

import json

import pytest

from etl.builders.catalogue import CatalogueBuilder
from etl.builders.workspace import Workspace
from etl.catalogue.items import add_text, join_sentences
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

DAY = 86_400


def test_fields_are_joined_as_sentences():
    assert join_sentences(["Title", "Ends itself!", "last"]) == "Title. Ends itself! last"
    assert join_sentences(["one"]) == "one"
    assert join_sentences([]) == ""


def test_the_text_of_an_item_is_joined_from_its_fields_on_one_line():
    row = {"title": None, "features": "a\nb", "description": "d", "details": "Brand: X"}
    assert add_text(row, ("title",))["text"] is None
    assert add_text(row, ("title", "features", "description"))["text"] == "a b. d"
    assert add_text(row, ("details",))["text"] == "Brand: X"


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def experiment(folder, metadata):
    """Return an experiment with a full catalogue: interactions, and records of metadata.

    Two users interact with b and d on days 0 to 3, one user once with e.
    """
    histories = {"u": "bdbd", "v": "dbdb", "w": "e"}
    reviews = [
        {"reviewerID": user, "asin": asin, "unixReviewTime": day * DAY}
        for user, asins in histories.items()
        for day, asin in enumerate(asins)
    ]
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {
            "edition": "2018",
            "reviews": [write_lines(folder / "reviews.json", reviews)],
            "metadata": [write_lines(folder / "metadata.json", metadata)] if metadata else [],
        },
        "sequences": {
            "k_core": 2,
            "repeats": "keep",
            "catalogue": "full",
            "split": "global_time",
            "cut": ["1970-01-03", "1970-01-04"],
        },
    }
    return experiment_from(content, "test")


@pytest.mark.slow
@pytest.mark.spark
def test_a_full_catalogue_has_items_without_interactions_and_items_outside_the_k_core(
    spark, tmp_path
):
    from etl.run import build_tables

    full = experiment(tmp_path, [{"asin": asin} for asin in "acdea"])
    manifests = build_tables(full, spark)
    rows = tables.read_table(tables.table_uri(full.root, "items"), schema.ITEMS).to_pylist()
    assert {row["item_id"]: (row["item"], row["num_train"]) for row in rows} == {
        "a": (0, 0),
        "b": (1, 2),
        "c": (2, 0),
        "d": (3, 2),
        "e": (4, 0),
    }
    counters = manifests["items"].counters
    assert (counters["items"], counters["items_interacted"]) == (5, 2)  # b and d
    assert counters["items_without_metadata"] == 1  # b
    assert (
        counters["metadata_without_interactions"] == 3
    )  # a, c, and e, which is outside the 2-core
    assert counters["metadata_duplicates"] == 1  # a
    counters = manifests["sequences"].counters
    assert (counters["items"], counters["items_interacted"]) == (5, 2)
    assert (counters["train"], counters["valid"], counters["test"]) == (4, 2, 2)
    assert counters["valid_from"] == "1970-01-03T00:00:00Z"
    assert counters["test_from_time"] == 3 * DAY
    assert manifests["cooccurrence"].rows == 2  # (b, d) and (d, b)


def test_a_full_catalogue_without_metadata_is_refused(tmp_path):
    from etl.run import build_tables

    with pytest.raises(InputError, match=r'catalogue = "full" needs input\.metadata'):
        build_tables(experiment(tmp_path, []))


@pytest.mark.spark
def test_markup_is_no_text_and_what_is_missing_or_shared_is_counted_and_logged(
    spark, tmp_path, caplog
):
    garbage = '<span class="a-size-medium a-color-secondary"'
    records = [{"asin": "b", "title": garbage, "feature": ["Strong"]}, {"asin": "d"}]
    records += [{"asin": f"s{n}", "title": garbage, "description": "See page"} for n in range(11)]
    full = experiment(tmp_path, records)
    builder = CatalogueBuilder(Workspace(full, spark))
    builder.build_interactions()
    metadata = builder.build_metadata()
    builder.build_sequences()
    counters = builder.build_items().counters
    assert metadata.counters["titles_of_markup"] == 12
    assert "metadata: 12 titles hold only markup" in caplog.text
    assert "metadata.json: none of 13 records has a title (fields: title)" in caplog.text
    assert "none of 13 records has a picture (fields: images, imageURLHighRes" in caplog.text
    assert "has a text" not in caplog.text
    rows = tables.read_table(tables.table_uri(full.root, "items"), schema.ITEMS).to_pylist()
    assert {row["title"] for row in rows} == {None}
    assert {row["item_id"]: row["text"] for row in rows if row["item_id"] in "bd"} == {
        "b": "Strong",
        "d": None,
    }
    assert counters["items_with_text"] == counters["text_without_title"] == 12
    assert counters["items_with_shared_text"] == 11
    assert "11 items have a text that more than 10 items share" in caplog.text
    assert "'See page'" in caplog.text
