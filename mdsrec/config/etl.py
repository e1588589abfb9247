"""Sections that say how tables are made: [input], [sequences], [features.*], [graph], [spark]."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mdsrec.config.section import (
    Count,
    Flag,
    Fraction,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    absolute,
)


def _share_or_date(value: Any) -> float | str:
    """A share of all events in (0, 1), or a day as ISO 8601 writes it."""
    if isinstance(value, date):  # TOML has dates of its own
        value = value.isoformat()
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, str):
        return date.fromisoformat(value).isoformat()
    raise ValueError(f"{value!r} is neither a share between 0 and 1 nor a date")


Cut = Annotated[float | str, BeforeValidator(_share_or_date)]


class InputConfig(Section):
    """Raw files of the publisher, in this order: paths or URIs of files (plain, .gz) or folders."""

    edition: Annotated[Literal["2014", "2018", "2023"], BeforeValidator(str)]
    reviews: tuple[str, ...] = Field(min_length=1)
    metadata: tuple[str, ...] = ()

    @field_validator("reviews", "metadata")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(absolute(path) for path in paths)
        twice = [path for path in found if found.count(path) > 1]
        if twice:
            raise ValueError(f"{twice[0]} stands in the list twice")
        return found


class SequencesConfig(Section):
    k_core: Positive = 5
    """Users and items keep at least this many events, to the fixed point; 1 keeps all."""
    repeats: Literal["first", "last", "keep"] = "first"
    """Which event of a repeated (user, item) pair stays."""
    catalogue: Literal["interacted", "full"] = "interacted"
    """Items: those that interactions are left of; full = also every other item of the metadata."""
    split: Literal["leave_one_out", "global_time"] = "leave_one_out"
    cut: tuple[Cut, Cut] | None = None
    """Where validation and test begin under global_time: shares of the events in order of time
    ([0.8, 0.9]) or dates (["2017-01-01", "2018-01-01"], UTC).
    """
    cold_share: Fraction = 0.0
    """Share of the items, by a hash of the asin, that are held out of all training: of their events
    only test targets stay.
    """

    @model_validator(mode="after")
    def _cut_ascends(self) -> Self:
        if self.split == "leave_one_out":
            if self.cut is not None:
                raise ValueError('cut is for split = "global_time"')
            return self
        if self.cut is None:
            raise ValueError("split global_time needs cut, as in [0.8, 0.9]")
        first, second = self.cut
        if isinstance(first, str) and isinstance(second, str):
            ascends = date.fromisoformat(first) < date.fromisoformat(second)
        elif isinstance(first, float) and isinstance(second, float):
            ascends = first < second
        else:
            raise ValueError("cut mixes a share and a date")
        if not ascends:
            raise ValueError(f"cut {first}, {second}: the second must be the later")
        return self


class FeatureConfig(Section):
    """One modality: encoded from the items' text or images, or brought as vectors."""

    encoder: str | None = None
    """For text a sentence-transformers model, for images a transformers vision model (CLIP, ViT):
    name, local folder, or (text) an installed package that carries one.
    """
    fields: tuple[Literal["title", "features", "description", "categories", "brand"], ...] = Field(
        default=("title", "features", "description"), min_length=1
    )
    """What a text encoder sees, joined in this order."""
    max_tokens: Positive | None = None
    """Tokens after which a text encoder cuts; none = the model's own limit."""
    images: str | None = None
    """What an image encoder sees: a folder of files named ASIN.jpg (.png, ...), or `url` for each
    item's image_url.
    """
    timeout: PositiveFloat = 10.0
    """Seconds to wait for an image's address"""
    retries: Count = 2
    requests_per_second: PositiveFloat = 20.0
    """Of all tasks together"""
    vectors: str | None = None
    """Parquet with columns asin, vector; .npy with one row for each line of `asins`; or the
    publisher's binary image features (.b: 10 bytes of asin, 4096 float32).
    """
    asins: str | None = None

    @field_validator("images", "vectors", "asins")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return path if path in (None, "url") else absolute(path)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.encoder is None) == (self.vectors is None):
            raise ValueError("set either encoder or vectors")
        if self.vectors and self.vectors.endswith(".npy") != (self.asins is not None):
            raise ValueError("asins goes with .npy vectors, one asin a line")
        if self.images and self.encoder is None:
            raise ValueError("images need an encoder")
        return self

    @property
    def sees(self) -> Literal["text", "images", "nothing"]:
        """What the modality's encoder reads of an item."""
        if self.encoder is None:
            return "nothing"
        return "images" if self.images else "text"


class GraphConfig(Section):
    """How item graphs and interest centres are built (Eq. 1-5, 10)."""

    max_neighbors: Positive = 50
    """H_max: neighbours stored for an item. Any H up to it is a prefix, so H is the model's to
    choose.
    """
    normalize: Literal["row", "symmetric", "none"] = "row"
    """N(O) in Eq. 3; none is the paper's letter."""
    distance: Flag = True
    """Eq. 1 divides by the distance of two events; false is the ablation w/o DIS."""
    max_distance: Positive | None = None
    """Pairs further apart than this are left out of O, for very long histories; none = the paper.
    """
    search: Literal["cells", "exact"] = "cells"
    """Neighbours are sought in the cells nearest to an item, or in all of them."""
    min_recall: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.95
    """Share of the exact H_max neighbours that a search in cells must find; below it the job fails.
    """
    max_overlap: Positive = 64
    """Cells that an item is sought in at most; as few are taken as min_recall needs."""
    mu: tuple[NonNegativeFloat, ...] = ()
    """Further mu^m to build neighbours for beside `model.mu`, for a sweep"""
    num_centers: tuple[Positive, ...] = ()
    """Further k to cluster beside `model.num_centers`, for a sweep"""


class SparkConfig(Section):
    master: str = "local[*]"
    driver_memory: str | None = None
    """As Spark spells it (4g); none = by the size of the input and the machine's memory."""
    partitions: Positive | None = None
    """Partitions of a shuffle; none = by cores and the size of the input."""
    rows_per_file: Positive = 500_000
    settings: dict[str, str] = Field(default={}, exclude=True)
    """Any further Spark property; never written down, it may hold a store's credentials."""
