"""A variable of a file that is edited: its value in a variable of NumPy, whose checks are those of every variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.dtypes import KEYS, STORED, is_differentiable, is_floating
from .._arrays.types import HostArray
from .._core.tables import escaped, shape_text
from .._core.variable import Variable
from ..checkpoint._checkpoint import Checkpoint
from ..checkpoint._rewriting import Change
from ..checkpoint._to_variables import variables_of
from ..errors import ShapeError, StatevarError
from .assignments import Assignment
from .exits import CommandError
from .values import flag_of, value_of

__all__ = ["Edited"]


class Edited:
    """A variable of a checkpoint, and what becomes of it.

    Args:
        checkpoint: the open checkpoint.
        path: the first path of the variable.
    """

    def __init__(self, checkpoint: Checkpoint, path: str) -> None:
        self._checkpoint = checkpoint
        self._path = path
        self._before = self._record = checkpoint.variables[path]
        self._variable: Variable | None = None  # only if its value is changed
        self._bits: bytes | None = None

    def apply(self, wanted: Assignment) -> str:
        """Does an assignment, and returns a description.

        Raises:
            CommandError: the value is not valid.
            StatevarError: it does not fit the variable.
        """
        return self._set_flag(wanted) if wanted.flag else self._assign(wanted)

    def change(self) -> Change | None:
        """What is to be written; None if nothing has changed."""
        variable = self._variable
        if variable is None or _bits(variable) == self._bits:
            return None if self._record == self._before else Change(self._record, None)
        return Change(self._record._replace(shape=variable.shape), variable.numpy())

    def _assign(self, wanted: Assignment) -> str:
        if self._variable is None:
            self._variable = self._made()
            self._bits = _bits(self._variable)
        variable = self._variable
        value = value_of(wanted.value, variable.dtype_name)
        was = variable.numpy() if variable.is_initialized else None
        try:
            with np.errstate(all="ignore"):  # what becomes infinite or NaN is seen in the description
                if wanted.operation != "assign":
                    getattr(variable.at[wanted.key], wanted.operation)(value)
                elif was is None or np.ndim(value):
                    variable.assign(value)
                else:
                    variable.at[...].set(value)  # one number for all elements
        except ShapeError as error:
            is_repeatable = wanted.operation == "assign" and was is not None and was.ndim > 0
            hint = f"{self._path}[...]=VALUE repeats it along the axes that it lacks" if is_repeatable else ""
            raise ShapeError.of("edit", error._parts[1], self._path, hint) from error
        except StatevarError as error:
            raise error._at("edit", self._path) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise CommandError(f"{wanted.place}: {error}") from error
        return _described(was, variable.numpy())

    def _made(self) -> Variable:
        dtype = self._record.dtype
        if dtype in KEYS or dtype not in STORED:
            what = "random keys are" if dtype in KEYS else f"values of the dtype {dtype} are"
            raise CommandError(
                f"{what} not edited here: {self._path!r}", hint="change it in a program: sv.load, sv.save"
            )
        return variables_of({self._path: self._record}, {}, self._checkpoint.arrays, "numpy")[self._path]

    def _set_flag(self, wanted: Assignment) -> str:
        value: Any = flag_of(wanted.flag, wanted.value)
        was, dtype = getattr(self._record, wanted.flag), self._record.dtype
        if value is True and wanted.flag == "trainable" and not is_differentiable(dtype):
            raise CommandError(f"{self._path!r} cannot be trainable: {dtype} has no gradients")
        if value is True and wanted.flag == "autocast" and not is_floating(dtype):
            raise CommandError(f"{self._path!r} cannot follow autocast scopes: {dtype} is no floating-point dtype")
        self._record = self._record._replace(**{wanted.flag: value})
        return f"{_text(was)} -> {_text(value)}"


def _text(flag: Any) -> str:
    return str(flag).lower()


def _bits(variable: Variable) -> bytes | None:
    """What tells two values apart, also NaN and the sign of zero."""
    if not variable.is_initialized:
        return None
    value = variable.numpy()
    return repr((value.shape, value.tolist() if variable.dtype_name == "string" else value.tobytes())).encode()


def _described(was: HostArray | None, now: HostArray) -> str:
    """How many elements change, and the first of them."""
    if was is None:
        return f"gets its first value, of shape {shape_text(now.shape)}"
    if was.shape != now.shape:
        return f"the shape changes, {shape_text(was.shape)} -> {shape_text(now.shape)}"
    different = np.asarray(~((was == now) | ((was != was) & (now != now))))  # NaN is not equal to itself
    count = int(np.count_nonzero(different))
    text = f"{count:,} of {now.size:,} elements change"
    if not count:
        return text
    first = int(np.argmax(different.reshape(-1)))
    return f"{text}, {_short(was, first)} -> {_short(now, first)}{', ...' if count > 1 else ''}"


def _short(array: HostArray, at: int) -> str:
    element = array.reshape(-1)[at]
    text = escaped(repr(str(element)) if array.dtype.kind in "OTU" else str(element))
    return text if len(text) <= 60 else f"{text[:57]}..."
