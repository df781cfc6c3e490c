"""What tests with injected faults share: an interrupt at a chosen moment, and what must be so after any fault."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import statevar as sv
from tests.helpers import PATIENCE, assert_same
from tests.internals import overlays

#: A case of a test: `KeyboardInterrupt`, in a process of its own.
INTERRUPT = pytest.param(KeyboardInterrupt, marks=pytest.mark.own_process(shared=True), id="KeyboardInterrupt")


def assert_free(*variables: sv.Variable) -> None:
    """Another thread can write them, together and alone, and everybody sees it."""
    versions = [v.version for v in variables]
    wrote = threading.Event()

    def write() -> None:
        for v in variables:
            v.assign_add(1.0)
        with sv.transaction(variables):
            for v in variables:
                v.assign_sub(1.0)
        sv.snapshot(variables)
        wrote.set()

    before = [v.numpy() for v in variables]
    threading.Thread(target=write, daemon=True).start()
    assert wrote.wait(PATIENCE), "another thread waits for ever: a lock or a hold is left"
    for v, value, version in zip(variables, before, versions, strict=True):
        assert_same(v, value)
        assert v.version >= version + 2, "two more writes have been counted"
        assert v._holder is None


@contextmanager
def nothing_happens(error: type[BaseException], *variables: sv.Variable) -> Iterator[None]:
    """The block raises the injected error; afterwards everything is as it was, and free.

    Only a write that Ctrl-C has stopped may be counted, since nobody can tell whether the value was written before.
    """
    before = [(v.numpy(), v.shape, v.version) for v in variables]
    with pytest.raises(error, match="injected"):
        yield
    for v, (value, shape, version) in zip(variables, before, strict=True):
        assert_same(v, value)
        assert v.shape == shape
        assert v.version - version in ((0,) if issubclass(error, Exception) else (0, 1))
    assert overlays.current() is None, "a transaction is still open"
    assert_free(*variables)


class Interrupt(KeyboardInterrupt):
    """Told apart from the user's own."""


_points: dict[CodeType, frozenset[int]] = {}


def points(code: CodeType) -> frozenset[int]:
    """Where CPython looks for signals: when a function begins, after a call, on a jump back.

    What it raises after a call goes to the handler of the call. Raised before the next instruction, it would go to
    that one's, so those are left out where they differ.
    """
    if code not in _points:
        table = dis._parse_exception_table(code)  # type: ignore[attr-defined]
        found: set[int] = set()
        before = None
        for each in dis.get_instructions(code):
            after = before is not None and (before.opname == "RESUME" or before.opname.startswith("CALL"))
            if each.opname == "JUMP_BACKWARD" or (after and _handler(table, each) == _handler(table, before)):
                found.add(each.offset)
            before = each
        _points[code] = frozenset(found)
    return _points[code]


def _handler(table: list[Any], instruction: Any) -> int | None:
    return next((each.target for each in table if each.start <= instruction.offset < each.end), None)


class Interruption:
    """Raises at the n-th place at which a signal could: in our code, and in the file of the test if that is given."""

    def __init__(self, nth: int, *files: str) -> None:
        self.left = nth
        self.where = ""
        self._sources = (str(Path(sv.__file__).parent), contextmanager.__code__.co_filename, *files)

    def run(self, function: Callable[[], object]) -> BaseException | None:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for this when the trace function is set
        sys.settrace(self._enter)
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # the caller looks at it
            return error
        finally:
            sys.settrace(before)
        return None

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.where or not frame.f_code.co_filename.startswith(self._sources) or _in_finalizer(frame):
            return None
        frame.f_trace = self._step  # Python 3.13 forgets that opcodes were asked for by a frame without one
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and not self.where and frame.f_lasti in points(frame.f_code):
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}, in {frame.f_code.co_name}"
                raise Interrupt
        return self._step


def _in_finalizer(frame: FrameType | None) -> bool:
    """Python drops what is raised there."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
