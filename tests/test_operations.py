"""The script of docs/operations.md, run as it is printed there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tomli_w
from evaluated_runs import write_run

from evaluation import Recommender
from mdsrec import files, tables
from mdsrec.command.names import SUB_COMMANDS
from mdsrec.run_paths import RunPaths

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
NO_FAULT = "true"


class Shop:
    """A folder with the script, and a command `mdsrec` that is this program."""

    def __init__(self, folder: Path, before: str = NO_FAULT) -> None:
        """`before` are lines of shell that run before each command."""
        self.folder = folder
        [script] = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
        self._write("month.sh", script)
        self._write("bin/mdsrec", f'#!/bin/bash\n{before}\nexec {sys.executable} -m mdsrec "$@"\n')

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, name: str) -> "subprocess.Popen[str]":
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = ["./month.sh", name]
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **pipes)

    def month(self, name: str) -> tuple[int, str]:
        """Run the script to its end -> exit code and output."""
        script = self.start(name)
        output, _ = script.communicate()
        return script.returncode, output

    @property
    def in_service(self) -> str:
        return (self.folder / "exports/in-service").read_text().strip()

    @property
    def exported(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("exports/*/export.json"))

    def run(self, name: str) -> RunPaths:
        return RunPaths(f"{self.folder}/artifacts/shop/runs/{name}")


NOTED = """
echo "$*" >> calls
if [ -e "codes/$1" ]; then exit "$(cat "codes/$1")"; fi
if [ "$1" != compare ]; then exit 0; fi
"""
"""Only `compare` is run. The other commands are noted, and end with a code that a test chose."""


@pytest.fixture
def noted(tmp_path: Path) -> Shop:
    """Return a shop with the evaluated runs `may`, in service, and `june` and `july`."""
    shop = Shop(tmp_path, before=NOTED)
    ranks = {"may": 4, "june": 3, "july": 9}
    for name, rank in ranks.items():
        rows = [(user, user % 7, "test", "all", rank, 0) for user in range(40)]
        write_run(tmp_path / "artifacts/shop/runs", name, rows)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports/in-service").write_text("may\n")
    (tmp_path / "codes").mkdir()
    return shop


def calls(shop: Shop) -> list[str]:
    """Return the commands since the last call of this function."""
    path = shop.folder / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_every_command_of_the_page_exists() -> None:
    found = set(re.findall(r"mdsrec ([a-z]+)", PAGE))
    assert {"etl", "train", "append", "compare", "clean"} < found <= SUB_COMMANDS.keys()


def of_month(new: str, old: str) -> tuple[list[str], list[str]]:
    """Return the commands of a month up to the gate, and those after it."""
    new_run, old_run = (f"artifacts/shop/runs/{name}" for name in (new, old))
    steps = [
        "etl shop.toml",
        f"train shop.toml name={new} train.init_from={old}",
        f"evaluate {new_run}",
        f"append {old_run}",
        f"evaluate {old_run}",
        f"compare {new_run} --no-worse-than {old_run} --metric ndcg@10",
    ]
    return steps, [f"export {new_run} exports/{new}", f"clean shop.toml --keep {new} {old}"]


def test_a_run_that_is_no_worse_is_exported_and_put_into_service_and_a_worse_one_is_not(
    noted: Shop,
) -> None:
    code, output = noted.month("june")
    assert (code, noted.in_service) == (0, "june")
    assert "gate    june: ndcg@10 is better than may by" in output
    steps, ends = of_month("june", "may")
    assert calls(noted) == [*steps, *ends]
    code, output = noted.month("july")
    assert (code, noted.in_service) == (3, "june")
    assert output.splitlines()[-1].startswith("gate    july: ndcg@10 is worse than june by")
    assert calls(noted) == of_month("july", "june")[0]
    assert noted.month("june")[0] == 0  # it is in service
    assert calls(noted) == []


def test_the_first_run_has_nothing_to_start_from_or_to_be_compared_with(noted: Shop) -> None:
    (noted.folder / "exports/in-service").unlink()
    assert (noted.month("june")[0], noted.in_service) == (0, "june")
    run = "artifacts/shop/runs/june"
    first = ["etl shop.toml", "train shop.toml name=june", f"evaluate {run}"]
    assert calls(noted) == [*first, f"export {run} exports/june", "clean shop.toml --keep june"]


def test_a_finished_export_is_not_made_again(noted: Shop) -> None:
    (noted.folder / "exports/june").mkdir()
    (noted.folder / "exports/june/export.json").touch()
    assert (noted.month("june")[0], noted.in_service) == (0, "june")
    steps, (_, clean) = of_month("june", "may")
    assert calls(noted) == [*steps, clean]


def test_a_name_in_service_that_cannot_be_read_ends_the_script(noted: Shop) -> None:
    """Otherwise the month would be taken for the first one, which has no gate."""
    (noted.folder / "exports/in-service").unlink()
    (noted.folder / "exports/in-service").mkdir()
    assert noted.month("june")[0] == 1
    assert calls(noted) == []


@pytest.mark.parametrize(
    ("step", "code"), [("etl", 2), ("train", 143), ("append", 130), ("export", 1)]
)
def test_the_script_ends_with_the_code_of_the_step_that_failed(
    noted: Shop, step: str, code: int
) -> None:
    stop = noted.folder / "codes" / step
    stop.write_text(str(code))
    assert noted.month("june")[0] == code
    assert (calls(noted)[-1].split()[0], noted.in_service) == (step, "may")
    stop.unlink()
    assert (noted.month("june")[0], noted.in_service) == (0, "june")


START, DAY = 1_500_000_000, 86_400
USERS, ITEMS, NEW_ITEMS, EVENTS = 90, 24, 4, 9
CONFIG: dict[str, Any] = {
    "name": "shop",
    "root": "artifacts/shop",
    "input": {
        "format": "table",
        "interactions": ["incoming/interactions/"],
        "items": ["incoming/items/"],
    },
    "sequences": {
        "k_core": 1,
        "repeats": "keep",
        "split": "global_time",
        "cut": ["16 days", "8 days"],
    },
    "features": {"cache": "artifacts/vectors", "look": {"column": "vector"}},
    "spark": {"master": "local[2]", "driver_memory": "1g", "partitions": 2},
    "model": {
        "memory": False,
        "dim": 16,
        "inner_dim": 16,
        "max_length": 8,
        "num_centers": 2,
        "num_neighbors": 3,
    },
    "optim": {"lr": 0.01},
    "train": {"batch_size": 32, "max_epochs": 8, "num_workers": 1, "cpus_per_worker": 1},
    "eval": {"num_workers": 1},
}


def write_config(shop: Shop, **optim: float) -> None:
    content = {**CONFIG, "optim": {**CONFIG["optim"], **optim}}
    (shop.folder / "shop.toml").write_text(tomli_w.dumps(content))


def write_month(shop: Shop, number: int) -> None:
    """Add the files of a month, with new items. Users mostly go on to the next item of a ring."""
    rng = np.random.default_rng(number)
    size = ITEMS + NEW_ITEMS * number
    first = 0 if number == 0 else size - NEW_ITEMS
    angles = 2 * np.pi * rng.permutation(ITEMS)[: size - first] / ITEMS
    vectors = np.stack([np.cos(angles), np.sin(angles), rng.normal(size=len(angles))], axis=1)
    about = [
        {"item_id": f"I{item:03d}", "title": f"Item {item}", "vector": vector.tolist()}
        for item, vector in enumerate(vectors, start=first)
    ]
    events = []
    for user in range(USERS):
        item = int(rng.integers(size))
        for n in range(EVENTS):
            time_of = START + DAY * (30 * number + 3 * n) + user
            events.append({"user_id": f"U{user}", "item_id": f"I{item:03d}", "timestamp": time_of})
            item = (item + 1) % size if rng.random() < 0.9 else int(rng.integers(size))
    for kind, rows in (("items", about), ("interactions", events)):
        folder = shop.folder / "incoming" / kind
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(text)


def stop_within_the_etl(shop: Shop, name: str) -> tuple[int, Path]:
    """Stop the ETL of a month after its first table -> exit code, and that table's manifest."""
    manifest = shop.folder / "artifacts/shop/dataset/interactions" / tables.MANIFEST
    before = manifest.stat().st_mtime_ns
    script = shop.start(name)
    while manifest.stat().st_mtime_ns == before:
        assert script.poll() is None
        time.sleep(0.05)
    [etl] = [p for p in psutil.Process(script.pid).children() if "mdsrec" in p.cmdline()]
    etl.send_signal(signal.SIGTERM)
    output, _ = script.communicate()
    assert "run the same command again to go on" in output
    return script.returncode, manifest


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.ray
@pytest.mark.timeout(3000)
def test_three_months_of_which_the_second_is_stopped_and_the_third_is_worse(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    write_config(shop)
    write_month(shop, 0)
    code, output = shop.month("may")
    assert (code, shop.in_service, shop.exported) == (0, "may", ["may"]), output

    write_month(shop, 1)
    code, manifest = stop_within_the_etl(shop, "june")
    built = manifest.stat().st_mtime_ns
    assert (code, shop.in_service) == (143, "may")
    code, output = shop.month("june")
    assert (code, shop.in_service, shop.exported) == (0, "june", ["june", "may"]), output
    assert manifest.stat().st_mtime_ns == built
    assert f"started     from {shop.run('may').uri}" in output
    assert f"{NEW_ITEMS} items got their rows after the training: {NEW_ITEMS} from" in output
    may, june = (files.read_json(shop.run(name).metrics) for name in ("may", "june"))
    same = ("dataset", "num_items", "targets", "users")
    assert [may[key] for key in same] == [june[key] for key in same]
    served = Recommender.load(tmp_path / "exports/june")
    assert len(served.item_ids) == ITEMS + NEW_ITEMS

    write_month(shop, 2)
    write_config(shop, lr=3.0)  # somebody's mistake
    code, output = shop.month("july")
    assert (code, shop.in_service, shop.exported) == (3, "june", ["june", "may"]), output
    assert output.splitlines()[-1].startswith("gate    july: ndcg@10 is worse than june by")
    listed = served.recommend(["I003", "I004"])
    assert Recommender.load(tmp_path / "exports/june").recommend(["I003", "I004"]).equals(listed)
    assert shop.month("june") == (0, "")  # it is in service
