"""Checkpoints in pieces, written by hand for several processes, and changed by hand with sound checksums."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tests.checkpoint.damaged import dumped, with_index_checksum
from tests.internals import DIGITS, HOST, contents, digest_of, file_values, files, get_backend, part

#: What is JSON in a text in the metadata of an index.
INNER = ("statevar.shapes", "statevar.variables", "statevar.pieces", "statevar.sizes")


def saved(
    folder: Path,
    arrays: dict[str, Any],
    cuts: dict[str, list[list[Any]]],
    unset: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> Path:
    """Writes a checkpoint of several processes.

    Args:
        folder: where.
        arrays: the values, by path.
        cuts: for each of them, a list of blocks for each process.
        unset: the dtypes and shapes of variables without a value.
    """
    folder.mkdir(exist_ok=True)
    variables = {
        path: file_values.record_of(path, _dtype(array), list(array.shape), {}, "numpy", "")
        for path, array in arrays.items()
    }
    for path, (dtype, shape) in (unset or {}).items():
        variables[path] = file_values.record_of(path, dtype, None, {"declared": list(shape)}, "numpy", "")
    written: dict[str, Any] = {}
    pieces: dict[str, list[Any]] = {path: [] for path in arrays}
    count = max(map(len, cuts.values()))
    for number in range(count):
        name = f"part-{number:05d}-of-{count:05d}.safetensors"
        mine = [
            part.Pieces(path, _dtype(array), array.shape, get_backend("numpy"), array, (0,) * array.ndim, some)
            for path, array in arrays.items()
            if (some := cuts[path][number])
        ]
        file = files.create(folder / name)
        written[name] = part.write_part(file, mine, list(arrays), 0)
        files.close(file)
        opened = part.PartFile(folder / name, written[name].digest)
        for path, located in contents.located_in(name, opened, variables):
            pieces[path].append(located)
        opened.close()
    (folder / "index.json").write_bytes(contents.encode_contents(variables, pieces, written, {}))
    return folder


def _dtype(array: Any) -> str:
    if array.dtype == object:
        return "string"
    names: list[str] = [name for name, dtype in HOST.items() if dtype == array.dtype]
    return names[0]


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray[Any, Any]:
    """Any bits that are a value."""
    rng = np.random.default_rng(seed)
    array: np.ndarray[Any, Any]
    if dtype == "bool":
        array = rng.integers(0, 2, shape) == 1
    elif dtype == "int4":
        array = rng.integers(-8, 8, shape).astype(HOST["int4"])
    else:
        array = np.frombuffer(rng.bytes(math.prod(shape) * HOST[dtype].itemsize), HOST[dtype]).reshape(shape)
    return array


def index_of(folder: Path) -> Any:
    """The content of an index, with JSON in place of texts that are JSON."""
    content = json.loads((folder / "index.json").read_bytes())
    for key in INNER:
        content["metadata"][key] = json.loads(content["metadata"][key])
    return content


def change_index(folder: Path, change: Callable[[Any], object]) -> None:
    """Changes an index, and gives it a sound checksum."""
    content = index_of(folder)
    change(content)
    for key in INNER:
        content["metadata"][key] = dumped(content["metadata"][key])
    (folder / "index.json").write_bytes(with_index_checksum(content))


def change_part(folder: Path, number: int, change: Callable[[Any, bytearray], object]) -> None:
    """Changes a part, and gives it sound checksums, also in the index.

    The change gets the header: its ``tensors``, ``places``, ``chunks`` and other ``texts``; and the data, whose chunks
    get sound checksums if it changes them.
    """
    path = sorted(folder.glob("part-*"))[number]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8 : 8 + length])
    texts, data = tensors.pop("__metadata__"), bytearray(content[8 + length :])
    header = {
        "tensors": tensors,
        "places": json.loads(texts.pop("statevar.pieces")),
        "chunks": texts.pop("statevar.chunks"),
        "texts": texts,
    }
    before = bytes(data)
    change(header, data)
    if before != data:
        offsets = [each["data_offsets"] for each in tensors.values()]
        header["chunks"] = "".join(xxhash.xxh3_64_hexdigest(bytes(data[start:stop])) for start, stop in offsets)
    texts |= {"statevar.pieces": dumped(header["places"]), "statevar.chunks": header["chunks"]}
    texts["statevar.header"] = "0" * DIGITS
    text = dumped({"__metadata__": texts, **header["tensors"]}).encode()
    blank = len(text).to_bytes(8, "little") + text
    digest = digest_of(blank)
    path.write_bytes(blank.replace(b"0" * DIGITS, digest.encode(), 1) + data)

    def follow(index: Any) -> None:
        index["metadata"]["statevar.files"][path.name] = digest
        index["metadata"]["statevar.sizes"][path.name] = path.stat().st_size

    change_index(folder, follow)
