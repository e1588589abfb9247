"""`python -m training CONFIG`: train the experiment, or go on where it stopped."""

from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser("training", "Train MDSRec with Ray Train and DeepSpeed.")
    parser.add_argument("--fresh", action="store_true", help="delete the run of this name first")
    arguments = parser.parse_intermixed_args(argv)
    experiment = experiment_of(arguments)
    from training.run import fit

    print(fit(experiment, arguments.fresh).summary())
    print(f"next        {command_line('evaluation', arguments)}")


if __name__ == "__main__":
    raise SystemExit(run_command("training", main))
