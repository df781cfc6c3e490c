"""`Cursor`: reads a header whose length is not known before it is parsed, without a look at the tensors between."""

from __future__ import annotations

import struct
from typing import NoReturn

from .reader import LONGEST_HEADER, ByteFile
from .safetensors.header import refuse

__all__ = ["Cursor"]

_AHEAD = 1 << 12  # bytes to read at once: more would be read in vain where tensors lie between the parts of a header


class Cursor:
    """A place in a file that moves forward.

    Args:
        file: the file.
        most_values: how many values the header may have, which `count` counts: a value of one byte takes a microsecond.
    """

    def __init__(self, file: ByteFile, most_values: int) -> None:
        self.file = file
        self.position = 0
        self._most_values = self._values_left = most_values
        self._memory = b""
        self._start = 0  # of the memory, in the file
        self._taken = 0

    def take(self, count: int) -> bytes:
        """Returns the next bytes, and moves behind them.

        Raises:
            CheckpointError: the file has no more bytes, or the header takes more than any program writes.
        """
        begin = self.position - self._start
        stop = begin + count
        self._taken += count
        if self._taken > LONGEST_HEADER:
            self.refuse(f"the header of the file takes more than {LONGEST_HEADER} bytes")
        if stop > len(self._memory):
            self.file.check(count, self.position)
            ahead = max(count, min(_AHEAD, self.file.size - self.position))
            self._memory, self._start = self.file.read(ahead, self.position), self.position
            begin, stop = 0, count
        self.position += count
        return self._memory[begin:stop]

    def ahead(self, count: int) -> bytes:
        """Returns the next bytes, fewer at the end of the file, and does not move."""
        count = min(count, self.rest())
        if self.position + count > self._start + len(self._memory):
            self._memory, self._start = self.file.read(count, self.position), self.position
        begin = self.position - self._start
        return self._memory[begin : begin + count]

    def skip(self, count: int) -> int:
        """Moves over bytes without reading them, and returns the place where they begin."""
        self.file.check(count, self.position)
        start = self.position
        self.position += count
        return start

    def count(self, values: int) -> None:
        """Raises CheckpointError if the header has more values than any program writes, with these."""
        self._values_left -= values
        if self._values_left < 0:
            self.refuse(f"the file has more than {self._most_values} values")

    def number(self, code: str) -> int:
        """Takes one number; ``code`` is its format, as `struct` names it."""
        value: int = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def rest(self) -> int:
        """Returns the number of bytes that follow."""
        return self.file.size - self.position

    def refuse(self, problem: str, hint: str = "") -> NoReturn:
        """Raises CheckpointError."""
        refuse("load", problem, self.file.path, hint)
