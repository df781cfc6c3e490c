"""`load`: loads a saved file into variables, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, overload

from .._arrays.dtypes import cast_host
from .._arrays.shapes import Shape
from .._arrays.types import Array, HostArray
from .._core.variable import Variable
from .._public import public
from .._state.accepting import accept
from .._state.paths import paths_in
from ..errors import CheckpointError, CheckpointMismatchError, ShardingError, StatevarError, describe
from . import _files
from ._checkpoint import Checkpoint, open_checkpoint
from ._giving import Value, give
from ._match import LoadReport, Offer, Rename, advise, amend, matched, offered, patterns, problem_of
from ._memory import Arrays, Loadable
from ._pending import Pending
from ._pieces.blocks import Block
from ._rules.layers import Layers, differences, kinds_of
from ._rules.rule import Rules
from ._rules.translation import translated
from ._together import TIMEOUT, Group, Phase, group_of

__all__ = ["load"]

_PathLike = str | os.PathLike[str]


@overload
def load(target: _PathLike, *, separator: str | None = None, mmap: bool = False) -> Checkpoint: ...


@overload
def load(
    target: Any,
    path: _PathLike | object,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    rules: Iterable[Sequence[Any]] | None = None,
    cast: bool = False,
    only: str | Iterable[str] | None = None,
    separator: str | None = None,
    on_create: bool = False,
    alone: bool = False,
    timeout: float = TIMEOUT,
) -> LoadReport: ...


@public()
def load(
    target: Any,
    path: _PathLike | object | None = None,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    rules: Iterable[Sequence[Any]] | None = None,
    cast: bool = False,
    only: str | Iterable[str] | None = None,
    separator: str | None = None,
    on_create: bool = False,
    mmap: bool = False,
    alone: bool = False,
    timeout: float = TIMEOUT,
) -> LoadReport | Checkpoint:
    """Loads a file of `save` into an object, on any backend and device, or opens it as a mapping from path to array.

    Everything is read and checked first. Then all variables change in one transaction, so a load that fails changes
    none. Nothing in a file is ever executed.

    In a program of several processes, each of them calls ``load`` with the same path. Each reads only what its devices
    need of a value that is spread, and an error in one is an error in all: then no process has changed anything.

    Args:
        target: the object to load into. A single variable takes the value of a file with one variable, whatever its
            name. If ``path`` is omitted, ``target`` is the path of a file to open.
        path: the path of the file; or a mapping from name to array, which may contain others; or an object with
            variables, of which a snapshot is taken.
        strict: whether missing, unexpected and mismatched variables are an error. If False, the others are loaded.
            Damage is always an error, and so is a file of which nothing fits.
        rename: maps file paths, or path prefixes, to object paths: a dict, or a function of the file path that returns
            the object path (None skips the tensor).
        rules: turns names and axes of one library into those of another, after ``rename``: `statevar.rules`, or a list
            of tuples.
        cast: whether to cast another dtype, by the rules of `Variable.assign`.
        only: one or several patterns with ``*`` and ``?``: loads only the object paths that match.
        separator: what stands between the segments of a name in the file, for a file whose program does not say so:
            ``"."`` for safetensors of torch. ``"/"`` takes all names as they are. By default a file of torch has
            ``"."``, and any other ``"/"``.
        on_create: keeps the values whose variables do not exist yet, and fills each variable when it is created
            (`LoadReport.pending`). A `Module` does so by itself, as long as it lives; for a plain container call
            `LoadReport.fill`.
        mmap: maps the file into memory instead of reading it. This is fast, but the checksums are not checked, and the
            system ends the process if the file is cut short meanwhile.
        alone: whether one process of several loads without the others, which do not call ``load``.
        timeout: how many seconds to wait for a process that is alive. One that has died is noticed sooner.

    Returns:
        The report of the load; if ``path`` is omitted, the opened `Checkpoint`.

    Raises:
        CheckpointError: the file is damaged.
        CheckpointMismatchError: the file does not match the object. One message lists all the problems.
        CheckpointNotFoundError: the file does not exist.
        ProcessError: another process is missing, late or has died.
        StorageError: the system cannot read the file.

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
        if not isinstance(target, str | bytes | os.PathLike):
            raise TypeError(
                describe("load", f"expected a path, got {type(target).__name__}", hint="use sv.load(obj, path)")
            )
        return open_checkpoint(_files.path_of("load", target), mapped=mmap, separator=_separator(separator))
    if mmap:
        raise ValueError(
            describe("load", "mmap=True works only without an object", hint="use sv.load(path, mmap=True)")
        )
    if rules is not None and on_create:
        raise ValueError(
            describe("load", "on_create=True does not work with rules", hint="create the variables before the load")
        )
    options = _Options(strict, rename, rules, cast, only, separator, on_create)
    group = group_of("load", alone=alone, timeout=timeout)
    with group.phase("read") as phase:
        return _load(target, path, options, group, phase)


class _Options(NamedTuple):
    """The options that a caller gave to `load`, checked."""

    strict: bool
    rename: Rename | None
    rules: Iterable[Sequence[Any]] | None
    cast: bool
    only: str | Iterable[str] | None
    separator: str | None
    on_create: bool


def _load(target: Any, path: Any, options: _Options, group: Group, phase: Phase) -> LoadReport:
    """Loads a file into an object, once all processes have read it."""
    strict, rename, rules, cast, only, separator, on_create = options
    rules = None if rules is None else rules if isinstance(rules, Rules) else Rules(rules)
    found = paths_in("load", target)
    checkpoint = _opened(path, _separator(separator), dots=rules is not None)
    pending, undo = False, ExitStack()
    if found.alone and len(checkpoint.variables) == 1 and rename is None and rules is None:
        rename = dict.fromkeys(
            checkpoint.variables, next(iter(found.variables))
        )  # one on each side: their names do not matter
    try:
        offer = offered(checkpoint, rename)
        source, moved, wanted = checkpoint, None, patterns(only)
        if rules is not None:
            here, there = Layers(target), Layers(path)
            kinds, optimizers = kinds_of(here, there, rename), (there.optimizer, here.optimizer)
            moved = translated(checkpoint, offer.sources, offer.aliases, found, rules, kinds, optimizers)
            checkpoint, offer = moved, Offer({path: path for path in moved.variables}, {})
        else:
            unknown = [name for name in offer.sources if wanted(name) and found.find(name) is None]
            unmade = accept(
                target,
                unknown,
                lambda name: _array(checkpoint, offer.sources[name]),
                lambda name: _described(checkpoint, offer.sources[name]),
            )
            if unmade is not None:  # an optimizer of another library has made its state, as it is in the file
                undo.callback(unmade)
                found = paths_in("load", target)
        report, plan = matched(found, checkpoint, offer, wanted, cast=cast)
        if moved is not None:
            amend(report, moved, wanted)
            report.notes += differences(there, here, {name.rpartition("/")[0]: None for name in plan})
        if strict and only is not None and not plan and not report.problems():
            raise CheckpointMismatchError.of("load", f"no path matches only={only!r}", str(source.path))
        waiting = {name: offer.sources[name] for name in report.unexpected} if on_create else {}
        if on_create:
            report.unexpected = []
        advise(report, found, checkpoint, offer, rename, moved, strict=strict)
        values = _read(checkpoint, plan, report, cast=cast, group=group)
        if strict and (problems := report.problems()):
            raise _mismatch("the file does not match the object, and nothing was loaded", problems, source)
        if not values and found.variables and source.variables and not waiting:
            raise _mismatch("nothing in the file fits the object", report.problems(), source)
        give(values, lambda: _all_read(phase, checkpoint))
        report.loaded = [name for name in plan if name not in report.mismatched]
        if waiting:
            report._pending = Pending(
                target, checkpoint, waiting, lambda found: _fill(checkpoint, found, cast=cast), report.loaded
            )
            pending = True
        undo.pop_all()
        return report
    finally:
        undo.close()
        if not pending:
            checkpoint.close()


def _opened(path: Any, separator: str | None, *, dots: bool) -> Loadable:
    """Opens a file, or arrays in memory.

    Args:
        dots: whether a dot separates the segments of names if no name has a slash, as in the names of torch.
    """

    def opened(separator: str | None) -> Loadable:
        if isinstance(path, str | bytes | os.PathLike):
            return open_checkpoint(_files.path_of("load", path), separator=separator)
        try:
            return Arrays(path, separator)
        except TypeError as error:
            if not str(error).startswith("load: found no variable"):
                raise
            hint = "pass the path of a file, a mapping of arrays, or an object that has variables"
            raise TypeError(describe("load", f"expected a path, got {type(path).__name__}", hint=hint)) from None

    source = opened(separator)
    if dots and separator is None and "/" not in "".join(source.variables) and "." in "".join(source.variables):
        source.close()
        return opened(".")
    return source


def _mismatch(problem: str, lines: list[str], source: Loadable) -> CheckpointMismatchError:
    return CheckpointMismatchError("\n".join([describe("load", problem, str(source.path)), *lines]))


def _separator(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(describe("load", f"expected separator to be a text such as '.', got {value!r}"))


def _described(checkpoint: Loadable, name: str) -> tuple[Shape | None, str]:
    saved = checkpoint.variables[name]
    return saved.shape, saved.dtype


def _array(checkpoint: Loadable, name: str) -> HostArray:
    array = checkpoint.arrays([name])[name]
    if isinstance(array, CheckpointError):
        raise array
    return array


def _all_read(phase: Phase, checkpoint: Loadable) -> None:
    """Waits until every process has read what it needs. Until then nothing has changed in any of them."""
    index = phase.agree(checkpoint.identity, _other)
    if index is not None:
        problem = f"process {index} has read another checkpoint than process 0, so nothing was loaded"
        hint = "pass the same path in every process, and load when no save is under way"
        raise CheckpointError.of("load", problem, str(checkpoint.path), hint)


def _other(identities: list[str]) -> int | None:
    """The first process that has read another checkpoint than process 0; None if there is none."""
    return next((index for index, each in enumerate(identities) if each != identities[0]), None)


def _read(
    checkpoint: Loadable,
    sources: Mapping[str, tuple[Variable, str]],
    report: LoadReport,
    *,
    cast: bool,
    group: Group | None = None,
) -> list[Value]:
    """Reads and casts the values. Of those that are spread, this process reads what its devices need.

    Raises:
        CheckpointError: some are damaged. The message lists all of them.
    """
    spread = {path for path, (variable, _) in sources.items() if variable._backend.is_sharded}
    arrays = checkpoint.arrays({source for path, (_, source) in sources.items() if path not in spread})
    damaged = [str(array) for array in arrays.values() if isinstance(array, CheckpointError)]
    if spread and not checkpoint.checks_blocks:
        names = sorted({sources[path][1] for path in spread})
        share = slice(None) if group is None else slice(group.index, None, group.count)
        damaged += map(str, checkpoint.damage(names[share]).values())  # by one process for all
    values: list[Value] = []
    taken = set()
    for path, (variable, source) in sources.items():
        if path in spread:
            try:
                value = _spread(checkpoint, variable, source, path, cast=cast)
            except CheckpointError as error:
                damaged.append(str(error))
            else:
                values.append((path, variable, value))
            continue
        array = arrays.get(source)
        if isinstance(array, CheckpointError):
            continue
        if array is not None:
            array = array.copy() if source in taken else array  # several variables load this tensor
            taken.add(source)
            exact = source in checkpoint.numbers
            if (cast or exact) and checkpoint.variables[source].dtype != variable.dtype_name:
                try:
                    array = cast_host(array, variable.dtype_name, exact=exact, operation="load", path=path)
                except StatevarError as error:
                    report.mismatched[path] = str(error)
                    continue
        values.append((path, variable, array))
    if damaged:
        raise CheckpointError("\n".join(dict.fromkeys(damaged)))
    return values


def _spread(checkpoint: Loadable, variable: Variable, source: str, path: str, *, cast: bool) -> Array | None:
    """Reads the value of a variable that is spread over several devices, as it is spread; None if it has none."""
    saved = checkpoint.variables[source]
    if saved.shape is None:
        return None
    backend: Any = variable._backend
    sharding, dtype = variable.sharding, variable.dtype_name
    if (problem := backend.problem_with(saved.shape, sharding)) is not None:
        problem = f"the value of shape {saved.shape} cannot be spread as the variable is: {problem}"
        raise ShardingError.of("load", problem, path, "change its sharding with v.reshard(…), or load another value")
    exact = source in checkpoint.numbers

    def read(offsets: Shape, sizes: Shape) -> HostArray:
        array = checkpoint.block(source, Block(tuple(offsets), tuple(sizes)))
        if (cast or exact) and saved.dtype != dtype:
            return cast_host(array, dtype, exact=exact, operation="load", path=path)
        return array

    value: Array = backend.from_pieces(saved.shape, dtype, sharding, read)
    return value


def _fill(checkpoint: Loadable, wanted: dict[str, tuple[Variable, str]], *, cast: bool) -> None:
    """Loads variables that were created after the load. Any problem is an error."""
    report = LoadReport()
    for path, (variable, source) in wanted.items():
        if problem := problem_of(variable, checkpoint, [source], cast=cast):
            report.mismatched[path] = problem
    values = [] if report.mismatched else _read(checkpoint, wanted, report, cast=cast)
    if problems := report.problems():
        raise CheckpointMismatchError(
            describe("load", "the new variables do not match the file, and none was loaded", str(checkpoint.path))
            + "\n"
            + "\n".join(problems)
        )
    give(values)
