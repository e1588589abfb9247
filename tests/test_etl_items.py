"""What an encoder sees of an item."""

import pytest

from etl.items import clean, item_text, joined


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
def test_html_and_white_space_are_cleaned(raw, text):
    assert clean(raw) == text


def test_fields_are_joined_as_sentences():
    assert joined(["Title", "Ends itself!", "last"]) == "Title. Ends itself! last"
    assert joined(["one"]) == "one"
    assert joined([]) == ""


def test_an_item_without_any_field_has_no_text():
    row = {"title": " <b></b> ", "features": None, "description": "d"}
    assert item_text(row, ("features",))["text"] is None
    assert item_text(row, ("title",))["title"] is None
    assert item_text(row, ("title", "features", "description"))["text"] == "d"
