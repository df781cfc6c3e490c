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
        self._rounds: dict[str, itertools.count[int]] = {}

    @abstractmethod
    def set(self, key: str, value: bytes) -> None:
        """Stores a value, in place of one that the key may have.

        Raises:
            ProcessError: the store no longer answers.
        """

    @abstractmethod
    def get(self, key: str, seconds: float) -> bytes | None:
        """The value of a key, for which it waits if there is none; None if nobody has set it in that time.

        Raises:
            ProcessError: the store no longer answers.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes a key, if it exists.

        Raises:
            ProcessError: the store no longer answers.
        """

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
