"""Exact ranking of every held-out event, its metrics and its report; recommendations from Python.

`from evaluation import Recommender` imports torch, but neither Ray nor Spark.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.serving.recommender import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    """Import `Recommender` when it is first used: the help of a command needs no torch."""
    if name != "Recommender":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.serving.recommender import Recommender

    return Recommender
