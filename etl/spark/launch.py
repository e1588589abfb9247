"""Start of the Java process, with its settings in a file.

PySpark would pass them on the command line, which every user of the machine can read.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pyspark import SparkContext

ARGUMENTS = "PYSPARK_SUBMIT_ARGS"
FILE_OPTION = "--properties-file"
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}


def start_java(settings: Mapping[str, str], file: Path) -> None:
    """Start the Java process of this one, unless it runs; `file` exists only meanwhile.

    A user's own properties file in PYSPARK_SUBMIT_ARGS stays the only one.
    """
    given = os.environ.get(ARGUMENTS)
    if SparkContext._gateway is not None or FILE_OPTION in (given or ""):
        return
    file.touch(mode=0o600)
    try:
        file.write_text("".join(map(_line, settings.items())), encoding="utf-8")
        options = f"{FILE_OPTION} {file} --load-spark-defaults"
        os.environ[ARGUMENTS] = f"{options} {given or 'pyspark-shell'}"
        SparkContext._ensure_initialized()
    finally:
        file.unlink()
        if given is None:
            os.environ.pop(ARGUMENTS, None)
        else:
            os.environ[ARGUMENTS] = given


def _line(setting: tuple[str, str]) -> str:
    """Return a line of a properties file, all that has a meaning there escaped."""
    key, value = ("".join(ESCAPES.get(c, c) for c in text) for text in setting)
    for character in " :=#!":
        key = key.replace(character, f"\\{character}")
    return f"{key}={value}\n"
