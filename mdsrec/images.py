"""Images of items: which files count as images, and decoding with limits.

Pillow is imported inside the functions, so importing this module stays cheap.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
MAX_PIXELS = 16 << 20  # that are decoded: 320 MiB at most while transparent ones are laid on white
MAX_JPEG_PIXELS = 64 << 20  # of a file whose decoder can reduce them while it reads
LARGE_PIXELS = 4 << 20  # of images that a process decodes one at a time
JPEG_SCALES = (1, 2, 4, 8)


class ImageError(Exception):
    """No usable image. The message is a short reason that a manifest counts misses by."""


def open_image(content: bytes) -> "Image.Image":
    """Return the image in a file's bytes, its pixels not decoded yet.

    A JPEG of more than MAX_PIXELS is reduced by 2, 4 or 8 as it is decoded. Raises ImageError if
    the format is unknown or if more than MAX_PIXELS would be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too many pixels") from None
    except Exception:  # decoders raise many kinds
        raise ImageError("broken image") from None
    _reduce(image)
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too many pixels")
    return image


def _reduce(image: "Image.Image") -> None:
    """Let a large JPEG be decoded at a smaller scale.

    The decoder of a progressive one holds all of it, so it keeps its size.
    """
    width, height = image.size
    if image.format != "JPEG" or image.info.get("progressive"):
        return
    if MAX_PIXELS < width * height <= MAX_JPEG_PIXELS:
        fits = (s for s in JPEG_SCALES if -(-width // s) * -(-height // s) <= MAX_PIXELS)
        scale = next(fits, JPEG_SCALES[-1])
        image.draft(None, (max(1, width // scale), max(1, height // scale)))


def flatten(image: "Image.Image") -> "Image.Image":
    """Return the image upright, in RGB of 8 bits, with transparent parts on white.

    Upright means turned by the orientation that its EXIF data hold.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(_to_8_bits(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _to_8_bits(image: "Image.Image") -> "Image.Image":
    """Scale a gray image of 16 bits; Pillow's own conversion cuts its values off at 255."""
    from PIL import Image

    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.uint16)
    scaled = Image.fromarray((values >> 8).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        scaled.putalpha(Image.fromarray(opaque))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled
