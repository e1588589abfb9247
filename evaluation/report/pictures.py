"""Items' pictures, small enough to stand in a page."""

import base64
from collections.abc import Sequence
from io import BytesIO

from mdsrec import files
from mdsrec.config import Experiment

SIDE = 128  # pixels at most
MAX_PIXELS = 64 << 20
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")


def picture_folder(experiment: Experiment) -> str | None:
    """`eval.pictures`, or the first folder that an image encoder reads."""
    folders = [experiment.eval.pictures, *(f.images for f in experiment.features.values())]
    return next((folder for folder in folders if folder not in (None, "url")), None)


def pictures(folder: str | None, asins: Sequence[str]) -> dict[str, str]:
    """data: URIs by asin, of those whose file ASIN.jpg (.png, ...) in `folder` is a picture."""
    found = {}
    for asin in asins if folder else ():
        content = _content(f"{str(folder).rstrip('/')}/{asin}") if "/" not in asin else None
        small = thumbnail(content) if content else None
        if small:
            found[asin] = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
    return found


def thumbnail(content: bytes) -> bytes | None:
    """A JPEG of at most SIDE pixels a side, transparent parts white; None if it is no picture."""
    from PIL import Image

    small = BytesIO()
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            return None
        image.draft("RGB", (SIDE, SIDE))
        image.thumbnail((SIDE, SIDE))
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        Image.alpha_composite(white, layer).convert("RGB").save(small, "JPEG", quality=80)
    except Exception:  # decoders raise many kinds
        return None
    return small.getvalue()


def _content(path: str) -> bytes | None:
    for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES)):
        try:
            content = files.read_bytes(path + suffix)
        except (OSError, ValueError):  # also of an asin that no path can hold
            continue
        if content:
            return content
    return None
