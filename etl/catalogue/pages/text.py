"""Plain text of a field of the catalogue: without HTML, style sheets and page script.

Amazon's fields hold pieces of its pages, some cut off in the middle of a tag. libxml2 reads the
HTML by the rules of the standard; `script.py` and `styles.py` find code that has lost its
tags. Every step takes time linear in the length of the text.
"""

import re
from typing import Any

from lxml import etree

from etl.catalogue.pages.script import without_comments, without_script
from etl.catalogue.pages.styles import HTML_TAGS, without_styles

MAX_TAGS = 5_000  # "<" that are read in one text: libxml2 compares open elements with each end tag
MAX_CUT_TAG = 300  # characters of a tag that lost its start
# Elements whose content is code, or a text for browsers that lack something.
RAW_ELEMENTS = {"script", "style", "iframe", "noframes", "noembed"}
# "<" before a letter that begins no tag: an unknown name, and no ">" before the next "<".
NOT_A_TAG = re.compile(rf"<(?=/?[A-Za-z])(?!/?(?:{HTML_TAGS})\b)(?![^<>]*>)", re.IGNORECASE)
RAW_START = re.compile(r"<(?:script|style)\b", re.IGNORECASE)
RAW_END = re.compile(r"</(?:script|style)\s*>", re.IGNORECASE)
UNQUOTED = "class|id|style|href|src|alt|width|height|border|align|valign|size|color|target|rel"
ATTRIBUTE = rf"""(?:[-:\w]+\s*=\s*(?:"[^"]*"|'[^']*')|(?:{UNQUOTED})=[^\s"'=]+)"""
# A tag that begins before the text: within a value in quotes, or with its name or attributes.
CUT_TAG = re.compile(
    rf"""(?:[^"]*"|[^']*')(?:\s+{ATTRIBUTE})+\s*/?"""
    rf"""|[^"]*"(?:\s*/)?|[^']*'"""
    rf"""|\s*(?:(?:{HTML_TAGS})\s+)?{ATTRIBUTE}(?:\s+{ATTRIBUTE})*\s*/?"""
    rf"""|\s*(?:(?:{HTML_TAGS})?\s*/|--)""",
    re.IGNORECASE,
)
CUT_TAG_END = re.compile(rf"(?:\s+{ATTRIBUTE})+\s*/?\Z|\s*/\Z", re.IGNORECASE)


def clean_text(text: str) -> str:
    """Return the text of a page's field on one line; empty if it holds only markup or code.

    Entities and tags are decoded twice because Amazon escapes some markup twice. Only the first
    MAX_TAGS tags are read; what follows them is dropped.
    """
    for _ in range(2):
        text = without_markup(text)
    return " ".join(without_styles(without_script(without_comments(text))).split())


def has_too_many_tags(text: str) -> bool:
    """Return True if `clean_text` drops the end of the text."""
    return text.count("<") > MAX_TAGS


def without_markup(text: str) -> str:
    """Replace tags, comments, scripts and style sheets by spaces, and decode entities."""
    if not any(sign in text for sign in "<>&"):
        return text
    whole = "<".join(text.split("<", MAX_TAGS + 1)[: MAX_TAGS + 1])
    parser = etree.HTMLParser(target=_TextTarget(), huge_tree=True)
    parser.feed(NOT_A_TAG.sub("&lt;", _without_cut_start(whole)) or " ")
    return str(parser.close())


class _TextTarget:
    """The receiver of libxml2's tokens, which joins the text outside RAW_ELEMENTS."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._raw = 0  # depth within RAW_ELEMENTS

    def start(self, tag: str, attributes: Any) -> None:
        self._raw += tag in RAW_ELEMENTS
        self._parts.append(" ")

    def end(self, tag: str) -> None:
        self._raw -= tag in RAW_ELEMENTS
        self._parts.append(" ")

    def data(self, text: str) -> None:
        if not self._raw:
            self._parts.append(text)

    def comment(self, text: str) -> None:
        self._parts.append(" ")

    def close(self) -> str:
        return "".join(self._parts)


def _without_cut_start(text: str) -> str:
    """Drop the rest of a script, a style sheet or a tag that begins before the text."""
    if (end := RAW_END.search(text)) and not RAW_START.search(text, 0, end.start()):
        text = text[end.end() :]
    tail, closed, rest = text.partition(">")
    if not closed or "<" in tail or len(tail) > MAX_CUT_TAG:
        return text
    if CUT_TAG.fullmatch(tail):
        return rest
    end = CUT_TAG_END.search(tail)
    return f"{tail[: end.start()]} {rest}" if end else text
