"""`python -m benchmarks.etl NAME ...`: what the ETL costs, beside what else would do its work."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mdsrec.command import run_command

SUBCOMMANDS = {  # a module with add_arguments(parser) and run(arguments)
    "catalogue": "benchmarks.catalogue",
    "cooccurrence": "benchmarks.cooccurrence",
    "neighbors": "benchmarks.neighbors",
    "encoders": "benchmarks.encoders",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.etl", description=__doc__)
    chosen = parser.add_subparsers(required=True, metavar="NAME")
    for name, path in SUBCOMMANDS.items():
        module = import_module(path)
        assert module.__doc__
        summary = module.__doc__.partition("\n\n")[0]
        subparser = chosen.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.etl", main))
