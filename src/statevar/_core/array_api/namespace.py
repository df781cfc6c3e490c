"""`sv.namespace`: the array API standard, for code that knows no library."""

from __future__ import annotations

import math
from typing import Any, Final

from ..._arrays.backend import Backend
from ..._arrays.dtypes import dtype_kind
from ..._arrays.promotion import promoted
from ..._arrays.registry import default_backend, get_backend, owner_of
from ..._public import public
from ...errors import DTypeError, describe
from ..foreign import array_in, described
from . import info
from .creation import Creation
from .fft import FFT
from .info import DTYPES, Finfo, Iinfo, Info
from .linalg import Linalg, Products
from .operands import NUMBERS, mixed_libraries

__all__ = ["Namespace", "namespace", "namespace_of"]

_VERSIONS: Final = ("2021.12", "2022.12", "2023.12", "2024.12")
#: One for each library and device.
_made: dict[tuple[str, Any], Namespace] = {}


@public()
class Namespace(Creation, Products):
    """The functions and dtypes of the array API standard for arrays of one library, as `namespace` returns it.

    The functions take variables, arrays and Python numbers in any order, and return arrays of the library. They promote
    dtypes by one rule on every library (``docs/array-api.md``). A name that the standard does not have is that of the
    library itself, with its own rules.
    """

    __array_api_version__ = _VERSIONS[-1]

    e: float = math.e
    inf: float = math.inf
    nan: float = math.nan
    newaxis: None = None
    pi: float = math.pi

    # -- dtypes ---------------------------------------------------------------------------------------------

    def astype(self, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
        """The array in another dtype.

        Raises:
            DTypeError: it is complex and the dtype is not, so that the imaginary part would be lost.
        """
        name, array = self._checked(dtype, "astype"), self._array(x, "astype")
        source = self._backend.dtype_name(array)
        if dtype_kind(source) == "complex" and dtype_kind(name) not in ("complex", "bool"):
            hint = "pass the real part: xp.real(x)"
            raise DTypeError.of("astype", f"cannot cast {source} to {name} without losing information", "", hint)
        result = self._truth(array) if dtype_kind(name) == "bool" else self._cast(array, name)
        return self._at(self._copied(result) if copy and result is array else result, device)

    def result_type(self, *arrays_and_dtypes: Any) -> Any:
        """The dtype in which arrays, dtypes and Python numbers meet."""
        numbers = [type(each) for each in arrays_and_dtypes if type(each) in NUMBERS]
        names = [self._name_of(each) for each in arrays_and_dtypes if type(each) not in NUMBERS]
        if not names and not numbers:
            raise TypeError(describe("result_type", "expected an array or a dtype, got none"))
        return info.native(self._backend, self._backend.default_dtype(promoted("result_type", names, numbers)))

    def can_cast(self, from_: Any, to: Any, /) -> bool:
        """Whether an array of one dtype, or of an array's dtype, becomes the other by promotion alone."""
        target = self._name_of(to)
        try:
            return promoted("can_cast", [self._name_of(from_), target]) == target
        except DTypeError:
            return False

    def finfo(self, type: Any, /) -> Finfo:  # noqa: A002  # the standard's name
        """The limits of a dtype of floats, or of that of an array."""
        return info.finfo(self._backend, self._name_of(type))

    def iinfo(self, type: Any, /) -> Iinfo:  # noqa: A002  # as above
        """The limits of a dtype of integers, or of that of an array."""
        return info.iinfo(self._backend, self._name_of(type))

    def isdtype(self, dtype: Any, kind: Any) -> bool:
        """Whether a dtype is another one, or is of a kind such as "real floating", or of one of several."""
        if isinstance(kind, tuple):
            return any(self.isdtype(dtype, each) for each in kind)
        name = self._name_of(dtype)
        return info.is_kind(name, kind) if isinstance(kind, str) else name == self._name_of(kind)

    # -- the rest ----------------------------------------------------------------------------------------------

    @property
    def linalg(self) -> Linalg:
        """Linear algebra."""
        return self._linalg

    @property
    def fft(self) -> FFT:
        """Discrete Fourier transforms."""
        return self._fft

    def __init__(self, backend: Backend, device: Any) -> None:
        super().__init__(backend, device)
        self._linalg = Linalg(self)
        self._fft = FFT(self)

    def __array_namespace_info__(self) -> Info:
        """The default dtypes, all dtypes, and the devices."""
        return Info(self._backend, self._device)

    @property
    def __name__(self) -> str:
        return str(self._library.__name__)

    def __getattr__(self, name: str) -> Any:
        if (
            name == "__dict__"
        ):  # that of the library has all its functions: a search for variables would go through them
            raise AttributeError(name)
        if name in DTYPES:
            try:
                return info.native(self._backend, name)
            except DTypeError as error:
                raise AttributeError(str(error)) from None
        try:
            return getattr(self._library, name)
        except AttributeError:
            problem = f"neither the array API standard nor {self._backend.name} has {name!r}"
            raise AttributeError(describe("namespace", problem)) from None

    def __dir__(self) -> list[str]:
        functions = [name for name in dir(type(self)) if not name.startswith("_")]
        special = ["__array_api_version__", "__array_namespace_info__", "__name__"]
        return sorted({*functions, *special, *(name for name in DTYPES if hasattr(self, name))})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Namespace):
            return other._backend is self._backend
        return bool(other is self._library or self._library == other)

    def __hash__(self) -> int:
        return hash(self._library)

    def __repr__(self) -> str:
        place = "" if self._device is None else f" on {self._backend.device_name(self._device)}"
        return f"<the array API namespace of {self._backend.name}{place}>"

    def __copy__(self) -> Namespace:
        return self

    def __deepcopy__(self, memo: Any) -> Namespace:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        place = None if self._device is None else self._backend.device_name(self._device)
        return _again, (self._backend.name, place)


def _again(name: str, place: str | None) -> Namespace:
    backend = get_backend(name)
    return _namespace(backend, None if place is None else backend.device(place))


def _namespace(backend: Backend, device: Any) -> Namespace:
    key = backend.name, device
    found = _made.get(key)
    if found is None:
        if device is not None and device == backend.device(None):  # the library itself chooses it
            found = _namespace(backend, None)
        found = _made.setdefault(key, found or Namespace(backend, device))
    return found


def namespace_of(thing: Any, api_version: str | None = None) -> Namespace:
    """The namespace of one variable or array.

    Raises:
        ValueError: it is asked for a version of the standard that it does not have.
    """
    if api_version is not None and api_version not in _VERSIONS:
        problem = f"expected one of the versions {', '.join(_VERSIONS)}, got {api_version!r}"
        raise ValueError(describe("__array_namespace__", problem))
    backend = thing._backend.native if getattr(type(thing), "_is_ours", False) else owner_of(thing)
    assert backend is not None
    return _namespace(backend, _device_of(backend, thing))


def _device_of(backend: Backend, thing: Any) -> Any:
    """The one device of a variable or array; None if it is on several, or only a call of a traced program knows it."""
    if getattr(type(thing), "_is_ours", False):
        if thing._backend is not backend:  # it is spread
            return None
        return thing.device
    if backend.is_symbolic(thing) or backend.spread(thing) is not None:
        return None
    return backend.device_of(thing)


@public()
def namespace(*things: Any) -> Namespace:
    """The array API namespace of the library of variables and arrays, for code that knows no library.

    Its functions are those of the array API standard, and are the same on every library: they take variables, arrays
    and Python numbers in any order, promote dtypes by one rule, and make new arrays on the device of the first one.

    Args:
        things: variables, arrays, Python numbers and None. NumPy's arrays and variables go with those of any other
            library. Without an array, it is NumPy's namespace.

    Raises:
        TypeError: two of them are of different libraries, or one is no array.

    >>> import statevar as sv
    >>> def normalized(x, eps=1e-6):
    ...     xp = sv.namespace(x)
    ...     return x / xp.maximum(eps, xp.linalg.vector_norm(x))
    >>> normalized(sv.Variable([3.0, 4.0]))
    array([0.6, 0.8], dtype=float32)
    """
    chosen, first = default_backend(), None
    for thing in things:
        if thing is None or type(thing) in NUMBERS:
            continue
        ours = getattr(type(thing), "_is_ours", False)
        array = thing if ours else array_in(thing)
        owner = thing._backend.native if ours else owner_of(array)
        if owner is None:
            if isinstance(thing, NUMBERS):
                continue
            problem, hint = described(thing)
            raise TypeError(describe("namespace", problem, hint=hint))
        if owner is not chosen and not owner.is_host:
            if not chosen.is_host:
                raise mixed_libraries("namespace", chosen.name, owner.name)
            chosen, first = owner, array
        elif owner is chosen and first is None:
            first = array
    return _namespace(chosen, None if first is None else _device_of(chosen, first))
