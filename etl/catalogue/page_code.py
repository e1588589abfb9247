"""Style sheets and scripts in a text, found by their form: their tags are gone.

Every step takes time linear in the length of the text.
"""

import re

HTML_TAGS = (
    "a|abbr|address|area|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas|"
    "caption|center|cite|code|col|colgroup|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed|"
    "fieldset|figcaption|figure|font|footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|"
    "iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|noembed|"
    "noframes|noscript|object|ol|optgroup|option|output|p|param|picture|pre|progress|q|s|samp|"
    "script|section|select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|"
    "td|template|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|wbr"
)

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
# Of a statement that has lost its start.
SCRIPT_REST = re.compile(r"\.getTime\s*\(|\bP\.when\b|\}\s*\)\s*;|\}\s*catch\s*\(")
CLOSING = {")": "(", "]": "[", "}": "{"}
CONTINUES = re.compile(r"\s*(?:[.,;=({\[+*?|&:-]|else\b|catch\b|finally\b)")


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
