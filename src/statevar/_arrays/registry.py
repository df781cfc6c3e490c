"""Finds backends by name, and the backend that owns an array.

This is the only place outside the adapters that names a library. Finding the owner of an array imports no library: a
user who passes an array has imported its library already.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .._public import public
from ..errors import BackendNotInstalledError, UnknownBackendError
from .backend import Backend
from .import_hook import call_after_import
from .tracing import add_tracing, elsewhere

if TYPE_CHECKING:  # each loads a dozen modules, which would take a quarter of the time of `import statevar`
    from importlib.metadata import EntryPoint

    from .random.draws import Draws
    from .transforms import Transforms

__all__ = [
    "LIBRARIES",
    "backend_names",
    "backend_of_protocol",
    "default_backend",
    "draws_of",
    "engine_modules",
    "get_backend",
    "library_of",
    "loaded_backends",
    "owner_of",
    "register_types",
    "transforms_of",
]

_GROUP = "statevar.backends"
_ADAPTERS = "statevar._backends"


class _Row:
    """The facts about one built-in backend that are known without importing it.

    Args:
        roots: the root modules of its array types; the first is the package to install.
        nicknames: what its users call it.
        protocol: the method by which the library asks a foreign object for its own array.
        attaches: whether the library keeps a registry of types, so that it must be told of ours.
        traces: whether the library traces code.
        distributes: whether the library runs a program in several processes.
    """

    # No named tuple, which would take 0.4 ms of every import.
    def __init__(
        self,
        *roots: str,
        nicknames: tuple[str, ...] = (),
        protocol: str = "",
        attaches: bool = False,
        traces: bool = True,
        distributes: bool = True,
    ) -> None:
        self.roots = roots
        self.nicknames = nicknames
        self.protocol = protocol
        self.attaches = attaches
        self.traces = traces
        self.distributes = distributes


_ROWS = {
    "numpy": _Row("numpy", "autograd", nicknames=("np",), traces=False, distributes=False),  # the default
    "jax": _Row("jax", "jaxlib", nicknames=("jnp", "flax", "nnx"), protocol="__jax_array__", attaches=True),
    "torch": _Row("torch", nicknames=("pytorch", "pt"), protocol="__torch_function__"),
    "tensorflow": _Row("tensorflow", nicknames=("tf", "keras"), protocol="__tf_tensor__"),
}

#: The root modules of the built-in backends.
LIBRARIES = frozenset(root for row in _ROWS.values() for root in row.roots)

_PYTHON_TYPES = frozenset({bool, int, float, complex, str, bytes, list, tuple, range, dict, type(None)})

_loaded: dict[str, Backend] = {}
_attached: list[tuple[type, type]] = []
_owners: dict[type, Backend] = {}
_draws: dict[str, Draws] = {}


def default_backend() -> Backend:
    """The backend for Python numbers and NumPy arrays."""
    return get_backend(next(iter(_ROWS)))


@public()
def backend_names() -> list[str]:
    """The names of all known backends, installed or not, third-party ones last."""
    return [*_ROWS, *sorted(_third_party())]


def get_backend(name: str) -> Backend:
    """Returns the backend of a name, which is loaded on first use.

    Raises:
        BackendNotInstalledError: its library is not installed; the message has the command that installs it.
        UnknownBackendError: there is no such backend; the message lists the known backends.

    >>> get_backend("numpy").name
    'numpy'
    """
    if not isinstance(name, str):
        raise _unknown(name)
    if name in _loaded:
        return _loaded[name]
    if name in _ROWS:
        backend = _load_builtin(name)
    elif name in (third_party := _third_party()):
        backend = _load_third_party(third_party[name])
    else:
        raise _unknown(name)
    found = _loaded.setdefault(name, backend)
    if backend.tracing is not None:
        add_tracing(name, backend.tracing)
    _tell_of_tracings()
    return found


def _tell_of_tracings() -> None:
    for each in _loaded.values():
        each.traced_elsewhere = elsewhere(each.tracing)


def _unknown(name: Any) -> UnknownBackendError:
    """The error for a name that no backend has. It names the backend that was meant, if that can be told."""
    if isinstance(name, ModuleType):
        given, root = f"the module {name.__name__}", name.__name__.partition(".")[0]
    else:
        given, root = f"unknown backend {name!r}", str(name).lower()
    known = backend_names()
    meant = next((each for each, row in _ROWS.items() if root in (each, *row.roots, *row.nicknames)), None)
    hint = f"known backends are {', '.join(known)}"
    return UnknownBackendError.of("backend", given, hint=f"did you mean {meant!r}? {hint}" if meant else hint)


def loaded_backends() -> list[Backend]:
    """The backends that have been loaded, whose libraries are imported."""
    return list(_loaded.values())


def _load_builtin(name: str) -> Backend:
    backend: Backend = _import_builtin(name).BACKEND
    if name not in _loaded:
        for types in _attached:
            backend.attach(*types)
    return _loaded.setdefault(name, backend)


def _import_builtin(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{_ADAPTERS}.{name}.adapter")
    except ModuleNotFoundError as error:
        library = _ROWS[name].roots[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # the library is installed but broken: its own error says more
        raise BackendNotInstalledError.of(
            "backend", f"{library} is not installed", hint=f"pip install 'statevar[{name}]'"
        ) from error


def _load_third_party(point: EntryPoint) -> Backend:
    try:
        backend = point.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != point.name:
            raise  # the library is installed but broken: its own error says more
        problem, hint = f"{point.name} is not installed", f"install the package that has the module {point.name}"
        raise BackendNotInstalledError.of("backend", problem, hint=hint) from error
    if not isinstance(backend, Backend) or backend.name != point.name:
        raise UnknownBackendError.of(
            "backend",
            f"the entry point {point.name!r} refers to {backend!r}",
            hint=f"{point.value} must be an instance of statevar.backends.Backend with name = {point.name!r}",
        )
    if point.name not in _loaded:
        for types in _attached:
            backend.attach(*types)
    return backend


def _third_party() -> dict[str, EntryPoint]:
    # Cached, since reading the metadata of every package takes milliseconds, and every value of an unknown type asks.
    return _entry_points(tuple(sys.path))


@lru_cache(maxsize=1)
def _entry_points(_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  # needed only for third-party backends

    return {point.name: point for point in entry_points(group=_GROUP)}


def transforms_of(backend: Backend) -> Transforms:
    """The gradients, the compiler and the loops of a backend, imported on first use.

    Raises:
        NotImplementedError: the backend has no transforms.
    """
    if backend.name not in _ROWS:
        return backend.transforms()
    found: Transforms = importlib.import_module(f"{_ADAPTERS}.{backend.name}.transforms").TRANSFORMS
    return found


def draws_of(backend: Backend) -> Draws:
    """The random numbers of a backend, imported on first use."""
    found = _draws.get(backend.name)  # traced code does not import
    if found is None:
        own = backend.name in _ROWS
        found = importlib.import_module(f"{_ADAPTERS}.{backend.name}.random").DRAWS if own else backend.draws()
        _draws[backend.name] = found
    return found


def engine_modules(*, imported: bool) -> dict[str, ModuleType]:
    """By library, the modules of the engines that run a program in several processes. They import no library.

    Args:
        imported: only those of the libraries that are imported.
    """
    found = {}
    for name, row in _ROWS.items():
        if row.distributes and not (imported and sys.modules.get(row.roots[0]) is None):
            found[name] = importlib.import_module(f"{_ADAPTERS}.{name}.world")
    return found


def owner_of(value: Any) -> Backend | None:
    """The backend that owns the value, or None if it is no library's array."""
    cls = type(value)
    if cls in _owners:
        return _owners[cls]
    if cls in _PYTHON_TYPES:
        return None
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        for name in _names_for(root):
            backend = get_backend(name)
            if backend.owns(value):
                _owners[cls] = backend
                return backend
    return None


def library_of(thing: Any) -> Backend | None:
    """The backend of the library that a class comes from, or one of its bases, such as that of a mesh; else None."""
    for base in type(thing).__mro__:
        for name in _names_for(base.__module__.partition(".")[0]):
            return get_backend(name)
    return None


def _names_for(root: str) -> list[str]:
    if root in ("builtins", "statevar"):
        return []
    found = [name for name, row in _ROWS.items() if root in row.roots]
    # A third-party backend is named after the root module of its arrays, so that no other adapter is loaded.
    return found or [name for name in _third_party() if name == root]


def backend_of_protocol(protocol: str) -> Backend:
    """The backend whose library asks for arrays by this protocol."""
    return get_backend(next(name for name, row in _ROWS.items() if row.protocol == protocol))


def register_types(variable_type: type, snapshot_type: type) -> None:
    """Registers our types with each library that has a registry of types, now or when the library is imported."""
    _attached.append((variable_type, snapshot_type))
    for name, row in _ROWS.items():
        if name in _loaded:
            _loaded[name].attach(variable_type, snapshot_type)
        elif sys.modules.get(row.roots[0]) is not None:
            _after_import(name)
        else:
            call_after_import(row.roots[0], partial(_after_import, name))


def _after_import(name: str) -> None:
    """Prepares for a library that was just imported, unless our adapter has imported it, which does the same."""
    if f"{_ADAPTERS}.{name}.adapter" in sys.modules:
        return
    if _ROWS[name].attaches:
        get_backend(name)
    elif _ROWS[name].traces:  # variables of other libraries must know of its traces
        add_tracing(name, importlib.import_module(f"{_ADAPTERS}.{name}.tracing").TRACING)
        _tell_of_tracings()
