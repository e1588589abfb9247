"""All stages in turn, with the same configuration.

The stages on Ray run in this process: they import the same packages, while a stage before them
runs, and use one Ray. The others are processes of their own.
"""

import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module

from cluster.stages import STAGE_COMMANDS, STAGES
from mdsrec import files
from mdsrec.command import run_command
from mdsrec.command.heartbeat import heartbeat
from mdsrec.command.names import process_of
from mdsrec.config.loading import load_experiment
from mdsrec.packages import child_environment
from mdsrec.run_paths import RunPaths

ON_RAY = {"training": "training.run", "evaluation": "evaluation.run"}  # and the module of each


def run_stages(
    config: str, overrides: Sequence[str], fresh: bool, stages: Sequence[str] = STAGES
) -> int:
    """Run `stages` until one fails, and return its exit code, or 0.

    InputError for a mistake in the configuration or a folder that the last stage would miss, before
    any stage starts.
    """
    experiment = load_experiment(config, overrides)
    if experiment.eval.pictures is not None and "evaluation" in stages:
        files.check_folder(experiment.eval.pictures, "eval.pictures")
    paths = RunPaths.of(experiment)
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages):
        flags = ["--fresh"] if fresh and stage == "training" else []
        name, more = STAGE_COMMANDS[stage]
        words = [*more, *flags, config, *overrides]
        print(f"\n--- {stage}", flush=True)
        start = time.monotonic()
        if stage in ON_RAY:
            code = run_here(name, words, keeps_ray=stage == "training" and "evaluation" in stages)
        else:
            later = [ON_RAY[after] for after in stages[number:] if after in ON_RAY]
            code = run_process([*process_of(name), *words], imports=later)
        seconds[stage] = time.monotonic() - start
        if code:
            code = code if code > 0 else 128 - code  # a shell's exit code for a signal
            print(f"\n{_stage_times(seconds)}\ncluster: {stage} failed with exit code {code}")
            return code
        if stage == "training" and not _is_trained(paths):
            print(f"\n{_stage_times(seconds)}\ncluster: run the same command again to continue")
            return 0
    print(f"\n{_stage_times(seconds)}")
    if "evaluation" in stages:
        print(f"report: {paths.report}")
    return 0


def _is_trained(paths: RunPaths) -> bool:
    """Return whether training finished, rather than saved and stopped on a signal."""
    return bool(paths.read_history().get("finished"))


def run_here(stage: str, words: Sequence[str], keeps_ray: bool) -> int:
    """Run a stage in this process, and return its exit code.

    With `keeps_ray` the next stage uses the same Ray.
    """
    from training.distributed.ray_session import keeping_ray

    main = import_module(f"{stage}.__main__").main
    with keeping_ray() if keeps_ray else nullcontext():
        return run_command(stage, lambda _: main(words))


def run_process(command: Sequence[str], imports: Sequence[str] = ()) -> int:
    """Run a stage to its end and return its exit code.

    SIGTERM, such as the notice of a spot instance, and SIGINT are passed on to it. Meanwhile this
    process `imports` the modules of later stages.
    """
    with heartbeat.paused(), subprocess.Popen(command, env=child_environment()) as stage:
        before = {
            signum: signal.signal(signum, lambda received, _: stage.send_signal(received))
            for signum in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            for module in imports:
                with suppress(Exception):  # the stage raises it again
                    import_module(module)
            return stage.wait()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _stage_times(seconds: dict[str, float]) -> str:
    """Return `etl 12 s, training 95 s`."""
    return ", ".join(f"{stage} {spent:.0f} s" for stage, spent in seconds.items())
