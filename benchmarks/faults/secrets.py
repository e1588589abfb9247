"""Put a secret into every place that takes one, or takes none, and look for it in what comes out.

What comes out of a command is its output, the files that it leaves and the titles of the processes
that it starts, as `ps` shows them. A title repeats the command line only if the secret came
otherwise: what stands on a command line, its user has put there.
"""

import argparse
import os
import random
import string
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.faults.tries import Answer, Try, answered, report

SECONDS = 600.0  # of a command
WATCH_INTERVAL = 0.05  # seconds between two looks at the processes
BASE = """name = "a"
root = "{folder}/tables"
[input]
edition = "2018"
reviews = ["{folder}/missing.json"]
"""
TABLE = 'input={{format="table", source="jdbc", interactions=["{}"], options={{{}}}}}'


class Place(NamedTuple):
    """A place for a secret, which {S} stands for."""

    kind: str
    words: tuple[str, ...]  # behind CONFIG
    toml: str = ""  # added to the configuration
    stage: str = "etl"
    config: str = "{folder}/a.toml"
    environment: tuple[tuple[str, str], ...] = ()


def of_kind(kind: str, *overrides: str, stage: str = "etl") -> Iterator[Place]:
    return (Place(kind, (override,), stage=stage) for override in overrides)


def in_file(kind: str, *texts: str, stage: str = "etl") -> Iterator[Place]:
    return (Place(kind, (), toml=text, stage=stage) for text in texts)


PLACES = (
    *of_kind(
        "wrong types",
        "spark.settings={S}",
        'spark.settings=["{S}"]',
        'spark.settings.a.b=["{S}"]',
        'spark=["settings", "{S}"]',
        "spark=password={S}",
        "input={S}",
        "input.options={S}",
        'input.options.password=["{S}"]',
        'root=["s3://AKIA:{S}@bucket"]',
        'root={{password="{S}"}}',
        "input.reviews=s3://AKIA:{S}@bucket/x",
        'features.text.encoder={{token="{S}"}}',
        "model.dim=s3://AKIA:{S}@bucket",
        "optim.lr=token={S}",
        'train.tracking={{password="{S}"}}',
        'tracking={{password="{S}"}}',
    ),
    *of_kind(
        "overrides",
        "spark.settings.fs.s3a.secret.key:{S}",
        "input.options.password: {S}",
        "password:{S}",
        "root:s3://AKIA:{S}@bucket",
        "AWS_SECRET_ACCESS_KEY={S}",
        "root.password={S}",
        "s3://AKIA:{S}@bucket=1",
        "--password={S}",
        "--root=s3://AKIA:{S}@bucket",
    ),
    *of_kind(
        "addresses in keys",
        "root=s3://AKIA:{S}@bucket",
        "root=s3://AKIA:1/{S}@bucket",
        "root=s3://bucket/x?secret_key={S}",
        "root=hdfs://user:{S}@host:9000/x",
        "root=https://b.s3.amazonaws.com/x?X-Amz-Expires=60&X-Amz-Signature={S}",
        'input.reviews=["https://account.blob.core.windows.net/a.json?se=1&sig={S}"]',
        "features.text.encoder=https://user:{S}@huggingface.co/model",
        "features.text.encoder=https://{S}@huggingface.co/model",
        "spark.master=spark://user:{S}@host:7077",
        "spark.master=k8s://https://host?token={S}",
        TABLE.format("jdbc:postgresql://host/db?user=a&password={S}", ""),
        TABLE.format("jdbc:sqlserver://host;user=sa;password={S}", ""),
        "input.snapshot=Server=host;Password={S}",
    ),
    *in_file(
        "broken files",
        '[input.options]\npassword = "{S}',
        '[spark.settings]\n"a.b" = [\n  "{S}",\n  oops\n]',
        "[spark.settings]\npassword: {S}",
        "[spark.settings]\n{S}",
        "export DATABASE={S}",
    ),
    Place("broken files", (), config="{folder}/.env"),
    Place("addresses in words", (), config="s3://AKIA:{S}@bucket/a.toml"),
    Place("addresses in words", (), config="s3://AKIA:{S}@bucket/x", stage="etl inspect"),
    Place("addresses in words", ("x",), config="s3://u:{S}@bucket/x", stage="evaluation compare"),
    *(
        Place("submission", ("--address", address), stage="cluster submit")
        for address in (
            "http://user:{S}@127.0.0.1:9",
            "http://{S}@127.0.0.1:9",
            "user:{S}@127.0.0.1:9",
            "http://127.0.0.1:9/?token={S}",
            "http://127.0.0.1:9/#access_token={S}",
            "ftp://user:{S}@127.0.0.1:9",
        )
    ),
    *(
        Place(
            "submission", ("--address", "http://127.0.0.1:9", "--env", name), stage="cluster submit"
        )
        for name in ("TOKEN:{S}", "{S}", "TOKEN={S}")
    ),
    *in_file(
        "studies and sweeps",
        '[study.mdsrec.spark.settings]\n"fs.s3a.secret.key" = "{S}"',
        '[study.mdsrec.input.options]\npassword = "{S}"',
        '[study.mdsrec]\nroot = "s3://AKIA:{S}@bucket"',
        '[spark.settings]\n"spark.hadoop.fs.s3a.secret.key" = "{S}"',
        stage="tuning study",
    ),
    *of_kind(
        "suggested commands",
        "spark.settings.fs.s3a.secret.key={S}",
        'spark={{settings={{"a.b"="{S}"}}}}',
        TABLE.format("table", 'password="{S}"'),
        stage="etl status",
    ),
    Place("logs", (), environment=(("MDSREC_LOG", "{S}"), ("MY_TOKEN", "{S}"))),
    *in_file(
        "process titles",
        '[spark]\nmaster = "local[1]"\n[spark.settings]\n"spark.hadoop.fs.s3a.secret.key" = "{S}"',
        '[spark]\nmaster = "bad"\n[spark.settings]\n"spark.a.b" = "{S}"',
    ),
)

KINDS = tuple(dict.fromkeys(place.kind for place in PLACES))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--tries", type=int, help="default: each place once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="one kind of places")


def run(arguments: argparse.Namespace) -> None:
    """Try the places, each with a new secret, and report."""
    draw = random.Random(arguments.seed)
    places = [place for place in PLACES if arguments.only in (None, place.kind)]
    folder: Path = arguments.folder.absolute()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            (number, place, new_secret(draw))
            for number, place in enumerate(islice(cycle(places), arguments.tries or len(places)))
        ]
        tries = list(pool.map(lambda job: _try(folder / "secrets" / f"{job[0]}", *job[1:]), jobs))
    report(folder, "secrets", tries)


def new_secret(draw: random.Random) -> str:
    """Return a password of digits, of letters, or of both with signs."""
    alphabets = string.digits, string.ascii_letters, string.ascii_letters + string.digits + "/+_-~!"
    return "".join(draw.choices(draw.choice(alphabets), k=draw.choice([8, 16, 40])))


def _try(folder: Path, place: Place, secret: str) -> Try:
    fill = partial(_filled, folder=str(folder), secret=secret)
    folder.mkdir(parents=True)
    given = {"a.toml": BASE.format(folder=folder) + fill(place.toml), ".env": f"DATABASE={secret}!"}
    for name, text in given.items():
        (folder / name).write_text(text)
    if place.kind == "process titles":
        (folder / "missing.json").write_text("{}\n")
    words = [*place.stage.split(), fill(place.config), *map(fill, place.words)]
    variables = {name: fill(value) for name, value in place.environment}
    fault = " ".join([*place.stage.split(), *place.words, place.toml.replace("\n", "; ")])
    try:
        code, output, titles = run_watched([sys.executable, "-m", *words], folder, variables)
    except subprocess.TimeoutExpired:
        return Try(place.kind, fault, Answer.SILENT, f"did not end within {SECONDS:g} s")
    found = answered(place.kind, fault, code, output, right=True)
    in_command_line = any(secret in word for word in words)
    left = (path.read_bytes() for path in _files_left(folder, given))
    seen = [output, *([] if in_command_line else titles)]
    if any(secret in text for text in seen) or any(secret.encode() in each for each in left):
        return Try(place.kind, fault, Answer.SECRET, found.said)
    return found


def _filled(text: str, folder: str, secret: str) -> str:
    filled = text.replace("{folder}", folder).replace("{S}", secret)
    return filled.replace("{{", "{").replace("}}", "}")


def _files_left(folder: Path, given: Sequence[str] | dict[str, str]) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name not in given)


def run_watched(
    command: Sequence[str], folder: Path, variables: dict[str, str]
) -> tuple[int, str, set[str]]:
    """Run a command -> its exit code, its output and the command lines of its processes."""
    titles: set[str] = set()
    environment = {**os.environ, "TMPDIR": str(folder), **variables}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watcher = threading.Thread(target=_watch, args=(process, titles))
        watcher.start()
        try:
            output, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            watcher.join()
    return process.returncode, output, titles


def _watch(process: "subprocess.Popen[str]", titles: set[str]) -> None:
    """Collect the command lines of a process and of those below it until it ends."""
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                titles.add(" ".join(each.cmdline()))
        except psutil.Error:
            pass
        threading.Event().wait(WATCH_INTERVAL)
