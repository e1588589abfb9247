"""The main function of a peer's process."""

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.measure import print_result
from benchmarks.peers.pace import peak_bytes
from benchmarks.peers.request import Request


def answer(peer: Callable[[Request], Any], request: Request, libraries: Sequence[str]) -> None:
    """Measure what the request asks for; print the result and the versions of the libraries."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(request.threads)
    result = getattr(peer(request), request.method)()
    versions = {name: version(name) for name in libraries}
    print_result(**result, peak=peak_bytes(), versions=versions)
