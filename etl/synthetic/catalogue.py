"""A small catalogue of edition 2018 with planted interests.

Every item has a text topic and a kind, which show in its title and description. Independent of
them it has a visual style, which shows in its image vector and its picture. A user follows a topic
for some events and a style for others. So the two modalities predict different parts of a sequence,
and there is little to learn from item ids only.

A few lines are bad, pairs repeat, records are duplicated, images and descriptions are missing: so
the counters of the tables are not zero.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from etl.synthetic.pictures import style_picture
from etl.synthetic.vocabulary import MATERIALS, QUALITIES, TOPICS
from mdsrec.errors import InputError

Rng = np.random.Generator
Array = npt.NDArray[Any]

NUM_STYLES = 40
WIDTH = 64  # of an image vector
STYLE_NOISE = 0.09  # per coordinate; prototypes have length 1
SWITCH = 0.3  # chance per event that a user turns from topic to style or back
SAME_KIND = 0.7  # chance that the next item of a topic also has the kind of the last one
DRIFT = 0.08  # chance per event that a user changes to another topic or style
STRAY = 0.05  # chance that an event is with any item
REPEAT = 0.02  # chance that a user reviews the item of an event twice
DAY = 86_400
START = 1_483_228_800  # 2017-01-01


@dataclass(frozen=True)
class Catalogue:
    """The items; every array is indexed by item."""

    asins: list[str]
    topic: Array
    kind: Array  # within the topic
    style: Array
    weight: Array  # popularity
    images: Array  # vectors [items, WIDTH]


def draw_catalogue(rng: Rng, num_items: int) -> Catalogue:
    """Draw items with independent topics and styles."""
    prototypes = rng.normal(size=(NUM_STYLES, WIDTH))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    style = rng.integers(NUM_STYLES, size=num_items)
    return Catalogue(
        asins=[f"B{n:09d}" for n in rng.choice(10**8, size=num_items, replace=False)],
        topic=rng.integers(len(TOPICS), size=num_items),
        kind=rng.integers(len(TOPICS[0].kinds), size=num_items),
        style=style,
        weight=(1.0 + rng.permutation(num_items)) ** -0.5,  # long-tailed
        images=prototypes[style] + rng.normal(scale=STYLE_NOISE, size=(num_items, WIDTH)),
    )


def draw_user_events(rng: Rng, items: Catalogue) -> list[int]:
    """Draw 5 to 12 items: runs of one topic alternate with runs of one style."""
    by_text = bool(rng.random() < 0.5)
    last = _draw_item(rng, items.weight)
    chosen = [last]
    for _ in range(rng.integers(4, 12)):
        by_text ^= bool(rng.random() < SWITCH)
        if rng.random() < DRIFT:
            last = _draw_item(rng, items.weight)
        weight = _same_interest(rng, items, last, by_text) * items.weight
        weight[chosen] = 0
        last = _draw_item(rng, weight if weight.any() and rng.random() > STRAY else items.weight)
        chosen.append(last)
    return chosen


def _same_interest(rng: Rng, items: Catalogue, last: int, by_text: bool) -> Array:
    """Return 1 for items with the style of `last`, or with its topic and mostly its kind."""
    if not by_text:
        return np.asarray(items.style == items.style[last], float)
    same = items.topic == items.topic[last]
    if rng.random() < SAME_KIND:
        same &= items.kind == items.kind[last]
    return np.asarray(same, float)


def _draw_item(rng: Rng, weight: Array) -> int:
    return int(rng.choice(len(weight), p=weight / weight.sum()))


def draw_reviews(rng: Rng, items: Catalogue, num_users: int) -> list[dict[str, Any]]:
    """Draw the events of all users. As in the original files they are sorted by item."""
    rows = []
    for user in rng.choice(10**8, size=num_users, replace=False):
        time = START + DAY * int(rng.integers(500))
        for item in draw_user_events(rng, items):
            time += DAY * int(rng.integers(1, 15)) if rng.random() > 0.03 else 0
            row = {
                "overall": float(rng.integers(3, 6)),
                "reviewerID": f"A{user:012d}",
                "asin": items.asins[item],
                "unixReviewTime": time,
            }
            rows.append(row)
            if rng.random() < REPEAT:
                rows.append(row | {"unixReviewTime": time + DAY})
    return sorted(rows, key=lambda row: (row["asin"], row["unixReviewTime"], row["reviewerID"]))


def draw_records(rng: Rng, items: Catalogue) -> list[dict[str, Any]]:
    """Draw the metadata records.

    1 item in 100 has none, 1 in 10 has no description, 1 in 50 has two with different titles.
    """
    rows = []
    for n, asin in enumerate(items.asins):
        topic = TOPICS[int(items.topic[n])]
        kind = topic.kinds[int(items.kind[n])]
        quality, other = rng.choice(QUALITIES, size=2, replace=False)
        words = rng.choice(topic.words, size=4, replace=False)
        material = rng.choice(MATERIALS)
        row = {
            "asin": asin,
            "title": f"{quality.title()} {material} {kind} {rng.integers(100, 1000)}",
            "feature": [f"{words[0]} &amp; {words[1]}", f"for {topic.name}"],
            "description": [f"<p>A {other} {kind} for {words[2]} and {words[3]}.</p>"],
            "category": ["Demo", topic.name],
            "brand": f"Brand {int(items.style[n]) % 7}",
            "imageURLHighRes": [f"https://example.com/{asin}.jpg"],
        }
        if rng.random() < 0.1:
            row["description"] = []
        if rng.random() >= 0.01:
            rows.append(row)
        if rng.random() < 0.02:
            rows.append(row | {"title": "A later record"})
    return rows


def write_catalogue(folder: Path, num_users: int, num_items: int, seed: int) -> dict[str, int]:
    """Write three files and a folder of pictures into `folder`; return how much is in them.

    The same arguments give the same bytes.
    """
    rng = np.random.default_rng(seed)
    items = draw_catalogue(rng, num_items)
    review_lines = [json.dumps(row) for row in draw_reviews(rng, items, num_users)]
    record_lines = [json.dumps(row) for row in draw_records(rng, items)]
    bad_lines = [
        '{"reviewerID": "A1", "asin": ',
        '{"reviewerID": "A1", "unixReviewTime": 1500000000}',
        "",
        '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": "07 14, 2017"}',
    ]
    has_image = np.flatnonzero(rng.random(num_items) >= 0.05)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_gzip(
            folder / "reviews.json.gz", [*review_lines[:10], *bad_lines, *review_lines[10:]]
        )
        _write_gzip(
            folder / "metadata.json.gz", [*record_lines[:10], bad_lines[0], *record_lines[10:]]
        )
        vectors = list(items.images[has_image].astype(np.float32))
        columns = {
            "asin": [items.asins[n] for n in has_image] + ["B-UNKNOWN"],
            "vector": pa.array([*vectors, np.ones(WIDTH, np.float32)], pa.list_(pa.float32())),
        }
        pq.write_table(pa.table(columns), folder / "image.parquet")
        (folder / "images").mkdir(exist_ok=True)
        pictures = [style_picture(style) for style in range(NUM_STYLES)]
        for n in has_image:
            (folder / "images" / f"{items.asins[n]}.png").write_bytes(pictures[items.style[n]])
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    return {
        "users": num_users,
        "items": num_items,
        "reviews": len(review_lines),
        "metadata records": len(record_lines),
        "image vectors": len(has_image) + 1,
        "bad lines": 4,
    }


def _write_gzip(path: Path, lines: Iterable[str]) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
        stream.write("".join(line + "\n" for line in lines).encode())
