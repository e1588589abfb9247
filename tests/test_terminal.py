"""What a user sees: one progress line on a terminal, a line now and then in a log, no noise."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from small_dataset import small_experiment, toml_of, write_dataset

from mdsrec.command.heartbeat import Heartbeat

ROOT = Path(__file__).parent.parent
ESCAPES = re.compile(r"\x1b\[(\d*)([A-Za-z])")


def on_terminal(*command, folder=ROOT):
    """Run a command whose output is a terminal -> exit code, all that it wrote."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=there, stdout=there, stderr=there
    ) as started:
        os.close(there)
        written = b""
        while True:
            try:
                part = os.read(here, 1 << 16)
            except OSError:  # no process has the terminal open
                break
            if not part:
                break
            written += part
        os.close(here)
    return started.returncode, written.decode()


def screen(written):
    """Return the lines that a terminal shows after this text, without colors."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(written):
        if escape := ESCAPES.match(written, at):
            count, letter = int(escape[1] or 1), escape[2]
            row -= min(row, count) * (letter == "A")
            if letter == "K":
                lines[row] = lines[row][:column]
            at = escape.end()
            continue
        sign = written[at]
        at += 1
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + sign + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_the_screen_of_this_test_overwrites_as_a_terminal_does():
    assert screen("abc\rX\n\rnext\x1b[Aup") == ["Xbc up", "next"]
    assert screen("long line\r\x1b[Kshort\x1b[31m!\x1b[0m") == ["short!"]


STEPS = """
import logging, time
from etl.spark import progress
from mdsrec.command.logs import configure_logging
configure_logging()
progress.DRAW_INTERVAL = 0.01
log = logging.getLogger("etl")
with progress.step_progress(lambda: "items: 3 of 8 tasks and a text that is longer than the next"):
    time.sleep(0.1)
    log.info("a line of the log")
    with progress.step_progress(lambda: "encoded 5 of 9"):
        time.sleep(0.1)
        log.info("another line")
        time.sleep(0.1)
    time.sleep(0.1)
log.info("built")
"""


def test_a_step_has_one_line_below_the_log_and_leaves_nothing_behind():
    code, written = on_terminal(sys.executable, "-c", STEPS)
    assert code == 0, written
    assert "items: 3 of 8 tasks" in written and "encoded 5 of 9" in written
    shown = [line.partition(" etl: ")[2] for line in screen(written)]
    assert shown == ["a line of the log", "another line", "built", ""]


def test_a_silent_command_logs_that_it_runs_and_a_talking_one_does_not(caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with caplog.at_level(logging.INFO, "mdsrec"):
        talking = Heartbeat(0.2)
        with talking.beating("etl"):
            for _ in range(10):
                time.sleep(0.03)
                talking.note_line()
        assert caplog.messages == []
        silent = Heartbeat(0.05)
        with silent.beating("etl"):
            silent.begin("table items")
            with silent.within("starting Spark"):
                time.sleep(0.3)
            spark, tables = len(caplog.messages), r"etl is still running: table items, \d+ s so far"
            time.sleep(0.3)
    assert 0 < spark < len(caplog.messages)
    starting = tables.replace("table items", "starting Spark")
    for number, line in enumerate(caplog.messages):
        assert re.fullmatch(starting if number < spark else tables, line)


def test_no_heartbeat_while_another_process_writes_or_on_a_terminal(caplog, monkeypatch):
    heartbeat = Heartbeat(0.02)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with caplog.at_level(logging.INFO, "mdsrec"), heartbeat.beating("etl"):
        with heartbeat.paused():
            time.sleep(0.1)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        time.sleep(0.1)
    assert caplog.messages == []


def test_lines_of_workers_have_no_prefix_and_count_as_signs_of_life(capsys):
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    from training.distributed.ray_internals import show_lines_of_workers

    noted = []
    show_lines_of_workers(lambda: noted.append(1))
    lines = [
        "demo, rank 0: epoch 0",
        "[2026-11-29 13:57:16,202 E 22 33] core_worker.cc:2465: Actor",
    ]
    sender = {"pid": 7, "ip": "10.0.0.1", "localhost": "10.0.0.2", "actor_name": "RayTrainWorker"}
    dispatcher.emit({**sender, "is_err": True, "lines": lines})
    dispatcher.remove_handler("ray_print_logs")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "demo, rank 0: epoch 0\n")
    assert noted


def test_only_the_first_late_answer_of_rays_autoscaler_is_shown_and_without_traceback(caplog):
    from ray import cloudpickle
    from ray.exceptions import GetTimeoutError
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    from training.distributed.ray_train_internals import LATE_ANSWER, ShortCoordinatorWarnings

    logger = autoscaling_coordinator_client.logger
    before = list(logger.filters)
    cloudpickle.loads(cloudpickle.dumps(ShortCoordinatorWarnings()))  # as it reaches the controller
    try:
        for error in (GetTimeoutError("late"), GetTimeoutError("late"), ValueError("a bug")):
            try:
                raise error
            except Exception:
                logger.warning("Failed to send resource request", exc_info=True)
    finally:
        logger.filters = before
    late, real = caplog.records
    assert (late.getMessage(), late.exc_info) == (LATE_ANSWER, None)
    assert real.exc_info[0] is ValueError


def test_the_search_path_of_workers_is_not_extended_by_the_folder_of_the_driver():
    from training.distributed.ray_internals import search_path_of_workers

    job = search_path_of_workers(["/here", "/ours"])
    job._py_driver_sys_path.extend(["/script", "/here"])  # as ray.init does
    assert list(job._get_proto_job_config().py_driver_sys_path) == ["/here", "/ours"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_on_a_terminal_shows_its_lines_and_none_of_ray(tmp_path):
    experiment = small_experiment(tmp_path, train={"max_epochs": 2})
    write_dataset(experiment)
    command = [sys.executable, "-m", "mdsrec", "train", toml_of(experiment, tmp_path)]
    code, written = on_terminal(*command, folder=tmp_path)
    assert code == 0, written
    lines = [line for line in screen(written) if line]
    assert not [line for line in lines if "pid=" in line or "ip=" in line or "oken" in line]
    kinds = (r".* training: .*1 workers on CPU.*", r".*rank 0: epoch +\d.*", r"epoch \d: .*")
    for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("run "))]:
        assert any(re.fullmatch(kind, line) for kind in kinds), line
    assert sum(", rank 0: epoch" in line for line in lines) == 2
