"""The `Backend` of variables that are spread over several devices or processes.

The adapter of a library that has such arrays has a second adapter beside it, whose handles store them: a class of
`ShardedBackend` and of the library's own adapter. So whatever works on variables works on sharded ones, and the code
for variables on one device is not in the way, nor slower.

What is a *device* elsewhere is the library's own *sharding* here: it says which part of the value is where. Nothing in
this contract communicates with other processes unless it says so, and of those methods every process has to call the
same ones in the same order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from .._public import public
from .backend import Backend, Handle
from .shapes import Shape
from .types import Array, HostArray

__all__ = ["Axes", "Piece", "ReadBlock", "ShardedBackend"]

#: For each axis of an array the axis of the mesh over which it is cut, several of them, or None; the rest is not cut.
Axes: TypeAlias = Sequence[str | tuple[str, ...] | None]

#: Returns the block of a value at these offsets, of these sizes, as a host array. If that is writable, nobody else has
#: its memory, so the library may keep it.
ReadBlock: TypeAlias = Callable[[Shape, Shape], HostArray]


@public("statevar.backends")
class Piece:
    """A block of a value that this process has.

    Args:
        offsets: where the block begins, one number for each axis.
        array: the block, as an array of the library on one device, which `Backend.packed` takes.
        first: whether this is the one, of all copies of the block on any device, that is to be saved.
    """

    __slots__ = ("array", "first", "offsets")

    def __init__(self, offsets: Shape, array: Array, first: bool) -> None:
        self.offsets: Shape = offsets
        self.array: Array = array
        self.first: bool = first


@public("statevar.backends")
class ShardedBackend(Backend):
    """What a library that spreads values has to tell beyond `Backend`; see there for all else.

    The operands of the write verbs are a value that is the same in every process, as a host array or an array of the
    library on one device, of which each process takes its parts without communication; or a value that is spread, which
    is moved to the sharding of the variable. Every write verb keeps the sharding and gathers nothing. `to_host` returns
    the whole value where this process has all of it, and else raises NotAddressableError.
    """

    is_sharded: ClassVar[bool] = True

    #: Whether a value may be cut, so that no device has all of it. A save then writes its pieces.
    cuts: ClassVar[bool] = True

    @abstractmethod
    def sharding(self, spec: Any, mesh: Any) -> Any:
        """The library's sharding for the axes of a mesh; a sharding of the library is returned as it is.

        Args:
            spec: `Axes`, or a sharding of the library.
            mesh: a mesh of the library, or None if the spec needs none.

        Raises:
            ShardingError: the mesh has no such axis, is missing, or is no mesh of the library.
        """

    @abstractmethod
    def problem_with(self, shape: Shape, sharding: Any) -> str | None:
        """Why a value of this shape cannot have a sharding, for an error; None if it can."""

    @abstractmethod
    def sharding_name(self, sharding: Any) -> str:
        """A sharding as errors and `repr` show it, in a few words."""

    def device_name(self, device: Any) -> str:
        """The same as `sharding_name`."""
        return self.sharding_name(device)

    def sharding_on(self, device: Any) -> Any:
        """The device itself, which is the sharding."""
        return device

    @abstractmethod
    def pieces(self, array: Array) -> list[Piece]:
        """The blocks of a value that this process has, each once, without copies."""

    def copies(self, array: Array) -> list[Piece]:
        """The blocks of a value that this process has, each on every device that has a copy of it, without copies."""
        return self.pieces(array)

    @abstractmethod
    def from_pieces(self, shape: Shape, dtype: str, sharding: Any, read: ReadBlock) -> Array:
        """Makes a value from its blocks: ``read`` is called once for each block that this process is to have."""

    def created_from_pieces(self, array: Array, *, trainable: bool) -> Handle:
        """Makes a handle of a value of `from_pieces` that nobody else has. Need not copy it."""
        declared, device = self.shape(array), self.device_of(array)
        return self.create(array, declared=declared, device=device, trainable=trainable)

    @abstractmethod
    def spans(self, array: Array) -> bool:
        """Whether a part of the value is in other processes only, so that this one cannot read all of it."""

    @abstractmethod
    def gather(self, array: Array) -> HostArray:
        """The whole value. Communicates if `spans`."""

    @abstractmethod
    def resharded(self, array: Array, sharding: Any) -> Array:
        """The same value with another sharding. May communicate."""

    def pinned(self, array: Array, sharding: Any) -> Array:
        """A new value, which may be traced, with the sharding of its variable; differentiable where the library is.

        Called for each write of a variable to which an overlay of values gives a value, and for gradients. A library in
        whose traced programs a value may lose its sharding overrides it.
        """
        return array

    @abstractmethod
    def from_local(self, local: Any, sharding: Any) -> Array:
        """Makes a value of which each process gives its part, such as its part of a batch of examples."""

    # -- replicas whose code runs side by side in one process, as in ``strategy.run`` of TensorFlow -------------------

    def for_aggregation(self, aggregation: str) -> ShardedBackend:
        """The adapter of a variable with this aggregation, if the library itself wants to know it; else this one."""
        return self

    def runs_per_replica(self) -> bool:
        """Whether the running code is that of one of several replicas, which all run it."""
        return False

    def caller(self) -> int | None:
        """The thread that has called what runs the code of the replicas, if that is another thread."""
        return None

    def overlay_around(self) -> Any:
        """The overlay of the program that is being traced, in which the code of the replicas is a part; else None."""
        return None

    def merged(
        self, x: Array, index: Any, aggregation: str, handle: Any, write: Callable[[Array, Any], object]
    ) -> None:
        """Combines the operands of all replicas and calls ``write(x, index)`` once, outside of the replicas.

        Called by each replica if `runs_per_replica`, without a lock.

        Args:
            aggregation: any but ``"none"``, with which each replica writes its own copy by `write_traced`.

        Raises:
            ReplicaError: the replicas write at different indices.
        """
        raise NotImplementedError
