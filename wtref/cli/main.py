"""The command line: `python run.py COMMAND --flags`, or `wtref COMMAND --flags`.  Each group of commands has a module beside this one."""

import argparse
import itertools
import sys

from wtref import __version__, plugins
from wtref.cli import bench, checks, runs, training
from wtref.cli.arguments import given_config
from wtref.cli.parser import Parser
from wtref.cli.streams import OutputError, guarded
from wtref.distributed.group import SINGLE, open_group
from wtref.errors import Diverged, Drifted, InputError, Unanswered, Unsaved, memory_reason
from wtref.installation import program
from wtref.interrupts import exit_code, interrupting
from wtref.values import check_limits

DESCRIPTION = """\
Deep learning without weight transport (Akrout et al., NeurIPS 2019), in NumPy
and CuPy: every backward pass is written out, none comes from automatic
differentiation.

With no arguments: reproduce digits, the main job.
With flags but no command: train."""


@guarded()
def main(argv=None):
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, more than 128 interrupted."""
    argv = _hyphens(sys.argv[1:] if argv is None else argv)
    if not argv:
        argv = ["reproduce", "digits"]
    elif argv[0].startswith("--") and argv[0] not in ("--help", "--version"):
        argv = ["train", *argv]
    group = SINGLE
    try:
        group, problem = _open_group()
        with interrupting(), group.session():
            code = _run(argv, group, problem)
            sys.stdout.flush()
            return code
    except InputError as error:
        return group.report_error(error, 2)
    except (Diverged, Drifted, Unanswered, Unsaved) as error:
        return group.report_error(error, 1)
    except MemoryError as error:
        return group.report_error(f"out of memory ({memory_reason(error)}); lower --batch-size, or choose a smaller network", 2)
    except KeyboardInterrupt as interrupt:
        return group.report_error("interrupted", exit_code(interrupt))
    except OutputError as error:
        return group.report_error(error.reason, 1)
    except Exception as error:
        group.abort(error)
        raise


def _open_group():
    """(the group, None), or (SINGLE, the InputError that kept this process from joining its group).

    Commands of one process run all the same.
    """
    try:
        return open_group(), None
    except InputError as error:
        return SINGLE, error


def _run(argv, group, problem):
    try:
        args = _parser().parse_args(argv)
    except SystemExit as shown:
        return group.agree_to_exit(shown.code)
    if problem and args.together:
        raise problem
    check_limits(vars(args))
    if group.size > 1 and not args.together:
        raise InputError(f"{argv[0]!r} is for one process, found {group.size}; start it without mpiexec or srun")
    if getattr(args, "plugin", None) is not None:
        args.plugin = plugins.load(args.plugin)
    args.words, args.group = argv, group
    return args.command(args, given_config(args)) or 0


def _parser():
    parser = Parser(prog=program().removeprefix("python "), description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"wtref {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, function, together=False):
        """The parser of a new command; together: whether several processes can run it as one."""
        subparser = subparsers.add_parser(name, help=function.__doc__, description=function.__doc__)
        subparser.set_defaults(command=function, together=together)
        return subparser

    for module in (training, runs, checks, bench):
        module.add_commands(command)
    return parser


def _hyphens(argv):
    """The arguments with hyphens in their flags, --log-name=a_b for --log_name=a_b; behind `--` there are no flags."""
    flags = list(itertools.takewhile(lambda token: token != "--", argv))
    return [*map(_hyphenated, flags), *argv[len(flags) :]]


def _hyphenated(token):
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value if token.startswith("--") else token
