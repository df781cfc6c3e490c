"""The index of what was saved in several files: which tensor lies in which.

It is the JSON that other programs know (``weight_map``), with the checksum of each file's header, so that files of
different saves are never taken for one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .header import DIGITS, FORMAT, digest_of, parse_json, refuse

__all__ = ["Index", "decode_index", "encode_index", "is_index"]

_GUARD = "statevar.index"
_NOTHING = "0" * DIGITS


@dataclass(frozen=True, slots=True)
class Index:
    """Which file of the same folder holds which tensor."""

    #: The checksum of each file's header; None if somebody else wrote the index.
    files: dict[str, str | None]
    tensors: dict[str, str]
    texts: dict[str, str]


def is_index(beginning: bytes) -> bool:
    """Whether a file begins as an index does. As the length of a header it would be longer than any."""
    return beginning[:1] == b"{" and beginning[7:8] != b"\0"


def encode_index(files: Mapping[str, str], tensors: Mapping[str, str], nbytes: int, texts: Mapping[str, str]) -> bytes:
    """The content of an index file, with its checksum."""
    metadata = {"total_size": nbytes, **texts, "statevar.files": dict(files), _GUARD: _NOTHING}
    content = {"metadata": metadata, "weight_map": dict(tensors)}
    blank = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return blank.replace(_guard(_NOTHING), _guard(digest_of(blank)), 1)


def decode_index(content: bytes, where: Any) -> Index:
    """Reads an index, and believes nothing that it says.

    Raises:
        CheckpointError: it is damaged, or names files in other folders.
    """
    value = parse_json(content, where)
    metadata, tensors = value.get("metadata", {}), value.get("weight_map")
    if value.keys() - {"metadata", "weight_map"} or not isinstance(metadata, dict) or not _are_texts(tensors):
        refuse("load", "the index is none: no weight_map of names to files", where)
    assert isinstance(tensors, dict)
    names = dict.fromkeys(tensors.values())
    files: dict[str, str | None] = dict(names)
    if any(name.startswith("statevar.") for name in metadata):
        digest, known = metadata.pop(_GUARD, ""), metadata.pop("statevar.files", None)
        if not isinstance(digest, str) or len(digest) != DIGITS or not _fits(content, digest) or not _are_texts(known):
            refuse("load", "the index is damaged: its checksum does not fit", where)
        assert isinstance(known, dict)
        if metadata.get("statevar.format") != FORMAT:
            refuse("load", "the index was written by a newer statevar", where, "update statevar")
        if names.keys() - known.keys():
            refuse("load", "the index names a file without its checksum", where)
        files = dict(known)
    for name in files:
        if not _is_plain(name):
            refuse("load", f"the index names {name!r:.100}, which is no file of this folder", where)
    return Index(files, tensors, {name: text for name, text in metadata.items() if isinstance(text, str)})


def _guard(digest: str) -> bytes:
    return f'"{_GUARD}":"{digest}"'.encode()


def _fits(content: bytes, digest: str) -> bool:
    return digest_of(content.replace(_guard(digest), _guard(_NOTHING), 1)) == digest


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0", ":"} and len(os.fsencode(name)) <= 255
