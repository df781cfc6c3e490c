"""`load`: what was saved, back into variables; all of it or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

from .._arrays.dtypes import cast_host
from .._arrays.shapes import fits
from .._arrays.types import HostArray
from .._core import overlays
from .._core.variable import Variable
from .._public import public
from .._state.paths import paths_in
from .._state.transaction import Transaction
from ..errors import CheckpointError, CheckpointMismatchError, StatevarError, TraceError, describe
from ._checkpoint import Checkpoint, open_checkpoint
from ._match import LoadReport, Rename, matched, offered, patterns, problem_of
from ._pending import Pending

__all__ = ["load"]

_PathLike = str | os.PathLike[str]


@overload
def load(target: _PathLike, *, mmap: bool = False) -> Checkpoint: ...


@overload
def load(
    target: Any,
    path: _PathLike,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    cast: bool = False,
    only: str | Iterable[str] | None = None,
    on_create: bool = False,
) -> LoadReport: ...


@public()
def load(
    target: Any,
    path: _PathLike | None = None,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    cast: bool = False,
    only: str | Iterable[str] | None = None,
    on_create: bool = False,
    mmap: bool = False,
) -> LoadReport | Checkpoint:
    """Loads what `save` has saved, on any backend and device: into an object, or as a mapping of paths to arrays.

    Everything is read and checked first, then all variables change in one transaction: a load that fails changes none.
    Nothing in a file is ever executed.

    Args:
        target: what was saved, or what is built like it. A single variable takes a file with one, whatever its name.
            Alone, the path of a file: its arrays are read when asked for.
        path: of the file.
        strict: whether what is missing, unexpected or mismatched is an error. If not, the rest is loaded. Damage always
            is one.
        rename: the path in the object for a path in the file, or for what paths begin with; or a function that returns
            it, or None for what is not wanted.
        cast: whether another dtype is cast, by the rules of `Variable.assign`.
        only: a pattern, or several: the paths in the object to load, with ``*`` and ``?``.
        on_create: keeps what the object does not have yet, and fills it when it appears (`LoadReport.pending`): in a
            `Module` by itself, as long as the module lives; in a plain container as long as the report does.
        mmap: maps the file into memory instead of reading it. Quick, but not checked; and if somebody cuts the file
            short meanwhile, the system ends the process.

    Returns:
        What was found; without an object, the mapping.

    Raises:
        CheckpointError: the file is damaged.
        CheckpointMismatchError: it does not fit the object: one message names all that does not.
        CheckpointNotFoundError: there is no such file.
        StorageError: the system cannot read it.

    >>> import pathlib, tempfile
    >>> import statevar as sv
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> sv.save({"kernel": sv.Variable([1.0, 2.0]), "steps": sv.Variable(7)}, path)
    >>> model = {"weight": sv.Variable([0.0, 0.0], backend="torch"), "bias": sv.Variable(0.0)}
    >>> sv.load(model, path, rename={"kernel": "weight"}, strict=False)
    LoadReport(loaded=['weight'], missing=['bias'], unexpected=['steps'], mismatched={})
    >>> model["weight"].value.tolist()
    [1.0, 2.0]
    """
    if path is None:
        if not isinstance(target, str | os.PathLike):
            raise TypeError(
                describe("load", f"expected a path, got {type(target).__name__}", hint="sv.load(obj, path)")
            )
        return open_checkpoint(Path(target), mapped=mmap)
    if mmap:
        raise ValueError(describe("load", "mmap is for a load without an object", hint="sv.load(path, mmap=True)"))
    found = paths_in("load", target)
    checkpoint = open_checkpoint(Path(path))
    pending = False
    if isinstance(target, Variable) and len(checkpoint.variables) == 1 and rename is None:
        rename = dict.fromkeys(checkpoint.variables, target.path)  # alone on both sides, whatever their names
    try:
        offer = offered(checkpoint, rename)
        report, plan = matched(found, checkpoint, offer, patterns(only), cast=cast)
        if strict and only is not None and not plan and not report.problems():
            raise CheckpointMismatchError.of("load", f"nothing has a path like {only!r}", str(path))
        waiting = {name: offer.sources[name] for name in report.unexpected} if on_create else {}
        if on_create:
            report.unexpected = []
        values = _read(checkpoint, plan, report, cast=cast)
        if strict and (problems := report.problems()):
            raise CheckpointMismatchError(
                describe("load", "it does not fit the object, and nothing was loaded", str(path))
                + "\n"
                + "\n".join(problems)
            )
        _commit(values)
        report.loaded = [name for name in plan if name not in report.mismatched]
        if waiting:
            report._pending = Pending(
                target, checkpoint, waiting, lambda found: _fill(checkpoint, found, cast=cast), report.loaded
            )
            pending = True
        return report
    finally:
        if not pending:
            checkpoint.close()


def _read(
    checkpoint: Checkpoint, sources: Mapping[str, tuple[Variable, str]], report: LoadReport, *, cast: bool
) -> list[tuple[str, Variable, HostArray | None]]:
    """The values, checked; all damage is told of at once."""
    arrays = checkpoint.arrays({source for _, source in sources.values()})
    damaged = [str(array) for array in arrays.values() if isinstance(array, CheckpointError)]
    if damaged:
        raise CheckpointError("\n".join(damaged))
    values: list[tuple[str, Variable, HostArray | None]] = []
    taken = set()
    for path, (variable, source) in sources.items():
        array = arrays.get(source)
        assert not isinstance(array, CheckpointError)
        if array is not None:
            array = array.copy() if source in taken else array  # one tensor for several variables
            taken.add(source)
            if cast and checkpoint.variables[source].dtype != variable.dtype_name:
                try:
                    array = cast_host(array, variable.dtype_name, exact=False, operation="load", path=path)
                except StatevarError as error:
                    report.mismatched[path] = str(error)
                    continue
        values.append((path, variable, array))
    return values


def _commit(values: list[tuple[str, Variable, HostArray | None]]) -> None:
    if not values:
        return
    overlay: Any = overlays.current() if overlays.active else None
    if overlay is not None and overlay.holds_values:
        raise TraceError.of("load", "variables cannot be loaded inside a transformed function", hint="load before")
    paths = {variable: path for path, variable, _ in values}
    with Transaction(paths, paths.get) as transaction:
        for path, variable, value in values:
            cell = transaction._cell(variable)
            if value is not None and not fits(value.shape, cell._declared):  # it was changed since it was compared
                problem = f"expected shape {cell._declared}, got {value.shape}"
                raise CheckpointMismatchError.of("load", problem, path)
            cell._give(value)


def _fill(checkpoint: Checkpoint, wanted: dict[str, tuple[Variable, str]], *, cast: bool) -> None:
    """For variables that have appeared: what `load` does, of which nothing may be wrong."""
    report = LoadReport()
    for path, (variable, source) in wanted.items():
        if problem := problem_of(variable, checkpoint, [source], cast=cast):
            report.mismatched[path] = problem
    values = [] if report.mismatched else _read(checkpoint, wanted, report, cast=cast)
    if problems := report.problems():
        raise CheckpointMismatchError(
            describe("load", "what has appeared does not fit the file", str(checkpoint.path))
            + "\n"
            + "\n".join(problems)
        )
    _commit(values)
