"""A progress bar of a worker that Ray draws on the driver's terminal."""

from typing import Any

from ray.experimental import tqdm_ray


def terminal_bar(description: str, total: int) -> Any:
    """Return a bar over `total` steps, with tqdm's `n`, `total`, `refresh` and `close`."""
    return tqdm_ray.tqdm(desc=description, total=total, unit="step")
