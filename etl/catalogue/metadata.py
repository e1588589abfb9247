"""Title, texts and image address of a raw metadata record, of any edition and export.

A field of an unexpected type counts as absent.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from etl.catalogue.literals import unquoted
from etl.catalogue.pages.text import clean_text, has_too_many_tags
from etl.catalogue.parsing import Record

FEATURES = {"2014": "feature", "2018": "feature", "2023": "features"}
CATEGORIES = {"2014": "categories", "2018": "category", "2023": "categories"}
BRAND = {"2014": "brand", "2018": "brand", "2023": "store"}
IMAGES = ("images", "imageURLHighRes", "imageURL", "image", "imUrl")  # the best first
IMAGE_SIZES = ("hi_res", "large", "thumb")

TITLES_OF_MARKUP = "titles_of_markup"
FIELDS_OF_MARKUP = "fields_of_markup"
FIELDS_CUT_OFF = "fields_cut_off"


def metadata_fields(record: Mapping[str, Any], edition: str) -> Record:
    """Return title, features, description, categories, brand, details, image_url and `notes`.

    A text without a word is None. `notes` are the names of the counters that this record adds to:
    a title, or another field, that holds only markup or page script, or a field whose end was cut
    off.
    """
    details = unquoted(record.get("details"))
    raw = {
        "title": (record.get("title"), " "),
        "features": (record.get(FEATURES[edition]), "\n"),
        "description": (record.get("description"), "\n"),
        "categories": (record.get(CATEGORIES[edition]), ", "),
        "brand": (record.get(BRAND[edition]), " "),
        "details": (_values(details) if isinstance(details, dict) else None, "; "),
    }
    notes: list[str] = []
    fields: Record = {}
    for name, (value, separator) in raw.items():
        parts = [part for part in map(replace_surrogates, _strings(value)) if part.strip()]
        texts = _details(details) if name == "details" else map(clean_text, parts)
        fields[name] = separator.join(filter(None, texts)) or None
        notes += _notes(parts, fields[name], is_title=name == "title")
    return fields | {"image_url": _image_url(record), "notes": notes}


def plain_text(value: Any, *, is_title: bool = False) -> tuple[str | None, list[str]]:
    """Return a value as plain text and its notes: a text, a number, or those of lists and mappings.

    A pair of a mapping is written as `Key: value`.
    """
    parts = [part for part in map(replace_surrogates, _strings(_values(value))) if part.strip()]
    text = "\n".join(detail_texts(value)) or None
    return text, _notes(parts, text, is_title)


def _notes(parts: Sequence[str], text: str | None, is_title: bool) -> list[str]:
    notes = []
    if parts and not text:
        notes.append(TITLES_OF_MARKUP if is_title else FIELDS_OF_MARKUP)
    if any(map(has_too_many_tags, parts)):
        notes.append(FIELDS_CUT_OFF)
    return notes


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by question marks: JSON can encode them, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _strings(value: Any) -> Iterator[str]:
    """Yield a string, or the strings of nested lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _values(value: Any) -> Any:
    """Return the values of mappings, within lists too, as lists."""
    if isinstance(value, dict):
        return [_values(part) for part in value.values()]
    return [_values(part) for part in value] if isinstance(value, list | tuple) else value


def _details(value: Any) -> Iterator[str]:
    """Yield `Key: value` of a mapping; a pair without a key or a value is left out."""
    for key, content in value.items() if isinstance(value, dict) else ():
        name = clean_text(replace_surrogates(str(key))).rstrip(": ")
        if not name:
            continue
        if isinstance(content, dict):
            yield from (f"{name}: {pair}" for pair in _details(content))
        elif texts := list(detail_texts(content)):
            yield f"{name}: {', '.join(texts)}"


def detail_texts(content: Any) -> Iterator[str]:
    """Yield a string or a number, or those of a list; of a mapping in it, its pairs."""
    if isinstance(content, dict):
        yield from _details(content)
    elif isinstance(content, list | tuple):
        for part in content:
            yield from detail_texts(part)
    elif isinstance(content, str | bool | int | float) and (
        text := clean_text(replace_surrogates(str(content)))
    ):
        yield text


def _image_url(record: Mapping[str, Any]) -> str | None:
    """Return the first address of the first field of IMAGES that has one."""
    addresses = (image_address(record.get(field)) for field in IMAGES)
    return next(filter(None, addresses), None)


def image_address(value: Any) -> str | None:
    """Return the first address in a value, also within lists and mappings."""
    for address in _addresses(unquoted(value)):
        if address.strip():
            return replace_surrogates(address.strip())
    return None


def _addresses(images: Any) -> Iterator[str]:
    """Yield the addresses of strings, or of {size: address} with the MAIN image first.

    Such images come as a list of dicts or, in exports by columns, as a dict of lists.
    """
    if isinstance(images, dict):
        columns = {key: v if isinstance(v, list) else [v] for key, v in images.items()}
        images = [dict(zip(columns, row, strict=True)) for row in zip_longest(*columns.values())]
    if not isinstance(images, list | tuple):
        yield from _strings(images)
        return
    for image in sorted(
        images, key=lambda i: not isinstance(i, dict) or i.get("variant") != "MAIN"
    ):
        if isinstance(image, dict):
            yield from (image[s] for s in IMAGE_SIZES if isinstance(image.get(s), str))
        else:
            yield from _strings(image)
