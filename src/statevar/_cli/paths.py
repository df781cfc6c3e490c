"""From a path on the command line to an open checkpoint, the names in it, and their values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from .._arrays.dtypes import STORED
from .._state.paths import path_matches
from ..checkpoint import _files
from ..checkpoint._checkpoint import Checkpoint, open_checkpoint
from ..checkpoint._formats.others import steps_of_orbax
from ..checkpoint._formats.reader import numpy_dtype
from ..checkpoint._formats.safetensors.index import INDEX
from ..checkpoint._formats.safetensors.values import VariableRecord
from ..checkpoint._step_folder import StepFolder
from .exits import CommandError, Exit

__all__ = [
    "close_to",
    "is_known",
    "main_file",
    "nbytes_of",
    "opened",
    "place_of",
    "selected",
    "size_of",
    "steps_in",
]


def opened(path: str, step: int | None = None) -> Checkpoint:
    """Opens a checkpoint at any path that the library reads: a file, a folder, or a step of a manager's folder.

    No array is read. Those that are looked up are in the mapped memory of the file, without a check, which
    `reading.checked` makes.

    Args:
        path: the path.
        step: the step of a manager's folder; None for the newest.
    """
    return open_checkpoint(place_of(path, step), mapped=True)


def place_of(path: str, step: int | None = None) -> Path:
    """The path to open: that of a step if the path is the folder of a manager, else the path itself.

    Raises:
        CommandError: there is no such step, or it means a pool.
    """
    place = _files.path_of("load", path)
    if path.startswith("shared:") and not main_file(place).exists():
        problem = f"this command reads files, and {path!r} means variables that processes share"
        hint = "statevar ls and statevar watch take them; in a program, sv.attach(model, name), and sv.save for a file"
        raise CommandError(problem, Exit.USAGE, hint)
    steps = steps_in(place)
    if step is None:
        return steps[max(steps)] if steps else place
    if step in steps:
        return steps[step]
    if not steps:
        if not main_file(place).exists():
            raise CommandError(f"there is nothing at {path}", Exit.MISSING)
        raise CommandError(f"{path} is not the folder of a manager, so it has no step {step}", Exit.USAGE)
    known = ", ".join(map(str, [*steps][-5:]))
    raise CommandError(f"{path} has no step {step}", Exit.MISSING, f"its newest steps are {known}")


def main_file(place: Path) -> Path:
    """The file whose replacement makes another checkpoint of what is at a path: an index if there is one."""
    index = place / INDEX if place.is_dir() else place.with_name(f"{place.name}.index")  # of a prefix of TensorFlow
    return index if index.is_file() and (place.is_dir() or not place.exists()) else place


def steps_in(folder: Path) -> dict[int, Path]:
    """The paths of the steps in the folder of a manager, of ours or of orbax, in order; none if it is anything else."""
    if not folder.is_dir() or (folder / "index.json").exists():
        return {}
    with _files.os_errors_as("load", folder):
        own = StepFolder(folder, locks=False)
        return {step: own.path(step) for step in own.steps()} or steps_of_orbax(folder)


def selected(names: Iterable[str], only: Sequence[str] | None, where: str) -> list[str]:
    """The names that match one of the patterns of ``--only``, or all names, in their order.

    Raises:
        CommandError: a pattern matches no name.
    """
    names = list(names)
    if not only:
        return names
    for pattern in only:
        if not any(map(path_matches(pattern), names)):
            near = close_to(pattern, names)
            hint = f"did you mean {near!r}?" if near else f"statevar ls {where}"
            raise CommandError(f"no name in {where} matches --only {pattern!r}", Exit.MISSING, hint)
    return [*filter(path_matches(only), names)]


def close_to(name: str, names: Iterable[str]) -> str | None:
    """The name that is most like another one, which may be a typing error; None if there is none."""
    return next(iter(difflib.get_close_matches(name, list(names)[:10_000], 1, 0.7)), None)


def is_known(record: VariableRecord) -> bool:
    """Whether variables can have the dtype of what is in a file. Else its value is whole, and cannot be read here."""
    return record.dtype in STORED


def size_of(record: VariableRecord) -> int:
    """The number of elements; 0 if the variable has no value."""
    return 0 if record.shape is None else math.prod(record.shape)


def nbytes_of(record: VariableRecord) -> int | None:
    """The bytes of the value in memory; None if they are not known: of strings, and of what cannot be read."""
    if record.shape is None:
        return 0
    if record.dtype == "string":
        return None
    try:
        dtype = STORED[record.dtype] if record.dtype in STORED else numpy_dtype(record.dtype)
    except AttributeError:
        return None
    return math.prod(record.shape) * dtype.itemsize
