"""The encoding of protocol buffers: fields with numbers, of which each is an integer or bytes.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from ..safetensors.header import refuse

__all__ = ["Message", "varint"]

_FIXED = {1: 8, 5: 4}


def varint(data: bytes, start: int, where: Any) -> tuple[int, int]:
    """Returns an integer of variable length, less than ``2**64``, and the offset behind it."""
    if start < len(data) and data[start] < 128:  # most are short
        return data[start], start + 1
    value = 0
    for i, octet in enumerate(data[start : start + 10]):
        value |= (octet & 127) << 7 * i
        if octet < 128 and not value >> 64:
            return value, start + i + 1
        if octet < 128:
            break
    return refuse("load", "an integer is too long, or cut short", where)


class Message:
    """A message of fields. What is not there has the default of its type: 0, no bytes, no message.

    Raises:
        CheckpointError: the bytes are no message, or a field is of another type than is asked for.
    """

    def __init__(self, data: bytes, where: Any) -> None:
        self._where = where
        self._fields: dict[int, list[int | bytes]] = {}
        at, size = 0, len(data)
        while at < size:
            key, at = varint(data, at, where)
            kind = key & 7
            value: int | bytes
            if kind == 0:
                value, at = varint(data, at, where)
            elif kind == 2:
                length, at = varint(data, at, where)
                value = data[at : at + length]
                at += length
            elif kind in _FIXED:
                value = int.from_bytes(data[at : at + _FIXED[kind]], "little")
                at += _FIXED[kind]
            else:
                refuse("load", "a field is of an unknown kind", where)
            self._fields.setdefault(key >> 3, []).append(value)
        if at > size:
            refuse("load", "a field is cut short", where)

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return field in self._fields

    def number(self, field: int) -> int:
        """Returns an unsigned integer."""
        value = self._fields.get(field, (0,))[-1]  # of several, the last one counts
        if not isinstance(value, int):
            self._is_of_another_type()
        return value

    def size(self, field: int) -> int:
        """Returns a signed integer that must not be negative."""
        value = self.number(field)
        if value >> 63:
            refuse("load", "a size is negative", self._where)
        return value

    def data(self, field: int) -> bytes:
        """Returns bytes."""
        value = self._fields.get(field, (b"",))[-1]
        if not isinstance(value, bytes):
            self._is_of_another_type()
        return value

    def text(self, field: int) -> str:
        """Returns a text."""
        return self.decoded(self.data(field))

    def message(self, field: int) -> Message:
        """Returns the message in a field."""
        return Message(self.data(field), self._where)

    def messages(self, field: int) -> Iterator[Message]:
        """Returns the messages of a field that occurs several times."""
        for each in self._fields.get(field, ()):
            if not isinstance(each, bytes):
                self._is_of_another_type()
            yield Message(each, self._where)

    def count(self, field: int) -> int:
        """Returns how often a field occurs."""
        return len(self._fields.get(field, ()))

    def decoded(self, data: bytes) -> str:
        """Returns bytes as a text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            refuse("load", "a name is not valid UTF-8", self._where)

    def _is_of_another_type(self) -> NoReturn:
        refuse("load", "a field is of another type", self._where)
