"""The commands by name, and what each of them does at its end: an error is one line, and a closed pipe is silent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn, TextIO

from .. import __version__, errors
from .._core.tables import escaped
from .exits import CommandError, Exit
from .output import complain

__all__ = ["COMMANDS", "main", "parser_of"]

#: Each command, and what `statevar --help` says about it. The module ``x`` beside this one has ``arguments(parser)``,
#: which adds the arguments, and ``run(options)``, which returns an exit status. Only the module that is needed is
#: imported.
COMMANDS = {
    "inspect": "lists the variables in a file, with figures and histograms on request",
    "ls": "lists the paths of the variables in a file, the steps of a manager, or what processes share",
    "show": "prints a value, or a part of one",
    "diff": "compares two checkpoints: variables, values, flags, aliases and metadata",
    "edit": "changes values and flags in a file, all or nothing",
    "verify": "reads checkpoints, and names what is damaged",
    "convert": "writes a checkpoint in another format, and compares every value",
    "watch": "follows the folder of a manager, a file that is saved again and again, or shared variables",
    "completion": "prints a script that completes commands, options and names in files, for a shell",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors are here."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with the exit status of a wrong usage."""
        self.exit(Exit.USAGE, f"{self.prog}: {escaped(message)}. Hint: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    command = next((each for each in arguments if not each.startswith("-")), "")
    try:
        try:
            options, unknown = parser_of(command).parse_known_args(arguments)
            if unknown:
                hint = f"statevar {command} --help; names that begin with - are written after --"
                raise CommandError(f"unknown arguments: {' '.join(unknown)}", hint=hint)
            status = int(import_module(f"{__package__}.{command}").run(options))
        except SystemExit:  # argparse has printed what it was asked for
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, and not when Python ends, where an error would be a traceback
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        _drop_output()
        return Exit.CLOSED
    except KeyboardInterrupt:
        _drop_output()
        return Exit.INTERRUPTED
    except (CommandError, errors.StatevarError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        try:
            complain(command, error)
        except OSError:
            _drop_output(sys.stderr)
        return _status(error)
    return status


def parser_of(command: str) -> argparse.ArgumentParser:
    """Returns the parser of the command line, with the arguments of one command."""
    parser = _Parser(
        prog="statevar",
        description="Looks at, compares, edits, checks and converts saved state, in every format that statevar reads.",
        epilog="`statevar COMMAND --help` describes a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"statevar {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        each = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if name == command:
            import_module(f"{__package__}.{name}").arguments(each)
    return parser


def _open_closed_streams() -> None:
    """Gives whoever started the command without a standard output, or error, one that takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  # until the end


def _drop_output(stream: TextIO | None = None) -> None:
    """Throws away what is not written yet. Else Python would try it when it ends: wait for the reader, or complain."""
    with suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def _status(error: Exception) -> int:
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, errors.CheckpointNotFoundError | FileNotFoundError):
        return Exit.MISSING
    return Exit.DAMAGED if isinstance(error, errors.CheckpointError) else Exit.USAGE
