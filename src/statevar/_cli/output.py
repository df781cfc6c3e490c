"""Writes to the standard output: text that every terminal and encoding can show, colour, and JSON."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

import numpy as np

from .._arrays.types import HostArray
from .._core.tables import columns, escaped, width_of
from ..errors import StatevarError, describe

__all__ = [
    "bars",
    "colored",
    "complain",
    "has_rich",
    "message",
    "of_numpy",
    "plain",
    "reason",
    "say",
    "say_json",
    "say_table",
    "width",
]

_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#@"
_COLORS = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2"}


def say(text: str = "") -> None:
    """Prints a line. Characters that the encoding of the output lacks are escaped.

    What comes from a file must have passed `statevar._core.tables.escaped` before.
    """
    encoding = _encoding(sys.stdout)
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Prints a table, whose cells are escaped. In a terminal its first column is cut so that each row is one line.

    Args:
        heads: the head of each column.
        rows: the cells of each row.
        right: the heads of the columns that are aligned on the right.
        spare: the heads of columns that a narrow terminal does without, the first one first.
    """
    room, cut = width(), "…" if _is_utf(sys.stdout) else "~"
    table = list(rows)
    for count in range(len(spare) + 1):
        kept = [at for at, head in enumerate(heads) if head not in spare[:count]]
        cells = [[row[at] for at in kept] for row in table]
        head, *lines = columns([heads[at] for at in kept], cells, right=right, width=room, cut=cut)
        if room is None or max(map(width_of, [head, *lines])) <= room:
            break
    say(colored(head, "bold"))
    for line in lines:
        say(line)


def say_json(value: Any) -> None:
    """Prints a value as one line of JSON, in ASCII, so that no encoding and no terminal can spoil it."""
    print(json.dumps(plain(value), allow_nan=False))


def complain(command: str, problem: object) -> None:
    """Prints a line about a problem to the standard error."""
    print(f"statevar {message(command, problem)}", file=sys.stderr)


def message(command: str, problem: object) -> str:
    """A problem as one line that begins with the name of the command, which stands for the operation of an error."""
    if isinstance(problem, StatevarError):
        return escaped(problem._at(command, ""))
    if isinstance(problem, OSError) and problem.strerror:
        return escaped(describe(command, f"the system said {problem.strerror}", str(problem.filename or "the output")))
    return f"{command}: {escaped(problem)}"


def reason(error: StatevarError) -> str:
    """What an error says without its operation and place, which the reader of a list knows."""
    parts = getattr(error, "_parts", None)
    return str(error) if parts is None else str(parts[1])


def plain(value: Any) -> Any:
    """A value as JSON has it: what is not finite is None, a complex number is a list of two, an array is lists.

    >>> plain({"a": np.float32(0.5), "b": [float("nan"), 1j], "c": np.zeros((1, 2), int)})
    {'a': 0.5, 'b': [None, [0.0, 1.0]], 'c': [[0, 0]]}
    """
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    if isinstance(value, np.ndarray):
        return plain(of_numpy(value).tolist())
    if isinstance(value, np.generic):
        return plain(np.asarray(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Iterable):
        return [plain(each) for each in value]
    return str(value)


def of_numpy(array: HostArray) -> HostArray:
    """An array of a dtype of ml_dtypes, in one of NumPy's dtypes that has the same numbers; any other as it is."""
    if array.dtype.kind in "biufcOUST":
        return array
    return array.astype(np.int8 if "int" in array.dtype.name else np.float32)


def bars(counts: Sequence[int]) -> str:
    """A histogram as one line of bars. A bin with anything in it has at least the smallest bar."""
    heights = _BARS if _is_utf(sys.stdout) else _ASCII_BARS
    most = max(counts, default=0) or 1
    return "".join(heights[each and max(1, round(each / most * (len(heights) - 1)))] for each in counts)


def colored(text: str, style: Literal["bold", "red", "green", "yellow", "cyan", "dim"]) -> str:
    """A text in a colour, where the standard output shows colours."""
    return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if _shows_colors(sys.stdout) else text


def _shows_colors(stream: TextIO) -> bool:
    """Whether to use colours: https://no-color.org, https://force-color.org, and Python's own order of the two."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_rich() -> bool:
    """Whether `rich` is installed. A folder of that name, which Python takes for a package, is not enough."""
    try:
        import rich.console  # noqa: F401  # which takes as long as all the rest
    except ImportError:
        return False
    return True


def width() -> int | None:
    """The number of columns of the terminal; None if the output is a file or a pipe, where lines have any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _is_utf(stream: TextIO) -> bool:
    return _encoding(stream).lower().replace("-", "").startswith("utf")
