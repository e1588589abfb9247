"""Plain text of the fields of product pages."""

import time

import pytest

from etl.catalogue.page_text import MAX_TAGS, clean_text

LOADER = 'P.when("Loader").execute(function(module){ module.start({"a": "})"}); })'


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a  b\n\tc ", "a b c"),
        ("<p>Bold &amp; <b>new</b></p>", "Bold & new"),
        ("&lt;br&gt;line&amp;nbsp;two", "line two"),
        ("x<script>var a = '<b>';</script>y<!-- z -->", "x y"),
        ("<img src='x'>", ""),
        ('<a title="x>y">t</a>', "t"),
    ],
)
def test_markup_is_removed_and_white_space_collapsed(raw, text):
    assert clean_text(raw) == text


@pytest.mark.parametrize(
    "text",
    [
        "3 < 5 and 7 > 2",
        "I <3 it",
        "for <Windows 10 and later",
        'boards of 12" > 10" > 8"',
        'Menu "File">"Open"',
        "Set {red, blue} (new)",
        "Shirt {size: large}",
        "A ratio: 3:2; a size: 5",
        "The function keys (F1-F12) if you have a window (large)",
        "Let x = y be",
    ],
)
def test_text_that_looks_like_markup_or_code_stays(text):
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('<span class="a-size-medium a-color-secondary"', ""),
        ('good <span class="a', "good"),
        ('Magazines" />', ""),
        ('s/ref=x" class="y">Rod', "Rod"),
        ("/>Rod", "Rod"),
        ("br />Rod", "Rod"),
        ("x <style>.a{", "x"),
        ("x <script>if (a < b", "x"),
        ("x <!-- y", "x"),
        ("f(1); }</script>Rod", "Rod"),
        (".a{b:c}</style>Rod", "Rod"),
    ],
)
def test_of_a_tag_that_is_cut_off_nothing_is_left(raw, text):
    assert clean_text(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (".aplus-v2 {display:block; margin: 0}", ""),
        ("Great .aplus-v2 .b, div > p:hover {color: red} rod", "Great rod"),
        ("@media (max-width: 600px) { .x { color: red } #y{a:b} } rod", "rod"),
        ("body{margin:0}h1{color:red}Rod", "Rod"),
        ("color: red; } .b{c:d} Rod", "Rod"),
        ("Rod .a {color: re", "Rod"),
    ],
)
def test_bare_style_sheets_are_removed_with_their_selectors(raw, text):
    assert clean_text(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (LOADER, ""),
        (f"Make sure this fits.\n{LOADER} Strong.", "Make sure this fits. Strong."),
        ("P.when('A').execute(function(A){ A.on('x', function(){ cut off", ""),
        ("var aPageStart = (new Date()).getTime();", ""),
        ("(function(f) {var _np=(window.P._namespace('x'));f(_np)}(function(P){ a }));", ""),
        ("if(window.ue) { uet('cf') } else { x } Rod", "Rod"),
        ("document.getElementById('x').style='y'; Rod", "Rod"),
        ("e)).getTime(); more of a script", ""),
    ],
)
def test_bare_page_script_is_removed(raw, text):
    assert clean_text(raw) == text


@pytest.mark.parametrize(
    "piece",
    [
        "<!-- <style ",
        "<b>",
        "<b></i>",
        "<",
        "<a title='",
        "var a=(",
        ".a{b:c}",
        "@media{",
        "P.when(",
    ],
)
def test_a_megabyte_of_garbage_takes_seconds_at_most(piece):
    started = time.process_time()
    clean_text(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 5


def test_text_after_too_many_tags_is_dropped():
    assert clean_text("<b>a</b>" * MAX_TAGS).split() == ["a"] * (MAX_TAGS // 2)
