"""`statevar ls`: the paths of the variables in a file or pool, the steps of a manager, or the pools."""

from __future__ import annotations

import argparse
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .._core.tables import bytes_text, escaped, number_text
from ..checkpoint._checkpoint import open_checkpoint
from ..errors import StatevarError
from .exits import Exit
from .options import add_json, add_only, add_path
from .output import reason, say, say_json, say_table
from .paths import opened, selected, steps_in

__all__ = ["arguments", "run"]

_UNFINISHED = re.compile(r"\.step-(\d{10,})\.[0-9a-f]{8}\.tmp")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    add_only(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    if options.path.startswith("shared:"):
        from .pools import list_pools, list_variables

        if options.path == "shared:":
            return list_pools(as_json=options.json)
        return list_variables(options.path, options.only, as_json=options.json)
    if options.step is None and not options.only and (steps := steps_in(Path(options.path))):
        return _list_steps(options, steps)
    with opened(options.path, options.step) as checkpoint:
        names = selected(checkpoint.variables, options.only, options.path)
        if options.json:
            say_json({"path": str(checkpoint.path), "names": names, "aliases": dict(checkpoint.aliases)})
            return Exit.OK
        for name in names:
            say(escaped(name))
    return Exit.OK


# -- steps ------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """What is known of a step without reading its tensors."""

    step: int
    path: Path
    nbytes: int
    written: float
    metrics: dict[str, float]
    problem: str | None


def _list_steps(options: argparse.Namespace, paths: dict[int, Path]) -> int:
    steps = [_looked_at(step, path) for step, path in paths.items()]
    folder = Path(options.path)
    unfinished = sorted(int(match[1]) for each in folder.iterdir() if (match := _UNFINISHED.fullmatch(each.name)))
    shared = _nbytes(paths.values())
    if options.json:
        document = {"path": options.path, "steps": [*map(_facts, steps)], "unfinished": unfinished, "nbytes": shared}
        say_json(document)
        return Exit.OK
    metrics = list(dict.fromkeys(name for each in steps for name in each.metrics))
    now = time.time()
    rows = [
        (
            each.step,
            _age(now - each.written),
            bytes_text(each.nbytes),
            *(number_text(each.metrics.get(name)) for name in metrics),
            "" if each.problem is None else each.problem,
        )
        for each in steps
    ]
    heads = ("step", "age", "size", *map(escaped, metrics), "")
    say_table(heads, rows, right=heads[:-1])
    count = f"{len(steps):,} step{'' if len(steps) == 1 else 's'}"
    total = sum(each.nbytes for each in steps)
    linked = f" ({bytes_text(total)} with the files that several steps share)" if total > shared else ""
    say(f"{count}, {bytes_text(shared)}{linked}")
    for step in unfinished:
        say(f"step {step} is not finished: it is being written, or its program was killed")
    return Exit.OK


def _looked_at(step: int, path: Path) -> _Step:
    """Opens a step, to see whether its header is whole. A manager may be removing it at this moment."""
    metrics: dict[str, float] = {}
    problem: str | None = None
    try:
        with open_checkpoint(path) as checkpoint:
            metrics = checkpoint.metrics
    except StatevarError as error:  # also a library that is not installed
        problem = reason(error)
    try:
        written = path.stat().st_mtime
        nbytes = _nbytes([path])
    except OSError as error:
        written, nbytes, problem = time.time(), 0, problem or str(error)
    return _Step(step, path, nbytes, written, metrics, problem)


def _nbytes(folders: Any) -> int:
    """The bytes of the files in folders. A file that has several links is counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        for place, _, files in os.walk(folder):
            for name in files:
                try:
                    found = os.stat(os.path.join(place, name))  # noqa: PTH116, PTH118  # there may be many
                except OSError:
                    continue
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _age(seconds: float) -> str:
    """A time that has passed, in its largest unit.

    >>> _age(5), _age(150), _age(7200), _age(200_000)
    ('5 s', '2 min', '2 h', '2 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (length == 60 and seconds >= 60):
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _facts(step: _Step) -> dict[str, Any]:
    return {
        "step": step.step,
        "path": str(step.path),
        "nbytes": step.nbytes,
        "written": datetime.fromtimestamp(step.written, UTC).isoformat(timespec="seconds"),
        "metrics": step.metrics,
        "problem": step.problem,
    }
