"""`python -m etl.synthetic FOLDER`: a small catalogue in the raw format of 2018, with planted
interests.

Every item has a text topic and kind (its title and description) and, independent of them, a visual
style (its image vector and its picture). A user follows a topic for some events and a style for
others, so the two modalities predict different parts of a sequence and item ids alone have little
to learn from. A few lines are bad, pairs repeat, records are double, images and descriptions are
missing: counters are not zero.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from etl.synthetic.pictures import style_picture
from etl.synthetic.vocabulary import MATERIALS, QUALITIES, TOPICS
from mdsrec.command import run_command
from mdsrec.errors import InputError

Rng = np.random.Generator
Array = npt.NDArray[Any]

NUM_STYLES = 40
WIDTH = 64  # of an image vector
STYLE_NOISE = 0.09  # a coordinate, beside prototypes of length 1
SWITCH = 0.3  # chance that a user turns from topic to style or back at an event
SAME_KIND = 0.7  # chance that the next item of a topic is of the last one's kind
DRIFT = 0.08  # chance that a user takes up another topic or style
STRAY = 0.05  # chance of any item at all
REPEAT = 0.02  # chance that an event is followed by a second review of its item
DAY = 86_400
START = 1_483_228_800  # 2017-01-01


@dataclass(frozen=True)
class Catalogue:
    """Items by index: asin, topic, kind within the topic, style, popularity, image vector."""

    asins: list[str]
    topic: Array
    kind: Array
    style: Array
    weight: Array
    images: Array


def catalogue(rng: Rng, num_items: int) -> Catalogue:
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


def events_of_user(rng: Rng, items: Catalogue) -> list[int]:
    """5 to 12 item indices: runs of one topic, runs of one style."""
    by_text = bool(rng.random() < 0.5)
    last = _drawn(rng, items.weight)
    chosen = [last]
    for _ in range(rng.integers(4, 12)):
        by_text ^= bool(rng.random() < SWITCH)
        if rng.random() < DRIFT:
            last = _drawn(rng, items.weight)
        near = _near(rng, items, last, by_text) * items.weight
        near[chosen] = 0
        last = _drawn(rng, near if near.any() and rng.random() > STRAY else items.weight)
        chosen.append(last)
    return chosen


def _near(rng: Rng, items: Catalogue, last: int, by_text: bool) -> Array:
    """1 for the items of the last one's style; or of its topic, mostly of its kind too."""
    if not by_text:
        return np.asarray(items.style == items.style[last], float)
    same = items.topic == items.topic[last]
    if rng.random() < SAME_KIND:
        same &= items.kind == items.kind[last]
    return np.asarray(same, float)


def _drawn(rng: Rng, weight: Array) -> int:
    return int(rng.choice(len(weight), p=weight / weight.sum()))


def reviews(rng: Rng, items: Catalogue, num_users: int) -> list[dict[str, Any]]:
    """In the order of the publisher's files: by item, not by user."""
    rows = []
    for user in rng.choice(10**8, size=num_users, replace=False):
        time = START + DAY * int(rng.integers(500))
        for item in events_of_user(rng, items):
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


def records(rng: Rng, items: Catalogue) -> list[dict[str, Any]]:
    """Metadata: 1 item in 100 has none, 1 in 10 no description, 1 in 50 two records, the second
    wrong.
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
    """Three files and a folder of pictures in `folder`, the same bytes for the same arguments; how
    much is in them.
    """
    rng = np.random.default_rng(seed)
    items = catalogue(rng, num_items)
    review_lines = [json.dumps(row) for row in reviews(rng, items, num_users)]
    record_lines = [json.dumps(row) for row in records(rng, items)]
    bad = [
        '{"reviewerID": "A1", "asin": ',
        '{"reviewerID": "A1", "unixReviewTime": 1500000000}',
        "",
    ]
    bad.append('{"reviewerID": "A1", "asin": "B1", "unixReviewTime": "07 14, 2017"}')
    has_image = np.flatnonzero(rng.random(num_items) >= 0.05)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_gzip(folder / "reviews.json.gz", [*review_lines[:10], *bad, *review_lines[10:]])
        _write_gzip(folder / "metadata.json.gz", [*record_lines[:10], bad[0], *record_lines[10:]])
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m etl.synthetic",
        description="Write a small raw catalogue (edition 2018) with planted interests.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    if chosen.users < 1 or chosen.items < 50 or chosen.seed < 0:
        raise InputError("--users must be 1 or more, --items 50 or more, --seed 0 or more")
    counts = write_catalogue(chosen.folder, chosen.users, chosen.items, chosen.seed)
    print(f"Wrote reviews.json.gz, metadata.json.gz, image.parquet and images to {chosen.folder}")
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    print("next: python -m etl configs/demo.toml (its inputs are in data/demo)")


if __name__ == "__main__":
    sys.exit(run_command("etl.synthetic.__main__", main))
