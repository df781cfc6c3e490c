"""`statevar verify`: reads whole checkpoints, and names what is damaged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .._core.tables import escaped
from ..checkpoint._checkpoint import Checkpoint, open_checkpoint
from ..errors import CheckpointError, CheckpointNotFoundError, StatevarError
from .exits import Exit
from .options import PATH, add_json, add_step
from .output import colored, message, reason, say, say_json
from .paths import is_known, nbytes_of, place_of, steps_in
from .progress import progress

__all__ = ["arguments", "run"]

#: Bytes that are checked in one go, by several threads.
_AT_ONCE = 256 << 20


class _Result(NamedTuple):
    """What was found at a path.

    Attributes:
        path: the path.
        checked: the number of variables whose checksum fits.
        unchecked: those that could be read, and have no checksum.
        damaged: the damaged variables, each with the reason.
        problem: why it could not be opened.
        status: what that means for the exit status.
        word: what damaged variables are.
    """

    path: str
    checked: int = 0
    unchecked: tuple[str, ...] = ()
    damaged: dict[str, str] = {}  # noqa: RUF012  # of a tuple, and never changed
    problem: str | None = None
    status: Exit = Exit.OK
    word: str = "DAMAGED"


def arguments(parser: argparse.ArgumentParser) -> None:
    text = f"{PATH.partition(', which')[0]}, whose steps are all checked"
    parser.add_argument("paths", metavar="PATH", nargs="+", help=text)
    add_step(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only what is damaged or cannot be read")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    results = []
    for path in options.paths:
        for place in _places(path, options.step):
            result = _verified(place)
            results.append(result)
            if not options.json:
                _print(result, quiet=options.quiet)
    if options.json:
        say_json({"files": [*map(_facts, results)]})
    statuses = {each.status for each in results}
    return next((each for each in (Exit.DAMAGED, Exit.MISSING, Exit.USAGE) if each in statuses), Exit.OK)


def _places(path: str, step: int | None) -> list[Path]:
    """The checkpoints at a path: all steps of a manager, unless one is asked for."""
    steps = steps_in(Path(path)) if step is None else {}
    return list(steps.values()) or [place_of(path, step)]


def _verified(path: Path) -> _Result:
    try:
        with open_checkpoint(path) as checkpoint:
            damaged = dict(_damage(checkpoint))
            word = "DAMAGED" if any(is_known(checkpoint.variables[name]) for name in damaged) else "unreadable"
            whole = [name for name in checkpoint if name not in damaged]
            unchecked = tuple(name for name in whole if checkpoint.checksum(name) is None)
    except CheckpointNotFoundError as error:
        return _Result(str(path), problem=message("verify", error), status=Exit.MISSING)
    except CheckpointError as error:
        return _Result(str(path), problem=message("verify", error), status=Exit.DAMAGED)
    except StatevarError as error:  # it cannot be read at the moment, or needs a library that is not installed
        return _Result(str(path), problem=message("verify", error), status=Exit.USAGE)
    status = Exit.DAMAGED if damaged else Exit.OK
    return _Result(str(path), len(whole) - len(unchecked), unchecked, damaged, status=status, word=word)


def _damage(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Checks the variables, some at a time. Returns the damaged ones, and why."""
    sizes = {name: nbytes_of(checkpoint.variables[name]) or 0 for name in checkpoint}
    with progress(sum(sizes.values()), "verifying") as advance:
        batch: list[str] = []
        nbytes = 0
        last = next(reversed(sizes), None)
        for name, size in sizes.items():
            batch.append(name)
            nbytes += size
            if nbytes >= _AT_ONCE or name == last:
                for each, error in checkpoint.damage(batch).items():
                    yield each, reason(error)
                advance(nbytes)
                batch, nbytes = [], 0


def _print(result: _Result, *, quiet: bool) -> None:
    path = escaped(result.path)
    if result.problem is not None:
        print(f"statevar {result.problem}", file=sys.stderr)
        return
    without = f"{len(result.unchecked):,} without a checksum" if result.unchecked else ""
    if result.damaged:
        total = result.checked + len(result.unchecked) + len(result.damaged)
        say(f"{path}: {colored(result.word, 'red')}: {len(result.damaged):,} of {total:,} variables")
        for name, why in result.damaged.items():
            say(f"  {escaped(name)}: {escaped(why)}")
    elif not quiet and result.unchecked and not result.checked:
        say(f"{path}: {colored('readable', 'yellow')}: {without}")
    elif not quiet:
        checked = f"{result.checked:,} variable{'' if result.checked == 1 else 's'} with the right checksum"
        say(f"{path}: {colored('whole', 'green')}: {checked}{f', {without}' if without else ''}")


def _facts(result: _Result) -> dict[str, Any]:
    facts = result._asdict()
    del facts["word"]
    return {**facts, "status": int(result.status), "whole": result.status is Exit.OK}
