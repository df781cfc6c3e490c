"""Reads checkpoints of orbax (PyTrees of arrays) without orbax and JAX: the tree is JSON, the arrays are a Zarr store.

::

    _METADATA            JSON: for each leaf its keys, and what it is
    manifest.ocdbt, d/   a database with a Zarr array for each leaf, named by its keys with dots between; or instead
    params.kernel/       a folder for each array
    _strings.json        the leaves that are texts
    array_metadatas/     JSON: which arrays are random keys
    _CHECKPOINT_METADATA in a folder above: the checkpoint has several items, each in a folder

Source: ``orbax/checkpoint/_src/metadata/tree.py`` of version 0.11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..._state.walk import segment
from ...errors import CheckpointError
from .. import _files
from .reader import Reader
from .safetensors.header import refuse
from .tensorstore import Folder, StoredArrays, Zarr, inside

__all__ = ["open_orbax"]

_TREE = "_METADATA"
_CHECKPOINT = "_CHECKPOINT_METADATA"
_UNFINISHED = ".orbax-checkpoint-tmp"
_SCALAR, _TEXT, _NONE = "scalar", "string", "None"
_MOST_SCALARS = 10_000

#: The dtype of random keys, by the name of their implementation in JAX.
_KEYS = {"threefry2x32": "key<fry>", "rbg": "key<rbg>", "unsafe_rbg": "key<urbg>"}


class _Leaf(NamedTuple):
    name: str  # the keys of the leaf, joined by /
    stored: str  # its name in the store
    kind: str  # what it is, as orbax calls it
    empty: bool  # whether nothing is stored for it


def open_orbax(path: Path) -> Reader:
    """Opens the tree of arrays in a folder, or in the only folder below it that has one: an item, or a step."""
    with _files.os_errors_as("load", path):
        place, beside = _item(path)
        folder = Folder(place)
    return _opened(path, folder, beside)


def _opened(path: Path, folder: Folder, beside: Mapping[str, Any]) -> Reader:
    where = folder.path / _TREE
    tree = folder.json(_TREE)
    if not isinstance(tree, dict) or not isinstance(tree.get("tree_metadata"), dict):
        refuse("load", "the file does not describe a tree", where)
    leaves = list(_leaves(tree["tree_metadata"], where))
    if len({leaf.name for leaf in leaves}) != len(leaves):
        refuse("load", "two leaves have the same keys", where)
    metadata = {leaf.name: None for leaf in leaves if leaf.kind == _NONE} | _texts(folder, leaves) | dict(beside)
    zarr = Zarr(folder, 3 if tree.get("use_zarr3") is True else 2, "manifest.ocdbt" in folder.files)
    arrays = {leaf.name: leaf.stored for leaf in leaves if not leaf.empty and leaf.kind not in (_SCALAR, _TEXT)}
    scalars = {leaf.name: leaf.stored for leaf in leaves if not leaf.empty and leaf.kind == _SCALAR}
    if scalars:
        metadata |= _numbers(path, zarr, scalars)
    keys = _random_keys(folder)
    return StoredArrays(path, zarr, arrays, aliases=_without_value(arrays), metadata=metadata, keys=keys)


def _without_value(names: Iterable[str]) -> dict[str, str]:
    """The names of variables of ``flax.nnx``, whose arrays are one level deeper: ``kernel`` for ``kernel/value``."""
    shorter = {name.removesuffix("/value"): name for name in names}
    return {} if any(name == first for name, first in shorter.items()) else shorter


def _leaves(tree: Mapping[str, Any], where: Path) -> Iterator[_Leaf]:
    for key, value in tree.items():
        try:
            keys = [str(each["key"]) for each in value["key_metadata"]]
            facts = value["value_metadata"]
            kind, empty = facts["value_type"], facts["skip_deserialize"]
        except (TypeError, KeyError):
            refuse("load", f"the leaf {key!r:.100} must be described by its keys and its value", where)
        if not keys or any("\0" in each for each in keys) or not isinstance(kind, str) or type(empty) is not bool:
            refuse("load", f"the leaf {key!r:.100} must be described by its keys and its value", where)
        yield _Leaf("/".join(segment(each) for each in keys), ".".join(keys), kind, empty)


def _texts(folder: Folder, leaves: list[_Leaf]) -> dict[str, str]:
    """The leaves that are texts."""
    wanted = [leaf for leaf in leaves if leaf.kind == _TEXT]
    texts = folder.json("_strings.json") if wanted else {}
    if not isinstance(texts, dict) or not all(isinstance(texts.get(leaf.stored), str) for leaf in wanted):
        refuse("load", "a text of the tree is missing", folder.path / "_strings.json")
    return {leaf.name: texts[leaf.stored] for leaf in wanted}


def _numbers(path: Path, zarr: Zarr, scalars: Mapping[str, str]) -> dict[str, Any]:
    """The leaves that are Python's numbers. They are stored as arrays, and are few and small: they are read now."""
    if len(scalars) > _MOST_SCALARS:
        refuse("load", f"the tree has {len(scalars)} numbers, and the limit is {_MOST_SCALARS}", path)
    reader = StoredArrays(path, zarr, scalars, metadata={})
    for name, record in reader.variables.items():
        if record.shape != ():
            refuse("load", f"a number is stored with the shape {record.shape}", f"{path}: {name}")
    numbers = {name: reader.read(name).item() for name in scalars}
    return {name: str(each) if isinstance(each, complex) else each for name, each in numbers.items()}


def _random_keys(folder: Folder) -> dict[str, str]:
    """The arrays of the store that are random keys, each with its dtype."""
    keys = {}
    for name in folder.files:
        if not name.startswith("array_metadatas/process_"):
            continue
        try:
            for each in folder.json(name)["array_metadatas"]:
                facts = each["array_metadata"]
                if (more := facts.get("ext_metadata")) and (implementation := more.get("random_key_impl")):
                    keys[str(facts["param_name"])] = _KEYS[implementation]
        except (TypeError, KeyError, AttributeError):
            refuse("load", "the file does not describe the arrays of the tree", folder.path / name)
    return keys


# -- which folder ------------------------------------------------------------------------------------


def _item(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that has the tree, and the JSON of the other items.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    names = sorted(_files.names(path))
    if _TREE in names:
        return path, {}
    items = [name for name in names if (path / name / _TREE).is_file()]
    finished = [name for name in items if not name.endswith(_UNFINISHED)]
    if len(finished) == 1:
        return inside(path, finished[0]), _other_items(path, names)
    if finished:
        problem = f"this checkpoint of orbax has several trees: {', '.join(finished[:20])}"
        refuse("load", problem, path, f"pass one of them, such as {str(path / finished[0])!r}")
    if items or any(name.endswith(_UNFINISHED) for name in [path.name, *names]):
        refuse("load", "orbax has not finished this checkpoint", path, "pass an earlier one")
    raise CheckpointError.of(
        "load", "this checkpoint of orbax has no tree of arrays (_METADATA)", str(path), "restore it with orbax"
    )


def _other_items(path: Path, names: list[str]) -> dict[str, Any]:
    """The items of a checkpoint that are JSON, by name."""
    found = {}
    for name in names:
        if (path / name / "metadata").is_file() and not (path / name / _TREE).exists():
            found[name] = Folder(inside(path, name)).json("metadata")
    return found
