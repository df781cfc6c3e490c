"""Pools of shared variables on the command line: ``shared:`` lists them, and ``shared:NAME`` is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .._core.tables import bytes_text, escaped
from .._shared.places import check_platform, place_of
from .._shared.pool import Pool
from .._state.paths import path_matches
from ..errors import CheckpointNotFoundError, StatevarError
from ..shared import ls
from .comparison import counted
from .exits import Exit
from .output import colored, say, say_json, say_table
from .paths import selected
from .watched import Event, event

__all__ = ["PREFIX", "Shared", "list_pools", "list_variables"]

#: What a path on the command line begins with if it means a pool.
PREFIX = "shared:"


def list_pools(*, as_json: bool) -> int:
    """Prints the pools that have a name."""
    pools = ls()
    if as_json:
        facts = [
            {
                "name": each.name,
                "nbytes": each.nbytes,
                "versions": each.variables,
                "pids": list(each.pids),
                "problem": each.problem or None,
            }
            for each in pools
        ]
        say_json({"path": PREFIX, "pools": facts})
        return Exit.OK
    rows = [
        (
            each.name,
            f"{len(each.variables):,}",
            bytes_text(each.nbytes),
            " ".join(map(str, each.pids)) or "-",
            each.problem,
        )
        for each in pools
    ]
    if rows:
        say_table(("pool", "variables", "size", "processes", ""), rows, right=("variables", "size"))
    else:
        say("no pool of shared variables has a name")
    return Exit.OK


def list_variables(path: str, only: Sequence[str] | None, *, as_json: bool) -> int:
    """Prints the paths of the variables in a pool."""
    names = selected(_opened(path).records, only, path)
    if as_json:
        say_json({"path": path, "names": names, "aliases": {}})
        return Exit.OK
    for name in names:
        say(escaped(name))
    return Exit.OK


def _opened(path: str) -> Pool:
    check_platform()
    return Pool.open(place_of(path.removeprefix(PREFIX)))


class Shared:
    """A pool: the variables that are written, and those that are added."""

    def __init__(self, path: str, only: Sequence[str] | None) -> None:
        self.path = path
        self._wanted = path_matches(only) if only else lambda _: True
        self._only = only
        self._pool: Pool | None = _opened(path)  # an error if there is none at first
        self._versions: dict[str, int] | None = None

    def look(self) -> list[Event]:
        """The events since the last look."""
        if self._pool is not None and self._is_replaced(self._pool):
            self._pool = self._versions = None
            return [event("removed", {}, "- the pool is gone")]
        try:
            if self._pool is None:
                self._pool = _opened(self.path)
            self._pool.refresh()
            now = {path: each.version for path, each in self._pool.records.items() if self._wanted(path)}
        except CheckpointNotFoundError:
            return []
        except StatevarError as error:
            return [event("damaged", {"damage": str(error)}, f"! {colored('damaged', 'red')}: {escaped(error)}")]
        before, self._versions = self._versions, now
        if before is None:
            selected(self._pool.records, self._only, self.path)  # an error of typing
            return [event("present", {"variables": len(now)}, f"  {counted(len(now))}")]
        events = []
        if added := {path: version for path, version in now.items() if path not in before}:
            lines = [f"  {escaped(path)}  version {version}" for path, version in added.items()]
            events.append(event("new", {"versions": added}, f"+ {counted(len(added))} added", *lines))
        if written := {path: version for path, version in now.items() if before.get(path, version) != version}:
            lines = [f"  {escaped(path)}  version {before[path]} -> {version}" for path, version in written.items()]
            events.append(event("changed", {"versions": written}, f"~ {counted(len(written))} written", *lines))
        return events

    def _is_replaced(self, pool: Pool) -> bool:
        """Whether its name has been removed, or given to another pool."""
        place: Any = pool.place
        try:
            return not os.path.samestat(os.lstat(place.path), os.fstat(pool.opened.claims.fd))
        except OSError:
            return True

    def close(self) -> None:
        """Drops the pool, which is closed with its last reference."""
        self._pool = None
