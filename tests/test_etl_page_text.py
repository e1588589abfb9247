"""Plain text of the fields of product pages."""

import json
import random
import time

import pytest

from etl.catalogue.pages.text import MAX_TAGS, clean_text

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
        "body {mind: soul}",
        "font {size: 3}",
        "B {type: 2} vitamins",
        "Table {height: 30 in}",
        "It's {don't} .b it's",
        "Note: {a:b}",
        "10:am {x: y}",
        "#1 {best: ever}",
        '{"a": "b", "c": {"d": "e"}}',
        "Kit (bolts {M4}); nuts",
        "a /* b",
        "P = 0.05; P&&G",
        "Easy return policy; nice",
        "jQuery.ajax() in action",
        "jQuery && CSS",
        "window.open (large)",
        "I use .getTime() daily",
        "Use (new Date()).getTime() in JS",
        "Understanding setTimeout() in JS",
        "Step 1 --> Step 2",
        "Boys' > Girls'",
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
        ("-->Rod", "Rod"),
        ("href='x'>Rod</a>", "Rod"),
        ("class='a-size' >Rod", "Rod"),
        ("width=100>Rod", "Rod"),
        ('span class="a">Rod', "Rod"),
        ('Title by J. R. R. "Tolkien" />', 'Title by J. R. R. "Tolkien"'),
        ('Great rod class="b">by us', "Great rod by us"),
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
        (".aplus-v2 {", ""),
        ("@media screen and (min-width:1000px){.a{b:c}", ""),
        ("} .a{b:c} Rod", "Rod"),
        (".a{b:c}} Rod", "Rod"),
        ("@keyframes x { from {top: 0} 50% {top: 1px} } Rod", "Rod"),
        ("@import url('x;y.css'); Rod", "Rod"),
        ("@font-face{font-family:x;src:url(data:font/woff;base64,xx)} Rod", "Rod"),
        (".a{background:url(http://x.com/a;b.png)} Rod", "Rod"),
        ('.a::before{content:"}"} Rod', "Rod"),
        ('.a{content:"{";color:red} Rod', "Rod"),
        (".a { /* c */ color: red } Rod", "Rod"),
        ("/* comment */ .a{b:c} Rod", "Rod"),
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
        ("aPageStart = (new Date()).getTime();", ""),
        ("setTimeout(function(){ x(); }, 100);", ""),
        ("$(document).ready(function(){ $('.a').click(); });", ""),
        ("jQuery(function($){ x });", ""),
        ("window.ue && ue.tag && ue.tag('x');", ""),
        ("ue_csm.ue_hob=ue_csm.ue_hob||+new Date();", ""),
        ("AmazonUIPageJS ? P.when('A') : x", ""),
        ("return false;", ""),
        ("});", ""),
        ("})(window); Rod", "Rod"),
        ("Rod\nf(1);\nx = 2; }); Reel", "Rod Reel"),
        ("Learn JavaScript: function foo() { }", "Learn JavaScript:"),
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


@pytest.mark.parametrize(
    "text",
    [
        ":" * 34 + "! {a:b}",
        ":a" * 20 + "! {a:b}",
        "New " + ":" * 34 + "* {8 x 10}",
        "{x}" * 33_333,
        "red {x} " * 12_500,
        "{a:b}" * 20_000,
        json.dumps({"k": [{"id": n, "n": "x"} for n in range(4_000)]}),
        "(" + "window." * 14_285,
        "(" + "ue." * 33_333,
        "(" + "amznJQ." * 14_285,
    ],
    ids=lambda text: text[:12],
)
def test_of_no_text_is_a_part_read_again_and_again(text):
    started = time.process_time()
    clean_text(text)
    assert time.process_time() - started < 1


PIECES = r"""
{ } ( ) [ ] ; : . # , @ < > / * " ' = $ ` \ & && || ? ! -- /* */ // <!-- --> <style </style>
<script </script> <a <b> </b> title=" title=' class=x window. window document. jQuery ue. ue ue_a
uet( amznJQ P.when( function( function var let const x= try{ if( return catch( }) }); )).a( ).a();
.getTime() @media @import url( a: color: color:red; .a #a :a body a b x 8 10 div &amp; &lt; &#x41;
"""


@pytest.mark.parametrize("seed", range(12))
def test_a_text_of_random_pieces_takes_time_in_proportion_to_its_length(seed):
    choice = random.Random(seed)
    words = [*PIECES.split(), " ", "\n"]
    pieces = choice.sample(words, choice.choice([1, 2, 3, 5, len(words)]))
    text = "".join(choice.choices(pieces, k=1 << 16))[: 1 << 16]
    started = time.process_time()
    clean_text(text)
    assert time.process_time() - started < 1  # a quadratic step takes a minute and more


def test_text_after_too_many_tags_is_dropped():
    assert clean_text("<b>a</b>" * MAX_TAGS).split() == ["a"] * (MAX_TAGS // 2)
