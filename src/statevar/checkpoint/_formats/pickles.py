"""Reads a pickle as data. Nothing in it is executed, since there is nothing here that could execute it.

A pickle is a program for a machine with a stack: it makes numbers, texts and containers, and calls functions by name.
The module pickle runs such programs, and even with a table of allowed names it can be made to ask for gigabytes or to
crash the interpreter (a huge index of its memo; the hash of a tuple that is nested a million times). This machine knows
the operations that plain data needs, takes functions from a table of ours alone, never imports, and counts its steps.

Source: the module pickletools describes each operation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ...errors import CheckpointError
from .reader import LONGEST_HEADER
from .safetensors.header import refuse

__all__ = ["BUILTINS", "Name", "Named", "unpickled"]

_MOST_STEPS = 2_000_000  # a second; a file of torch has 42 for each tensor
_LONGEST_INTEGER = 1000  # bytes; the states of random generators have 624 integers of four bytes, none longer than 16
_MARK = object()


class Name:
    """A function or class that a pickle refers to, and what is made in its place when the pickle calls it.

    Args:
        full: its name.
        make: called with the arguments of the pickle; None if it may only be referred to.
    """

    __slots__ = ("full", "make")

    def __init__(self, full: str, make: Callable[..., Any] | None = None) -> None:
        self.full = full
        self.make = make


class Named:
    """An object of a class in the table whose parts are kept as they are in the pickle."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name = name
        self.args = args
        self.state: Any = {}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


def unpickled(
    content: bytes,
    table: Mapping[str, Name],
    where: Any,
    persistent: Callable[[Any], Any] | None = None,
    hint: str = "",
) -> Any:
    """Returns the object that a pickle describes.

    Args:
        content: the pickle.
        table: by full name, the functions and classes that it may refer to.
        where: the place to name in errors.
        persistent: returns the object for an identifier of an object that is stored elsewhere.
        hint: what to do with a pickle that refers to something else.

    Raises:
        CheckpointError: it is damaged, refers to a name that is not in the table, or is too large.
    """
    if len(content) > LONGEST_HEADER:
        refuse("load", f"the pickle has {len(content)} bytes, and the limit is {LONGEST_HEADER}", where)
    machine = _Machine(content, table, where, persistent, hint)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeError):
        refuse("load", "the pickle is damaged", where)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        refuse("load", f"the pickle is damaged, or of a kind that is not known ({str(error)[:100]})", where)


class _Machine:
    def __init__(
        self,
        content: bytes,
        table: Mapping[str, Name],
        where: Any,
        persistent: Callable[[Any], Any] | None,
        hint: str,
    ) -> None:
        self.content = content
        self.place = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.table = table
        self.where = where
        self.persistent = persistent
        self.hint = hint
        self.left = _MOST_STEPS
        self.free = len(content)  # bytes that functions may make: a text of the pickle is encoded once

    def run(self) -> Any:
        content, operations, length = self.content, _OPERATIONS, len(self.content)
        while self.place < length and (operation := content[self.place]) != _STOP:
            self.place += 1
            self.left -= 1
            if self.left < 0:
                self.refuse(f"the pickle has more than {_MOST_STEPS} steps")
            known = operations.get(operation)
            if known is None:
                self.refuse(f"the pickle has an operation that data does not need ({bytes([operation])!r})", self.hint)
            known(self)
        if self.place >= length:
            self.refuse("the pickle is cut short")
        return self.stack.pop()

    def refuse(self, problem: str, hint: str = "") -> NoReturn:
        refuse("load", problem, self.where, hint)

    def charge(self, count: int) -> None:
        """Counts the steps of work that takes longer than an operation."""
        self.left -= count

    def take(self, count: int) -> bytes:
        start = self.place
        self.place = start + count
        if count < 0 or self.place > len(self.content):
            self.refuse("the pickle is cut short")
        return self.content[start : self.place]

    def byte(self) -> int:
        self.place += 1
        return self.content[self.place - 1]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.content.index(b"\n", self.place, self.place + 1000)
        text = self.content[self.place : end].decode()
        self.place = end + 1
        return text

    def above_mark(self) -> list[Any]:
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        items = stack[at + 1 :]
        del stack[at:]
        self.charge(len(items) >> 2)
        return items

    # -- values ------------------------------------------------------------------------------------------------------

    def integer(self, width: int) -> None:
        if width > _LONGEST_INTEGER:
            self.refuse(f"the pickle has an integer of {width} bytes")
        self.stack.append(int.from_bytes(self.take(width), "little", signed=True))

    def text(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)).decode("utf-8", "surrogatepass"))

    def old_text(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)).decode("latin1"))

    def bytes_(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    # -- containers --------------------------------------------------------------------------------------------------

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            self.refuse("the pickle appends to what is no list")
        target += items

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2 or type(target) is not dict:
            self.refuse("the pickle sets items of what is no dict")
        for i in range(0, len(items), 2):
            key = items[i]
            if not _is_key(key):
                self.refuse("a key of a dict in the pickle is neither a text nor a number", self.hint)
            target[key] = items[i + 1]

    def as_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def as_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count or _MARK in items:
            raise IndexError
        self.stack[-count:] = [items]

    # -- names -------------------------------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        found = self.table.get(full) if type(module) is type(name) is str else None
        if found is None:
            problem = f"the pickle refers to {full!r:.100}, which may be code; nothing was executed"
            self.refuse(problem, self.hint)
        self.stack.append(found)

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        if type(called) is not Name or called.make is None or type(args) is not tuple:
            self.refuse("the pickle calls what is no function of data", self.hint)
        self.charge(1 + _work(args))
        made = called.make(*args)
        if type(made) is bytes:
            self.free -= len(made)
            if self.free < 0:
                self.refuse("the pickle makes more bytes than it has")
        self.stack.append(made)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Named):
            target.state = state
        elif type(target) is not dict or type(state) not in (dict, tuple):  # attributes of a dict: versions of torch
            self.refuse("the pickle sets attributes of what has none")

    def stored_elsewhere(self) -> None:
        if self.persistent is None:
            self.refuse("the pickle refers to an object that is not in it")
        self.stack.append(self.persistent(self.stack.pop()))

    # -- the memo ----------------------------------------------------------------------------------------------------

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _is_key(key: Any) -> bool:
    """Whether a key of a dict is plain. Its hash takes no recursion, and nobody can choose many with the same hash."""
    if isinstance(key, int):
        return -_LARGEST_KEY < key < _LARGEST_KEY
    if isinstance(key, tuple):
        return len(key) <= _LONGEST_KEY and all(type(each) in (str, type(None)) for each in key)
    return type(key) in _KEYS


_KEYS: tuple[type, ...] = (str, float, bytes, type(None), Named)
_LARGEST_KEY = 1 << 60  # the hash of an integer is its remainder by 2**61 - 1
_LONGEST_KEY = 64


def _work(args: tuple[Any, ...]) -> int:
    """The steps that a function of the table may take for its arguments: it may copy them once."""
    containers = sum(len(each) for each in args if type(each) in (list, tuple, dict))
    return 4 * containers + sum(len(each) >> 6 for each in args if type(each) in (str, bytes))


_STOP = ord(".")

_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda m: m.take(1),  # the version
        "\x95": lambda m: m.take(8),  # the length of what follows, to read ahead
        "(": lambda m: m.push(_MARK),
        "0": lambda m: m.stack.pop(),
        "1": lambda m: m.above_mark(),
        "2": lambda m: m.push(m.stack[-1]),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.integer(4),
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.integer(m.byte()),
        "\x8b": lambda m: m.integer(m.number(4)),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "X": lambda m: m.text(4),
        "\x8c": lambda m: m.text(1),
        "\x8d": lambda m: m.text(8),
        "T": lambda m: m.old_text(4),
        "U": lambda m: m.old_text(1),
        "B": lambda m: m.bytes_(4),
        "C": lambda m: m.bytes_(1),
        "\x8e": lambda m: m.bytes_(8),
        "\x96": lambda m: m.bytes_(8),
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "}": lambda m: m.push({}),
        "\x8f": lambda m: m.push([]),  # a set, which JSON lacks too
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.above_mark()),
        "\x90": lambda m: m.append(m.above_mark()),
        "s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        "u": lambda m: m.set_items(m.above_mark()),
        "t": lambda m: m.push(tuple(m.above_mark())),
        "l": lambda m: m.push(m.above_mark()),
        "\x91": lambda m: m.push(m.above_mark()),
        "d": lambda m: m.as_dict(m.above_mark()),
        "\x85": lambda m: m.as_tuple(1),
        "\x86": lambda m: m.as_tuple(2),
        "\x87": lambda m: m.as_tuple(3),
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": lambda m: m.stack_name(),
        "R": lambda m: m.call(),
        "\x81": lambda m: m.call(),  # a class instead of a function
        "b": lambda m: m.build(),
        "Q": lambda m: m.stored_elsewhere(),
        "h": lambda m: m.get(m.byte()),
        "j": lambda m: m.get(m.number(4)),
        "q": lambda m: m.put(m.byte()),
        "r": lambda m: m.put(m.number(4)),
        "\x94": lambda m: m.put(len(m.memo)),
    }.items()
}


# -- functions of Python that data needs -------------------------------------------------------------------------------


def _items(*args: Any) -> list[Any]:
    """A set or list, made of another one, which is not copied: that could be repeated for ever."""
    items = args[0] if args else []
    if len(args) > 1 or type(items) not in (list, tuple):
        raise TypeError
    return items if type(items) is list else list(items)


def _queue(items: Any = (), longest: Any = None) -> list[Any]:
    return _items(items)


def _mapping(*args: Any) -> dict[Any, Any]:
    """A dict, made of nothing, of another one or of pairs."""
    found: dict[Any, Any] = {}
    for arg in args:
        pairs = arg.items() if type(arg) is dict else arg
        for key, value in pairs:
            if not _is_key(key):
                raise TypeError
            found[key] = value
    return found


def _default_mapping(*args: Any) -> dict[Any, Any]:
    return _mapping(*args[1:])


def _encoded(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if not args:
        return b""
    if type(args[0]) is bytes and len(args) == 1:
        return args[0]
    return _encoded(*args)


def _complex(real: Any, imaginary: Any) -> list[float]:
    if not type(real) is type(imaginary) is float:
        raise TypeError
    return [real, imaginary]


def _path(*parts: Any) -> str:
    if len(parts) > _LONGEST_KEY or sum(len(part) for part in parts) > _LONGEST_PATH:
        raise ValueError
    return "/".join(parts)


_LONGEST_PATH = 10_000


def _namespace(*args: Any) -> Named:
    return Named("argparse.Namespace", args)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "argparse.Namespace": _namespace,
    "collections.Counter": _mapping,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _default_mapping,
    "collections.deque": _queue,
    **{
        f"{module}.AttributeDict": _mapping
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
        )
    },
    **{f"pathlib.{name}": _path for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")},
}
for _module in ("builtins", "__builtin__"):
    _FUNCTIONS |= {f"{_module}.{name}": _items for name in ("frozenset", "list", "set")}
    _FUNCTIONS |= {f"{_module}.{name}": _bytes for name in ("bytearray", "bytes")}
    _FUNCTIONS |= {f"{_module}.complex": _complex, f"{_module}.dict": _mapping}
#: The names of Python that data refers to: containers, and what they are made of.
BUILTINS: dict[str, Name] = {name: Name(name, make) for name, make in _FUNCTIONS.items()}
BUILTINS |= {
    f"{module}.{name}": Name(f"{module}.{name}")
    for module in ("builtins", "__builtin__")
    # "long" and "unicode" are int and str in pickles of protocol 2, which torch writes
    for name in ("bool", "float", "int", "long", "object", "str", "tuple", "unicode")
}
