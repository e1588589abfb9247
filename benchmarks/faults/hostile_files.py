"""The files and paths of broken configurations."""

import bz2
import gzip
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

TOML_FILES = {
    "empty": b"",
    "NUL bytes": b"\0" * 200,
    "UTF-16": 'name = "x"\n'.encode("utf-16"),
    "latin-1": 'name = "é"\n'.encode("latin-1"),
    "gzip": gzip.compress(b'name = "x"\n'),
    "nested lists": b"name = " + b"[" * 2_000 + b"]" * 2_000,
    "nested tables": b"a = " + b"{a = " * 2_000 + b"1" + b"}" * 2_000,
    "dotted keys": b".".join([b"a"] * 5_000) + b" = 1",
    "a number of 5,000 digits": b"seed = " + b"9" * 5_000,
    "1e400": b'name = "x"\nroot = "/x"\n[input]\nreviews = ["a"]\n[optim]\nlr = 1e400\n',
    "a hexadecimal number of 5,000 digits": b'name = "x"\nroot = "/x"\nseed = 0x' + b"f" * 5_000,
    "a key twice": b'name = "x"\nname = "y"\n',
    "an array of arrays as name": b'name = [["x"]]\nroot = "/x"\n',
    "JSON": b'{"name": "x"}',
}
ROOTS = {
    "a file": "{work}/file",
    "below a file": "{work}/file/deeper",
    "a dangling link": "{work}/dangling/root",
    "a link to itself": "{work}/loop/root",
    "a name that is too long": "{work}/" + "n" * 300,
    "a path that is too long": "/tmp" + "/deep" * 1_000,
    "a device": "/dev/null/root",
    "a kernel's folder": "/proc/nowhere/root",
    "a user who does not exist": "~nosuchuser/root",
    "NUL": '"/tmp/a\\u0000b"',
    "empty": '""',
    "spaces": '"   "',
    "an unknown scheme": "nosuch://x/y",
    "a scheme alone": "s3://",
    "a host of a file": "file://host/x",
    "a bad escape": "file:///tmp/%zz",
    "a query": "file:///tmp/x?y=z",
    "a fragment": "file:///tmp/x#y",
}


def _written(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return make


def _folder(name: str, *files: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).write_bytes(b"{}\n")
        return str(folder / name)

    return make


def _link(folder: Path) -> str:
    (folder / "link.json").symlink_to("nowhere.json")
    return str(folder / "link.json")


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.json")
    return str(folder / "pipe.json")


def _surrogate(folder: Path) -> str:
    (folder / "names").mkdir()
    (folder / "names" / os.fsdecode(b"\xff.json")).write_bytes(b"{}\n")
    return str(folder / "names")


LINES = b'{"reviewerID": "u", "asin": "i", "unixReviewTime": 1}\n' * 5_000
INPUTS: dict[str, Callable[[Path], str]] = {
    "missing": lambda folder: str(folder / "nowhere.json"),
    "a broken link": _link,
    "a pipe": _pipe,
    "a device": lambda folder: "/dev/zero",
    "an empty file": _written("empty.json", b""),
    "an empty folder": _folder("none"),
    "a folder of other files": _folder("others", "a.part", "._b.json", "c.txt"),
    "a folder with a name that is not UTF-8": _surrogate,
    "a name that is too long": lambda folder: f"{folder}/{'n' * 300}.json",
    "an unknown scheme": lambda folder: "nosuch://x/y.json",
    "NUL": lambda folder: f"{folder}/a\\u0000b.json",
    "gzip, cut off": _written("cut.json.gz", gzip.compress(LINES)[:-20]),
    "bzip2, cut off": _written("cut.json.bz2", bz2.compress(LINES)[:-20]),
    "zstd, cut off": _written("cut.json.zst", pa.compress(LINES, "zstd", asbytes=True)[:-20]),
    "no line is JSON": _written("words.json", b"no JSON\n" * 100),
}


def _torn(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content) - 2)]


def _numbers_as_text(content: bytes, rng: random.Random) -> bytes:
    return re.sub(rb"(?<=[:\[ ])(-?\d+\.?\d*(?:e-?\d+)?)(?=[,\s\]}])", rb'"x\1"', content)


def _renamed(content: bytes, rng: random.Random) -> bytes:
    found = json.loads(content)
    first = min(found)
    return json.dumps({f"{key}x" if key == first else key: found[key] for key in found}).encode()


JSON_DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "torn": _torn,
    "emptied": lambda content, rng: b"",
    "zeros": lambda content, rng: b"\0" * len(content),
    "a list": lambda content, rng: b"[]",
    "null": lambda content, rng: b"null",
    "no keys": lambda content, rng: b"{}",
    "nested deeply": lambda content, rng: b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
    "numbers as text": _numbers_as_text,
    "a key renamed": _renamed,
}
