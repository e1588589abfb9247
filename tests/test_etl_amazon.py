"""Parsing of raw lines in the three editions: a record or a reason. No Spark."""

import json

import pytest

from etl.catalogue.amazon import ASIN, metadata_record, review_record
from etl.catalogue.literals import DEEPEST, LONGEST_LITERAL
from etl.catalogue.parsing import UnusableLineError

REVIEW_2018 = {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1_400_000_000, "overall": 5.0}
REVIEW_2023 = {"user_id": "A1", "parent_asin": "B1", "asin": "X", "timestamp": 1_400_000_000_123}


def line(record: object) -> bytes:
    return json.dumps(record).encode()


def reason(edition: str, raw: bytes) -> str:
    with pytest.raises(UnusableLineError) as unusable:
        review_record(edition, raw)
    return str(unusable.value)


@pytest.mark.parametrize(
    ("edition", "record", "time"),
    [
        ("2014", REVIEW_2018, 1_400_000_000),
        ("2018", REVIEW_2018, 1_400_000_000),
        ("2023", REVIEW_2023, 1_400_000_000_123),
    ],
)
def test_a_review_keeps_user_item_and_time_in_the_edition_s_unit(edition, record, time):
    assert review_record(edition, line(record)) == {"user_id": "A1", "item_id": "B1", "time": time}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"asin": None}, "asin is null, not string"),
        ({"asin": 7}, "asin is number, not string"),
        ({"asin": " "}, "asin is empty"),
        ({"asin": "\ud800"}, "asin is not UTF-8"),
        ({"unixReviewTime": "1400000000"}, "unixReviewTime is string, not number"),
        ({"unixReviewTime": True}, "unixReviewTime is boolean, not number"),
        ({"unixReviewTime": 1.5}, "unixReviewTime is not a whole number"),
        ({"unixReviewTime": -1}, "negative time"),
        ({"unixReviewTime": 4_102_444_800}, "time after 2100"),
        ({"unixReviewTime": 1_400_000_000_123}, "time after 2100"),
    ],
)
def test_a_wrong_field_is_named_with_the_type_or_value_found(change, expected):
    assert reason("2018", line(REVIEW_2018 | change)) == expected


@pytest.mark.parametrize("field", ["reviewerID", "asin", "unixReviewTime"])
def test_a_missing_field_is_named(field):
    record = {key: value for key, value in REVIEW_2018.items() if key != field}
    assert reason("2018", line(record)) == f"missing {field}"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "blank"),
        (b"  ", "blank"),
        (b'{"asin": ', "not JSON"),
        (b"{'asin': 'B1'}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "not an object"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_a_line_without_an_object_is_rejected_with_its_reason(raw, expected):
    assert reason("2018", raw) == expected


def test_whole_floats_and_the_last_second_before_2100_are_times():
    for time in (0, 1.4e9, 4_102_444_799):
        assert review_record("2018", line(REVIEW_2018 | {"unixReviewTime": time}))["time"] == int(
            time
        )


def test_metadata_of_2014_are_python_literals():
    raw = (
        rb"{'asin': 'B1', 'title': 'A \d title', 'description': 'It is good', 'brand': 'X',"
        rb" 'imUrl': 'http://i/1.jpg', 'categories': [['Toys', 'Games'], ['Gifts']]}"
    )
    assert metadata_record("2014", raw) == {
        "item_id": "B1",
        "title": r"A \d title",
        "features": None,
        "description": "It is good",
        "categories": "Toys, Games, Gifts",
        "brand": "X",
        "details": None,
        "image_url": "http://i/1.jpg",
        "notes": [],
    }


def test_metadata_of_2018_join_lists_and_prefer_the_high_resolution_image():
    record = {
        "asin": "B1",
        "title": "T",
        "feature": ["f1", "", "f2"],
        "description": [],
        "category": ["C1", "C2"],
        "brand": {"odd": 1},
        "imageURL": ["http://small"],
        "imageURLHighRes": ["http://large"],
    }
    assert metadata_record("2018", line(record)) == {
        "item_id": "B1",
        "title": "T",
        "features": "f1\nf2",
        "description": None,
        "categories": "C1, C2",
        "brand": None,
        "details": None,
        "image_url": "http://large",
        "notes": [],
    }


def test_metadata_of_2023_use_the_main_image_and_the_parent_asin():
    images = [{"large": "http://a", "variant": "PT01"}, {"thumb": "http://b", "variant": "MAIN"}]
    found = metadata_record("2023", line({"parent_asin": "B1", "store": "S", "images": images}))
    assert (found["item_id"], found["brand"], found["image_url"]) == ("B1", "S", "http://b")


@pytest.mark.parametrize(
    ("edition", "field", "images", "address"),
    [
        ("2018", "image", ["http://first", "http://second"], "http://first"),
        ("2018", "image", "http://only", "http://only"),
        ("2018", "image", [], None),
        (
            "2023",
            "images",
            {
                "hi_res": [None, "http://h2"],
                "large": ["http://l1", "http://l2"],
                "thumb": ["http://t1", "http://t2"],
                "variant": ["PT01", "MAIN"],
            },
            "http://h2",
        ),
        ("2023", "images", {"hi_res": [None], "large": ["http://l1"], "thumb": []}, "http://l1"),
        ("2023", "images", {"hi_res": [], "large": [], "thumb": [], "variant": []}, None),
        ("2023", "images", ["http://a"], "http://a"),
        ("2023", "images", json.dumps([{"large": "http://a", "variant": "MAIN"}]), "http://a"),
        ("2023", "images", "{'hi_res': [None], 'large': ['http://l1']}", "http://l1"),
        ("2023", "images", '[{"large": "http://cut', None),
        ("2018", "imageURL", "['http://a', 'http://b']", "http://a"),
    ],
)
def test_image_addresses_are_found_under_the_names_of_every_export(edition, field, images, address):
    asin = "parent_asin" if edition == "2023" else "asin"
    assert metadata_record(edition, line({asin: "B1", field: images}))["image_url"] == address


@pytest.mark.parametrize("form", [lambda details: details, json.dumps, repr])
def test_details_are_text_of_keys_and_values(form):
    details = {"Brand:": " Acme ", "Size": {"Width": "3 in"}, "Pages": 12, "Uses": ["a", "b"]}
    record = {"parent_asin": "B1", "details": form(details)}
    found = metadata_record("2023", line(record))["details"]
    assert found == "Brand: Acme; Size: Width: 3 in; Pages: 12; Uses: a, b"


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ({"Brand": ""}, None),
        ({"Brand": "<span class="}, None),
        ({"Brand": {"Name": [" "]}}, None),
        ({"Brand": None, "Color": "red"}, "Color: red"),
        ({"": "x", ":": "y", "<b>": "z"}, None),
        ({"k": ["a", {"x": "y"}]}, "k: a, x: y"),
        ({"<b>Brand</b>": "<i>Acme</i>"}, "Brand: Acme"),
        ({"\ud800": "\ud800"}, "?: ?"),
    ],
)
def test_a_detail_without_a_key_or_a_value_is_no_text(details, text):
    found = metadata_record("2023", line({"parent_asin": "B1", "details": details}))
    assert found["details"] == text


def test_a_field_that_is_nested_too_deeply_is_a_reason():
    details = {"a": json.loads("[" * 800 + "]" * 800)}
    with pytest.raises(UnusableLineError, match="nested too deeply"):
        metadata_record("2023", line({"parent_asin": "B1", "details": details}))


@pytest.mark.parametrize("edition", ["2014", "2018", "2023"])
@pytest.mark.parametrize("depth", [DEEPEST, 1_100, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}")])
def test_a_line_that_is_nested_too_deeply_is_a_reason_under_every_python(
    edition, depth, opens, closes
):
    nested = opens * depth + "1" + closes * depth
    raw = f'{{"{ASIN[edition]}": "B1", "related": {nested}}}'.encode()
    with pytest.raises(UnusableLineError, match=r"^nested too deeply$"):
        metadata_record(edition, raw)


def test_brackets_in_texts_are_no_depth():
    title = "[{(" * DEEPEST + "it's \\"
    record = {"asin": "B1", "title": title, "description": "'" + "[" * 300}
    assert metadata_record("2018", line(record))["title"] == title
    assert metadata_record("2014", repr(record).encode())["title"] == title


def test_as_many_brackets_side_by_side_are_no_depth():
    record = {"asin": "B1", "title": "T", "related": [[n] for n in range(10 * DEEPEST)]}
    assert metadata_record("2014", repr(record).encode())["title"] == "T"


def test_a_literal_that_is_too_long_for_python_s_parser_is_a_reason():
    fits = {"asin": "B1", "title": "T", "related": "x" * (LONGEST_LITERAL - 100)}
    assert metadata_record("2014", repr(fits).encode())["title"] == "T"
    too_long = repr(fits | {"related": "x" * LONGEST_LITERAL}).encode()
    with pytest.raises(UnusableLineError, match=r"longer than 1,048,576 characters"):
        metadata_record("2014", too_long)


def test_a_field_of_markup_only_is_null_and_noted():
    record = {
        "asin": "B1",
        "title": '<span class="a-size-medium a-color-secondary"',
        "feature": ["<b></b>", "Strong"],
        "description": ["<style>.a{", " "],
        "brand": "",
    }
    found = metadata_record("2018", line(record))
    assert (found["title"], found["features"], found["description"]) == (None, "Strong", None)
    assert found["notes"] == ["titles_of_markup", "fields_of_markup"]


def test_the_end_of_a_field_with_too_many_tags_is_cut_off_and_noted():
    record = {"asin": "B1", "title": "T", "description": "<b>a</b> " * 3000}
    found = metadata_record("2018", line(record))
    assert found["description"].split() == ["a"] * 2500
    assert found["notes"] == ["fields_cut_off"]


def test_a_metadata_record_needs_only_an_asin():
    assert metadata_record("2018", line({"asin": "B1", "title": 3}))["title"] is None
    with pytest.raises(UnusableLineError, match="missing asin"):
        metadata_record("2018", line({"title": "T"}))
