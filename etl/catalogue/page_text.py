"""Plain text of a field of the catalogue: without HTML, style sheets and page script.

Amazon's fields hold pieces of its pages, some cut off in the middle of a tag. libxml2 reads the
HTML by the rules of the standard. Style sheets and scripts that lost their tags are found by their
form. Every step takes time linear in the length of the text.
"""

import re
from typing import Any

from lxml import etree

MAX_TAGS = 5_000  # "<" that are read in one text: libxml2 compares open elements with each end tag
MAX_CUT_TAG = 300  # characters of a tag that lost its start
RAW_ELEMENTS = {"script", "style", "iframe", "noframes", "noembed"}  # their content is no text
HTML_TAGS = (
    "a|abbr|address|area|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas|"
    "caption|center|cite|code|col|colgroup|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed|"
    "fieldset|figcaption|figure|font|footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|"
    "iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|noembed|"
    "noframes|noscript|object|ol|optgroup|option|output|p|param|picture|pre|progress|q|s|samp|"
    "script|section|select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|"
    "td|template|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|wbr"
)
# "<" before a letter that begins no tag: an unknown name, and no ">" before the next "<".
NOT_A_TAG = re.compile(rf"<(?=/?[A-Za-z])(?!/?(?:{HTML_TAGS})\b)(?![^<>]*>)", re.IGNORECASE)
RAW_START = re.compile(r"<(?:script|style)\b", re.IGNORECASE)
RAW_END = re.compile(r"</(?:script|style)\s*>", re.IGNORECASE)

CSS_BLOCK = re.compile(r"\{([^{}]*)(\}|\Z)")
CSS_DECLARATION = re.compile(r"\s*[-*\w]+\s*:\s*\S")
CSS_AT_RULE = re.compile(
    r"@(?:media|font-face|import|charset|keyframes|-webkit-keyframes|supports|page)\b[^{};@]*\Z"
)
CSS_UNIT = rf"(?:(?:{HTML_TAGS}|\*)?(?:[.#:][-\w:()]+|\[[^\]\s]*\])+|{HTML_TAGS}|[*>+~])"
CSS_SELECTOR = re.compile(rf"{CSS_UNIT}?(?:,{CSS_UNIT}?)*", re.IGNORECASE)
CSS_NESTING = 3  # rules within @media within @supports

SCRIPT_START = re.compile(
    r"\bP\.(?:when|register|now|load|declare|execute)\s*\("
    r"|\b(?:var|let|const)\s+[\w$]+\s*="
    r"|[!(]?\bfunction\b[\w$ ]{0,40}\([\w$\s,]{0,200}\)\s*\{"
    r"|\bif\s*\(\s*(?:typeof|window|document|ue)\b"
    r"|\b(?:window|document|jQuery)(?:\.[\w$]+)+\s*(?:\(|=[^=])"
    r"|\b(?:ue|uet|amznJQ)(?:\.[\w$]+)*(?:\(|\s*=[^=])"
)
SCRIPT_REST = re.compile(
    r"\.getTime\s*\(|\bP\.when\b|\}\s*\)\s*;|\}\s*catch\s*\("
)  # of one that lost its start
CLOSING = {")": "(", "]": "[", "}": "{"}
CONTINUES = re.compile(r"\s*(?:[.,;=({\[+*?|&:-]|else\b|catch\b|finally\b)")


def clean_text(text: str) -> str:
    """Return the text of a page's field on one line; empty if it holds only markup or code.

    Entities and tags are decoded twice because Amazon escapes some markup twice. Only the first
    MAX_TAGS tags are read; what follows them is dropped.
    """
    for _ in range(2):
        text = without_markup(text)
    return " ".join(without_css(without_script(text)).split())


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
    value = tail.removesuffix("/").rstrip() if tail.endswith("/") else tail
    in_quotes = value.endswith('"') and (value.count('"') % 2 == 1 or '="' in value)
    return rest if in_quotes or f" {tail}".endswith(" /") else text


def without_css(text: str) -> str:
    """Drop rules such as `.aplus-v2 {display: block}` with their selectors."""
    head, closed, rest = text.partition("}")
    if closed and "{" not in head and _are_declarations(head):
        text = rest  # the first rule lost its start
    for _ in range(CSS_NESTING):
        if "{" not in text:
            break
        text = _without_innermost_rules(text)
    return text


def _without_innermost_rules(text: str) -> str:
    kept, position = [], 0
    for block in CSS_BLOCK.finditer(text):
        before = text[position : block.start()]
        start, at_rule = _selector_start(before)
        is_rule = _are_declarations(block[1]) or (at_rule and not block[1].strip())
        if is_rule and start < len(before.rstrip()):
            kept += [before[:start], " "]
            position = block.end()
    return "".join([*kept, text[position:]])


def _are_declarations(body: str) -> bool:
    declarations = [part for part in body.split(";") if part.strip()]
    return bool(declarations) and all(map(CSS_DECLARATION.match, declarations))


def _selector_start(text: str) -> tuple[int, bool]:
    """Return where the selector at the end of `text` starts, and whether it is an @ rule."""
    at = text.rfind("@")
    if at >= 0 and CSS_AT_RULE.match(text, at):
        return at, True
    start = len(text)
    for word in reversed(list(re.finditer(r"\S+", text))):
        if not CSS_SELECTOR.fullmatch(word[0]):
            break
        start = word.start()
    return start, False


def without_script(text: str) -> str:
    """Drop JavaScript statements; drop everything if a statement without its start is left."""
    if "(" not in text and "=" not in text and "{" not in text:
        return text
    kept, position = [], 0
    while found := SCRIPT_START.search(text, position):
        kept += [text[position : found.start()], " "]
        position = _statement_end(text, found.start())
    rest = "".join([*kept, text[position:]])
    return "" if SCRIPT_REST.search(rest) else rest


def _statement_end(text: str, start: int) -> int:
    """Return the end of the statement at `start`; one that is cut off ends with the text."""
    opened: list[str] = []
    position = start
    while position < len(text):
        sign = text[position]
        if sign in "\"'`":
            position = _string_end(text, position)
            continue
        position += 1
        if sign in "([{":
            opened.append(sign)
        elif sign in CLOSING:
            if opened and opened[-1] == CLOSING[sign]:
                opened.pop()
            if not opened and not CONTINUES.match(text, position):
                return position
        elif not opened and sign in ";\n":
            return position
    return len(text)


def _string_end(text: str, start: int) -> int:
    """Return the position after a string literal; one that is not closed ends with its line."""
    position = start + 1
    while position < len(text) and text[position] not in (text[start], "\n"):
        position += 2 if text[position] == "\\" else 1
    return min(position + 1, len(text))
