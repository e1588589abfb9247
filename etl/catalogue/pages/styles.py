"""Style sheets in a text, found by their form: the tags around them are gone.

A block in braces is a rule if all its content are declarations `name: value` or rules, and if
besides its selector cannot be prose (`.a`, `#a`, `[a]`, `p:hover`, `@media`), or is a tag's name
and a declaration has the name of a known property. One pass with a stack of open blocks, so the
time is linear in the length of the text.
"""

import re
from dataclasses import dataclass

HTML_TAGS = (
    "a|abbr|address|area|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas|"
    "caption|center|cite|code|col|colgroup|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed|"
    "fieldset|figcaption|figure|font|footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|"
    "iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|noembed|"
    "noframes|noscript|object|ol|optgroup|option|output|p|param|picture|pre|progress|q|s|samp|"
    "script|section|select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|"
    "td|template|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|wbr"
)
TAG = rf"(?:{HTML_TAGS}|{HTML_TAGS.upper()}|\*)"  # capitalized, as in "Table", it is a word
NAME = r"-?[A-Za-z_](?:[-\w]|\\.)*+"
SELECTOR_PART = re.compile(
    r"(?P<separator>[\s,>+~]++)"
    r"|(?P<at_rule>@(?:-\w+-)?(?:media|font-face|keyframes|supports|page|layer|container)\b)"
    rf"|(?P<marked>{TAG}?(?:[.#]{NAME}|::?{NAME}(?:\([^()]*+\))?|\[[^\[\]]*+\])++)(?![^\s,>+~])"
    rf"|(?P<tag>{TAG})(?![^\s,>+~])"
    r"|(?P<word>[^\s,>+~]++)"
)
PROPERTY = (
    r"(?:-[a-z]+-[-a-z]+|--[-\w]+|(?:align|animation|background|border|column|flex|font|grid|justify|"
    r"list-style|margin|max|min|outline|overflow|padding|page-break|text|transition|word)(?:-[a-z]+)*|"
    r"bottom|box-shadow|box-sizing|clear|clip|color|content|cursor|direction|display|fill|filter|"
    r"float|height|left|letter-spacing|line-height|opacity|order|position|resize|right|src|stroke|"
    r"top|transform|vertical-align|visibility|white-space|width|z-index|zoom)"
)
DECLARATION = re.compile(rf"\s*+(?:[*_]?(?:(?P<known>{PROPERTY})|[-\w]++)\s*+:|@)")
CUT_DECLARATION = re.compile(r"\s*+[-*@\w]*+\s*\Z")
AT_STATEMENT = re.compile(
    r"""@(?:import|charset|namespace)\s*+(?:url\([^)\n]*+\)?|"[^"\n]*+"?|'[^'\n]*+'?)[^;{}\n]*+;?"""
)
MAX_OPEN = 100  # braces: more are neither a style sheet nor a text
BRACE = re.compile(r"[{};]")
# Within a rule, strings and addresses may contain braces that open and close nothing.
BRACE_OF_RULE = re.compile(
    r""" [{};] | "(?:[^"\\\n]++|\\.)*+"? | '(?:[^'\\\n]++|\\.)*+'? | \burl\([^)\n]*+\)? """,
    re.VERBOSE,
)


@dataclass(slots=True)
class _Block:
    """A block that is open, or the text around all blocks."""

    start: int  # of its selector
    part: int  # start of the declaration or selector that is read
    has_selector: bool = False
    is_at_rule: bool = False
    is_known: bool = False  # as code, by its selector or by a property
    is_valid: bool = True  # all of its content so far may be code


def without_styles(text: str) -> str:
    """Drop rules such as `.aplus-v2 {display: block}` with their selectors."""
    if "{" not in text and "}" not in text and "@" not in text:
        return text
    reader = _StyleReader(AT_STATEMENT.sub(" ", text))
    position = 0
    while sign := reader.next_sign(position):
        position = sign.end()
        reader.read(sign[0], sign.start(), position)
    return reader.finish()


class _StyleReader:
    """The blocks that are open in a text, and the rules found in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open = [_Block(0, 0)]
        self._rules: list[tuple[int, int]] = []  # start and end, in order

    def next_sign(self, position: int) -> re.Match[str] | None:
        """Return the next brace, semicolon or string; None after too many open braces."""
        if len(self._open) > MAX_OPEN:
            return None
        signs = BRACE_OF_RULE if self._open[-1].has_selector else BRACE
        return signs.search(self._text, position)

    def read(self, sign: str, start: int, end: int) -> None:
        """Read a brace or a semicolon of the innermost block; strings need nothing."""
        if sign == "{":
            self._open.append(self._opened_block(start, end))
        elif sign == ";":
            self._end_declaration(start)
            self._open[-1].part = end
        elif sign == "}":
            self._end_declaration(start)
            self._close(end)

    def finish(self) -> str:
        """Close the rules that are cut off by the text's end, and return the text without rules."""
        text = self._text
        while self._open[-1].has_selector:
            self._end_declaration(len(text), is_cut=True)
            self._close(len(text))
        kept, position = [], 0
        for start, end in self._rules:
            kept += [text[position:start], " "]
            position = end
        return "".join([*kept, text[position:]])

    def _opened_block(self, brace: int, end: int) -> _Block:
        """Return the block at a brace, whose selector ends there."""
        parent, start = self._open[-1], None
        block = _Block(brace, end)
        if parent.part == brace:
            return block
        if parent.is_at_rule:  # `from`, `50%`
            start, block.is_known = parent.part, True
        for part in SELECTOR_PART.finditer(self._text, parent.part, brace):
            if start is None and part.lastgroup in ("marked", "tag", "at_rule"):
                start = part.start()
            if part.lastgroup == "marked":
                block.is_known = True
            elif part.lastgroup == "at_rule":
                block.is_known = block.is_at_rule = True
                break
            elif part.lastgroup == "word" and not parent.is_at_rule:
                start, block.is_known = None, False
        if start is not None:
            block.start, block.has_selector = start, True
        return block

    def _end_declaration(self, end: int, is_cut: bool = False) -> None:
        """Judge the part that ends here: a declaration, or nothing, is valid."""
        block = self._open[-1]
        if not block.is_valid or self._is_blank(block.part, end):
            return
        found = DECLARATION.match(self._text, block.part, end)
        block.is_valid = bool(found or (is_cut and CUT_DECLARATION.match(self._text, block.part)))
        block.is_known |= bool(found and found["known"])

    def _close(self, end: int) -> None:
        """Take away the innermost block if it is a rule; one that nothing opened starts at 0."""
        block = self._open.pop()
        is_outermost = not self._open
        if is_outermost:
            self._open.append(_Block(end, end))
            has_start = block.start == block.part or block.is_known
        else:
            has_start = block.has_selector and block.is_known
        outer = self._open[-1]
        if has_start and block.is_valid:
            self._drop(block.start, end)
            if not is_outermost:
                outer.is_valid &= self._is_blank(outer.part, block.start)
                outer.is_known = True
        else:
            outer.is_valid = False
        outer.part = end

    def _drop(self, start: int, end: int) -> None:
        while self._rules and self._rules[-1][0] >= start:
            self._rules.pop()  # it lies within
        if self._rules and self._rules[-1][1] == start:
            start = self._rules.pop()[0]
        self._rules.append((start, end))

    def _is_blank(self, start: int, end: int) -> bool:
        return start == end or self._text[start:end].isspace()
