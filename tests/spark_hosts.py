"""A Spark standalone cluster on the hosts of `hosts.py`: a master, and workers of one core each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import Host, hosts, wait_until

from etl.spark.java import java_home

MASTER = "spark://10.77.0.1:7077"


@contextmanager
def spark_hosts(workers: int, folder: Path) -> Iterator[list[Host]]:
    """Yield [master, *workers, a host outside the cluster that submits jobs]."""
    variables = {"JAVA_HOME": str(java_home()), "SPARK_DAEMON_MEMORY": "256m"}
    with hosts(workers + 2, folder, **variables) as created:
        _start(created[0], folder, "I have been elected leader", "master.Master", "--port", "7077")
        for host in created[1:-1]:
            start_worker(host, folder)
        yield created


def start_worker(host: Host, folder: Path) -> None:
    options = ["--cores", "1", "--memory", "1g", "--work-dir", str(work_folder(host, folder))]
    _start(host, folder, "Successfully registered with master", "worker.Worker", MASTER, *options)


def work_folder(host: Host, folder: Path) -> Path:
    """Return the folder of a worker with its executors' logs, APPLICATION/EXECUTOR/stderr."""
    return folder / f"{host.name}-work"


def _start(host: Host, folder: Path, ready: str, name: str, *words: str) -> None:
    """Start a Spark daemon on the host and wait until its log holds the text `ready`."""
    log = folder / f"{host.name}.log"
    log.write_text("")
    command = ["spark-class", f"org.apache.spark.deploy.{name}", "--host", host.address, *words]
    host.check_output("bash", "-c", '"$@" >"$0" 2>&1 &', str(log), *command)
    wait_until(lambda: ready in log.read_text(), 60)
