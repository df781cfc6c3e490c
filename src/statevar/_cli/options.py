"""The arguments that several commands have."""

from __future__ import annotations

import argparse

__all__ = ["add_json", "add_only", "add_path", "add_step", "completed_by_names", "natural"]

PATH = "a file, a folder of a checkpoint, or the folder of a manager, which means its newest step"


def add_path(parser: argparse.ArgumentParser) -> None:
    """Adds the path of a checkpoint, and the step if it is the folder of a manager."""
    parser.add_argument("path", metavar="PATH", help=PATH)
    add_step(parser)


def add_step(parser: argparse._ActionsContainer) -> None:
    """Adds the option that chooses a step of a manager."""
    text = "the step to open, of the folder of a manager (default: the newest)"
    parser.add_argument("--step", metavar="N", type=natural, help=text)


def add_only(parser: argparse.ArgumentParser) -> None:
    """Adds the option that selects variables."""
    text = "only the paths that match; * is any text and ? any character; may be repeated"
    completed_by_names(parser.add_argument("--only", metavar="PATTERN", action="append", help=text))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds the option that asks for JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON; a number that is not finite is null")


def completed_by_names(action: argparse.Action) -> None:
    """Says that an argument is a name in the file that is the first argument of the command, for the shell."""
    action.completes_names = True  # type: ignore[attr-defined]  # argparse has no place for it


def natural(text: str) -> int:
    """An integer that is not negative, from an argument."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


natural.__name__ = "non-negative integer"  # argparse names the type in its message
