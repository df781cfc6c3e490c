"""The contract with what runs a program in several processes: the engine of a library, and this process in it."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from ..errors import ProcessError
from .heartbeat import Heartbeat

__all__ = ["Engine", "World"]

_LARGEST = 2 << 20  # bytes of a value in one message, half of the limit of the strictest store
_WHOLE, _CUT = b"=", b"/"  # what a value begins with
_SOON = 30.0  # seconds for a key that was set before one that was found


class World(ABC):
    """This process among the processes of its program.

    Args:
        index: the number of this process, from 0.
        count: the number of processes.
    """

    #: The library whose processes they are, for errors.
    engine: ClassVar[str]

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self.process = os.getpid()
        self.heartbeat = Heartbeat(self)
        #: The seconds of silence after which each process that was ever heard of is dead.
        self.met: dict[int, float] = {}
        self._rounds: dict[str, itertools.count[int]] = {}
        self._parts: dict[str, int] = {}  # in how many the values were cut that were read here

    @abstractmethod
    def _set(self, key: str, value: bytes) -> None:
        """Stores a value of at most a few MiB, in place of one that the key may have.

        Raises:
            ProcessError: the store no longer answers.
        """

    @abstractmethod
    def _get(self, key: str, seconds: float) -> bytes | None:
        """The value of a key, for which it waits if there is none; None if nobody has set it in that time.

        Raises:
            ProcessError: the store no longer answers.
        """

    @abstractmethod
    def _delete(self, key: str) -> None:
        """Deletes a key, if it exists.

        Raises:
            ProcessError: the store no longer answers.
        """

    def set(self, key: str, value: bytes) -> None:
        """Stores a value of any size, in place of one that the key may have. Errors are those of `get`."""
        if len(value) <= _LARGEST:
            self._set(key, _WHOLE + value)
            return
        starts = range(0, len(value), _LARGEST)
        for number, start in enumerate(starts):
            self._set(f"{key}/{number}", value[start : start + _LARGEST])
        self._set(key, _CUT + str(len(starts)).encode())

    def get(self, key: str, seconds: float) -> bytes | None:
        """The value of a key, for which it waits if there is none; None if nobody has set it in that time.

        Raises:
            ProcessError: the store no longer answers.
        """
        found = self._get(key, seconds)
        if found is None or found[:1] == _WHOLE:
            return found and found[1:]
        self._parts[key] = int(found[1:])
        parts = [self._get(f"{key}/{number}", _SOON) for number in range(self._parts[key])]
        return b"".join(part for part in parts if part is not None)

    def delete(self, key: str) -> None:
        """Deletes a key that this process has read or set, if it exists. Errors are those of `get`."""
        self._delete(key)
        for number in range(self._parts.pop(key, 0)):
            self._delete(f"{key}/{number}")

    def is_over(self) -> bool:
        """Whether the program has ended the engine, or has started another one."""
        return False

    def round(self, name: str) -> str:
        """A name for this use of a name, the same in every process: the calls of each name are counted."""
        return f"{name}#{next(self._rounds.setdefault(name, itertools.count()))}"

    def gone(self, error: BaseException) -> ProcessError:
        """The error for a store that no longer answers."""
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return ProcessError.of(
            "processes",
            f"the store of {self.engine}, through which {self.count} processes speak, does not answer ({text:.200})",
            hint="the process that hosts it has ended, which is mostly process 0: start the program again",
        )


class Engine(ABC):
    """What a library runs the processes of a program with: ``ENGINE`` in the ``world.py`` of its adapter."""

    @abstractmethod
    def world(self) -> World | None:
        """This process, if the engine runs; each time the same object. Starts nothing."""

    @abstractmethod
    def asked(self, environment: Mapping[str, str]) -> int | None:
        """The number of processes that the environment asks for; None if it does not mention this engine.

        Raises:
            ProcessError: a part of the environment is missing or wrong.
        """

    @abstractmethod
    def start(self, environment: Mapping[str, str], seconds: float) -> None:
        """Starts the engine as the environment asks. Called once, if it asks for more than one process.

        Raises:
            ProcessError: the others did not come in this time, or the library has refused.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ends the engine, if it runs."""
