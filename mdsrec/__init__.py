"""The kernel: configuration, tables, metrics. Importing it loads no Spark, torch or Ray.

`from mdsrec import Recommender` is `from evaluation import Recommender`, and imports torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import `Recommender` when it is first used."""
    if name != "Recommender":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("evaluation").Recommender
