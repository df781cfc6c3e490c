"""The index of a checkpoint in pieces: which variables there are, and which tensor of which part has which block.

It is the JSON of any index (``_formats/safetensors/index.py``), with ``2`` for ``statevar.format`` and, beside the
aliases and the metadata:

=======================  ==========================================================================
``statevar.shapes``      JSON: by path, the dtype and the shape of the value; null if there is none
``statevar.variables``   JSON: by path, the other facts that differ from the default
``statevar.pieces``      JSON: by path, the tensors that have the value: name, offsets, sizes
``statevar.sizes``       JSON: by file name, the size in bytes
=======================  ==========================================================================

Every claim is checked here or when the part is opened, before memory is asked for: the pieces of an array cover it
exactly, each tensor is the piece of one array, and the parts have these tensors, of these sizes, and no others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..._arrays.shapes import Shape
from .._formats.safetensors.header import PIECES, parse_json, refuse
from .._formats.safetensors.index import Index, encode_index
from .._formats.safetensors.values import VariableRecord, facts_of, fits_tensor, record_of
from .blocks import Block, flaw_of
from .part import PartFile

__all__ = ["Contents", "Located", "contents_of", "encode_contents", "located_in"]


class Located(NamedTuple):
    """A piece of an array: the name of the file, the name of the tensor in it, and the block of the array."""

    file: str
    tensor: str
    block: Block


@dataclass(frozen=True, slots=True)
class Contents:
    """What the index of a checkpoint in pieces says, parsed and checked."""

    variables: dict[str, VariableRecord]
    #: By path, the pieces of the value.
    pieces: dict[str, list[Located]]
    #: By file name, the checksum of the header.
    files: dict[str, str]
    #: By file name, the size in bytes.
    sizes: dict[str, int]
    #: By file name, the tensors in it: by name, the path and the block.
    tensors: dict[str, dict[str, tuple[str, Block]]]

    def check(self, name: str, part: PartFile) -> None:
        """Raises CheckpointError if a part does not have the tensors that the index says."""
        wanted = self.tensors[name]
        if part.entries.keys() != wanted.keys() or part.total != self.sizes[name]:
            refuse("load", "the file does not have the tensors that the index names", part.path)
        for tensor, (path, block) in wanted.items():
            entry = part.entries[tensor]
            record = self.variables[path]._replace(shape=block.sizes)
            if part.places[tensor] != [path, list(block.offsets)] or not fits_tensor(record, entry.code, entry.shape):
                refuse("load", "the tensor is not the piece that the index names", f"{part.path}: {tensor:.100}")


def located_in(name: str, part: PartFile, variables: Mapping[str, VariableRecord]) -> Iterable[tuple[str, Located]]:
    """Yields the path of each piece in a part, and the piece.

    Raises:
        CheckpointError: a tensor is no piece of a variable that there is.
    """
    for tensor, (path, offsets) in part.places.items():
        record, shape = variables[path], part.entries[tensor].shape
        assert record.shape is not None
        sizes = record.shape if record.dtype == "string" else shape[: len(record.shape)]
        yield path, Located(name, tensor, Block(tuple(offsets), tuple(sizes)))


def encode_contents(
    variables: Mapping[str, VariableRecord],
    pieces: Mapping[str, Sequence[Located]],
    files: Mapping[str, tuple[str, int]],
    texts: Mapping[str, str],
) -> bytes:
    """Returns the bytes of an index.

    Args:
        variables: the facts about each variable, by path.
        pieces: the pieces of each value, by path.
        files: the checksum of the header and the size of each part, by name.
        texts: further metadata.
    """
    counted = Counter(record.backend for record in variables.values()).most_common(1)
    default = counted[0][0] if counted else "numpy"
    facts = {path: facts_of(record, default) for path, record in variables.items()}
    return encode_index(
        {name: digest for name, (digest, _) in files.items()},
        {each.tensor: each.file for some in pieces.values() for each in some},
        sum(nbytes for _, nbytes in files.values()),
        {
            "statevar.format": PIECES,
            "statevar.backend": default,
            "statevar.shapes": _json({path: [record.dtype, record.shape] for path, record in variables.items()}),
            "statevar.variables": _json({path: each for path, each in facts.items() if each}),
            "statevar.pieces": _json(
                {path: [[each.tensor, *each.block] for each in some] for path, some in pieces.items()}
            ),
            "statevar.sizes": _json({name: nbytes for name, (_, nbytes) in files.items()}),
            **texts,
        },
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def contents_of(index: Index, texts: dict[str, str], where: Any) -> Contents:
    """Parses what an index in pieces says, and checks every claim. Removes it from the texts.

    Raises:
        CheckpointError: the claims contradict each other.
    """

    def taken(name: str) -> dict[str, Any]:
        return parse_json(texts.pop(name, "{}").encode(), where)

    texts.pop("statevar.format", None)
    backend = texts.pop("statevar.backend", "numpy")
    facts, pieces, sizes = taken("statevar.variables"), taken("statevar.pieces"), taken("statevar.sizes")
    variables = {
        path: record_of(path, *_pair(described, path, where), facts.pop(path, {}), backend, where)
        for path, described in taken("statevar.shapes").items()
    }
    if facts or not pieces.keys() <= variables.keys():
        refuse("load", "the index says something of a variable that it does not name", where)
    files = {name: digest for name, digest in index.files.items() if digest is not None}
    if sizes.keys() != files.keys() or not all(type(each) is int for each in sizes.values()):
        refuse("load", "the index must say the size of each file", where)
    found: dict[str, list[Located]] = {}
    tensors: dict[str, dict[str, tuple[str, Block]]] = {name: {} for name in files}
    for path, record in variables.items():
        found[path] = [_located(each, record, index, path, where) for each in _list(pieces.get(path, []), path, where)]
        if problem := _flaw(record, [each.block for each in found[path]]):
            refuse("load", f"the index is wrong: {problem}", f"{where}: {path:.100}")
        for file, tensor, block in found[path]:
            if tensor in tensors[file]:
                refuse("load", f"the index names the tensor {tensor!r:.100} twice", where)
            tensors[file][tensor] = path, block
    if sum(map(len, tensors.values())) != len(index.tensors):
        refuse("load", "the index names a tensor that is the piece of no variable", where)
    return Contents(variables, found, files, sizes, tensors)


def _flaw(record: VariableRecord, blocks: list[Block]) -> str | None:
    if record.shape is None:
        return "a variable without a value has pieces" if blocks else None
    if record.dtype == "string" and len(blocks) > 1:
        return "strings are in several pieces"
    return flaw_of(record.shape, blocks)


def _located(value: Any, record: VariableRecord, index: Index, path: str, where: Any) -> Located:
    sound = type(value) is list and len(value) == 3 and type(value[0]) is str and value[0] in index.tensors
    if not sound or record.shape is None:
        refuse("load", "the index has a piece that is none", f"{where}: {path:.100}")
    tensor, offsets, sizes = value
    if not all(type(each) is list and len(each) == len(record.shape) and _are_sizes(each) for each in (offsets, sizes)):
        refuse("load", "the index has a piece that is no block of the array", f"{where}: {path:.100}")
    return Located(index.tensors[tensor], tensor, Block(tuple(offsets), tuple(sizes)))


def _are_sizes(values: list[Any]) -> bool:
    return all(type(each) is int and each < 2**63 for each in values)


def _pair(value: Any, path: str, where: Any) -> tuple[Any, Shape | None]:
    if type(value) is not list or len(value) != 2 or type(value[0]) is not str:
        refuse("load", "the index must say the dtype and the shape of each variable", f"{where}: {path:.100}")
    return value[0], value[1]


def _list(value: Any, path: str, where: Any) -> list[Any]:
    if type(value) is not list:
        refuse("load", "the index must list the pieces of each variable", f"{where}: {path:.100}")
    return value
