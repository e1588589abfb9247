"""JavaScript statements in a text, found by their form: the tags around them are gone.

A statement begins with a name of page script that is followed by signs of code: a call with quotes,
a function or a final semicolon, an assignment, or an operator. A text about `jQuery.ajax()` stays.
The look ahead and back of every pattern is bounded or never repeated, so the time is linear in the
length of the text.
"""

import re

# Of Amazon's pages; no other text has them.
PAGE_NAMES = (
    r"(?:P\.(?:when|register|now|load|declare|execute)|AmazonUIPageJS|amznJQ|ue_[a-z]\w*+)\b"
)
# Also words of a text about JavaScript.
NAMES = r"(?:(?:window|document|jQuery)(?=[.(\[])|setTimeout|setInterval|uet|uex|ue)\b"
MEMBERS = r"(?:\.[\w$]++|\[[^\[\]\n]{0,100}\])*+"
ARGUMENT = r"""\s*+(?:["'`{]|(?:function|document|window|this)\b)"""
OPERATOR = r"\s*+(?:[-+|&]?=(?![=>])|&&|\|\|)"
START = r"(?<![\w.$])"
STATEMENT = re.compile(
    rf"{START}(?:{PAGE_NAMES}|{NAMES}{MEMBERS}(?:\({ARGUMENT}|\([^;\n]{{0,200}}\)\s?;|{OPERATOR}))"
    rf"|{START}\$(?:\({ARGUMENT}|\.[A-Za-z]+\()"
    rf"|{START}var\s++[\w$]+\s*+="
    rf"|{START}(?:let|const)\s++[\w$]+\s*+=[^;\n]{{0,200}};"
    rf"|{START}[\w$.]++\s*+=[^;=\n]{{0,200}}\)\s?;"
    r"|[!(]?\bfunction\b[\w$ ]{0,40}\([\w$\s,]{0,200}\)\s*+\{"
    r"|\bif\s*+\(\s*+!?\s*+(?:typeof\b|(?:window|document|ue|jQuery)\s?[.)\[=!&|])"
    r"|\bfor\s*+\(\s*+(?:var|let)\b"
    r"|\btry\s*+\{"
    r"|\breturn\s++(?:false|true|null|undefined|this|!?[01])\s*+;"
    # The end of a statement that may have lost its start.
    r"|(?P<end>\}\s*+(?:\)(?:\s*+;|\(|\.\w+\()|catch\s*+\()|\)\s*+\.[\w$]+\(\s*+\)\s*+;)"
)
CODE_SIGN = re.compile(r"[;={}]")
STATEMENT_SIGN = re.compile(
    r""" [\n;(\[{)\]}] | //[^\n]*+
    | "(?:[^"\\\n]++|\\.)*+"? | '(?:[^'\\\n]++|\\.)*+'? | `(?:[^`\\]++|\\.)*+`? """,
    re.VERBOSE,
)
CLOSING = {")": "(", "]": "[", "}": "{"}
CONTINUES = re.compile(
    r"[ \t]*+[,;=({\[)\]+*?|&:-]|\s*+(?:\.[\w$]|[{?]|&&|\|\||(?:else|catch|finally)\b)"
)


def without_comments(text: str) -> str:
    """Drop `/* comments */`; one without its end is text."""
    kept, position = [], 0
    while (start := text.find("/*", position)) >= 0 and (end := text.find("*/", start + 2)) >= 0:
        kept += [text[position:start], " "]
        position = end + 2
    return "".join([*kept, text[position:]])


def without_script(text: str) -> str:
    """Drop JavaScript statements; drop everything if the text begins within an expression."""
    kept, position = [], 0
    while found := STATEMENT.search(text, position):
        start, closing = found.start(), found["end"][:1] if found["end"] else ""
        head = text[position:start]
        if not closing:
            end = _statement_end(text, start)
        elif head.count(CLOSING[closing]) > head.count(closing):  # it has its start, in a text
            kept.append(text[position : found.end()])
            position = found.end()
            continue
        elif closing == ")":
            return ""
        else:
            head, end = _without_code_lines(head), _statement_end(text, start)
        kept += [head, " "]
        position = end
    return "".join([*kept, text[position:]])


def _without_code_lines(head: str) -> str:
    """Drop the lines at the end that have a sign of code."""
    lines = head.split("\n")
    while lines and (not lines[-1].strip() or CODE_SIGN.search(lines[-1])):
        lines.pop()
    return "\n".join(lines)


def _statement_end(text: str, start: int) -> int:
    """Return the end of the statement at `start`; one that is cut off ends with the text."""
    opened: list[str] = []
    for found in STATEMENT_SIGN.finditer(text, start):
        sign = found[0]
        if sign in ("(", "[", "{"):
            opened.append(sign)
        elif sign in CLOSING:
            if opened and opened[-1] == CLOSING[sign]:
                opened.pop()
            if not opened and not CONTINUES.match(text, found.end()):
                return found.end()
        elif not opened and sign in (";", "\n"):
            return found.end()
    return len(text)
