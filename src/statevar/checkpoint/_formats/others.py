"""Recognises the files and folders of other programs by their content: which reader opens them, or why none does.

Nothing in them is executed. Names are looked at only where the content says nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from ...errors import CheckpointError
from .. import _files
from .reader import Reader

__all__ = ["Other", "other_at", "owner_of_folder", "steps_of_orbax"]


class Other(NamedTuple):
    """What another program has written at a path.

    Attributes:
        what: what it is.
        hint: what to do with it, if there is no reader.
        reader: the module beside this one that reads it; None if there is none. The module ``x`` has ``open_x(path)``.
    """

    what: str
    hint: str
    reader: str | None = None

    def open(self, path: Path) -> Reader:
        """Opens the file. Only now the module of its reader is imported."""
        module = import_module(f"{__package__}.{self.reader}")
        reader: Reader = getattr(module, f"open_{self.reader}")(path)
        return reader


_OLD_TORCH = "convert it with torch: torch.save(torch.load(path, weights_only=True), 'new.pt')"
_TORCHSCRIPT = "convert it with torch: torch.save(torch.jit.load(path).state_dict(), 'weights.pt')"
_KERAS = "load it with Keras (model.load_weights or keras.saving.load_model), and assign the arrays to variables"
_TENSORFLOW = "read it with tf.train.load_checkpoint, and assign the arrays: v.assign(reader.get_tensor(name))"
_PICKLE = "a pickle can run any code: load it with its own program if you trust it, and assign the arrays to variables"
_UNPACK = "unpack it first"
_ORBAX = Other("a checkpoint of orbax", "restore it with orbax, and assign the arrays to variables", "orbax")
_ZARR = Other("a Zarr store", "read it with zarr, and assign the arrays to variables", "zarr")

#: By the first bytes of a file.
_MAGIC: tuple[tuple[bytes, Other], ...] = (
    (b"\x93NUMPY", Other("an array of NumPy (.npy)", "", "npy")),
    (
        b"\x89HDF\r\n\x1a\n",
        Other("an HDF5 file (.h5), such as weights of Keras", _KERAS + "; or read it with h5py", "hdf5"),
    ),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Other("a file that torch.save wrote before version 1.6", _OLD_TORCH)),
    (b"\x1f\x8b", Other("compressed with gzip", _UNPACK)),
    (b"BZh", Other("compressed with bzip2", _UNPACK)),
    (b"\xfd7zXZ\0", Other("compressed with xz", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Other("compressed with zstandard", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Other("an archive of 7-Zip", _UNPACK)),
    (b"GGUF", Other("a GGUF file of llama.cpp", "look for another copy of it", "gguf")),
    (b"PAR1", Other("a Parquet file", "read it with pandas or pyarrow, and assign the arrays to variables")),
    (b"ARROW1", Other("an Arrow file", "read it with pyarrow, and assign the arrays to variables")),
    (b"SQLite format 3\0", Other("a database of SQLite", "read it with sqlite3")),
    (
        b"MATLAB 5.0",
        Other("a file of MATLAB (.mat)", "read it with scipy.io.loadmat, and assign the arrays to variables"),
    ),
    (b"CDF", Other("a NetCDF file", "read it with xarray or scipy.io, and assign the arrays to variables")),
    (b"\x89PNG", Other("a picture (.png)", "pass the path of a file that sv.save has written")),
    (
        b"version https://git-lfs",
        Other("a pointer of Git LFS, and not the file itself", "fetch the file: git lfs pull"),
    ),
    (b"<!DOCTYPE", Other("an HTML page", "the download has failed: look at the file, and load it again")),
    (b"<html", Other("an HTML page", "the download has failed: look at the file, and load it again")),
    (
        b"model_checkpoint_path:",
        Other("the list of the checkpoints of TensorFlow in this folder", _TENSORFLOW, "tensor_bundle"),
    ),
)
_MANAGER, _SAVED = "the folder of a CheckpointManager", "a folder of saved files"
_SAVED_ENDS = (
    (".safetensors", ".safetensors.index.json"),
    (".bin.index.json",),
    (".bin", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".keras", ".h5", ".gguf", ".msgpack"),
)
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # the last bytes of the index of a TensorFlow checkpoint
_TAR = 257, b"ustar"

#: By a name in a folder.
_IN_FOLDER: tuple[tuple[str, Other], ...] = (
    (
        "saved_model.pb",
        Other("a SavedModel of TensorFlow", "load it with tf.saved_model.load", "tensor_bundle"),
    ),
    ("_CHECKPOINT_METADATA", _ORBAX),
    ("_METADATA", _ORBAX),
    ("manifest.ocdbt", _ORBAX),
    (".metadata", Other("a checkpoint of torch.distributed.checkpoint", "", "torch_dcp")),
    ("checkpoint", Other("a folder of TensorFlow checkpoints", _TENSORFLOW, "tensor_bundle")),
    ("variables.index", Other("the variables of a SavedModel of TensorFlow", _TENSORFLOW, "tensor_bundle")),
    ("zarr.json", _ZARR),
    (".zgroup", _ZARR),
    (".zarray", _ZARR),
)


def other_at(path: Path) -> Other | None:
    """Returns what another program has written at a path; None if that is not known."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _prefix(path)
    if stat.S_ISDIR(mode):
        return _folder(path)
    if (kind := _files.kind_of_mode(mode)) is not None:
        return Other(kind, "pass the path of a file")
    return _file(path)


def _file(path: Path) -> Other | None:
    with path.open("rb") as file:
        beginning = file.read(1024)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if not beginning:
        return Other("an empty file", "its save or its download has failed")
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") <= size:
        return None  # a damaged file of ours, whatever its length looks like
    found = next((other for magic, other in _MAGIC if beginning.startswith(magic)), None)
    if found is not None:
        return found
    if (path.name == ".metadata" or path.suffix == ".distcp") and (path.parent / ".metadata").is_file():
        hint = f"pass its folder: {str(path.parent)!r}"
        return Other("a part of a checkpoint of torch.distributed.checkpoint", hint)
    if beginning.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the second one is an archive without members
        return _zip(path)
    if beginning[_TAR[0] :].startswith(_TAR[1]):
        return Other("a tar archive", _UNPACK)
    if end == _TABLE_END or ".data-" in path.name:
        prefix = path.with_name(path.name.partition(".data-")[0].removesuffix(".index"))
        return Other(f"a part of the checkpoint {prefix.name!r} of TensorFlow", _TENSORFLOW, "tensor_bundle")
    if beginning[0] == 0x80 and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Other("a pickle", _PICKLE)
    if _is_msgpack(beginning):
        hint = "read it with flax.serialization.msgpack_restore"
        return Other("a msgpack file, such as a checkpoint of Flax", hint, "flax_msgpack")
    return Other("a pickle", _PICKLE) if path.suffix.lower() in (".pkl", ".pickle") else _text(path, beginning)


def _is_msgpack(beginning: bytes) -> bool:
    """Whether it is a mapping whose first key is a text, or an array as Flax writes it."""
    first = beginning[0]
    if first in _LENGTH_OF_ARRAY:
        return beginning[1 + _LENGTH_OF_ARRAY[first] :].startswith(b"\x01\x93")
    place = 1 if 0x81 <= first <= 0x8F else _LENGTH_OF_MAPPING.get(first)
    key = beginning[place : place + 1] if place else b""
    return bool(key) and (b"\xa0" <= key < b"\xc0" or b"\xd9" <= key <= b"\xdb")


_LENGTH_OF_ARRAY = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LENGTH_OF_MAPPING = {0xDE: 3, 0xDF: 5}


def _text(path: Path, beginning: bytes) -> Other | None:
    """A file of readable text, or an index, which is JSON."""
    if beginning.startswith(b"{"):
        return _index(path)
    readable = all(byte >= 0x20 or byte in b"\t\n\r" for byte in beginning)
    return Other("a text file", "pass the path of a file that sv.save has written") if readable else None


def _index(path: Path) -> Other | None:
    """The index of files of torch; None if it is another one, or anything else."""
    from .torch_index import shards_named_in  # noqa: PLC0415  # as the readers: only if its format is met

    try:
        shards = shards_named_in(path) or ()
    except CheckpointError:
        return None
    first = next((path.parent / name for name in shards if (path.parent / name).is_file()), None)
    if first is None or _zip(first).reader != "torch_pt":
        return None
    return Other("an index of files of torch.save", "", "torch_index")


def _zip(path: Path) -> Other:
    from .archive import Archive  # noqa: PLC0415  # as the readers: only if its format is met

    try:
        archive = Archive(path)
    except CheckpointError:
        return Other("a damaged zip archive", "look for another copy of it")
    archive.file.close()
    names = list(archive)
    if _has(names, "constants.pkl"):
        return Other("a TorchScript archive (.pt)", _TORCHSCRIPT)
    if _has(names, "data.pkl"):
        return Other("a file of torch.save (.pt)", "", "torch_pt")
    if _has(names, "model.weights.h5"):
        return Other("a model of Keras (.keras)", _KERAS, "hdf5")
    if all(name.endswith(".npy") for name in names):
        return Other("a file of numpy.savez (.npz)", "", "npy")
    return Other("a zip archive", _UNPACK)


def _has(names: Iterable[str], last: str) -> bool:
    return any(name.rpartition("/")[2] == last for name in names)


def _folder(path: Path) -> Other | None:
    names = sorted(each.name for each in path.iterdir())
    if "index.json" in names:
        return None  # a damaged checkpoint of ours
    found = next((other for name, other in _IN_FOLDER if name in names), None)
    if found is not None:
        return found
    if any((path / name / "_METADATA").is_file() for name in names):
        return _ORBAX  # a step of a CheckpointManager of orbax, which has the tree in a folder
    if by_number := steps_of_orbax(path):
        hint = f"pass one of its steps: {str(by_number[max(by_number)])!r}"
        return Other("the folder of a CheckpointManager of orbax", hint)
    if steps := [name for name in names if name.startswith("step-")]:
        return Other(_MANAGER, f"pass one of its checkpoints, such as {str(path / steps[-1])!r}")
    for ends in _SAVED_ENDS:
        if files := [name for name in names if name.endswith(ends)]:
            return Other(_SAVED, f"pass one of them, such as {str(path / files[-1])!r}")
    return None


def owner_of_folder(path: Path) -> Other | None:
    """Returns what another program has written in a folder of checkpoints; None if it is nothing, or not known."""
    found = _folder(path)
    return None if found is None or found.what in (_MANAGER, _SAVED) else found


def steps_of_orbax(folder: Path) -> dict[int, Path]:
    """The steps in the folder of a CheckpointManager of orbax, in order; none if it is anything else."""
    numbers = ((re.search(r"\d+$", each.name, re.ASCII), each) for each in folder.iterdir())
    return dict(sorted((int(number[0]), each) for number, each in numbers if number and _is_step_of_orbax(each)))


def _is_step_of_orbax(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / "_CHECKPOINT_METADATA").is_file() or any((each / "_METADATA").is_file() for each in path.iterdir())


def _prefix(path: Path) -> Other | None:
    """The checkpoint of TensorFlow that has a path without being a file."""
    try:
        is_prefix = path.with_name(f"{path.name}.index").is_file()
    except (OSError, ValueError):
        return None
    return Other("the prefix of a checkpoint of TensorFlow", _TENSORFLOW, "tensor_bundle") if is_prefix else None
