"""What processes do together: each does its part, and then all go on, or all raise an error that says whose failed.

Only short messages are exchanged, through the store of the engine that runs the processes (``_arrays/world.py``), so a
thread that writes a checkpoint does not wait for the program's own communication, nor disturb it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from .. import errors
from .._arrays.world import World, abandon, agree, current_world
from ..errors import CheckpointMismatchError, ProcessError, StatevarError, describe

__all__ = ["TIMEOUT", "Group", "Phase", "group_of"]

TIMEOUT = 600.0  #: seconds to wait for a process that is alive
_MOST = 20  # processes whose errors an error lists


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

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """A block in which each process does a part and then calls `Phase.agree`. An error before it is one of all.

        Raises:
            StatevarError: the part of another process failed. It is of the class of that error.
            ProcessError: a process is missing, or the part of another one failed with an error of another kind.
        """
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

    def agree(self, result: Any, decide: Callable[[list[Any]], Any] = lambda _: None) -> Any:
        """Waits until all processes have done their part, and returns what process 0 makes of their results.

        Args:
            result: of this process; it travels as JSON.
            decide: called in process 0 with the results of all, by index. What it returns travels as JSON too.

        Raises:
            StatevarError: the part of another process failed.
        """
        self.is_over = True
        if self._group.count == 1:
            return decide([result])
        failed, decision = self._tell({"result": result}, decide)
        if failed:
            self.failed = True
            self._raise(failed)
        return decision

    def fail(self, error: BaseException) -> None:
        """Tells the other processes of an error. Raises another one if those of several processes differ in kind."""
        self.is_over = True
        if self._group.count == 1:
            self.failed = True
            return
        if not isinstance(error, Exception):  # such as Ctrl-C, which waits for nobody
            assert self._group.world is not None
            with suppress(ProcessError):
                abandon(self._group.world, f"{self._group.name}/{self._name}", error)
                self.failed = True
            return
        failed: list[Any] = []
        with suppress(ProcessError):
            failed, _ = self._tell({"error": _told(error)}, lambda _: None)
            self.failed = True
        if failed and isinstance(error, StatevarError) and _class_of(failed) is not type(error):
            self._raise(failed, error)

    def _tell(self, message: dict[str, Any], decide: Callable[[list[Any]], Any]) -> tuple[list[Any], Any]:
        """Returns the processes that failed, each with its error, and what process 0 has decided if none did."""
        group = self._group
        assert group.world is not None

        def decided(told: list[bytes]) -> bytes:
            answers = [json.loads(each) for each in told]
            failed = [[index, each["error"]] for index, each in enumerate(answers) if "error" in each]
            return _json([failed, None if failed else decide([each["result"] for each in answers])])

        name = f"{group.name}/{self._name}"
        failed, decision = json.loads(agree(group.world, name, _json(message), decided, seconds=group.seconds))
        return failed, decision

    def _raise(self, failed: list[Any], cause: BaseException | None = None) -> NoReturn:
        """Raises an error that tells which processes failed, and why; of the same class in all processes."""
        count, operation = self._group.count, self._group.name.partition("/")[0]
        if len(failed) == 1 and failed[0][1]["parts"]:
            ((index, error),) = failed
            _, problem, path, hint = error["parts"]
            text = describe(operation, f"process {index} of {count}: {problem}", path, hint)
        else:
            lines = [f"process {index} of {count}: {error['text']}" for index, error in failed[:_MOST]]
            text = "\n".join([describe(operation, f"{len(failed)} of {count} processes failed"), *lines])
        raised = _class_of(failed)(text)
        if isinstance(raised, ProcessError):
            raised.processes = tuple(index for index, _ in failed)
        raise raised from cause


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _told(error: BaseException) -> dict[str, Any]:
    """What other processes need to know of an error."""
    text = str(error) or type(error).__name__
    if not isinstance(error, StatevarError):
        text = f"{type(error).__name__}: {error}" if str(error) else text
    parts = list(getattr(error, "_parts", ())) if isinstance(error, StatevarError) else ["", text, "", ""]
    return {"class": type(error).__name__, "text": text, "parts": parts}


def _class_of(failed: list[Any]) -> type[StatevarError]:
    """The class of the error that all processes raise, if some failed."""
    names = [error["class"] for _, error in failed]
    found: Any = getattr(errors, names[0], None)
    if CheckpointMismatchError.__name__ in names:  # the program is wrong, and an older checkpoint is no way out
        return CheckpointMismatchError
    is_ours = isinstance(found, type) and issubclass(found, StatevarError)
    return found if is_ours else ProcessError
