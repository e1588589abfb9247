"""The frame of a peer's process: threads, the method of the request, and its result as JSON."""

import json
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.peers.pace import peak_bytes
from benchmarks.peers.request import Request


def answer(peer: Callable[[Request], Any], request: Request, libraries: Sequence[str]) -> None:
    """Print the result of the request's method, and the versions of the libraries."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(request.threads)
    result = getattr(peer(request), request.method)()
    versions = {name: version(name) for name in libraries}
    print(json.dumps({**result, "peak": peak_bytes(), "versions": versions}), flush=True)
