"""Values that are no array of a library: variables of other frameworks, and what to say of everything else.

No framework is named here. Whatever can be asked for its array is asked, and an error describes any other value by what
it can do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

from .._arrays.backend import Backend
from .._arrays.dtypes import HOST
from .._arrays.registry import owner_of
from .._arrays.unreadable import Unreadable
from ..errors import DTypeError, StatevarError

__all__ = ["array_in", "check_readable", "described", "is_one_array", "lists_arrays", "may_be_text"]

#: How another framework's variable gives its array: a method, or the property ``value``.
_METHODS = ("__jax_array__", "__tf_tensor__")

_TAKEN = "pass a number, a list or an array"
_TAKEN_ROWS = "pass a number, a nested list whose rows have equal lengths, or an array"

#: The names under which models, optimizers and metrics list their arrays.
_LISTINGS = ("state_dict", "named_parameters", "named_variables", "trainable_variables", "variables", "weights")


def array_in(value: Any) -> Any:
    """The array of another framework's variable, such as a Keras or NNX variable; any other value as it is.

    Not for variables of ours: `convert.unwrapped` returns the array of one.
    """
    cls = type(value)
    if cls.__module__ == "builtins" or isinstance(value, type) or owner_of(value) is not None:
        return value
    try:
        found = _asked(cls, value)
    except StatevarError:
        raise
    except Exception:  # noqa: BLE001  # it has no array now, or it is no variable; the conversion says what is wrong
        return value
    return value if owner_of(found) is None else found


def _asked(cls: type, value: Any) -> Any:
    for name in _METHODS:
        if hasattr(cls, name):
            return getattr(value, name)()
    return value.value if isinstance(getattr(cls, "value", None), property) else None


def is_one_array(value: Any) -> bool:
    """Whether NumPy may read a value, and not make an array of the keys of a mapping or of a model."""
    return _has_protocol(value) or not (isinstance(value, Mapping | AbstractSet) or hasattr(type(value), "keys"))


def may_be_text(value: Any) -> bool:
    """Whether a value of which NumPy makes texts is meant as texts. An object that iterates over names is not."""
    return isinstance(value, str | bytes | Sequence | deque) or _has_protocol(value)


def _has_protocol(value: Any) -> bool:
    """Whether an object gives an array, or memory, to NumPy when it is asked."""
    if any(hasattr(value, name) for name in ("__array__", "__array_interface__", "__array_struct__")):
        return True
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def lists_arrays(cls: type) -> bool:
    """Whether objects of a class list arrays of their own, as models, optimizers and metrics do."""
    return any(hasattr(cls, name) for name in _LISTINGS)


def described(value: Any) -> tuple[str, str]:
    """What a value is, if it is no array, and what to do instead: the problem and the hint of an error."""
    cls = type(value)
    name = cls.__name__
    if value is None:
        return "a value of type NoneType is no array", _TAKEN
    if isinstance(value, type):
        return f"the class {value.__name__} is no value", f"pass an object of the class: {value.__name__}(…)"
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in islice(value, 3)) + (", …" if len(value) > 3 else "")
        return (
            f"a value of type {name} is a mapping and not one array; its keys are {keys or 'none'}",
            f"{_TAKEN}; or make one variable of each value: {{key: sv.Variable(x) for key, x in mapping.items()}}",
        )
    if isinstance(value, AbstractSet):
        return f"a value of type {name} has no order, so it is no array", "pass sorted(values)"
    if isinstance(value, Iterator):
        return f"a value of type {name} is an iterator and not an array", "pass list(values)"
    if lists_arrays(cls):
        return (
            f"an object of type {name} holds several arrays and is not one array itself",
            "make one variable of each of its arrays: [sv.Variable(x) for x in arrays]",
        )
    if callable(value):
        return (
            f"a value of type {name} is a callable and not an array",
            "pass the value that it returns, or use v.update(fn) to compute it from the old value",
        )
    if hasattr(cls, "__float__"):
        return f"a value of type {name} cannot be read as an array", "pass float(x)"
    separate = "; arrays of several shapes are variables of their own" if isinstance(value, list | tuple) else ""
    return f"a value of type {name} cannot be read as an array", f"{_TAKEN_ROWS}{separate}"


#: The methods by which a sparse or ragged array of any package makes a dense one.
_DENSE = ("toarray", "todense", "to_dense")
#: What marks a ragged or sparse tensor that has no such method, and what to pass then.
_PARTS = {
    ("row_splits", "to_tensor"): "x.to_tensor()",
    ("indices", "dense_shape"): "a dense tensor of it, such as tf.sparse.to_dense(x) or tf.convert_to_tensor(x)",
}


def check_readable(value: Any, owner: Backend | None, operation: str, path: str, home: Backend | None = None) -> None:
    """Raises if a value would lose a part of its meaning when it is read as an array: a mask, a unit, missing values.

    Args:
        owner: the backend of an array; None for any other object, and for a list, whose elements are checked.
        home: the adapter of the variable, which may be one that takes values that are spread.

    Raises:
        DTypeError: the value is masked, sparse or the like.
        DeviceError: its elements are spread over several devices or processes, or it has none.
    """
    if owner is not None:
        may_be_spread = home is not None and home.is_sharded and home.native is owner
        found: Any = (
            owner.unreadable(value) or (not may_be_spread and owner.spread(value)) or _without_dtype(value, owner)
        )
    elif isinstance(value, list | tuple):
        for each in value if set(map(type, value)) - _NUMBERS else ():
            if type(each) not in _NUMBERS:
                check_readable(each, owner_of(each), operation, path)
        return
    else:
        found = _unreadable(value)
    if found:
        raise found.refused(operation, path)


_NUMBERS: Final = {bool, int, float, complex, str}

#: What to pass in place of an array of a dtype that no variable has, by the kind of NumPy's dtype.
_INSTEAD: Final = {
    "O": "give its elements a dtype: x.astype('float64')",
    "M": "pass its numbers: x.astype('int64')",
    "m": "pass its numbers: x.astype('int64')",
    "f": "pass x.astype('float64'), which rounds",
    "c": "pass x.astype('complex128'), which rounds",
}


def _without_dtype(value: Any, owner: Backend) -> Unreadable | None:
    """Why an array cannot be stored, if no variable has its dtype."""
    try:
        owner.dtype_name(value)
    except DTypeError:
        hint = _INSTEAD.get(getattr(value.dtype, "kind", ""), f"cast it to a dtype of variables: {', '.join(HOST)}")
        return Unreadable(f"an array of the dtype {value.dtype}, which no variable has", hint)
    return None


def _unreadable(value: Any) -> Unreadable | None:
    """Why an object that is no array of a library would lose a part of its meaning if NumPy read it as one."""
    cls = type(value)
    if cls.__module__ == "builtins" or isinstance(value, type):
        return None
    name = f"{'an' if cls.__name__[0] in 'AEIOU' else 'a'} {cls.__name__}"
    if (method := next((each for each in _DENSE if hasattr(cls, each)), "")) and not hasattr(cls, "__array__"):
        return Unreadable(f"{name}, and a variable is dense", f"pass x.{method}()")
    for attributes, hint in _PARTS.items():
        if all(hasattr(cls, each) for each in attributes):
            return Unreadable(f"{name}, and a variable is dense", f"pass {hint}")
    if hasattr(cls, "mask") and hasattr(cls, "filled"):
        return Unreadable(f"{name}, whose mask would be lost", "pass x.filled(0.0), or x[~x.mask]")
    if hasattr(cls, "magnitude") and hasattr(cls, "units"):
        return Unreadable(f"{name} in {value.units}, whose unit would be lost", "pass its number: x.magnitude")
    if _has_missing(value):
        return Unreadable(f"{name} with missing values, which would become NaN", "pass x.to_numpy(na_value=0.0)")
    return None


def _has_missing(value: Any) -> bool:
    """Whether an array or a table has missing values of which NumPy would make NaN: they are not the same."""
    if not hasattr(value, "isna"):
        return False
    if hasattr(value, "dtypes") and hasattr(value, "columns"):
        return any(_has_missing(value[each]) for each in value.columns)
    kind = getattr(value, "dtype", None)
    missing = getattr(kind, "na_value", None)
    return missing is not None and not isinstance(missing, float) and bool(value.isna().any())
