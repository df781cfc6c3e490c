"""Canonical dtype names, the default dtypes, and the rule by which values are cast.

The core passes a dtype by its name (``"float32"``, ``"bfloat16"``); an adapter turns the name into its library's
object. The casting rule is the same for all libraries:

* a cast never changes the kind downwards (float to int, complex to real) unless the value is a Python
  number that the target represents exactly;
* a cast never makes a finite value infinite, and never changes the value of an integer;
* a cast may round to a lower precision, as in every library.
"""

from __future__ import annotations

import functools
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

from .._public import public
from ..errors import DTypeError, RangeError

__all__ = [
    "DEFAULTS",
    "HOST",
    "KEYS",
    "STORED",
    "cast_host",
    "check_kind",
    "default_for",
    "dtype_kind",
    "dtype_name",
    "host_of",
    "is_differentiable",
    "is_floating",
    "is_integer",
    "keys_are_no_numbers",
    "limits",
    "narrows",
    "number_to_host",
]

HostArray: TypeAlias = "np.ndarray[Any, Any]"

#: The dtypes that NumPy lacks.
_FROM_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")


class _Dtypes(dict[str, "np.dtype[Any]"]):
    """NumPy dtypes by name. Those of ``ml_dtypes`` are there too, but made when the first of them is looked up.

    To import that library would take a twentieth of `import statevar`. The class derives from dict, since lookups must
    be fast.
    """

    def __missing__(self, name: str) -> np.dtype[Any]:
        if name not in _FROM_ML_DTYPES:
            raise KeyError(name)
        import ml_dtypes  # noqa: PLC0415  # for the reason above

        return self.setdefault(name, np.dtype(getattr(ml_dtypes, name)))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in _FROM_ML_DTYPES

    def __iter__(self) -> Iterator[str]:
        """Iterates over all names in the order of the kinds, whether they were looked up or not."""
        known = [name for name in super().__iter__() if name not in _FROM_ML_DTYPES]
        return iter([*known, *_FROM_ML_DTYPES])

    # The views of a dict would know only what was looked up.

    def __len__(self) -> int:
        return sum(1 for _ in self)  # `list` would ask for the length

    def keys(self) -> Any:
        """The names of all dtypes, also of those that are not loaded yet."""
        return KeysView(self)

    def values(self) -> Any:
        """The dtypes of all names."""
        return ValuesView(self)

    def items(self) -> Any:
        """All names with their dtypes."""
        return ItemsView(self)


#: Every dtype that a variable may have, by name, as a NumPy dtype.
HOST = _Dtypes(
    {
        name: np.dtype(name)
        for name in (
            "bool",
            *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
            *("float16", "float32", "float64", "complex64", "complex128"),
        )
    }
    | {"string": np.dtypes.StringDType()}
)

#: The dtypes of random keys, which are no numbers and which only JAX has. Each is given as the NumPy dtype that holds
#: the numbers of a key in a file or a pickle; NumPy cannot compute with it, and no user gets an array of it.
KEYS: dict[str, np.dtype[Any]] = {
    name: np.dtype([(name, "<u4", (width,))]) for name, width in (("key<fry>", 2), ("key<rbg>", 4), ("key<urbg>", 4))
}

#: How the elements of each dtype are stored in host memory.
STORED = _Dtypes({name: HOST[name] for name in HOST if name not in _FROM_ML_DTYPES} | KEYS)

#: The default dtype of each Python type.
DEFAULTS: dict[type, str] = {
    bool: "bool",
    int: "int32",
    float: "float32",
    complex: "complex64",
    str: "string",
}

#: A cache for `dtype_name`, which every assignment of a foreign array calls.
_names: dict[Any, str] = {dtype: name for name, dtype in KEYS.items()}

_RANK = {"string": -1, "bool": 0, "int": 1, "uint": 1, "float": 2, "complex": 3, "key": 4}


# A dict and not functools.cache: torch.compile traces a write up to here, and warns of every lru_cache on the way.
_KINDS = {name: "float" if name == "bfloat16" else name.partition("_")[0].rstrip("0123456789") for name in HOST}
_KINDS |= dict.fromkeys(KEYS, "key")


def dtype_kind(name: str) -> str:
    """Returns the kind of a dtype: bool, int, uint, float, complex, string or key."""
    return _KINDS[name]


@public("statevar.backends")
def is_integer(name: str) -> bool:
    """Whether a dtype is a signed or unsigned integer."""
    return dtype_kind(name) in ("int", "uint")


def is_floating(name: str) -> bool:
    return dtype_kind(name) == "float"


def is_differentiable(name: str) -> bool:
    return dtype_kind(name) in ("float", "complex")


def dtype_name(dtype: Any) -> str:
    """Returns the canonical name of a dtype given by name, as a Python type, or as any library's dtype object.

    Raises:
        DTypeError: there is no such dtype.

    >>> dtype_name(float), dtype_name(np.int8), dtype_name("bfloat16")
    ('float32', 'int8', 'bfloat16')
    """
    try:
        return _names[dtype]
    except (KeyError, TypeError):
        pass  # not seen yet, or not hashable
    for name in _candidates(dtype):
        if name in STORED:
            if dtype.__hash__ is not None:
                _names[dtype] = name
            return name
    meant = _meant(dtype) if isinstance(dtype, str) else None
    hint = f"{f'did you mean {meant!r}? ' if meant else ''}known dtypes are {', '.join(HOST)}"
    raise DTypeError.of("dtype", f"unknown dtype {dtype!r}", hint=hint)


def host_of(dtype: Any) -> np.dtype[Any]:
    """Returns the NumPy dtype of a dtype that is given in any form.

    Raises:
        DTypeError: there is no such dtype, or it is one of random keys.
    """
    name = dtype_name(dtype)
    if name in KEYS:
        raise DTypeError.of("dtype", f"no array of numbers has the dtype {name}", hint="make keys with jax.random.key")
    return HOST[name]


def keys_are_no_numbers(operation: str, dtype: str, path: str = "") -> DTypeError:
    """The error for a random key that is wanted as an array of another library, or as a number."""
    hint = f"jax.random.key_data({'v.value' if path else 'key'}) are the numbers of a key"
    return DTypeError.of(operation, f"a key of jax.random ({dtype}) is no number, and only JAX has keys", path, hint)


#: Names of the default dtypes and of short forms.
_SHORT = {
    **{each.__name__: name for each, name in DEFAULTS.items()},
    **{f"{short}{bits}": f"float{bits}" for short in ("f", "fp") for bits in (16, 32, 64)},
    **{f"{short}{bits}": f"{kind}{bits}" for short, kind in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
    "bf16": "bfloat16",
    "long": "int64",
    "boolean": "bool",
    "cfloat": "complex64",
    "cdouble": "complex128",
}


def _meant(name: str) -> str | None:
    """The dtype that is meant by a name of another library, such as ``"double"``; None if that cannot be told."""
    last = name.rpartition(".")[2]
    for each in (last, last.lower()):  # NumPy's short forms depend on the case: "q" is int64, "Q" is uint64
        meant = _SHORT.get(each, each)
        if meant not in HOST:
            with suppress(TypeError):
                meant = np.dtype(each).name
        if meant in HOST:
            return meant
    return None


def _candidates(dtype: Any) -> list[str]:
    if isinstance(dtype, str):
        return [dtype]
    if isinstance(dtype, type) and dtype in DEFAULTS:
        return [DEFAULTS[dtype]]
    names = [getattr(dtype, "name", "")]
    # Some libraries print 'library.float32', and some have classes that are named float32.
    names += [str(dtype).rpartition(".")[2], getattr(dtype, "__name__", "")]
    try:
        as_numpy = np.dtype(dtype)
    except TypeError:
        return names
    text = as_numpy.kind in "UST"
    return ["string" if text else as_numpy.name, *names]


def default_for(array: HostArray) -> str:
    """The dtype of a variable that is made from Python numbers, which NumPy has read as ``array``."""
    # A list has no dtype of its own: 64 bits are NumPy's guess, any other dtype comes from an element.
    guesses = {"int64": int, "uint64": int, "float64": float, "complex128": complex}
    name = dtype_name(array.dtype)
    return DEFAULTS[guesses[name]] if name in guesses else name


def check_kind(source: str, target: str, operation: str, path: str) -> None:
    """Raises DTypeError if a cast from one dtype to the other would change the kind downwards."""
    if source in KEYS or target in KEYS:
        raise _no_cast(source, target, operation, path)
    if _RANK[dtype_kind(source)] > _RANK[dtype_kind(target)] or (source == "string") != (target == "string"):
        hint = f"if that is intended, cast it first: x.astype({target!r})"
        if source == "string":
            hint = "a text is no number: convert it yourself; of an initializer, assign the array that it makes"
        raise DTypeError.of(operation, f"cannot cast {source} to {target} without losing information", path, hint)


def _no_cast(source: str, target: str, operation: str, path: str) -> DTypeError:
    """The error for a cast from or to a dtype of random keys, of which there is none."""
    if target not in KEYS:
        hint = "jax.random.key_data(key) are the numbers of a key"
    elif source in KEYS:
        hint = (
            "pass a key of the same implementation, which jax.random.key(seed, impl=…) chooses, or make a new variable"
        )
    else:
        hint = "pass a key: jax.random.key(seed), or jax.random.wrap_key_data(x, impl=…) of its numbers"
    return DTypeError.of(operation, f"cannot cast {source} to {target}", path, hint)


@functools.cache
def narrows(source: str, target: str) -> bool:
    """Whether dtype ``source`` has values out of the range of ``target``, which is of the same or a higher kind."""
    if source == target or {dtype_kind(source), dtype_kind(target)} & {"bool", "string", "key"}:
        return False
    low, high = _bounds(source)
    target_low, target_high = _bounds(target)
    return low < target_low or high > target_high


@functools.cache
def _bounds(name: str) -> tuple[float, float]:
    of_integers, of_floats = _limits_of(name)
    host = HOST[name]
    if is_integer(name):
        integers = of_integers(host)
        return int(integers.min), int(integers.max)
    if dtype_kind(name) == "complex":
        host = np.dtype(f"float{host.itemsize * 4}")
    largest = float(of_floats(host).max)
    return -largest, largest


def limits(name: str) -> Any:
    """What ``finfo`` or ``iinfo`` says of a dtype."""
    of_integers, of_floats = _limits_of(name)
    return (of_integers if is_integer(name) else of_floats)(HOST[name])


def _limits_of(name: str) -> tuple[Any, Any]:
    if name not in _FROM_ML_DTYPES:
        return np.iinfo, np.finfo
    import ml_dtypes  # noqa: PLC0415  # see `_Dtypes`

    return ml_dtypes.iinfo, ml_dtypes.finfo


def number_to_host(value: Any, target: str) -> HostArray | None:
    """Converts a Python number to a host array if the dtype can take its type and value; else returns None.

    This is the common case of `cast_host`, in a fifth of the time.
    """
    limits = _RANGES[target].get(type(value))
    if limits is not None and limits[0] <= value <= limits[1]:
        return np.array(value, HOST[target])
    return None


def _ranges(name: str) -> dict[type, tuple[float, float]]:
    """The range in which NumPy casts Python numbers of each type to a dtype as `cast_host` does."""
    if is_integer(name):
        return dict.fromkeys((int, bool), _bounds(name))
    if not is_floating(name):
        return {}
    low, high = _bounds(name)
    rounded_once = (max(low, -(2**53)), min(high, 2**53))  # larger integers would be rounded twice
    return {float: (low, high), int: rounded_once, bool: rounded_once}


class _Ranges(dict[str, "dict[type, tuple[float, float]]"]):
    def __missing__(self, name: str) -> dict[type, tuple[float, float]]:
        return self.setdefault(name, _ranges(name))


#: By dtype and then by type, filled as it is asked. One dict with pairs as keys would be 10 to 1000 times slower from
#: several threads without the GIL: a pair that another thread has made is compared under the lock of the dict.
_RANGES = _Ranges()


def cast_host(array: HostArray, target: str, *, exact: bool, operation: str, path: str) -> HostArray:
    """Casts a host array by the rule of this module; returns it unchanged if it has the dtype already.

    Args:
        exact: the values are Python numbers, so a cast that represents each of them exactly is allowed.

    Raises:
        DTypeError: the kind would change downwards.
        RangeError: a value is out of the range of ``target``.
    """
    dtype = STORED[target]
    if array.dtype == dtype:
        return array
    source = dtype_name(array.dtype)
    downwards = _RANK[dtype_kind(source)] > _RANK[dtype_kind(target)]
    if not (exact and downwards and target != "string"):
        check_kind(source, target, operation, path)
    with np.errstate(all="ignore"):
        narrowed = array.real if downwards and dtype_kind(source) == "complex" else array
        result = _as(narrowed, dtype)
        if downwards and not np.array_equal(_as(result, array.dtype), array):
            raise DTypeError.of(
                operation,
                f"{_first(array, _as(result, array.dtype) != array)} cannot be represented as {target}",
                path,
                f"if that is intended, cast it first: np.asarray(x).astype({target!r})",
            )
        if narrows(source, target):
            _check_range(array, result, target, operation, path)
    return result


def _as(array: HostArray, dtype: np.dtype[Any]) -> HostArray:
    """Does ``array.astype``, and also casts between int4 and uint4, for which NumPy has no cast."""
    may_be = array.dtype.kind == dtype.kind == "V"  # asked first, so that ml_dtypes is not imported for other casts
    four_bits = may_be and array.dtype != dtype and {array.dtype, dtype} == {HOST["int4"], HOST["uint4"]}
    return (array.astype(np.int8) if four_bits else array).astype(dtype)


def _check_range(array: HostArray, result: HostArray, target: str, operation: str, path: str) -> None:
    if is_integer(target):
        lost = _as(result, array.dtype) != array
        # A cast between int64 and uint64 wraps in both directions, so only the sign shows the loss.
        lost |= (array < 0) != (result < 0)
    else:
        stored = result.astype(_wide(target))
        lost = np.isfinite(array) & ~np.isfinite(stored)
        lost |= np.isinf(array) & np.isnan(stored)  # float8_e4m3fn has no infinity
    if lost.any():
        low, high = _bounds(target)
        raise RangeError.of(
            operation,
            f"{_first(array, lost)} is out of the range of {target}, which is {low} to {high}",
            path,
            "use a wider dtype, or clip the value first",
        )


def _wide(name: str) -> str:
    return "complex128" if dtype_kind(name) == "complex" else "float64"


def _first(array: HostArray, lost: HostArray) -> Any:
    return array[lost].flat[0].item()
