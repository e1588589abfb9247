"""A safetensors writer that takes one tensor at a time: the file is never whole in memory."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mdsrec import files

ITEMS = "items"  # the items whose rows are in a file, where these are not in the order of items
METADATA = "__metadata__"  # key of the strings in a header


def write_tensors(
    stream: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors, given in the order of `shapes`, as a safetensors file.

    All are float32 but that of ITEMS, which is int32.
    """
    header: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        dtype = "I32" if name == ITEMS else "F32"
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors start at a multiple of 8 bytes
    stream.write(len(encoded).to_bytes(8, "little"))
    stream.write(encoded)
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        assert tensor.dtype == (torch.int32 if name == ITEMS else torch.float32)
        assert tuple(tensor.shape) == shape
        stream.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def file_metadata(content: bytes) -> dict[str, str]:
    """Return the string metadata in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get(METADATA, {})


def read_header(uri: str) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the tensors begin."""
    filesystem, path = files.file_system(uri)
    with filesystem.open_input_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length
