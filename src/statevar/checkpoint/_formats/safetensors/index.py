"""The index of a save in several files: it tells which file contains which tensor.

It is the JSON that other programs know (``weight_map``), with the checksum of each file's header, so that files of
different saves are never mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .header import DIGITS, FORMAT, PIECES, digest_of, parse_json, refuse

__all__ = ["INDEX", "Index", "decode_index", "encode_index", "is_index", "is_plain"]

INDEX = "index.json"  #: the name of the index in a checkpoint that is a folder

_GUARD = "statevar.index"
_NOTHING = "0" * DIGITS


@dataclass(frozen=True, slots=True)
class Index:
    """The parsed index: which file of its folder contains which tensor."""

    #: By file name, the checksum of the file's header; None if another program wrote the index.
    files: dict[str, str | None]
    #: By tensor name, the name of the file that contains it.
    tensors: dict[str, str]
    texts: dict[str, str]

    @property
    def is_in_pieces(self) -> bool:
        """Whether the tensors are pieces of arrays, of which the index says where they belong."""
        return self.texts.get("statevar.format") == PIECES


def is_index(beginning: bytes) -> bool:
    """Whether a file is an index. Read as the length of a header, the beginning of JSON would be impossibly large."""
    return beginning[:1] == b"{" and beginning[7:8] != b"\0"


def encode_index(files: Mapping[str, str], tensors: Mapping[str, str], nbytes: int, texts: Mapping[str, str]) -> bytes:
    """Returns the bytes of an index file, with its checksum."""
    metadata = {"total_size": nbytes, **texts, "statevar.files": dict(files), _GUARD: _NOTHING}
    content = {"metadata": metadata, "weight_map": dict(tensors)}
    blank = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return blank.replace(_guard(_NOTHING), _guard(digest_of(blank)), 1)


def decode_index(content: bytes, where: Any) -> Index:
    """Parses an index, and checks every claim that it makes.

    Raises:
        CheckpointError: the index is damaged, or names a file outside its folder.
    """
    value = parse_json(content, where)
    metadata, tensors = value.get("metadata", {}), value.get("weight_map")
    if value.keys() - {"metadata", "weight_map"} or not isinstance(metadata, dict) or not _are_texts(tensors):
        refuse("load", "this is not an index: it needs a weight_map of tensor names to file names", where)
    assert isinstance(tensors, dict)
    names = dict.fromkeys(tensors.values())
    files: dict[str, str | None] = dict(names)
    if any(name.startswith("statevar.") for name in metadata):
        digest, known = metadata.pop(_GUARD, ""), metadata.pop("statevar.files", None)
        if not isinstance(digest, str) or len(digest) != DIGITS or not _fits(content, digest) or not _are_texts(known):
            refuse("load", "the index is damaged: its checksum does not match", where)
        assert isinstance(known, dict)
        if metadata.get("statevar.format") not in (FORMAT, PIECES):
            refuse("load", "the index was written by a newer statevar", where, "update statevar")
        if names.keys() - known.keys():
            refuse("load", "the index names a file without a checksum", where)
        files = dict(known)
    for name in files:
        if not is_plain(name):
            refuse("load", f"the index names {name!r:.100}, which is not the name of a file in its folder", where)
    return Index(files, tensors, {name: text for name, text in metadata.items() if isinstance(text, str)})


def _guard(digest: str) -> bytes:
    return f'"{_GUARD}":"{digest}"'.encode()


def _fits(content: bytes, digest: str) -> bool:
    return digest_of(content.replace(_guard(digest), _guard(_NOTHING), 1)) == digest


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def is_plain(name: str) -> bool:
    """Whether a text is the name of a file in the same folder."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0", ":"} and len(os.fsencode(name)) <= 255
