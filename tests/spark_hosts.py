"""Spark standalone on the hosts of `hosts.py`: a master, and workers that lend one core each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import Host, hosts, until

from etl.spark.java import java_home

MASTER = "spark://10.77.0.1:7077"


@contextmanager
def spark_hosts(workers: int, folder: Path) -> Iterator[list[Host]]:
    """[master, workers ..., a host that submits]"""
    variables = {"JAVA_HOME": str(java_home()), "SPARK_DAEMON_MEMORY": "256m"}
    with hosts(workers + 2, folder, **variables) as made:
        _start(made[0], folder, "I have been elected leader", "master.Master", "--port", "7077")
        for host in made[1:-1]:
            start_worker(host, folder)
        yield made


def start_worker(host: Host, folder: Path) -> None:
    lends = ["--cores", "1", "--memory", "1g", "--work-dir", str(work_folder(host, folder))]
    _start(host, folder, "Successfully registered with master", "worker.Worker", MASTER, *lends)


def work_folder(host: Host, folder: Path) -> Path:
    """Where the executors of a worker have their logs: APPLICATION/EXECUTOR/stderr."""
    return folder / f"{host.name}-work"


def _start(host: Host, folder: Path, up: str, name: str, *words: str) -> None:
    """A daemon of Spark there, once it has said that it is `up`."""
    log = folder / f"{host.name}.log"
    log.write_text("")
    command = ["spark-class", f"org.apache.spark.deploy.{name}", "--host", host.address, *words]
    host.do("bash", "-c", '"$@" >"$0" 2>&1 &', str(log), *command)
    until(lambda: up in log.read_text(), 60)
