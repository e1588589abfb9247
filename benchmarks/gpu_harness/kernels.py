"""Which operations of PyTorch have a kernel for CUDA, launch one, or make the host wait."""

from functools import cache
from pathlib import Path
from typing import Any

import torchgen
import yaml

VIEWS = {  # operations that launch nothing
    *(
        "view",
        "_unsafe_view",
        "expand",
        "transpose",
        "t",
        "permute",
        "select",
        "slice",
        "unsqueeze",
    ),
    *(
        "squeeze",
        "split",
        "split_with_sizes",
        "unbind",
        "alias",
        "detach",
        "as_strided",
        "diagonal",
    ),
    *("unsqueeze", "diagonal", "unfold", "view_as", "_reshape_alias", "lift_fresh", "alias_copy"),
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_", "set_"),
    *("is_same_size", "numel", "size", "stride", "sym_size", "_has_compatible_shallow_copy_type"),
}
WAITS = {  # operations whose result, or its size, the host must know
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"),
    *("unique_dim", "is_nonzero", "equal", "bincount"),
}
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
TAKES_HOST = {*INDEXED, "copy_", "_to_copy"}  # operations that take tensors of host memory
OF_CPU = "_scaled_dot_product_flash_attention_for_cpu"  # which CUDA has in other forms


@cache
def _entries() -> dict[str, dict[str, Any]]:
    """Return PyTorch's own table of operations, by name with overload."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(path.read_text(), Loader=loader)  # a safe loader
    return {entry["func"].split("(")[0]: entry for entry in entries}


@cache
def has_kernel(operation: str) -> bool:
    """Return False if the table gives the operation kernels, but none for CUDA."""
    entry = _entries().get(operation)
    if entry is None or operation.startswith(OF_CPU):
        return True
    kernels = dict(entry.get("dispatch") or {})
    if delegate := entry.get("structured_delegate"):
        kernels |= _entries()[delegate].get("dispatch") or {}
    keys = ",".join(kernels)
    return not kernels or any(key in keys for key in ("CUDA", "Composite"))
