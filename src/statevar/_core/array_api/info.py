"""What a namespace says of dtypes, devices and itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..._arrays.backend import Backend
from ..._arrays.dtypes import HOST, dtype_kind, limits
from ...errors import DTypeError
from .operands import FLOAT, INTEGER

__all__ = ["DTYPES", "Finfo", "Iinfo", "Info", "is_kind", "native"]

#: The dtypes of numbers that a namespace has, as far as the library has them.
DTYPES: Final = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
)
_KINDS: Final = {
    "bool": {"bool"},
    "signed integer": {"int"},
    "unsigned integer": {"uint"},
    "integral": {"int", "uint"},
    "real floating": {"float"},
    "complex floating": {"complex"},
    "numeric": {"int", "uint", "float", "complex"},
}


class Finfo(NamedTuple):
    """The limits of a dtype of floats."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


class Iinfo(NamedTuple):
    """The limits of a dtype of integers."""

    bits: int
    max: int
    min: int
    dtype: Any


def finfo(backend: Backend, name: str) -> Finfo:
    """The limits of a dtype of floats; of complex numbers, those of their parts."""
    if dtype_kind(name) == "complex":
        name = f"float{HOST[name].itemsize * 4}"
    if dtype_kind(name) != "float":
        raise DTypeError.of("finfo", f"expected a dtype of floats, got {name}", "", "of integers: xp.iinfo")
    found = limits(name)
    low, high, tiny = float(found.min), float(found.max), float(found.smallest_normal)
    return Finfo(int(found.bits), float(found.eps), high, low, tiny, native(backend, name))


def iinfo(backend: Backend, name: str) -> Iinfo:
    """The limits of a dtype of integers."""
    if dtype_kind(name) not in ("int", "uint"):
        raise DTypeError.of("iinfo", f"expected a dtype of integers, got {name}", "", "of floats: xp.finfo")
    found = limits(name)
    return Iinfo(int(found.bits), int(found.max), int(found.min), native(backend, name))


def is_kind(name: str, kind: str) -> bool:
    """Whether a dtype is of a kind of the standard, such as "real floating".

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _KINDS:
        raise ValueError(f"isdtype: expected a dtype or one of {', '.join(map(repr, _KINDS))}, got {kind!r}")
    return dtype_kind(name) in _KINDS[kind]


def native(backend: Backend, name: str) -> Any:
    """The dtype object of the library; NumPy's if the library has it only after a setting of its own."""
    try:
        return backend.dtype(name)
    except DTypeError:
        if backend.default_dtype(name) == name:
            raise
        return HOST[name]


class Info:
    """What ``xp.__array_namespace_info__()`` returns: the default dtypes, all dtypes, and the devices."""

    def __init__(self, backend: Backend, device: Any) -> None:
        self._backend = backend
        self._device = device

    def capabilities(self) -> dict[str, Any]:
        """What the standard leaves to the library."""
        theirs = getattr(self._backend.namespace(), "__array_namespace_info__", None)
        found = {} if theirs is None else theirs().capabilities()
        return {
            "boolean indexing": True,
            "data-dependent shapes": True,
            "max dimensions": found.get("max dimensions"),
        }

    def default_device(self) -> Any:
        """The device on which arrays are made without ``device=``, as the library has it."""
        return self._backend.device(None) if self._device is None else self._device

    def devices(self) -> list[Any]:
        """The devices of this process."""
        return list(self._backend.devices())

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """The dtypes of arrays that are made without ``dtype=``."""
        backend = self._backend
        return {
            "real floating": backend.dtype(FLOAT),
            "complex floating": backend.dtype("complex64"),
            "integral": backend.dtype(INTEGER),
            "indexing": backend.dtype(backend.default_dtype("int64")),
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """The dtypes of the standard that the library has now, by name; all, or those of a kind or several."""
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return {
            name: dtype for name, dtype in self._all() if any(each is None or is_kind(name, each) for each in kinds)
        }

    def _all(self) -> Iterator[tuple[str, Any]]:
        for name in DTYPES:
            if name in ("bfloat16", "float16"):  # not in the standard
                continue
            try:
                yield name, self._backend.dtype(name)
            except DTypeError:
                continue
