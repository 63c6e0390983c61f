# SPDX-License-Identifier: Apache-2.0
"""The command line. A command is a module in `commands` with NAME, HELP, add_arguments and run.

Building the parser imports nothing heavy: command modules import what they need inside `run`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from dualfocus_ros import __version__
from dualfocus_ros.errors import DualFocusError

# One line a command, in the order of the help: the module in dualfocus_ros.commands.
COMMANDS = (
    "infer",
    "evaluate",
    "compare",
    "dataset",
    "record",
    "replay",
    "demo",
    "calibrate",
    "doctor",
    "benchmark",
    "build-engine",
)
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141


class Command(Protocol):
    """What a module in `commands` has."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the command."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit code."""


class _Parser(argparse.ArgumentParser):
    """Suggests the command that a misspelt one is near to."""

    def error(self, message: str) -> NoReturn:
        """Print usage and one line, exit 2."""
        if "invalid choice" in message and "'" in message:
            near = difflib.get_close_matches(message.split("'")[1], COMMANDS, n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        super().error(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code.

    0 done, 1 a known error (one line on stderr), 2 wrong usage, 130 interrupted. Anything unknown is raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, commands = build_parser(arguments)
        args = parser.parse_args(arguments)
        code = commands[args.command].run(args)
        sys.stdout.flush()
        return code
    except DualFocusError as error:
        print(f"dualfocus: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED


def build_parser(arguments: Sequence[str] = ()) -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    """Return the parser and the commands it knows.

    Only the module of the command that leads `arguments` is imported; all, where none does (for the help).
    """
    chosen = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    parser = _Parser(
        prog="dualfocus", description="Metric depth from a camera whose focus can be moved.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands: dict[str, Command] = {}
    for name in chosen:
        module = f"dualfocus_ros.commands.{name.replace('-', '_')}"
        command = cast(Command, importlib.import_module(module))
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_arguments(sub)
        commands[name] = command
    return parser, commands
