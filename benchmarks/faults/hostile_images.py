"""Images that take much memory, are damaged, or are none."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

from benchmarks.faults.hostile_servers import SMALL
from mdsrec.images import MAX_PIXELS


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png(width: int, height: int, depth: int = 8, color: int = 2, rows: bytes = b"") -> bytes:
    """Return a PNG of a size that its rows need not have."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain_image(side: int, mode: str, kind: str, **options: Any) -> bytes:
    return _encoded(Image.new(mode, (side, side - 1)), kind, **options)


def _animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (400, 400), (shade, 0, 0)) for shade in range(200)]
    return _encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _gif_with_large_frame() -> bytes:
    """Return a GIF of 10 x 10 pixels whose first frame claims 20000 x 20000."""
    head = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 20000, 20000, 0) + b"\x02\x02\x4c\x01\x00;"
    return head + frame


LIMIT = int(MAX_PIXELS**0.5)
IMAGES: dict[str, Callable[[], bytes]] = {
    "a PNG of 8192 x 8191 in 8 kB": partial(
        _png, 8192, 8191, depth=1, color=0, rows=b"\x00" * (1025 * 8191)
    ),
    "a PNG of 8192 x 8191 in RGBA": partial(plain_image, 8192, "RGBA", "PNG"),
    "a PNG at the limit": partial(plain_image, LIMIT, "RGB", "PNG"),
    "a transparent PNG at the limit": partial(plain_image, LIMIT, "RGBA", "PNG"),
    "a PNG of 16 bits at the limit": partial(plain_image, LIMIT, "I;16", "PNG"),
    "a PNG of 65535 x 65535 without rows": partial(_png, 65535, 65535),
    "a PNG of 2147483647 pixels a side": partial(_png, 2**31 - 1, 2**31 - 1),
    "a PNG of no pixels": partial(_png, 0, 0),
    "a PNG without its rows": partial(_png, 400, 400),
    "a truncated PNG": lambda: SMALL[: len(SMALL) // 2],
    "a JPEG of 8000 x 7999": partial(plain_image, 8000, "RGB", "JPEG"),
    "a progressive JPEG of 8000 x 7999": partial(
        plain_image, 8000, "RGB", "JPEG", progressive=True
    ),
    "a JPEG of 20000 x 19999": partial(plain_image, 20_000, "L", "JPEG"),
    "a truncated JPEG": lambda: plain_image(400, "RGB", "JPEG")[:300],
    "a WebP at the limit": partial(plain_image, LIMIT, "RGB", "WEBP"),
    "a WebP of 8000 x 7999": partial(plain_image, 8000, "L", "WEBP"),
    "a truncated WebP": lambda: plain_image(400, "RGB", "WEBP")[:100],
    "an animated GIF": partial(_animated, "GIF"),
    "an animated WebP": partial(_animated, "WEBP"),
    "an animated PNG": partial(_animated, "PNG"),
    "a GIF with a frame beyond its size": _gif_with_large_frame,
    "an SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "nothing": lambda: b"",
    "noise": lambda: random.Random(0).randbytes(10_000),
}
