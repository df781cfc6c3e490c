"""``statevar watch``: follows the folder of a manager, a file that is saved again and again, or shared variables."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint._formats.others import owner_of_folder
from ..errors import CheckpointNotFoundError
from .exits import CommandError, Exit
from .live import live_table
from .options import add_only, natural
from .output import has_rich, say, say_json, width
from .paths import main_file, steps_in
from .watched import Event, File, Folder

if TYPE_CHECKING:
    from .pools import Shared

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("path", metavar="PATH", help="the folder of a manager, a checkpoint, or shared:NAME")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="look every S seconds (default: 1)")
    parser.add_argument("--rounds", type=natural, metavar="N", help="look N times, and end (default: until Ctrl-C)")
    add_only(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each event")


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


_seconds.__name__ = "number of seconds"  # argparse names the type in its message


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    watched = _watched(options)
    with ExitStack() as stack:
        stack.callback(watched.close)
        show = _lines(options)
        if isinstance(watched, Folder) and not options.json and width() is not None and has_rich():
            show = stack.enter_context(live_table(watched))
        rounds = 0
        while True:
            show(watched.look())
            rounds += 1
            if options.rounds is not None and rounds >= options.rounds:
                return Exit.OK
            wait(options.interval)


#: Tests replace it.
wait = time.sleep


def _watched(options: argparse.Namespace) -> Folder | File | Shared:
    """What is at a path. Only a folder that some manager uses, or will use, has steps."""
    if options.path.startswith("shared:"):
        from .pools import Shared

        return Shared(options.path, options.only)
    path = Path(options.path)
    if not main_file(path).exists():
        raise CheckpointNotFoundError.of("watch", "there is nothing at this path yet", options.path)
    is_folder = path.is_dir() and not (path / "index.json").exists()
    if is_folder and (steps_in(path) or owner_of_folder(path) is None):
        if options.only:
            raise CommandError("--only is for a single checkpoint, and this is the folder of a manager")
        return Folder(path)
    return File(path, options.only)


def _lines(options: argparse.Namespace) -> Callable[[list[Event]], None]:
    """Returns a function that prints events."""

    def show(events: list[Event]) -> None:
        for event in events:
            if options.json:
                say_json(event.facts)
            else:
                for line in event.lines:
                    say(line)
        sys.stdout.flush()  # whoever reads a pipe waits for it

    return show
