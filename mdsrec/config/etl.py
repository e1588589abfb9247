"""Sections of the ETL: [sequences], [features.NAME], [graph] and [spark]."""

import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from mdsrec.config.input import Properties, properties
from mdsrec.config.section import (
    Count,
    Distinct,
    Flag,
    Fraction,
    Later,
    NonNegativeFloat,
    NotIdentity,
    PathOrUri,
    Positive,
    PositiveFloat,
    Section,
    absolute,
)

DAYS = re.compile(r"([1-9][0-9]{0,4}) days?")
MASTER = re.compile(r"yarn|local(-cluster)?(\[[^\[\]]+\])?|[a-z][a-z0-9+-]*://\S+")


def days_of_cut(cut: float | str) -> int | None:
    """Return n of a cut at the last n days, written as "14 days"; None for a share or a date."""
    found = DAYS.fullmatch(cut) if isinstance(cut, str) else None
    return int(found[1]) if found else None


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"{error}: write a date as '2018-01-31', or days as '14 days'") from None


def _share_date_or_days(value: Any) -> float | str:
    """Check a cut: a share of all events in (0, 1), a date (returned in ISO 8601), or days."""
    if isinstance(value, date):  # TOML has dates of its own
        value = value.isoformat()
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, str):
        return value if days_of_cut(value) else _iso_date(value)
    raise ValueError(f"{value!r} is not a share between 0 and 1, not a date and not as '14 days'")


def _kind_and_order(cut: float | str) -> tuple[str, float]:
    """Return the kind of a cut, and a number that is larger for a later cut of this kind."""
    if isinstance(cut, float):
        return "share", cut
    days = days_of_cut(cut)
    return ("number of days", -days) if days else ("date", date.fromisoformat(cut).toordinal())


Cut = Annotated[float | str, BeforeValidator(_share_date_or_days)]


class SequencesConfig(Section):
    """Sequences: filters, catalogue, and the split into training, validation and test."""

    k_core: Positive = 5
    """Users and items with fewer events are dropped, repeatedly until none is left; 1 keeps all."""
    repeats: Literal["first", "last", "keep"] = "first"
    """Which event of a repeated (user, item) pair is kept."""
    catalogue: Literal["interacted", "full"] = "interacted"
    """Items to rank: those with interactions, or (full) every item of the metadata as well."""
    split: Literal["leave_one_out", "global_time"] = "leave_one_out"
    """leave_one_out: each user's last event is the test, the one before it the validation.
    global_time: events after the first cut validate, after the second they test.
    """
    cut: tuple[Cut, Cut] | None = None
    """Start of validation and of test under global_time: shares of all events in time order
    ([0.8, 0.9]), dates (["2017-01-01", "2018-01-01"], UTC), or days before the end of the data:
    with ["28 days", "14 days"] the last 14 days, up to the day of the last event in UTC, are test,
    and the 14 before them validation.
    """
    cold_share: Fraction = 0.0
    """Share of the items, chosen by a hash of the item id, that no training sees. Only their test
    targets are kept.
    """

    @model_validator(mode="after")
    def _cut_ascends(self) -> Self:
        if self.split == "leave_one_out":
            if self.cut is not None:
                raise ValueError('cut needs split = "global_time"')
            return self
        if self.cut is None:
            raise ValueError("split global_time needs cut, as in [0.8, 0.9]")
        first, second = self.cut
        (kind, start), (other, end) = _kind_and_order(first), _kind_and_order(second)
        if kind != other:
            raise ValueError(f"cut mixes a {kind} and a {other}: give two of one kind")
        if start >= end:
            raise ValueError(f"cut {first}, {second}: the second must be later than the first")
        return self


def _absolute_folder(encoder: str) -> str:
    """Return a local folder of a model as an absolute path, and the name of a model unchanged."""
    is_local = encoder.startswith(("/", ".", "~")) or Path(encoder).is_dir()
    return absolute(encoder) if is_local else encoder


def _folder_or_url(images: str) -> str:
    return images if images == "url" else absolute(images)


class FeatureConfig(Section):
    """One modality: encoded from the text or the images of items, or read as ready vectors."""

    encoder: Annotated[str, AfterValidator(_absolute_folder)] | None = None
    """Text: a sentence-transformers model. Images: a transformers vision model (CLIP, ViT). Give a
    name, a local folder or, for text, an installed package that contains the model.
    """
    fields: Distinct[
        Literal["title", "features", "description", "categories", "brand", "details"]
    ] = Field(default=("title", "features", "description"), min_length=1)
    """Fields of the Amazon metadata that form an item's text, joined in this order. Of your own
    tables, `input.columns.text` lists them.
    """
    max_tokens: Positive | None = None
    """Longest text in tokens, the rest is cut off. Unset means the model's own limit."""
    images: NotIdentity[Annotated[str, AfterValidator(_folder_or_url)] | None] = None
    """Source of images: a folder of files named ITEM_ID.jpg (.png, ...), or `url` for the address
    that each item has in the metadata, or the address or path in `input.columns.image`.
    """
    timeout: NotIdentity[Annotated[PositiveFloat, Field(le=86_400)]] = 10.0
    """Seconds of one attempt to download an image, redirects and body included."""
    retries: NotIdentity[Count] = 2
    """Further attempts of a failed download."""
    requests_per_second: NotIdentity[PositiveFloat] = 20.0
    """Most requests that an executor sends to one host of images in a second. Its tasks share it;
    several executors, and several hosts, are limited separately.
    """
    max_shared: NotIdentity[Positive] = 10
    """Most items that may share one image, or one given vector. If more items share it, it is a
    placeholder such as a "no image" icon, and these items count as having none.
    """
    vectors: NotIdentity[PathOrUri | None] = None
    """File of ready vectors: Parquet with columns item_id (or asin) and vector; .npy with one row
    for each line of `ids`; or the publisher's binary image features (.b: 10 bytes of asin, 4096
    float32).
    """
    ids: NotIdentity[PathOrUri | None] = None
    """Text file with the item id of each row of a .npy file."""
    column: NotIdentity[str | None] = None
    """Column of ready vectors in the table of items (`input.items`): lists of numbers, in CSV as
    JSON.
    """

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.encoder, self.vectors, self.column].count(None) != 2:
            raise ValueError("set either encoder or vectors or column")
        if self.vectors and self.vectors.endswith(".npy") != (self.ids is not None):
            raise ValueError("ids and .npy vectors need each other: ids names the item of each row")
        if self.images and self.encoder is None:
            raise ValueError("images needs an encoder: set encoder to a vision model")
        return self

    @property
    def sees(self) -> Literal["text", "images", "nothing"]:
        """Return what the encoder of this modality reads."""
        if self.encoder is None:
            return "nothing"
        return "images" if self.images else "text"

    @property
    def encoder_name(self) -> str | None:
        """Return the encoder, of a local model only the name of its folder, which may move."""
        if self.encoder is None or not Path(self.encoder).is_absolute():
            return self.encoder
        return Path(self.encoder).name

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "encoder": self.encoder_name}


class FeaturesConfig(dict[str, FeatureConfig]):
    """The modalities by name. `cache`, a key beside their sections, is the folder or URI of the
    encoded vectors: roots and jobs that name the same one encode a content once. Unset means a
    folder below the root. Neither a run nor a table depends on it, so it may change at any time.
    """

    cache: str | None = None

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        modalities = handler(dict[str, FeatureConfig])
        written = core_schema.wrap_serializer_function_ser_schema(cls._joined, schema=modalities)
        return core_schema.no_info_wrap_validator_function(
            cls._split, modalities, serialization=written
        )

    @classmethod
    def _split(cls, value: Any, validate: Callable[[Any], dict[str, FeatureConfig]]) -> Self:
        """Take `cache` out of the modalities. ValueError if it is not a folder."""
        content = dict(value) if isinstance(value, Mapping) else value
        cache = value.cache if isinstance(value, cls) else None
        if isinstance(content, dict) and "cache" in content:
            cache = content.pop("cache")
            if not isinstance(cache, str):
                raise ValueError(
                    "`cache` is the folder or URI of the encoded vectors, in quotes: a modality "
                    "needs another name"
                )
            cache = absolute(cache).rstrip("/") or "/"
        found = cls(validate(content))
        found.cache = cache
        return found

    @staticmethod
    def _joined(value: Any, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        cache = value.cache
        return write(value) if cache is None else {**write(value), "cache": cache}


class GraphConfig(Section):
    """Item graphs and interest centers (Eq. 1-5, 10)."""

    max_neighbors: Positive = 50
    """H_max: stored neighbors per item. Any H up to it is a prefix, so the model chooses H."""
    normalize: Literal["row", "symmetric", "none"] = "row"
    """Normalization N(O) of Eq. 3: by row sum, D^-1/2 O D^-1/2, or none, as the paper writes it."""
    whiten: Flag = True
    """Give Ebar mean 0 and equal variances before the cosines of Eq. 4; false as in the paper."""
    distance: Flag = True
    """Divide a pair by the distance of its events (Eq. 1); false is the ablation w/o DIS."""
    max_distance: Positive | None = None
    """Leave out pairs of events that are further apart, for very long histories. Unset means all
    pairs, as in the paper.
    """
    max_cooccurrences: Later[Positive | None] = None
    """Heaviest entries kept in an item's row of O, ties by item. It bounds the work of a step for
    popular items; the lost weight is counted. ItemKNN, a baseline of the data, reads all entries.
    Unset means all entries, as in the paper.
    """
    search: Literal["cells", "exact"] = "cells"
    """Search an item's neighbors in the nearest cells of a k-means index, or exactly in all."""
    min_recall: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.95
    """Least recall of the search in cells against exact search; below it the job fails."""
    max_overlap: NotIdentity[Positive] = 64
    """Most cells searched per item; as few are searched as min_recall needs."""
    mu: NotIdentity[Distinct[NonNegativeFloat]] = ()
    """More values of mu^m to build neighbors for, in addition to `model.mu`; for sweeps."""
    num_centers: NotIdentity[Distinct[Positive]] = ()
    """More values of k to cluster for, in addition to `model.num_centers`; for sweeps."""


def known_master(master: str) -> str:
    """Return the master. ValueError if no cluster manager of Spark has such a name."""
    if not MASTER.fullmatch(master):
        raise ValueError(
            "not a Spark master: write local[*], local[4], yarn, spark://HOST:7077 or k8s://URL"
        )
    return master


class SparkConfig(Section):
    """The Spark session. The same rows come out of any session."""

    master: Annotated[str, AfterValidator(known_master)] = "local[*]"
    """Spark master, e.g. local[*], spark://HOST:7077 or yarn."""
    driver_memory: str | None = None
    """Memory of the driver, e.g. 4g. Unset means by the size of the input and of the machine."""
    partitions: Positive | None = None
    """Partitions of a shuffle. Unset means by cores and the size of the input."""
    rows_per_file: Positive = 500_000
    """Most rows in one Parquet file of a table."""
    settings: Properties = Field(default={}, exclude=True)
    """Other Spark properties, as in `spark.executor.memory = "4g"`. They are never written down:
    they may hold credentials.
    """

    @field_validator("settings", mode="before")
    @classmethod
    def _by_dotted_keys(cls, settings: Any) -> Any:
        return properties(settings) if isinstance(settings, Mapping) else settings
