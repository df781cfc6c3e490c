"""State that somebody else keeps: the `Slot` that reads and writes one leaf, and the `Adapter` that finds it.

A variable of ours owns its memory. A *view* is a variable over one leaf of somebody else's state: its handle is a slot,
which knows how to read the leaf and how to write it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from .._public import public

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Adapter",
    "Named",
    "Opened",
    "Place",
    "Shared",
    "Slot",
    "place_of",
]

#: What others may do to an array that `Slot.read` has returned: nothing; destroy it, as a JAX program does to an
#: argument that was donated; or write into it.
Shared: TypeAlias = Literal["never", "donated", "in_place"]


@public("statevar.interop")
@runtime_checkable
class Slot(Protocol):
    """One leaf of somebody else's state, as a variable reads and writes it. Third parties implement it.

    Attributes:
        backend: the name of the library of the arrays that `read` returns: ``"torch"``.
        thing: the object whose state it is. There is one variable for each thing, as long as the variable lives. Where
            the leaf is no object of its own, such as an array that is replaced in a dict, it is a `Place`.
        trainable: whether gradients of it are wanted. Setting it tells the library, if that is possible.
        shared: what others may do to an array that `read` has returned: ``"never"`` anything, so that it is taken as a
            snapshot without a copy; it may be ``"donated"`` to a program, which destroys it; or be written
            ``"in_place"``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> class Row:
    ...     backend, trainable, shared = "numpy", False, "in_place"
    ...
    ...     def __init__(self, table, number):
    ...         self.thing, self._row = sv.interop.Place(table, number), table[number]
    ...
    ...     def read(self):
    ...         return self._row
    ...
    ...     def write(self, array):
    ...         self._row[...] = array
    ...
    ...     def version(self):
    ...         return None
    >>> table = np.zeros((3, 2), np.float32)
    >>> sv.view(Row(table, 1)).assign_add(5.0).value
    array([5., 5.], dtype=float32)
    >>> table
    array([[0., 0.],
           [5., 5.],
           [0., 0.]], dtype=float32)
    """

    backend: str
    thing: Any
    trainable: bool
    shared: Shared

    def read(self) -> Any:
        """The present array, without a copy where that is possible."""

    def write(self, array: Any) -> None:
        """Stores an array of the same dtype and shape: as a whole, or it raises and nothing has changed.

        The array may be read-only, and the slot must not keep it unless its library's arrays cannot change.
        """

    def version(self) -> int | None:
        """The number of writes that the library itself has counted; None if it counts none."""


@public("statevar.interop")
class Place:
    """Identifies a leaf by the object that holds it and by its key there, for `Slot.thing`.

    Two places are equal if they name the same key of the same object, whatever that contains.

    >>> import statevar as sv
    >>> holder = {"a": 1}
    >>> sv.interop.Place(holder, "a") == sv.interop.Place(holder, "a") != sv.interop.Place({"a": 1}, "a")
    True
    """

    __slots__ = ("_hash", "holder", "keys")

    def __init__(self, holder: Any, *keys: Hashable) -> None:
        self.holder: Any = holder
        self.keys: tuple[Hashable, ...] = keys
        self._hash = hash((id(holder), keys))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.holder is other.holder and self.keys == other.keys

    def __hash__(self) -> int:
        return self._hash

    def __deepcopy__(self, memo: dict[Any, Any]) -> Place:
        from copy import deepcopy  # noqa: PLC0415  # only copies need it

        return Place(deepcopy(self.holder, memo), *deepcopy(self.keys, memo))

    def __repr__(self) -> str:
        return (
            f"Place({type(self.holder).__name__} at {id(self.holder):#x}{''.join(f', {key!r}' for key in self.keys)})"
        )


#: The leaves and containers that an object has, by name: slots, and objects that are opened in turn.
Opened: TypeAlias = "Slot | dict[Any, Any] | None"


@public("statevar.interop")
class Adapter:
    """Says what in the objects of a library is state.

    A package registers one under the entry point ``statevar.state``. The name of the entry point is the root module of
    the classes, which are found through their bases. So the adapter is loaded only once an object of the library was
    met.

    Args:
        open: returns what the library itself declares to be state in an object: a `Slot` for a leaf; a dict of name to
            child for a container, where a child is a `Slot` or any object, which is opened in turn; or None for an
            object that is not the library's state.
        open_plain: the same for arrays and containers that are state only if the user says so, by `statevar.view`.
        open_item: ``open_item(holder, key, x)`` returns a slot for an array that cannot change, and which a write
            replaces in its holder; or None. `Item` does it for dicts, lists and attributes.
        accept: ``accept(x, {path: array})`` makes state that does not exist yet, such as that of an optimizer before
            its first step, and returns a function that undoes it, or None. A load calls it with the arrays in the file
            whose paths begin with that of the object, without that beginning. Each is read when it is asked for; the
            load writes the values later.
        forget: ``forget(x, paths)`` removes such state again, which was made in a `statevar.rollback`.
    """

    __slots__ = ("accept", "forget", "open", "open_item", "open_plain")

    def __init__(
        self,
        open: Callable[[Any], Opened],  # noqa: A002  # the verb that users write
        open_plain: Callable[[Any], Opened] | None = None,
        open_item: Callable[[Any, Any, Any], Slot | None] | None = None,
        accept: Callable[[Any, Mapping[str, Any]], Callable[[], object] | None] | None = None,
        forget: Callable[[Any, list[str]], object] | None = None,
    ) -> None:
        self.open: Callable[[Any], Opened] = open
        self.open_plain: Callable[[Any], Opened] | None = open_plain
        self.open_item: Callable[[Any, Any, Any], Slot | None] | None = open_item
        self.accept: Callable[[Any, Mapping[str, Any]], Callable[[], object] | None] | None = accept
        self.forget: Callable[[Any, list[str]], object] | None = forget


@public("statevar.interop")
class Named:
    """The key of a child that belongs to a thing of another object, as the momentum of an optimizer to a parameter.

    Its segment in a path is the path of the thing, if the same search finds it, else the given text.
    """

    __slots__ = ("text", "thing")

    def __init__(self, thing: Any, text: str) -> None:
        self.thing: Any = thing
        self.text: str = text

    def __str__(self) -> str:
        return self.text


def place_of(thing: Any) -> Place:
    """The place by which a thing is known: itself, or the place of an object of its own."""
    return thing if isinstance(thing, Place) else Place(thing)
