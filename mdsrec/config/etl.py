"""Sections of the ETL: [input], [sequences], [features.NAME], [graph] and [spark]."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mdsrec.config.section import (
    Count,
    Flag,
    Fraction,
    NonNegativeFloat,
    NotIdentity,
    Positive,
    PositiveFloat,
    Section,
    absolute,
)


def _share_or_date(value: Any) -> float | str:
    """Check a cut: a share of all events in (0, 1), or a date; returned in ISO 8601."""
    if isinstance(value, date):  # TOML has dates of its own
        value = value.isoformat()
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, str):
        return date.fromisoformat(value).isoformat()
    raise ValueError(f"{value!r} is not a share between 0 and 1 and not a date")


Cut = Annotated[float | str, BeforeValidator(_share_or_date)]


class InputConfig(Section):
    """The raw files. Their order is part of the input order, which breaks ties in time."""

    edition: Annotated[Literal["2014", "2018", "2023"], BeforeValidator(str)]
    """Edition of the Amazon reviews, which decides the format of the raw files."""
    reviews: tuple[str, ...] = Field(min_length=1)
    """Files or folders of reviews, plain or .gz, as paths or URIs."""
    metadata: tuple[str, ...] = ()
    """Files or folders of item metadata; without them items have no title and no text."""

    @field_validator("reviews", "metadata")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(absolute(path) for path in paths)
        twice = [path for path in found if found.count(path) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is listed twice: remove one")
        return found


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
    ([0.8, 0.9]) or dates (["2017-01-01", "2018-01-01"], UTC).
    """
    cold_share: Fraction = 0.0
    """Share of the items, chosen by a hash of the asin, that no training sees. Only their test
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
        if isinstance(first, str) and isinstance(second, str):
            ascends = date.fromisoformat(first) < date.fromisoformat(second)
        elif isinstance(first, float) and isinstance(second, float):
            ascends = first < second
        else:
            raise ValueError("cut mixes a share and a date: give two shares or two dates")
        if not ascends:
            raise ValueError(f"cut {first}, {second}: the second must be later than the first")
        return self


class FeatureConfig(Section):
    """One modality: encoded from the text or the images of items, or read as ready vectors."""

    encoder: str | None = None
    """Text: a sentence-transformers model. Images: a transformers vision model (CLIP, ViT). Give a
    name, a local folder or, for text, an installed package that contains the model.
    """
    fields: tuple[Literal["title", "features", "description", "categories", "brand"], ...] = Field(
        default=("title", "features", "description"), min_length=1
    )
    """Metadata fields that form an item's text, joined in this order."""
    max_tokens: Positive | None = None
    """Longest text in tokens, the rest is cut off. Unset means the model's own limit."""
    images: NotIdentity[str | None] = None
    """Source of images: a folder of files named ASIN.jpg (.png, ...), or `url` to download each
    item's image_url.
    """
    timeout: NotIdentity[PositiveFloat] = 10.0
    """Seconds to wait for one image download."""
    retries: NotIdentity[Count] = 2
    """Further attempts of a failed download."""
    requests_per_second: NotIdentity[PositiveFloat] = 20.0
    """Download rate of all Spark tasks together."""
    vectors: NotIdentity[str | None] = None
    """File of ready vectors: Parquet with columns asin and vector; .npy with one row for each line
    of `asins`; or the publisher's binary image features (.b: 10 bytes of asin, 4096 float32).
    """
    asins: NotIdentity[str | None] = None
    """Text file with the asin of each row of a .npy file."""

    @field_validator("images", "vectors", "asins")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return path if path in (None, "url") else absolute(path)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.encoder is None) == (self.vectors is None):
            raise ValueError("set either encoder or vectors")
        if self.vectors and self.vectors.endswith(".npy") != (self.asins is not None):
            raise ValueError(
                "asins and .npy vectors need each other: asins names the item of each row"
            )
        if self.images and self.encoder is None:
            raise ValueError("images needs an encoder: set encoder to a vision model")
        return self

    @property
    def sees(self) -> Literal["text", "images", "nothing"]:
        """Return what the encoder of this modality reads."""
        if self.encoder is None:
            return "nothing"
        return "images" if self.images else "text"


class GraphConfig(Section):
    """Item graphs and interest centers (Eq. 1-5, 10)."""

    max_neighbors: Positive = 50
    """H_max: stored neighbors per item. Any H up to it is a prefix, so the model chooses H."""
    normalize: Literal["row", "symmetric", "none"] = "row"
    """Normalization N(O) of Eq. 3: by row sum, D^-1/2 O D^-1/2, or none, as the paper writes it."""
    distance: Flag = True
    """Divide a pair by the distance of its events (Eq. 1); false is the ablation w/o DIS."""
    max_distance: Positive | None = None
    """Leave out pairs of events that are further apart, for very long histories. Unset means all
    pairs, as in the paper.
    """
    search: Literal["cells", "exact"] = "cells"
    """Search an item's neighbors in the nearest cells of a k-means index, or exactly in all."""
    min_recall: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.95
    """Least recall of the search in cells against exact search; below it the job fails."""
    max_overlap: NotIdentity[Positive] = 64
    """Most cells searched per item; as few are searched as min_recall needs."""
    mu: NotIdentity[tuple[NonNegativeFloat, ...]] = ()
    """More values of mu^m to build neighbors for, in addition to `model.mu`; for sweeps."""
    num_centers: NotIdentity[tuple[Positive, ...]] = ()
    """More values of k to cluster for, in addition to `model.num_centers`; for sweeps."""


class SparkConfig(Section):
    """The Spark session. The same rows come out of any session."""

    master: str = "local[*]"
    """Spark master, e.g. local[*], spark://HOST:7077 or yarn."""
    driver_memory: str | None = None
    """Memory of the driver, e.g. 4g. Unset means by the size of the input and of the machine."""
    partitions: Positive | None = None
    """Partitions of a shuffle. Unset means by cores and the size of the input."""
    rows_per_file: Positive = 500_000
    """Most rows in one Parquet file of a table."""
    settings: dict[str, str] = Field(default={}, exclude=True)
    """Other Spark properties. They are never written down: they may hold credentials."""
