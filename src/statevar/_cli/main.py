"""The commands by name, and what every one of them does at its end: errors are a line, a closed pipe is no error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from .. import errors
from .._core.tables import escaped
from .exits import CommandError, Exit

__all__ = ["main"]

#: Each adds the parser of one command, and sets the function that runs it as the default of ``run``.
COMMANDS: tuple[Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None], ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit status."""
    parser = argparse.ArgumentParser(prog="statevar", description="Looks at, compares, edits and converts saved state.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does; Python would say so again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (CommandError, errors.StatevarError, OSError) as error:
        print(f"statevar {options.command}: {escaped(error)}", file=sys.stderr)
        return _status(error)
    return status


def _status(error: Exception) -> int:
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, errors.CheckpointNotFoundError | FileNotFoundError):
        return Exit.MISSING
    return Exit.DAMAGED if isinstance(error, errors.CheckpointError) else Exit.USAGE
