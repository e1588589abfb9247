"""Thumbnails of items as data: URIs, so that a page needs no other file."""

import base64
from collections.abc import Sequence
from io import BytesIO

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.images import SUFFIXES, flatten, open_image

SIDE = 128  # pixels at most


def picture_folder(experiment: Experiment) -> str | None:
    """Return `eval.pictures`, or else the first folder that an image encoder reads."""
    folders = [experiment.eval.pictures, *(f.images for f in experiment.features.values())]
    return next((folder for folder in folders if folder not in (None, "url")), None)


def check_pictures(experiment: Experiment) -> None:
    """Raise InputError if `eval.pictures` is not a folder."""
    if experiment.eval.pictures is not None:
        files.check_folder(experiment.eval.pictures, "eval.pictures")


def load_thumbnails(folder: str | None, item_ids: Sequence[str]) -> dict[str, str]:
    """Return data: URIs by item id, read from files ITEM_ID.jpg (.png, ...) in `folder`.

    Items without a readable file are left out.
    """
    found = {}
    for item_id in item_ids if folder else ():
        content = _read_picture(str(folder), item_id) if "/" not in item_id else None
        small = thumbnail(content) if content else None
        if small:
            found[item_id] = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
    return found


def thumbnail(content: bytes) -> bytes | None:
    """Return a JPEG of at most SIDE pixels a side, or None if `content` is not an image.

    Transparent parts become white.
    """
    small = BytesIO()
    try:
        image = open_image(content)
        image.draft("RGB", (SIDE, SIDE))
        upright = flatten(image)
        upright.thumbnail((SIDE, SIDE))
        upright.save(small, "JPEG", quality=80)
    except Exception:  # decoders raise many kinds
        return None
    return small.getvalue()


def _read_picture(folder: str, item_id: str) -> bytes | None:
    for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES)):
        try:
            content = files.read_bytes(files.join(folder, item_id + suffix))
        except (OSError, ValueError):  # also raised for an id that is not a valid path
            continue
        if content:
            return content
    return None
