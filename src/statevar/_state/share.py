"""`share` and `attach`: the variables of a model in memory that processes share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

from .._core.pooled import attach_all, name_of, problem_of, share_all
from .._core.pools import pool_at
from .._core.variable import Variable
from .._public import public
from ..errors import CheckpointMismatchError, SharedError, StorageError, describe
from .paths import Rename, path_matches, paths_in, renamed

__all__ = ["attach", "share"]

_DURABLE = ("no", "sync", "commit")
_NAMED = 10  # problems that one error names


@public()
def share(
    model: Any,
    where: str | os.PathLike[str] | None = None,
    *,
    durable: Literal["no", "sync", "commit"] = "no",
    exist_ok: bool = False,
) -> dict[str, str]:
    """Moves the variables in an object to memory that processes share: to one pool, all of them or none.

    The variables stay the same objects, with the same values, versions and methods. From now on each write is one for
    every process that has attached: it happens as a whole, is never lost to another process, and what a process that is
    killed had committed stays. Transactions and snapshots over several variables of a pool hold across processes too.

    Args:
        model: variables, containers of variables, or objects that have them as attributes.
        where: the name of the pool, ``"run7"``, by which other processes `attach`; the path of a file,
            ``"/data/run7.svs"``; or None for a pool without a name, which children get by fork or by a pickle of the
            variables, and which is gone with the last of them.
        durable: what the disk keeps of a file: ``"no"`` promises nothing beyond the life of the machine; ``"sync"``
            keeps what was written before `Variable.sync` returned; ``"commit"`` keeps each write before it returns.
        exist_ok: whether to attach to the pool if there is one. Its values then count, and not those of the model. It
            has to keep at least what ``durable`` asks for.

    Returns:
        The place of each variable by its path, as `Variable.shared`.

    Raises:
        ConflictError: one of the variables is shared already; or it is called in a transaction.
        DeviceError: a value is not on the host.
        ForeignStateError: a variable is a view, or code outside has its parameter.
        NotImplementedError: the system has no locks that end with their process: it is not Linux.
        SharedError: the folder or the file cannot be trusted; or the pool that exists keeps less than asked for.
        StorageError: there is no room, or there is such a pool.
        UninitializedError: a variable has no value.

    >>> import statevar as sv
    >>> model = {"w": sv.Variable([1.0, 2.0]), "steps": sv.Variable(0)}
    >>> _ = sv.share(model)
    >>> model["steps"] += 1
    >>> int(model["steps"])
    1
    """
    if durable not in _DURABLE:
        raise ValueError(describe("share", f"expected durable={' or '.join(map(repr, _DURABLE))}, got {durable!r}"))
    found = paths_in("share", model).variables
    while True:
        try:
            share_all(found, where, durable)
        except FileExistsError:
            if exist_ok and where is not None:
                try:
                    _check_durable(where, durable)
                    return attach(model, where)
                except FileNotFoundError:  # it was unlinked meanwhile
                    continue
            raise _taken(where) from None
        return _places(found)


@public()
def attach(
    model: Any,
    where: str | os.PathLike[str],
    *,
    strict: bool = True,
    rename: Rename | None = None,
    only: str | Iterable[str] | None = None,
) -> dict[str, str]:
    """Binds the variables in an object to those of a pool, by path, as `load` fills them from a file.

    The variables stay the same objects, and have the values of the pool from now on: they read and write what all the
    other processes do. All of them attach or, on an error, none.

    Args:
        model: variables, containers of variables, or objects that have them as attributes.
        where: the name or the path of the pool, as in `share`.
        strict: whether missing, unexpected and mismatched variables are an error. If False, the others attach.
        rename: maps paths in the pool, or their prefixes, to object paths: a dict, or a function of the path that
            returns the object path (None skips the variable).
        only: one or several patterns with ``*`` and ``?``: attaches only the object paths that match.

    Returns:
        The place of each variable that has attached by its path, as `Variable.shared`.

    Raises:
        CheckpointMismatchError: the pool does not match the object. One message lists all the problems.
        CheckpointNotFoundError: there is no such pool.
        SharedError: the file is damaged, or cannot be trusted.
    """
    paths = paths_in("attach", model)
    pool = pool_at(where, operation="attach")
    pool.refresh()
    wanted = path_matches("*" if only is None else only)
    sources: dict[str, str] = {}
    for path in pool.records:
        if (target := renamed(path, rename)) is None:
            continue
        if target in sources:
            problem = f"rename maps both {sources[target]!r} and {path!r} to {target!r}"
            raise CheckpointMismatchError.of("attach", problem, pool.place.name)
        sources[target] = path
    if paths.alone and len(sources) == 1 and rename is None:  # the name of a single variable does not matter
        sources = dict.fromkeys(paths.variables, next(iter(sources.values())))
    found: dict[str, Variable] = {}
    problems: list[str] = []
    for path, variable in paths.variables.items():
        if not wanted(path):
            continue
        if path not in sources:
            problems.append(f"missing     {path}")
        elif problem := problem_of(variable, pool.records[sources[path]]):
            problems.append(f"mismatched  {path}: {problem}")
        else:
            found[path] = variable
    problems += [f"unexpected  {path}" for path in sources if wanted(path) and paths.find(path) is None]
    if strict and problems:
        more = f"\n  … and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        listed = "".join(f"\n  {each}" for each in problems[:_NAMED]) + more
        raise CheckpointMismatchError.of("attach", f"the pool {pool.place.name!r} does not match the object:{listed}")
    if strict and only is not None and not found:
        raise CheckpointMismatchError.of("attach", f"no path matches only={only!r}", pool.place.name)
    attach_all({sources[path]: variable for path, variable in found.items()}, pool)
    return _places(found)


def _check_durable(where: str | os.PathLike[str], durable: str) -> None:
    """A pool keeps what its maker asked for. Who asks for more would lose in silence what he has written."""
    pool = pool_at(where)
    if _DURABLE.index(pool.durable) < _DURABLE.index(durable):
        problem = f"the pool was made with durable={pool.durable!r}, and not with {durable!r}"
        hint = "save its values, remove it with sv.shared.unlink, and share them anew"
        raise SharedError.of("share", problem, pool.place.name, hint)


def _taken(where: str | os.PathLike[str] | None) -> Exception:
    """What to raise if there is something in the place of a new pool: a pool, or what has to stay as it is."""
    try:
        pool_at(where)
    except FileNotFoundError:  # it was a pool, which was unlinked at this moment
        pass
    except SharedError as error:
        return error
    problem = f"there is a pool {str(where)!r} already"
    hint = "use it with sv.attach(model, where), or exist_ok=True; or remove it with sv.shared.unlink"
    return StorageError.of("share", problem, hint=hint)


def _places(found: dict[str, Variable]) -> dict[str, str]:
    return {path: name_of(variable) for path, variable in found.items()}
