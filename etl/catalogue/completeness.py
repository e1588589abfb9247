"""Checks of whole metadata files: fields that no record has, and texts that were only markup."""

import logging
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.catalogue.metadata import (
    FIELDS_CUT_OFF,
    FIELDS_OF_MARKUP,
    IMAGES,
    TITLES_OF_MARKUP,
)

log = logging.getLogger("etl")

SOUGHT = {  # by name: columns of the parsed record, and fields of the raw one
    "title": (["title"], "title"),
    "text": (["features", "description", "details"], "features, description, details"),
    "picture": (["image_url"], ", ".join(IMAGES)),
}


def count_notes(rows: DataFrame) -> dict[str, int]:
    """Count the notes of parsed metadata lines, and log how many titles were only markup."""
    found = rows.select(F.explode("notes").alias("note")).groupBy("note").count().collect()
    counts = {row.note: int(row["count"]) for row in found}
    if num_titles := counts.get(TITLES_OF_MARKUP):
        log.warning(
            "metadata: %s titles hold only markup or page script: these items have no title",
            f"{num_titles:,}",
        )
    return {
        note: counts.get(note, 0) for note in (TITLES_OF_MARKUP, FIELDS_OF_MARKUP, FIELDS_CUT_OFF)
    }


def warn_of_absent_fields(records: DataFrame, uris: Sequence[str]) -> None:
    """Log each file of which no record has a title, a text or a picture."""
    counts = [F.count(F.coalesce(*columns)).alias(name) for name, (columns, _) in SOUGHT.items()]
    rows = records.groupBy("file").agg(F.count("*").alias("records"), *counts).collect()
    for row in sorted(rows, key=lambda row: row.file):
        for name, (_, fields) in SOUGHT.items():
            if not row[name]:
                log.warning(
                    "%s: none of %s records has a %s (fields: %s)",
                    uris[row.file],
                    f"{row.records:,}",
                    name,
                    fields,
                )
