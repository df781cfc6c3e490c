"""`load`: what was saved, back into variables; all of it or nothing. `verify`: whether it is whole."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, overload

from .. import _scopes
from .._backend import HostArray
from .._collect import Paths, paths_in
from .._dtypes import cast_host
from .._shapes import fits
from .._variable import Variable
from ..errors import CheckpointError, CheckpointMismatchError, StatevarError, TraceError, describe
from ..transactions import transaction
from ._archive import Checkpoint, aliases_of, followed, open_checkpoint
from ._pending import Pending

__all__ = ["LoadReport", "Verification", "load", "verify"]

_PathLike = str | os.PathLike[str]
Rename = Mapping[str, str] | Callable[[str], str | None]


@dataclass
class LoadReport:
    """What a load found. Paths are those of the object, after renaming.

    Attributes:
        loaded: what has its value from the file now.
        missing: variables of the object that the file does not have.
        unexpected: what the file has, and the object does not.
        mismatched: what is in both, and does not fit; with the reason.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    _pending: Pending | None = field(default=None, repr=False)

    @property
    def pending(self) -> list[str]:
        """What waits for its variable to be made, of a load with ``on_create``."""
        return [] if self._pending is None else self._pending.paths()

    def fill(self) -> list[str]:
        """Looks for variables that were made since, and fills them; returns their paths.

        That happens by itself when one is set as an attribute of a `Module`, not when it is put into a list or dict.
        """
        return [] if self._pending is None else self._pending.fill()

    def assert_consumed(self) -> None:
        """Raises CheckpointMismatchError if something of the file was not used."""
        self.fill()
        left = self.pending or self.unexpected
        if left:
            raise CheckpointMismatchError(describe("load", f"nothing has taken up {_listed(left)}"))

    def _problems(self) -> list[str]:
        lines = [f"  mismatched  {path}: {why}" for path, why in self.mismatched.items()]
        lines += [f"  missing     {path}" for path in self.missing]
        lines += [f"  unexpected  {path}{self._advice(path)}" for path in self.unexpected]
        return lines

    def _advice(self, path: str) -> str:
        near = difflib.get_close_matches(path, self.missing, 1) if len(self.missing) <= 200 else []
        return f"  (rename={{{path!r}: {near[0]!r}}}?)" if near else ""


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
        target: what was saved, or what is built like it. Alone, the path of a file: its arrays are read when asked for.
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
        return open_checkpoint(Path(target), mapped=mmap)
    if mmap:
        raise ValueError(describe("load", "mmap is for a load without an object", hint="sv.load(path, mmap=True)"))
    found = paths_in("load", target)
    checkpoint = open_checkpoint(Path(path))
    pending = False
    try:
        offer = _offered(checkpoint, rename)
        report, plan = _matched(found, checkpoint, offer, _patterns(only), cast=cast)
        waiting = {name: offer.sources[name] for name in report.unexpected} if on_create else {}
        if on_create:
            report.unexpected = []
        values = _read(checkpoint, plan, report, cast=cast)
        if strict and (problems := report._problems()):
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


@dataclass
class _Offer:
    """What a file has, by the paths that it has after renaming."""

    #: By path: the path in the file.
    sources: dict[str, str]
    aliases: dict[str, str]

    def find(self, path: str) -> str | None:
        """The path in the file of what a path leads to, if anything."""
        return self.sources.get(followed(path, self.aliases))


def _offered(checkpoint: Checkpoint, rename: Rename | None) -> _Offer:
    offer = _Offer({}, {})
    for source in checkpoint.variables:
        path = _renamed(source, rename)
        if path is None:
            continue
        if path in offer.sources:
            raise CheckpointMismatchError(
                describe(
                    "load", f"rename gives {path!r} to {offer.sources[path]!r} and to {source!r}", str(checkpoint.path)
                )
            )
        offer.sources[path] = source
    for alias, first in checkpoint.aliases.items():
        if rename is not None and not isinstance(rename, Mapping) and first not in checkpoint.variables:
            continue  # it stands for all that is below it, of which a function knows nothing
        path, target = _renamed(alias, rename), _renamed(first, rename) if first else first
        if path is not None and target is not None and path not in offer.sources:
            offer.aliases[path] = target
    return offer


def _matched(
    found: Paths, checkpoint: Checkpoint, offer: _Offer, wanted: Callable[[str], bool], *, cast: bool
) -> tuple[LoadReport, dict[str, tuple[Variable, str]]]:
    """What is to be loaded: by path in the object, the variable and the path in the file."""
    report = LoadReport()
    sources: dict[str, list[str]] = {path: [] for path in found.variables}
    for path, known in sources.items():
        if (source := offer.find(path)) is not None:
            known.append(source)
    aliases = aliases_of(found)
    taken = {source for known in sources.values() for source in known}
    for path, source in offer.sources.items():
        if source in taken:
            continue
        here = followed(path, aliases)
        if here in sources:
            sources[here].append(source)
        elif wanted(path):
            report.unexpected.append(path)
    plan = {}
    for path, known in sources.items():
        if not wanted(path):
            continue
        if not known:
            report.missing.append(path)
        elif problem := _problem(found.variables[path], checkpoint, known, cast=cast):
            report.mismatched[path] = problem
        else:
            plan[path] = found.variables[path], known[0]
    return report, plan


def _problem(variable: Variable, checkpoint: Checkpoint, sources: list[str], *, cast: bool) -> str:
    saved = checkpoint.variables[sources[0]]
    if len(sources) > 1 and len({checkpoint.checksum(each) or each for each in sources}) > 1:
        return f"one variable here, and different ones in the file: {', '.join(sources)}"
    if saved.dtype != variable.dtype_name and not cast:
        return f"expected {variable.dtype_name}, got {saved.dtype}; pass cast=True to cast it"
    if saved.shape is not None and not fits(saved.shape, variable.declared_shape):
        return f"expected shape {variable.declared_shape}, got {saved.shape}"
    return ""


def _renamed(path: str, rename: Rename | None) -> str | None:
    if rename is None:
        return path
    if not isinstance(rename, Mapping):
        return rename(path)
    head = path
    while head:  # the longest that is named
        if head in rename:
            return (rename[head] + path[len(head) :]).strip("/")
        head = head.rpartition("/")[0]
    return path


def _patterns(only: str | Iterable[str] | None) -> Callable[[str], bool]:
    if only is None:
        return lambda _: True
    patterns = [only] if isinstance(only, str) else list(only)
    return lambda path: any(fnmatchcase(path, pattern) for pattern in patterns)


# -- reading and committing ------------------------------------------------------------------------------


def _read(
    checkpoint: Checkpoint, sources: Mapping[str, tuple[Variable, str]], report: LoadReport, *, cast: bool
) -> list[tuple[Variable, HostArray | None]]:
    """The values, checked; all damage is told of at once."""
    arrays = checkpoint.each({source for _, source in sources.values()}, lambda _, array: array)
    damaged = [str(array) for array in arrays.values() if isinstance(array, CheckpointError)]
    if damaged:
        raise CheckpointError("\n".join(damaged))
    values: list[tuple[Variable, HostArray | None]] = []
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
        values.append((variable, array))
    return values


def _commit(values: list[tuple[Variable, HostArray | None]]) -> None:
    if not values:
        return
    overlay: Any = _scopes.overlay() if _scopes.active else None
    if overlay is not None and overlay.pure:
        raise TraceError(
            describe("load", "variables cannot be loaded inside a transformed function", hint="load before")
        )
    with transaction([variable for variable, _ in values]):
        work: Any = _scopes.overlay()
        for variable, value in values:
            work.write(variable)._give(value)


def _fill(checkpoint: Checkpoint, wanted: dict[str, tuple[Variable, str]], *, cast: bool) -> None:
    """For variables that have appeared: what `load` does, of which nothing may be wrong."""
    report = LoadReport()
    for path, (variable, source) in wanted.items():
        if problem := _problem(variable, checkpoint, [source], cast=cast):
            report.mismatched[path] = problem
    values = [] if report.mismatched else _read(checkpoint, wanted, report, cast=cast)
    if problems := report._problems():
        raise CheckpointMismatchError(
            describe("load", "what has appeared does not fit the file", str(checkpoint.path))
            + "\n"
            + "\n".join(problems)
        )
    _commit(values)


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")


# -- verifying ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """Whether what was saved is whole. It is true if nothing is damaged.

    Attributes:
        checked: how many tensors have the checksum that they were saved with.
        unchecked: those without one, since somebody else has written them.
        damaged: why each of the others cannot be loaded, by path.
    """

    checked: int
    unchecked: list[str]
    damaged: dict[str, str]

    def __bool__(self) -> bool:
        return not self.damaged


def verify(path: _PathLike) -> Verification:
    """Reads all that was saved and names each tensor that is damaged.

    Args:
        path: of a file, an index, or a checkpoint of a `CheckpointManager`.

    Raises:
        CheckpointError: it cannot be opened at all: the header, the index or a whole file is damaged.
        CheckpointNotFoundError: there is no such file.
        StorageError: the system cannot read it.

    >>> import pathlib, tempfile
    >>> import statevar as sv
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> sv.save({"w": sv.Variable([1.0, 2.0]), "steps": sv.Variable(3)}, path)
    >>> sv.verify(path)
    Verification(checked=2, unchecked=[], damaged={})
    >>> content = bytearray(path.read_bytes())
    >>> content[-1] ^= 1
    >>> _ = path.write_bytes(content)
    >>> list(sv.verify(path).damaged)
    ['steps']
    """
    with open_checkpoint(Path(path)) as checkpoint:
        results = checkpoint.each(checkpoint, lambda name, array: None)
        damaged = {name: str(error) for name, error in results.items() if error is not None}
        names = list(checkpoint)
        whole = [name for name in names if name not in damaged]
        unchecked = [name for name in whole if checkpoint.checksum(name) is None]
    return Verification(len(whole) - len(unchecked), unchecked, damaged)
