"""The sections [input.categories.NAME]: the files of each category of a catalogue."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from mdsrec.config.section import Distinct, PathOrUri, Section, absolute
from mdsrec.errors import refuse_credentials

KEYS_OF_FORMAT = {"amazon": ("reviews", "metadata"), "table": ("interactions", "items")}
FILE_KEYS = tuple(key for keys in KEYS_OF_FORMAT.values() for key in keys)
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "use letters, digits, _, . and -, at most 100, and begin with a letter or a digit"


class CategoryConfig(Section):
    """The files of one category: `reviews` and `metadata`, or `interactions` and `items`."""

    reviews: Distinct[PathOrUri] = ()
    """Files or folders of Amazon reviews of this category."""
    metadata: Distinct[PathOrUri] = ()
    """Files or folders of Amazon metadata of this category."""
    interactions: Distinct[str] = ()
    """Files, folders or patterns with a row for each interaction of this category."""
    items: Distinct[str] = ()
    """Files, folders or patterns with a row for each item of this category."""

    def with_absolute_names(self, source: str | None) -> Self:
        """Return the same files by absolute paths; reviews and metadata have them already."""
        keys = KEYS_OF_FORMAT["table"]
        return self.model_copy(
            update={key: absolute_names(getattr(self, key), source) for key in keys}
        )


Categories = dict[str, CategoryConfig]


def absolute_names(names: tuple[str, ...], source: str | None) -> tuple[str, ...]:
    """Make local paths absolute; of a Spark source only those that exist."""
    if source is None:
        return tuple(map(absolute, names))
    for name in names:
        refuse_credentials(name)
    return tuple(absolute(name) if Path(name).exists() else name for name in names)


def check_names(categories: Mapping[str, CategoryConfig]) -> None:
    """Raise ValueError if a category has a name that cannot be the name of a folder."""
    for name in categories:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a category: {NAME_RULE}")


def check_files(categories: Mapping[str, CategoryConfig], input_format: str) -> None:
    """Raise ValueError if a category has no interactions, or files of another format or category.

    The same file in two categories would give its items two categories.
    """
    first: dict[str, str] = {}
    for name, files in categories.items():
        needed, *_ = keys = KEYS_OF_FORMAT[input_format]
        if not getattr(files, needed):
            raise ValueError(f"key categories.{name}.{needed} is missing")
        for key in FILE_KEYS:
            if getattr(files, key) and key not in keys:
                other = "table" if input_format == "amazon" else "amazon"
                raise ValueError(f'categories.{name}.{key} needs format = "{other}"')
        for file in getattr(files, needed):
            if first.setdefault(file, name) != name:
                raise ValueError(f"{file} is listed in categories.{first[file]} and .{name}")
