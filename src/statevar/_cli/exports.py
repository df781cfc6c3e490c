"""Writes files of other programs: ``.npz`` and ``.npy`` of NumPy, and ``.h5`` of h5py."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays.dtypes import HOST
from .._state.by_path import needed
from ..checkpoint._checkpoint import Checkpoint
from ..checkpoint._formats.reader import library
from .exits import CommandError, Exit
from .reading import checked

__all__ = ["write_hdf5", "write_npy", "write_npz"]

_HINT = "convert to .safetensors, or leave them out with --only"


def write_npy(checkpoint: Checkpoint, names: list[str], target: Path) -> None:
    """Writes one array.

    Raises:
        CommandError: there are several, or the format does not have its dtype.
    """
    found = [name for name in names if checkpoint.variables[name].shape is not None]
    if len(found) != 1:
        hint = "choose one with --only, or convert to .npz"
        raise CommandError(f"a .npy file has one array, and there are {len(found)}", hint=hint)
    _check_dtypes(checkpoint, found, ".npy")
    with target.open("xb") as file:
        np.lib.format.write_array(file, checked(checkpoint, found[0]), allow_pickle=False)


def write_npz(checkpoint: Checkpoint, names: list[str], target: Path) -> None:
    """Writes an archive of arrays, which are not compressed.

    Raises:
        CommandError: the format does not have a dtype.
    """
    _check_dtypes(checkpoint, names, ".npz")
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        for name in names:
            if checkpoint.variables[name].shape is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, checked(checkpoint, name), allow_pickle=False)


def write_hdf5(checkpoint: Checkpoint, names: list[str], target: Path) -> None:
    """Writes a file of HDF5, in which an alias is a second link to the same dataset or group.

    Raises:
        BackendNotInstalledError: h5py is not installed.
        CommandError: the format does not have a dtype, or cannot have a name.
    """
    h5py = library("h5py", "h5", target, "write")
    _check_dtypes(checkpoint, names, ".h5")
    with h5py.File(target, "x") as file:
        for name in names:
            if checkpoint.variables[name].shape is not None:
                try:
                    file.create_dataset(name, data=checked(checkpoint, name))
                except (ValueError, TypeError, OSError) as error:
                    problem = f"an HDF5 file cannot have {name!r} beside the others: {error}"
                    raise CommandError(problem, hint=_HINT) from None
        for alias, first in needed(checkpoint.aliases, names).items():
            if alias not in file and first in file:
                file[alias] = file[first]


def _check_dtypes(checkpoint: Checkpoint, names: list[str], ending: str) -> None:
    for name in names:
        record = checkpoint.variables[name]
        dtype: Any = HOST.get(record.dtype)
        if record.shape is not None and (dtype is None or dtype.isbuiltin != 1 or dtype.kind not in "biufc"):
            raise CommandError(f"a {ending} file has no dtype {record.dtype}, which {name!r} has", Exit.USAGE, _HINT)
