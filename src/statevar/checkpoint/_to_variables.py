"""Makes the variables that a file describes, with every flag and alias that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from .._arrays.dtypes import KEYS, STORED
from .._arrays.types import HostArray
from .._core.variable import Variable
from .._state.by_path import needed
from .._state.variables_by_path import VariablesByPath
from ..errors import BackendNotInstalledError, CheckpointError, DTypeError, StatevarError, describe
from ._formats.safetensors.values import VariableRecord
from ._giving import give

__all__ = ["variables_of"]

_Read: TypeAlias = "Callable[[Iterable[str]], Mapping[str, HostArray | CheckpointError]]"


def variables_of(
    records: Mapping[str, VariableRecord], aliases: Mapping[str, str], read: _Read, backend: str | None
) -> VariablesByPath:
    """Makes variables, and gives all of them their values.

    Args:
        records: the facts about each, by path.
        aliases: the further paths of variables and containers.
        read: reads arrays, by path.
        backend: the library of all of them; None for that with which each was saved.
    """
    made = {path: _empty(path, record, backend) for path, record in records.items()}
    arrays = read(path for path, record in records.items() if record.shape is not None)
    damaged = [str(array) for array in arrays.values() if isinstance(array, CheckpointError)]
    if damaged:
        raise CheckpointError("\n".join(dict.fromkeys(damaged)))
    give([(path, made[path], array) for path, array in arrays.items()])
    return VariablesByPath(made, needed(aliases, made))


def _empty(path: str, record: VariableRecord, backend: str | None) -> Variable:
    """A variable with these facts that has no value yet."""
    if record.dtype not in STORED:
        problem = f"no variable can have the dtype {record.dtype}"
        hint = "leave it out with only=, or read the array: checkpoint[path]"
        raise DTypeError.of("to_variables", problem, path, hint)
    facts: dict[str, Any] = record._asdict()
    try:
        return Variable(
            shape=record.declared,
            dtype=record.dtype,
            trainable=record.trainable,
            autocast=record.autocast,
            aggregation=facts["aggregation"],
            name=path.rpartition("/")[2] or None,
            backend=record.backend if backend is None else backend,
        )
    except BackendNotInstalledError as error:
        hint = 'pass backend="numpy"' if record.dtype not in KEYS else "install it, or leave the keys out with only="
        problem = f"it was saved from {record.backend}, which is not installed"
        raise BackendNotInstalledError(
            describe("to_variables", problem if backend is None else str(error), path, hint)
        ) from error
    except StatevarError as error:
        raise error._at("to_variables", path) from error
