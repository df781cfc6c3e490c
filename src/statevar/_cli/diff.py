"""``statevar diff``: how one checkpoint differs from another one, whatever their formats."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from .._state.paths import path_matches
from .comparison import Comparison, Tolerance, compare
from .exits import CommandError, Exit
from .options import PATH, add_json, add_only, add_step
from .output import colored, say, say_json
from .paths import opened, selected, steps_in

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("a", metavar="A", help=PATH)
    parser.add_argument("b", metavar="B", help="another one, of any format")
    parser.add_argument(
        "--atol", type=_tolerance, default=0.0, metavar="X", help="an element may differ by X (default: 0)"
    )
    parser.add_argument(
        "--rtol", type=_tolerance, default=0.0, metavar="X", help="or by X times the element of A (default: 0)"
    )
    add_only(parser)
    steps = parser.add_mutually_exclusive_group()
    add_step(steps)
    steps.add_argument("--steps", action="store_true", help="compare the folders of two managers, step by step")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing: the exit status is the answer")
    add_json(parser)


def _tolerance(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError
    return number


_tolerance.__name__ = "non-negative number"  # argparse names the type in its message


def run(options: argparse.Namespace) -> int:
    """Runs the command: 0 if the checkpoints are the same, 1 if they differ."""
    if options.steps:
        return _run_steps(options)
    found = _compared(options, options.step)
    if options.json:
        say_json(found.as_json())
    elif not options.quiet:
        _say(found)
    return Exit.OK if found.is_same else Exit.DIFFERENT


def _run_steps(options: argparse.Namespace) -> int:
    before, after = (steps_in(_folder(path)) for path in (options.a, options.b))
    results = {step: _compared(options, step) for step in sorted(before.keys() & after.keys())}
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    if options.json:
        steps = {str(step): found.as_json() for step, found in results.items()}
        say_json({"steps": steps, "added": added, "removed": removed})
    elif not options.quiet:
        for step in removed:
            say(colored(f"- step {step}", "red"))
        for step in added:
            say(colored(f"+ step {step}", "green"))
        for step, found in results.items():
            say(colored(f"step {step}:", "bold"))
            _say(found)
    same = not (added or removed) and all(found.is_same for found in results.values())
    return Exit.OK if same else Exit.DIFFERENT


def _folder(path: str) -> Path:
    if not steps_in(place := Path(path)):
        if not place.exists():
            raise CommandError(f"there is nothing at {path}", Exit.MISSING)
        raise CommandError(f"{path} is not the folder of a manager with steps", hint="leave out --steps")
    return place


def _compared(options: argparse.Namespace, step: int | None) -> Comparison:
    tolerance = Tolerance(options.atol, options.rtol)
    managers = [path for path in (options.a, options.b) if steps_in(Path(path))]
    first, second = (step if path in managers or not managers else None for path in (options.a, options.b))
    with opened(options.a, first) as a, opened(options.b, second) as b:
        selected([*a.variables, *b.variables], options.only, f"{options.a} or {options.b}")  # an error of typing
        return compare(a, b, path_matches(options.only) if options.only else None, tolerance)


def _say(found: Comparison) -> None:
    for line in found.lines():
        say(line)
    say(f"{found.same} same, {len(found.added) + len(found.removed) + len(found.changed)} different")
