"""The configuration of a small experiment, to which the faults happen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w


def write_experiment(
    config: Path, root: Path, raw: Path, sections: Mapping[str, Mapping[str, Any]]
) -> str:
    """Write a configuration of the made catalogue in `raw`, and return its path.

    The experiment has the name of the file. `sections` are added to those of the input and Spark.
    """
    content = {
        "name": config.stem,
        "root": str(root),
        "input": {
            "edition": "2018",
            "reviews": [f"{raw}/reviews.json.gz"],
            "metadata": [f"{raw}/metadata.json.gz"],
        },
        "features": {"image": {"vectors": f"{raw}/image.parquet"}},
        "spark": {"master": "local[2]", "driver_memory": "1g", "partitions": 2},
        **sections,
    }
    config.write_text(tomli_w.dumps(content))
    return str(config)
