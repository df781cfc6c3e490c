"""`statevar show`: a value, or a part of one, after its checksum has been compared."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from .._arrays.types import HostArray
from .._core.tables import escaped, shape_text
from ..checkpoint._checkpoint import Checkpoint
from .exits import CommandError, Exit
from .options import add_json, add_path, completed_by_names
from .output import complain, of_numpy, plain, say, say_json, width
from .paths import close_to, opened
from .reading import first_name, part
from .target import Target, target

__all__ = ["arguments", "run"]

_ABRIDGED = 1000  # elements, as NumPy has it
_COLUMNS = 120


def arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    text = "the path of a variable, and an index if you like: 'encoder/kernel[0, :5]'"
    text += " (may be left out if there is only one)"
    completed_by_names(parser.add_argument("target", metavar="TARGET", nargs="?", help=text))
    parser.add_argument("--all", action="store_true", help=f"print all elements, also of more than {_ABRIDGED:,}")
    parser.add_argument("--npy", action="store_true", help="write the array in the format of NumPy")
    add_json(parser)
    text = "do not read all of a large array to compare its checksum, when only a part of it is shown"
    parser.add_argument("--unchecked", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    if options.npy and options.json:
        raise CommandError("--npy and --json are two forms of the output", hint="leave out one of them")
    if options.npy and sys.stdout.isatty():
        raise CommandError("--npy writes bytes, which a terminal cannot show", hint="add > array.npy")
    with opened(options.path, options.step) as checkpoint:
        wanted = _wanted(checkpoint, options.target, options.path)
        array, checked = part(checkpoint, wanted, unchecked=options.unchecked)
        has_checksum = checkpoint.checksum(wanted.name) is not None
        if options.npy:
            _write_npy(array)
        elif options.json:
            dtype = checkpoint.variables[wanted.name].dtype
            facts = {"path": str(checkpoint.path), "name": wanted.name, "index": wanted.text or None}
            say_json({**facts, "dtype": dtype, "shape": array.shape, "checked": checked, "value": plain(array)})
        else:
            _print(array, all_=options.all)
        if has_checksum and not checked:
            complain("show", f"the checksum of {wanted.name!r} was not compared (--unchecked)")
    return Exit.OK


def _wanted(checkpoint: Checkpoint, text: str | None, where: str) -> Target:
    """The variable that a text means, by its first name.

    Raises:
        CommandError: there is none, or it has no value.
    """
    names = list(checkpoint.variables)
    if text is None:
        if len(names) != 1:
            problem = f"{where} has {len(names)} variables, so one has to be named"
            raise CommandError(problem, hint=f"statevar ls {where}")
        found: Target | None = Target(names[0], ..., "")
    else:
        found = target(text, lambda name: first_name(checkpoint, name) is not None)
    if found is None:
        name = text or ""
        below = next((each for each in names if each.startswith(f"{name}/")), None)
        near = below or close_to(name.partition("[")[0], names)
        hint = f"did you mean {near!r}?" if near else f"statevar ls {where}"
        raise CommandError(f"{where} has no variable {name!r}", Exit.MISSING, hint)
    first = first_name(checkpoint, found.name)
    assert first is not None
    if checkpoint.variables[first].shape is None:
        raise CommandError(f"{first!r} was saved without a value, in {where}", Exit.MISSING)
    return found._replace(name=first)


def _print(array: HostArray, *, all_: bool) -> None:
    abridged = array.size > _ABRIDGED and not all_
    threshold = _ABRIDGED if abridged else sys.maxsize
    columns = width() or _COLUMNS
    array = of_numpy(array)
    with np.printoptions(threshold=threshold, linewidth=columns, floatmode="unique"):
        text = str(array) if array.ndim else str(array.item())
    for line in text.split("\n") if array.dtype.kind != "T" else _texts(array, threshold):
        say(escaped(line))
    if abridged:
        complain("show", f"abridged: {array.size:,} elements ({shape_text(array.shape)}); --all prints all of them")


def _texts(array: HostArray, most: int) -> list[str]:
    """Texts, which may have line ends of their own: each is a line, as Python writes it."""
    return [ascii(each) if each.isascii() else repr(each) for each in array.reshape(-1)[:most].tolist()]


def _write_npy(array: HostArray) -> None:
    """Writes an array in the format of NumPy, which has neither the dtypes of ml_dtypes nor texts of any length."""
    name = array.dtype.name
    if array.dtype.kind == "T":
        texts = array.reshape(-1).tolist()
        if any(each.endswith("\0") for each in texts):
            raise CommandError("NumPy's files cannot keep texts that end with NUL", hint="use --json")
        array = np.array(texts, np.str_).reshape(array.shape)
    elif array.dtype.kind not in "biufc":
        array = of_numpy(array)
        complain("show", f"{name} is written as {array.dtype}, which has the same numbers; NumPy's files lack {name}")
    np.lib.format.write_array(_Output(), np.asarray(array, order="C"), allow_pickle=False)


class _Output:
    """The standard output for NumPy, which says nothing of the reason if a file of the system takes no more bytes."""

    def write(self, content: bytes) -> int:
        """Writes all of some bytes."""
        return sys.stdout.buffer.write(content)
