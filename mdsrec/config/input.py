"""The section [input]: raw files of the Amazon reviews, or tables of one's own."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from mdsrec.config.categories import (
    FILE_KEYS,
    Categories,
    absolute_names,
    check_files,
    check_names,
)
from mdsrec.config.section import Distinct, PathOrUri, Section
from mdsrec.errors import InputError

TEXT_COLUMNS = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
AMAZON_KEYS = ("edition", "reviews", "metadata")
TABLE_KEYS = (
    *("source", "interactions", "items", "columns", "time_unit", "separator", "options"),
    "snapshot",
)
ITEM_COLUMNS = ("item_key", "title", "text", "image")


class ColumnsConfig(Section):
    """Names of columns in your tables. An unset one is recognized if exactly one column has a usual
    name, such as user_id; the log says which were taken.
    """

    user: str | None = None
    """User id in the interactions: text or a whole number."""
    item: str | None = None
    """Item id in the interactions, and in the items unless `item_key` is set."""
    time: str | None = None
    """Time of an interaction: a number since 1970, ISO 8601, a date or a timestamp."""
    item_key: str | None = None
    """Item id in the items, if it has another name there."""
    title: str | None = None
    """Title of an item."""
    text: Annotated[Distinct[str] | None, TEXT_COLUMNS] = None
    """Column, or list of columns, that form an item's text, joined in this order. Unset means the
    title and a column such as description.
    """
    image: str | None = None
    """Image of an item: an address, or the path of a file, relative to the file of items. Needs
    `images = "url"` in a section [features.NAME].
    """

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        keys = ("user", "item", "time", "item_key", "title", "image")
        named = [(key, getattr(self, key)) for key in keys if getattr(self, key) is not None]
        named += [("text", name) for name in self.text or () if name != self.title]
        if any(not name.strip() for _, name in named):
            raise ValueError("the name of a column is empty")
        first: dict[str, str] = {}
        for key, name in named:
            if name in first and (first[name], key) != ("item", "item_key"):
                raise ValueError(f"{first[name]} and {key} both name the column {name!r}")
            first.setdefault(name, key)
        return self


def properties(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return properties by dotted key, of the nested sections that TOML makes of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        dotted = f"{prefix}{key}"
        inner = properties(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
        if twice := found.keys() & inner.keys():
            raise InputError(f"{min(twice)} is set twice: remove one")
        found |= inner
    return found


def spark_text(value: Any) -> Any:
    """Return a number or a boolean as Spark writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Properties = dict[str, Annotated[str, BeforeValidator(spark_text)]]


class InputConfig(Section):
    """The raw input. The order of files is part of the input order, which breaks ties in time."""

    format: Literal["amazon", "table"] = "amazon"
    """amazon: raw files of the Amazon reviews, in `reviews` and `metadata`. table: tables of your
    own, in `interactions` and `items`.
    """
    edition: Annotated[Literal["2014", "2018", "2023"] | None, BeforeValidator(spark_text)] = None
    """Edition of the Amazon reviews, which decides the format of the raw files."""
    reviews: Distinct[PathOrUri] = ()
    """Files or folders of Amazon reviews, plain, .gz, .bz2 or .zst, as paths or URIs."""
    metadata: Distinct[PathOrUri] = ()
    """Files or folders of Amazon metadata; without them items have no title and no text."""
    source: str | None = None
    """Format of a Spark source such as delta, iceberg, jdbc or orc, which loads `interactions` and
    `items`: a path or the name of a table each. Unset means files: CSV, TSV, JSON lines, Parquet.
    """
    interactions: Distinct[str] = ()
    """Files, folders or patterns such as `logs/*.csv` with a row for each interaction."""
    items: Distinct[str] = ()
    """Files, folders or patterns with a row for each item; without them items have no title, no
    text and no image.
    """
    categories: Categories = Field(default={})
    """Files by category, as `[input.categories.Arts]` with `reviews` and `metadata`, instead of the
    lists above. All of them are one catalogue, in this order: an item keeps the category of its
    first metadata, or else of its first interaction. `--each` takes the categories one by one.
    """
    only: str | None = None
    """Only this one of the categories, below the root ROOT/NAME."""
    columns: ColumnsConfig = ColumnsConfig()
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None
    """Unit of times that are numbers. Unset means recognized by their size, over all rows."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Separator of CSV columns. Unset means recognized by the first line: comma,
    semicolon, tab or a vertical bar.
    """
    options: Properties = Field(default={}, exclude=True)
    """Options of the Spark source, as in `url = "jdbc:..."`. They are never written down: they may
    hold credentials.
    """
    snapshot: str = ""
    """Name of the state of the Spark source, such as a date. A change of the source itself goes
    unnoticed: change this name to read it again.
    """

    @field_validator("options", mode="before")
    @classmethod
    def _by_dotted_keys(cls, options: Any) -> Any:
        return properties(options) if isinstance(options, Mapping) else options

    @field_validator("interactions", "items")
    @classmethod
    def _absolute(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return absolute_names(names, info.data.get("source"))

    @field_validator("categories")
    @classmethod
    def _of_each_category(cls, categories: Categories, info: ValidationInfo) -> Categories:
        check_names(categories)
        source = info.data.get("source")
        return {name: files.with_absolute_names(source) for name, files in categories.items()}

    @model_validator(mode="after")
    def _keys_of_the_format(self) -> Self:
        table = self.format == "table"
        check_files(self.categories, self.format)
        self._check_exclusive()
        for key in ("interactions",) if table else ("edition", "reviews"):
            if not getattr(self, key) and not (self.categories and key in FILE_KEYS):
                hint = "" if table else '; input.format = "table" reads tables of your own'
                raise ValueError(f"key {key} is missing{hint}")
        for key in AMAZON_KEYS if table else TABLE_KEYS:
            if self._is_set(key):
                raise ValueError(f'{key} needs format = "{"amazon" if table else "table"}"')
        for key in ("options", "snapshot") if self.source is None else ("separator",):
            if self._is_set(key):
                needs = "a source: set input.source" if self.source is None else "files of CSV"
                raise ValueError(f"{key} needs {needs}, or remove it")
        mapped = [key for key in ITEM_COLUMNS if getattr(self.columns, key) is not None]
        if mapped and not self.names("items"):
            raise ValueError(f"columns.{mapped[0]} needs items, a table with a row for each item")
        return self

    def _check_exclusive(self) -> None:
        """Raise ValueError if files are listed beside categories, or `only` names none of them."""
        if self.only is not None and self.only not in self.categories:
            given = ", ".join(self.categories) or "none"
            raise ValueError(f"only = {self.only!r} is not one of the categories ({given})")
        for key in FILE_KEYS:
            if self.categories and self._is_set(key):
                raise ValueError(f"{key} and categories exclude each other: remove one")

    def names(self, key: str) -> tuple[str, ...]:
        """Return what `key` lists (one of FILE_KEYS), of all categories if there are any."""
        lists = [getattr(files, key) for files in self.categories.values()]
        return tuple(name for listed in lists for name in listed) or getattr(self, key)

    def of_category(self, name: str) -> Self:
        """Return the input of one category only."""
        files = {key: getattr(self.categories[name], key) for key in FILE_KEYS}
        return self.model_copy(update={**files, "categories": {}, "only": None})

    def _is_set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)
