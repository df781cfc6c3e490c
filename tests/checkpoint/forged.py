"""Forged files of other programs: what a reader must refuse, or read rightly, and what it may cost."""

from __future__ import annotations

import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import statevar as sv

SECONDS = 20.0  # of a processor: an attack costs minutes, and a refusal less than one
MEMORY = 20_000_000  # beside the size of the file
#: What a file must not make Python do.
_EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.spawn", "socket.connect", "os.remove", "shutil.rmtree")

_watching: list[bool] = []  # not empty while it is watched
_seen: list[str] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "exec" and getattr(args[0], "co_filename", "").startswith("<string"):  # no import of a module
        _seen.append("exec")
    if event in _EVENTS or (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")):
        _seen.append(f"{event}{args}"[:200])
    if event == "import" and args[0].partition(".")[0] in ("torch", "tensorflow", "jax", "os_gadget"):
        _seen.append(f"import {args[0]}")


sys.addaudithook(_watch)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """A block in which no code of a file runs, no framework is imported, and no file is written."""
    _seen.clear()
    _watching.append(True)
    try:
        yield
    finally:
        _watching.clear()
    assert not _seen, _seen


def read_all(path: Path) -> dict[str, Any]:
    with sv.load(path) as saved:
        return {name: saved[name] for name in saved} | {
            f"alias {name}": saved[name] for name in saved.aliases if name in saved
        }


def is_refused_or_right(path: Path, right: Mapping[str, Any] | None) -> bool:
    """Reads a forged file, cheaply and without running anything. Returns whether it was refused.

    Args:
        path: the file.
        right: the arrays that it may give; None if it must be refused.
    """
    tracemalloc.start()
    begun = time.process_time()
    problem = ""
    arrays: dict[str, Any] = {}
    try:
        with nothing_runs():
            try:
                arrays = read_all(path)
            except sv.errors.CheckpointError as error:
                problem = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.process_time() - begun < SECONDS
    assert peak < MEMORY + 3 * path.stat().st_size
    if problem:
        assert problem.startswith("load: ")
        assert str(path) in problem
    else:
        assert right is not None, f"expected an error, got {arrays}"
        for name in right.keys() & arrays.keys():
            assert arrays[name].shape == right[name].shape
            assert arrays[name].dtype == right[name].dtype
    return bool(problem)


def rewritten(source: Path, target: Path, change: Mapping[str, bytes | None], **options: Any) -> None:
    """Writes an archive again, with other bytes for some members; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        names = dict.fromkeys(old.namelist()) | dict.fromkeys(change)
        for name in names:
            content = change[name] if name in change else old.read(name)
            if content is not None:
                new.writestr(name, content)


def bits(array: Any) -> tuple[Any, ...]:
    """What two equal arrays have in common, NaNs included."""
    array = np.asarray(array)
    return array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes()
