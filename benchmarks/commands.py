"""`python -m benchmarks.X NAME ...`: a benchmark's modules as subcommands."""

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module


def run(prog: str, summary: str, modules: Mapping[str, str], argv: Sequence[str] | None) -> None:
    """Run the module of the named subcommand: it has add_arguments(parser) and run(arguments)."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=summary)
    chosen = parser.add_subparsers(required=True, metavar="NAME")
    for name, path in modules.items():
        module = import_module(path)
        assert module.__doc__
        of_module = module.__doc__.partition("\n\n")[0]
        subparser = chosen.add_parser(name, help=of_module, description=of_module)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
