"""Whose object a thing is: state of another library, a plain array, a generator of random numbers. Imports no library.

An object is recognised by the classes of its type's MRO. Their root modules say which library it belongs to, and that
library is loaded, since somebody has made the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

__all__ = ["StateIn", "is_array", "is_foreign", "is_generator", "is_slot", "library_of", "state_in"]

#: Returns the things in an object that its own library keeps as state. None in them means that there may be none.
StateIn = Callable[[Any], list[Any]]

#: Tables, whose columns have different dtypes, so that they have no dtype as arrays do.
_TABLES = frozenset({("pandas", "DataFrame"), ("xarray", "Dataset")})
_ENOUGH = 10_000  # objects to look at in one object of another library


def library_of(cls: type) -> str:
    """The library of a class that keeps state in objects of its own; empty for any other class.

    >>> library_of(int)
    ''
    """
    # Keras stands first, since its objects are TensorFlow's too if it computes with TensorFlow.
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__}
    return next((name for name in _RULES if name in roots), "")


def is_foreign(cls: type) -> bool:
    """Whether objects of a class belong to a library that keeps state in objects of its own."""
    return library_of(cls) != ""


def state_in(cls: type) -> StateIn | None:
    """Returns the function that lists the state in an object of a class; None if the class has no such state."""
    name = library_of(cls)
    if not name:
        return None
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == name]
    return _RULES[name](cls, {base.__name__ for base in bases})


def is_array(cls: type) -> bool:
    """Whether objects of a class are arrays of any library, as opposed to numbers."""
    has_elements = hasattr(cls, "__array__") or hasattr(cls, "__dlpack__")
    if cls.__module__ == "array" or any((b.__module__.partition(".")[0], b.__name__) in _TABLES for b in cls.__mro__):
        return True
    return has_elements and hasattr(cls, "shape") and hasattr(cls, "dtype") and not _is_numpys(cls, "generic")


def is_generator(cls: type) -> bool:
    """Whether objects of a class are random generators of NumPy or Python."""
    python = any((base.__module__, base.__name__) == ("random", "Random") for base in cls.__mro__)
    return python or _is_numpys(cls, "Generator", "RandomState", "BitGenerator")


def is_slot(cls: type) -> bool:
    """Whether objects of a class are slots: they read and write a leaf, and count its writes."""
    return all(hasattr(cls, name) for name in ("read", "write", "version"))


def _is_numpys(cls: type, *names: str) -> bool:
    return any(base.__name__ in names and base.__module__.partition(".")[0] == "numpy" for base in cls.__mro__)


# -- the libraries: what of a class's names means that its objects have state -----------------------------------------


def _all_of_it(each: Any) -> list[Any]:
    return [each]


def _tensors(module: Any) -> list[Any]:
    try:
        return list(chain(module.parameters(), module.buffers()))
    except AttributeError:  # its constructor has not run
        return []


def _variables(each: Any) -> list[Any]:
    try:
        return list(each.variables)
    except Exception:  # noqa: BLE001  # the property of a model that is not built yet may raise anything
        return [each]


def _arrays(each: Any) -> list[Any]:
    """The arrays and variables in a tree of another library's objects."""
    return [leaf for leaf in _tree(each) if is_array(type(leaf)) or "Variable" in _names(type(leaf))]


def _tree(root: Any) -> Iterator[Any]:
    stack, met = [root], {id(root)}
    while stack and len(met) < _ENOUGH:
        each = stack.pop()
        yield each
        new = [child for child in _children(each) if id(child) not in met]
        met.update(map(id, new))
        stack += new


def _children(each: Any) -> Iterable[Any]:
    if isinstance(each, Mapping):
        return each.values()
    if isinstance(each, list | tuple | set | frozenset):
        return each
    if isinstance(each, type) or is_array(type(each)) or (callable(each) and not is_foreign(type(each))):
        return ()
    fields = getattr(each, "__dict__", None)
    return fields.values() if isinstance(fields, dict) else ()


def _names(cls: type) -> set[str]:
    return {base.__name__ for base in cls.__mro__ if is_foreign(base)}


def _leaves_of_gradients(tensor: Any) -> list[Any]:
    """A tensor that somebody trains: it wants a gradient, and is no result of a computation."""
    return [tensor] if tensor.requires_grad and tensor.is_leaf else []


def _torch(cls: type, names: set[str]) -> StateIn | None:
    if "Module" in names:
        return _tensors
    if cls.__name__ == "Tensor":
        return _leaves_of_gradients
    saves = hasattr(cls, "state_dict") and hasattr(cls, "load_state_dict")  # optimizers, schedulers, scalers
    return _all_of_it if saves or names & {"Parameter", "Buffer", "UninitializedParameter", "Generator"} else None


def _tensorflow(cls: type, names: set[str]) -> StateIn | None:
    if names & {"Variable", "LookupInterface", "IteratorBase"}:
        return _all_of_it
    return _variables if hasattr(cls, "variables") else None


def _keras(cls: type, names: set[str]) -> StateIn | None:
    if "Variable" in names:
        return _all_of_it
    return _variables if hasattr(cls, "variables") else None


def _jax(cls: type, names: set[str]) -> StateIn | None:
    return _all_of_it if names & {"Ref", "MutableArray"} else None


def _tree_of_arrays(cls: type, names: set[str]) -> StateIn | None:
    return _all_of_it if "Variable" in names else _arrays


#: By the root module of a library, the rule for a class of it and the names of the library's own classes in its MRO.
_RULES: dict[str, Callable[[type, set[str]], StateIn | None]] = {
    "keras": _keras,
    "tf_keras": _keras,
    "tensorflow": _tensorflow,
    "torch": _torch,
    "flax": _tree_of_arrays,
    "equinox": _tree_of_arrays,
    "haiku": _tree_of_arrays,
    "optax": _tree_of_arrays,
    "sklearn": _tree_of_arrays,
    "jax": _jax,
}
