"""Reads a Zarr store, version 2 or 3, in a folder: each array below it has the name of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..._state.walk import segment
from .reader import Reader
from .safetensors.header import refuse
from .tensorstore import Folder, StoredArrays, Zarr

__all__ = ["open_zarr"]

_MOST_ARRAYS = 100_000


def open_zarr(path: Path) -> Reader:
    """Opens a store. Its metadata is the attributes of its root."""
    folder = Folder(path)
    version, metadata = _root(folder)
    name = Zarr(folder, version).facts_name
    places = [each.removesuffix(name).removesuffix("/") for each in folder.files if _is_last(each, name)]
    if len(places) > _MOST_ARRAYS:
        refuse("load", f"the store has {len(places)} arrays or groups, and the limit is {_MOST_ARRAYS}", path)
    if version == 3:
        places = [
            each for each in places if folder.json(f"{each}/{name}" if each else name).get("node_type") == "array"
        ]
    stored = {"/".join(segment(step) for step in each.split("/")) or "value": each for each in sorted(places)}
    return StoredArrays(path, Zarr(folder, version), stored, metadata=metadata)


def _is_last(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")


def _root(folder: Folder) -> tuple[int, dict[str, Any]]:
    """The version of a store, and its attributes."""
    if "zarr.json" in folder.files:
        root = folder.json("zarr.json")
        attributes = root.get("attributes", {}) if isinstance(root, dict) else None
        version = 3
    else:
        attributes = folder.json(".zattrs") if ".zattrs" in folder.files else {}
        version = 2
    if not isinstance(attributes, dict):
        refuse("load", "the attributes of the store must be a JSON object", folder.path)
    return version, attributes
