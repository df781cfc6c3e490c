"""`save`: writes variables to one file, or to several with an index. A crash at any moment loses nothing."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays.dtypes import STORED
from .._arrays.registry import owner_of
from .._arrays.shapes import fits
from .._core.deferring import recipe_of
from .._core.lost import destroyed, missing, was_lost
from .._core.variable import Variable
from .._public import public
from .._state.paths import Paths, paths_in
from .._state.snapshot import Snapshot, snapshot
from .._state.walk import segment_key
from ..errors import CheckpointError, NameScopeError, ShapeError, TraceError, describe
from . import _files
from ._checkpoint import index_at
from ._formats.safetensors.header import FORMAT, parse_json
from ._formats.safetensors.index import encode_index
from ._formats.safetensors.values import VariableRecord
from ._formats.safetensors.writer import (
    FileDigest,
    NewFile,
    Replacement,
    ToWrite,
    shared_stem,
    sweep,
    write_all,
    write_tensors,
)
from ._pieces.places import BesideIndex
from ._pieces.saving import Save, save_in_pieces
from ._progress import Progress, callback_of, following
from ._together import TIMEOUT, group_of

__all__ = [
    "UNTOUCHED",
    "check_path",
    "index_of",
    "items_of",
    "nbytes_of",
    "parsed_size",
    "save",
    "shards_of",
    "sweep_shards",
    "texts_of",
]


@public()
def save(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    separator: str = "/",
    progress: Callable[[Progress], object] | bool | None = None,
    alone: bool = False,
    timeout: float = TIMEOUT,
) -> None:
    """Saves the variables of an object, as one consistent snapshot, to a file that any safetensors reader opens.

    The old file stays whole until the new one is complete. When ``save`` returns, the new file is on the disk. Nothing
    is copied in memory, and no thread that reads or writes the variables waits.

    In a program of several processes, each of them calls ``save`` with the same path. Each writes its own part beside
    ``path``, which becomes the index of the parts, and an error in one is an error in all. So does one process whose
    variables are spread over several devices.

    Args:
        obj: a `Module`, a variable, or any mix of containers, dataclasses and objects that contain variables. Each
            variable is saved under its path: ``layers/0/kernel``.
        path: the path of the file. Its folder must exist. A symbolic link is followed. The new file takes over the
            mode, owner and extended attributes of the one that it replaces. Anything there but a file is an error.
        max_shard_size: a number of bytes, or a string such as ``"5GB"``. If the arrays take more, they are written to
            several files beside ``path``, which is then the index of these files.
        metadata: a mapping to store with the variables, as JSON. Scalars of libraries become numbers of Python.
            `Checkpoint.metadata` returns it.
        separator: what stands between the segments of a name in the file. With ``"."`` the names are those of torch
            (``layers.0.weight``). `load` finds the paths again by itself.
        progress: called after each write, in this thread, with a `Progress` of this process. If it raises, the save
            ends with this exception, and what was there before is untouched. True shows a bar, by `rich`, if stderr
            is a terminal.
        alone: whether one process of several saves what it has, without the others, which do not call ``save``.
        timeout: how many seconds to wait for a process that is alive. One that has died is noticed sooner.

    Raises:
        NameScopeError: a variable has no path, or two variables have the same one, or a segment of its path contains
            the separator.
        ProcessError: another process is missing, late or has died. The old file is untouched, unless the message says
            that process 0 is missing, which may have completed the save.
        ReplicaError: the processes do not have the same variables, or other values of one that each has as a whole.
        StorageError: the system cannot write the file, and the old one is untouched; or the system is Windows.

    Source: the format is that of https://huggingface.co/docs/safetensors.

    >>> import pathlib, tempfile
    >>> import statevar as sv
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> model = {"layers": [sv.Variable([1.0, 2.0]), sv.Variable(3)]}
    >>> sv.save(model, path)
    >>> model["layers"][0].assign([0.0, 0.0]).value
    array([0., 0.], dtype=float32)
    >>> sv.load(model, path).loaded
    ['layers/0', 'layers/1']
    >>> model["layers"][0].value
    array([1., 2.], dtype=float32)
    """
    where = _files.path_of("save", path)
    _files.require_posix("save", where)
    limit = None if max_shard_size is None else parsed_size(max_shard_size)
    if separator in ("", None) or "\0" in separator:
        raise ValueError(describe("save", f"expected separator to be a text such as '.', got {separator!r}"))
    group = group_of("save", alone=alone, timeout=timeout)

    def prepare() -> Save:
        found = paths_in("save", obj)
        texts = texts_of(found, metadata)
        cut = snapshot(list(found.variables.values()))
        items = items_of(found, cut)
        if separator != "/":
            texts["statevar.separator"] = separator
            items = [_renamed(item, separator) for item in items]
        return Save(cut, items, texts)

    callback = callback_of("save", progress, leads=group.leads)
    prepared = prepare() if group.count == 1 else None
    if prepared is None or any(item.backend.cuts for item in prepared.items):
        if limit is not None:
            problem = "max_shard_size is for values of one process, on one device each"
            raise ValueError(describe("save", problem, hint="leave it out: each process writes a file of its own"))
        with following(callback) as report:
            save_in_pieces(
                group,
                BesideIndex(where, sweep_shards),
                prepare if prepared is None else lambda: prepared,
                where,
                hint=UNTOUCHED,
                same={"path": str(where)},
                reporter=report,
            )
        return
    items, texts = prepared.items, prepared.texts
    prepared.cut._values.clear()  # each value is released once it is written
    total = sum(nbytes_of(item) for item in items)
    with _files.os_errors_as("save", where, UNTOUCHED), following(callback) as report:
        wrote = report(total)
        target = _files.place_to_save(where)
        if limit is None or total <= limit:
            with Replacement(target) as new:
                write_tensors(new.file, items, texts, wrote)
                new.commit()
        else:
            _save_shards(target, shards_of(items, limit), texts, wrote)
        with suppress(OSError):  # the save is complete, and the next one sweeps again
            sweep_shards(target)


UNTOUCHED = "what was there before is untouched"


def _renamed(item: ToWrite, separator: str) -> ToWrite:
    """Returns a variable with the name that another program gives it."""
    segments = [segment_key(each) for each in item.path.split("/")]
    if part := next((each for each in segments if separator in each), None):
        problem = f"the segment {part!r} contains the separator {separator!r}"
        raise NameScopeError.of("save", problem, item.path, "rename the variable, or save without a separator")
    check_path(name := separator.join(segments))
    return replace(item, path=name)


def _save_shards(
    target: Path, shards: list[list[ToWrite]], texts: Mapping[str, str], wrote: Callable[[int], None] | None
) -> None:
    stem = shared_stem(target)
    sweep_shards(target)
    with ExitStack() as open_files:
        files: list[NewFile] = []
        written: list[FileDigest] = []
        for i, items in enumerate(shards, 1):
            new = NewFile(target.parent, partial(_shard_name, stem, f"{i:05d}-of-{len(shards):05d}"), target)
            files.append(open_files.enter_context(new))
            written.append(write_tensors(new.file, items, {}, wrote))
        _files.sync_folder(target.parent)  # the files must be on the disk before an index names them
        content = index_of({new.path.name: each for new, each in zip(files, written, strict=True)}, texts)
        with Replacement(target) as index:
            write_all(index.file, [memoryview(content)], 0)
            _files.sync(index.file)
            index.commit(files)


def _shard_name(stem: str, which: str, token: str) -> str:
    return f"{stem}.{token}-{which}.safetensors"


def index_of(written: Mapping[str, FileDigest], texts: Mapping[str, str]) -> bytes:
    """Returns the bytes of the index of several files, given by name."""
    return encode_index(
        {name: each.digest for name, each in written.items()},
        {path: name for name, each in written.items() for path in each.checksums},
        sum(each.nbytes for each in written.values()),
        {"statevar.format": FORMAT, **texts},
    )


def sweep_shards(target: Path) -> None:
    """Removes the shards of older saves and of saves that were killed."""
    pattern = rf"{re.escape(shared_stem(target))}\.[0-9a-f]{{8}}-\d{{5}}-of-\d{{5}}\.safetensors"
    sweep(target.parent, re.compile(pattern), lambda: _named_by(target))


def _named_by(target: Path) -> Collection[str]:
    """Returns the files that an index names; none if the target is not an index."""
    try:
        index = index_at(target)
    except (CheckpointError, FileNotFoundError):
        return ()
    return () if index is None else index.files


# -- the content ---------------------------------------------------------------------------------------


def texts_of(found: Paths, metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the metadata of a save, for its file or its index."""
    texts = {}
    if found.aliases:
        texts["statevar.aliases"] = json.dumps(found.aliases, ensure_ascii=False)
    if metadata:
        if not isinstance(metadata, Mapping):
            raise TypeError(describe("save", f"expected metadata to be a mapping, got {type(metadata).__name__}"))
        texts["statevar.metadata"] = json_of("metadata", dict(metadata))
    return texts


def _plain(value: Any) -> Any:
    """Returns JSON's values with numbers of Python in place of scalars: of NumPy, of variables, of any library."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic | Variable) and not value.shape:
        return value.item()
    owner = owner_of(value)
    return value if owner is None or owner.shape(value) != () else owner.to_host(value).item()


def _misfit(value: Any, place: str = "") -> tuple[str, str]:
    """What is no JSON in a value, and where; two empty texts if nothing is."""
    if isinstance(value, dict):
        for key, each in value.items():
            where = f"{place}/{key}".lstrip("/")
            if type(key) is not str:
                return f"the key {key!r} is no string", where
            if (found := _misfit(each, where))[0]:
                return found
    elif isinstance(value, list):
        return next((found for i, each in enumerate(value) if (found := _misfit(each, f"{place}/{i}"))[0]), ("", ""))
    elif isinstance(value, float) and not math.isfinite(value):
        return f"it has no {value}", place
    elif value is not None and not isinstance(value, bool | int | float | str):
        return f"{type(value).__name__} is no type of it", place
    return "", ""


def json_of(what: str, value: dict[str, Any]) -> str:
    """Returns JSON that is parsed to the same value again.

    Raises:
        TypeError: no JSON is, for instance because of a tuple, a NaN, or a key that is not a string.
    """
    text = place = ""
    try:
        value = _plain(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        problem = (
            "" if parse_json(text.encode(), what, numbers=True) == value else "it would be another value after a load"
        )
    except CheckpointError:
        problem = "it contains a number with too many digits, or is nested too deeply"
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        with suppress(RecursionError):
            found, place = _misfit(value)
            problem = found or problem
        hint = "use strings, finite numbers, bools, None, and lists and dicts of them with strings as keys"
        raise TypeError(describe("save", f"the {what} cannot be stored as JSON: {problem}", place, hint))
    return text


def items_of(found: Paths, cut: Snapshot) -> list[ToWrite]:
    """Returns the variables with their values in a snapshot."""
    for path in (*found.variables, *found.aliases):
        check_path(path)
    items = []
    for (path, variable), value, declared in zip(
        found.variables.items(), cut._values, cut._declared_shapes, strict=True
    ):
        backend = variable._backend
        if value is None and (was_lost(variable) or recipe_of(variable) is not None):
            raise missing(variable, "save", path)
        if value is not None:
            value = backend.leased(value)  # noqa: PLW2901  # a snapshot takes no tensor where it need not
            if backend.is_lost(value):
                raise destroyed("save", path)
            if backend.is_symbolic(value):
                raise TraceError.of("save", "a traced value cannot be saved", path, "save outside the function")
            value = variable._as_stored(value, "save", path)  # noqa: PLW2901  # without its gradient history
            if not fits(shape := backend.shape(value), declared):
                raise ShapeError.of(
                    "save",
                    f"code outside has changed the shape of the variable's snapshot to {shape}, in place, and the "
                    f"declared shape is {declared}",
                    path,
                    f"set it back, as in v.value.shape = {variable._shape}, and use v.value.reshape(…)",
                )
        saved = VariableRecord(
            variable.dtype_name,
            None if value is None else backend.shape(value),
            declared,
            variable.trainable,
            variable.autocast,
            variable.aggregation,
            backend.name,
        )
        items.append(ToWrite(path, saved, backend, value))
    return items


def check_path(path: str) -> None:
    """Raises NameScopeError if no file can have a variable of this path."""
    problem = ""
    try:
        path.encode()
    except UnicodeEncodeError:
        problem = "the path is not valid Unicode"
    if not path or "\0" in path:
        problem = "the path is empty, or contains NUL"
    if path == "__metadata__":
        problem = "the file format reserves this name"
    if problem:
        raise NameScopeError.of("save", problem, path.encode("utf-8", "replace").decode(), "rename the variable")


def nbytes_of(item: ToWrite) -> int:
    """Returns the number of bytes that the value takes in a file."""
    shape, dtype = item.saved.shape, item.saved.dtype
    if shape is None:
        return 0
    return item.tensor().nbytes if dtype == "string" else math.prod(shape) * STORED[dtype].itemsize


def shards_of(items: Iterable[ToWrite], limit: int) -> list[list[ToWrite]]:
    """Splits the variables, in their order, into groups of at most ``limit`` bytes. A larger one is a group alone."""
    shards: list[list[ToWrite]] = [[]]
    filled = 0
    for item in items:
        nbytes = nbytes_of(item)
        if shards[-1] and filled + nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += nbytes
    return shards


def parsed_size(size: int | str) -> int:
    """Returns a number of bytes that is given as an integer, or as a string such as ``"500MB"``.

    Raises:
        ValueError: the size is neither.

    >>> parsed_size("1.5GB"), parsed_size(4096)
    (1500000000, 4096)
    """
    if isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0:
        return int(size)
    match = (
        re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", size.strip(), re.IGNORECASE) if isinstance(size, str) else None
    )
    if match is None or not float(match[1]):
        raise ValueError(describe("save", f"expected a number of bytes or a string such as '5GB', got {size!r}"))
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
