"""The items of the catalogue, and the text that an encoder reads."""

import json

import pytest

from etl.catalogue.items import add_text, clean_text, join_sentences
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError

DAY = 86_400


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a  b\n\tc ", "a b c"),
        ("<p>Bold &amp; <b>new</b></p>", "Bold & new"),
        ("&lt;br&gt;line&amp;nbsp;two", "line two"),
        ("3 < 5 and 7 > 2", "3 < 5 and 7 > 2"),
        ("x<script>var a = '<b>';</script>y<!-- z -->", "x y"),
        ("<img src='x'>", ""),
    ],
)
def test_html_is_removed_and_white_space_collapsed(raw, text):
    assert clean_text(raw) == text


def test_fields_are_joined_as_sentences():
    assert join_sentences(["Title", "Ends itself!", "last"]) == "Title. Ends itself! last"
    assert join_sentences(["one"]) == "one"
    assert join_sentences([]) == ""


def test_an_item_without_any_field_has_no_text():
    row = {"title": " <b></b> ", "features": None, "description": "d"}
    assert add_text(row, ("features",))["text"] is None
    assert add_text(row, ("title",))["title"] is None
    assert add_text(row, ("title", "features", "description"))["text"] == "d"


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def experiment(folder, described):
    """Return an experiment with a full catalogue: interactions, and metadata of `described`.

    Two users interact with b and d on days 0 to 3, one user once with e.
    """
    histories = {"u": "bdbd", "v": "dbdb", "w": "e"}
    reviews = [
        {"reviewerID": user, "asin": asin, "unixReviewTime": day * DAY}
        for user, asins in histories.items()
        for day, asin in enumerate(asins)
    ]
    metadata = write_lines(folder / "metadata.json", [{"asin": asin} for asin in described])
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {
            "edition": "2018",
            "reviews": [write_lines(folder / "reviews.json", reviews)],
            "metadata": [metadata] if described else [],
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


@pytest.mark.spark
def test_a_full_catalogue_has_items_without_interactions_and_items_outside_the_k_core(
    spark, tmp_path
):
    from etl.run import build_tables

    full = experiment(tmp_path, described="acdea")
    manifests = build_tables(full, spark)
    rows = tables.read_table(tables.table_uri(full.root, "items"), schema.ITEMS).to_pylist()
    assert {row["asin"]: (row["item"], row["num_train"]) for row in rows} == {
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
        build_tables(experiment(tmp_path, described=""))
