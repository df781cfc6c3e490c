"""What is watched: the folder of a manager, or one checkpoint. Each look tells what has happened since the last one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .._core.tables import bytes_text, escaped, number_text
from .._state.paths import path_matches
from ..checkpoint._checkpoint import Checkpoint, open_checkpoint
from ..errors import CheckpointError, StatevarError
from .comparison import Comparison, compare, counted
from .output import colored
from .paths import main_file, selected, steps_in

__all__ = ["Event", "File", "Folder", "Step", "event"]


class Event(NamedTuple):
    """Something that has happened: as JSON, and as lines of text."""

    facts: dict[str, Any]
    lines: list[str]


@dataclass(frozen=True)
class Step:
    """A checkpoint in a folder, as far as its header says."""

    number: int
    variables: int
    nbytes: int
    metrics: dict[str, float]
    damage: str = ""

    @property
    def text(self) -> str:
        """The step as a line, escaped."""
        if self.damage:
            return f"step {self.number}  {colored('damaged', 'red')}: {escaped(self.damage)}"
        metrics = "  ".join(f"{escaped(name)}={number_text(value)}" for name, value in self.metrics.items())
        text = f"step {self.number}  {counted(self.variables)}  {bytes_text(self.nbytes)}  {metrics}"
        return text.rstrip()

    def as_json(self) -> dict[str, Any]:
        """The step as JSON has it."""
        if self.damage:
            return {"step": self.number, "damage": self.damage}
        return {
            "step": self.number,
            "variables": self.variables,
            "bytes": self.nbytes,
            "metrics": self.metrics,
        }


class Folder:
    """The folder of a manager: steps that appear, and steps that are removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[int, Step] = {}
        self._states: dict[int, tuple[int, ...]] = {}
        self._looked = False

    def look(self) -> list[Event]:
        """The events since the last look."""
        now: dict[int, tuple[int, ...]] = {}
        events: list[Event] = []
        paths = steps_in(self.path)
        for number, path in paths.items():
            if (state := _state(path)) is not None:  # else it was removed at this moment
                now[number] = state
        for number in [each for each in self.steps if each not in now]:
            del self.steps[number]
            events.append(event("removed", {"step": number}, colored(f"- step {number}", "dim")))
        for number in [each for each, state in now.items() if self._states.get(each) != state]:
            what = "changed" if number in self.steps else "new" if self._looked else "present"
            step = _step(number, paths[number])
            if step is None:
                del now[number]
                continue
            self.steps[number] = step
            sign = {"changed": "~", "new": "+", "present": " "}[what]
            events.append(event("damaged" if step.damage else what, step.as_json(), f"{sign} {step.text}"))
        self._states, self._looked = now, True
        return events

    def close(self) -> None:
        """Does nothing: no file is open."""


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a checkpoint is replaced, or written over; None if nothing is there."""
    try:
        status = main_file(path).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _step(number: int, path: Path) -> Step | None:
    """The facts about a step; None if it was removed meanwhile."""
    try:
        with open_checkpoint(path) as checkpoint:
            return Step(number, len(checkpoint.variables), _nbytes(path), checkpoint.metrics)
    except FileNotFoundError:
        return None if not path.exists() else Step(number, 0, 0, {}, "its index is missing")
    except (StatevarError, OSError) as error:
        return Step(number, 0, 0, {}, str(error))


def _nbytes(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        total += sum((Path(folder) / name).stat().st_size for name in names)
    return total


def event(what: str, facts: dict[str, Any], *lines: str) -> Event:
    now = time.time()
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    first, *others = lines
    return Event({"time": round(now, 3), "event": what, **facts}, [f"{clock} {first}", *others])


class File:
    """One checkpoint: what changes each time that it is saved.

    The old one stays open, so that its values are there although its file was replaced.
    """

    def __init__(self, path: Path, only: Sequence[str] | None) -> None:
        self.path = path
        self._only = only
        self._wanted = path_matches(only) if only else None
        self._checkpoint: Checkpoint | None = None
        self._state: tuple[int, ...] | None = None
        self._place: tuple[int, ...] = ()  # of the checkpoint: its device and inode
        self._is_spoilt = False  # whether it was written over where it is, so that its old values are gone

    def look(self) -> list[Event]:
        """The events since the last look."""
        state = _state(self.path)
        if state == self._state:
            return []
        self._is_spoilt |= state is not None and state[:2] == self._place
        before, was = self._checkpoint, self._state
        self._state = state
        if state is None:
            return [event("removed", {}, "- the file is gone")]
        try:
            checkpoint = open_checkpoint(self.path)
        except FileNotFoundError:
            self._state = was
            return []
        except (StatevarError, OSError) as error:
            return [event("damaged", {"damage": str(error)}, f"! {colored('damaged', 'red')}: {escaped(error)}")]
        self._checkpoint, self._place = checkpoint, state[:2]
        is_spoilt, self._is_spoilt = self._is_spoilt, False
        if before is None:
            selected(checkpoint.variables, self._only, str(self.path))  # an error of typing
            count = len(checkpoint.variables)
            return [event("present", {"variables": count}, f"  {counted(count)}")]
        with before:
            return [_not_compared("the old values are gone") if is_spoilt else self._compared(before, checkpoint)]

    def _compared(self, before: Checkpoint, now: Checkpoint) -> Event:
        try:
            found = compare(before, now, self._wanted)
        except CheckpointError as error:
            return _not_compared(str(error))
        changed = len(found.changed) + len(found.added) + len(found.removed)
        return event("saved", found.as_json(), f"~ saved; {_counted(changed, found)}", *_indented(found))

    def close(self) -> None:
        """Closes the checkpoint that was read last, and with it its file."""
        if self._checkpoint is not None:
            self._checkpoint.close()


def _not_compared(problem: str) -> Event:
    return event("saved", {"problem": problem}, f"~ saved; not compared: {escaped(problem)}")


def _counted(changed: int, found: Comparison) -> str:
    return f"{changed} of {counted(changed + found.same)} differ" if changed else "no variable differs"


def _indented(found: Comparison) -> Iterator[str]:
    return (f"  {line}" for line in found.lines())
