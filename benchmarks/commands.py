"""Command lines of benchmarks: sub-commands."""

from collections.abc import Mapping, Sequence
from importlib import import_module

from mdsrec.command import stage_parser
from mdsrec.command.heartbeat import heartbeat


def run_subcommand(
    prog: str, summary: str, modules: Mapping[str, str], argv: Sequence[str] | None
) -> None:
    """Run one of the modules, each of which has `add_arguments(parser)` and `run(arguments)`.

    The help of a sub-command is the first paragraph of its module's docstring.
    """
    parser = stage_parser(prog, summary)
    subparsers = parser.add_subparsers(required=True, metavar="NAME")
    for name, path in modules.items():
        module = import_module(path)
        assert module.__doc__
        first_paragraph = module.__doc__.partition("\n\n")[0]
        subparser = subparsers.add_parser(name, help=first_paragraph, description=first_paragraph)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, name=name)
    arguments = parser.parse_args(argv)
    heartbeat.begin(f"measuring {arguments.name}")
    arguments.run(arguments)
