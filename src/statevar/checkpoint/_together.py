"""What processes do together: each does its part, and then all go on, or all raise an error that says whose failed.

Only short messages are exchanged, through the store of the engine that runs the processes (``_arrays/world.py``), so a
thread that writes a checkpoint does not wait for the program's own communication, nor disturb it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from .. import errors
from .._arrays.world import World, current_world, exchange
from ..errors import CheckpointMismatchError, ProcessError, StatevarError, describe

__all__ = ["TIMEOUT", "Group", "Phase", "group_of"]

TIMEOUT = 600.0  #: seconds to wait for a process that is alive


def group_of(operation: str, *, alone: bool, timeout: float) -> Group:
    """The processes that take part in an operation: all of the program, or only this one.

    Raises:
        ValueError: the timeout is no positive number.
    """
    if isinstance(timeout, bool) or not timeout > 0:
        raise ValueError(describe(operation, f"expected timeout to be a number of seconds > 0, got {timeout!r}"))
    return Group(None if alone else current_world(), operation, float(timeout))


@dataclass(frozen=True)
class Group:
    """Processes that do something together, in phases that each of them goes through in the same order.

    Attributes:
        world: the processes; None for this one alone.
        name: the operation, and anything after a slash that tells it from others at the same time.
        seconds: how long to wait for a process that is alive. One that died is noticed within seconds.
    """

    world: World | None
    name: str
    seconds: float

    @property
    def index(self) -> int:
        """The number of this process."""
        return 0 if self.world is None else self.world.index

    @property
    def count(self) -> int:
        """The number of processes."""
        return 1 if self.world is None else self.world.count

    @property
    def leads(self) -> bool:
        """Whether this process does what one does for all."""
        return self.index == 0

    def numbered(self, what: str) -> str:
        """A name for one more of something, the same in every process, which all make in the same order."""
        return what if self.world is None else self.world.round(what)

    def doing(self, operation: str, what: str) -> Group:
        """The same processes in another operation, whose messages are not mistaken for others at the same time."""
        return Group(self.world, f"{operation}/{what}", self.seconds)

    def agree(self, phase: str, work: Callable[[], Any]) -> list[Any]:
        """Does a part, and returns the results of all processes, by index. They are passed on as JSON.

        Raises:
            StatevarError: the work of another process failed. It is of the class of that error.
            ProcessError: a process is missing, or the work of another one failed with an error of another kind.
        """
        with self.phase(phase) as together:
            result = work()
            return together.agree(result)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """A block in which each process does a part and then calls `Phase.agree`. An error before it is one of all."""
        phase = Phase(self, name)
        try:
            yield phase
        except BaseException as error:
            if not phase.is_over:
                phase.fail(error)
            raise
        if not phase.is_over:
            phase.agree(None)


class Phase:
    """One phase of a `Group` in this process."""

    def __init__(self, group: Group, name: str) -> None:
        self._group = group
        self._name = name
        self.is_over = False  #: whether the other processes know how it went here
        self.failed = False  #: whether it is known to have failed in all processes

    def agree(self, result: Any) -> list[Any]:
        """Waits until all processes have done their part, and returns their results.

        Raises:
            StatevarError: the part of another process failed.
        """
        self.is_over = True
        if self._group.count == 1:
            return [result]
        answers = self._exchange({"result": result})
        if any("error" in each for each in answers):
            self.failed = True
            self._raise(answers)
        return [each["result"] for each in answers]

    def fail(self, error: BaseException) -> None:
        """Tells the other processes of an error. Raises another one if those of several processes differ in kind."""
        self.is_over = True
        if self._group.count == 1:
            self.failed = True
            return
        answers: list[Any] = []
        with suppress(ProcessError):
            answers = self._exchange({"error": _told(error)})
            self.failed = True
        if answers and isinstance(error, StatevarError) and _class_of(answers) is not type(error):
            self._raise(answers, error)

    def _exchange(self, message: dict[str, Any]) -> list[Any]:
        group = self._group
        assert group.world is not None
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        found = exchange(group.world, f"{group.name}/{self._name}", text, seconds=group.seconds)
        return [json.loads(each) for each in found]

    def _raise(self, answers: list[Any], cause: BaseException | None = None) -> NoReturn:
        """Raises an error that tells which processes failed, and why; of the same class in all processes."""
        count, operation = self._group.count, self._group.name.partition("/")[0]
        failed = {index: each["error"] for index, each in enumerate(answers) if "error" in each}
        lines = [f"process {index} of {count}: {each['text']}" for index, each in failed.items()]
        first = next(iter(failed.values()))
        if len(failed) == 1 and first["parts"]:
            index = next(iter(failed))
            _, problem, path, hint = first["parts"]
            text = describe(operation, f"process {index} of {count}: {problem}", path, hint)
        else:
            text = "\n".join([describe(operation, f"{_count_of(failed)} of {count} processes failed"), *lines])
        raised = _class_of(answers)(text)
        if isinstance(raised, ProcessError):
            raised.processes = tuple(failed)
        raise raised from cause


def _told(error: BaseException) -> dict[str, Any]:
    """What other processes need to know of an error."""
    text = str(error) or type(error).__name__
    if not isinstance(error, StatevarError):
        text = f"{type(error).__name__}: {error}" if str(error) else text
    parts = list(getattr(error, "_parts", ())) if isinstance(error, StatevarError) else ["", text, "", ""]
    return {"class": type(error).__name__, "text": text, "parts": parts}


def _class_of(answers: Iterable[Any]) -> type[StatevarError]:
    """The class of the error that all processes raise, if some failed."""
    names = [each["error"]["class"] for each in answers if "error" in each]
    found: Any = getattr(errors, names[0], None)
    if CheckpointMismatchError.__name__ in names:  # the program is wrong, and an older checkpoint is no way out
        return CheckpointMismatchError
    is_ours = isinstance(found, type) and issubclass(found, StatevarError)
    return found if is_ours else ProcessError


def _count_of(failed: Iterable[int]) -> str:
    return str(len(list(failed)))
