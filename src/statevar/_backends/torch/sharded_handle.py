"""The storage of a variable over a mesh: one `DTensor` parameter for life, written through the part of this process.

Torch ignores ``parameter.data = …`` of such a tensor, and counts the uses of the wrapper. So the part of this process
is kept as a variable on one device is: by a handle of its own, which counts the uses of the memory, writes in place or
gives the part new memory.
"""

from __future__ import annotations

from typing import Any, Never

import torch

from ...errors import ConflictError, ShapeError
from .adapter import BACKEND as PLAIN
from .handles import Handle, Memento
from .layout import Layout, layout_of
from .meshes import TorchSharding
from .spread import Places

__all__ = ["ShardedFork", "ShardedHandle", "moved_meanwhile"]

Tensor = torch.Tensor


def moved_meanwhile() -> ConflictError:
    """The error for an access that began before another thread moved the variable, and ends after it."""
    problem = "another thread has moved the variable to another sharding in the middle of this access"
    return ConflictError.of("write", problem, hint="do it again")


class _Foreign(Handle):
    """The part of a parameter that other code has made, and of whose memory it may keep other tensors.

    `fully_shard` gathers from a tensor of its own over the same memory. So a write is always in place, as that of an
    optimizer, and a read is a copy.
    """

    __slots__ = ()

    def __init__(self, local: Tensor) -> None:
        super().__init__(local)
        self.careful = self.traced = True

    def exclusive(self) -> bool:
        self.bind(self.parameter.detach())
        if self.use is not None:
            self.use.write(self.tensor)
        return True

    def replace(self, fresh: Tensor) -> None:
        self.tensor.copy_(fresh)


class ShardedHandle:
    """The handle of a variable over a mesh.

    Args:
        parameter: the parameter, over the mesh.
        layout: where the part of this process is.
        foreign: whether other code has made the parameter; see `_Foreign`.
    """

    __slots__ = ("foreign", "inner", "layout", "lent", "now", "parameter", "places", "seen", "unseen")

    published = None
    # As a verb for one device asks them; see `moved_meanwhile`.
    careful = shared = traced = True
    plain = False

    def __init__(self, parameter: Any, layout: Layout, *, foreign: bool = False) -> None:
        self.parameter = parameter
        self.foreign = self.lent = foreign
        self.places: Places | None = None
        self.unseen = 0
        self.layout = layout
        self.bind()
        self.seen = self.count()

    def bind(self) -> None:
        """Takes the part of the parameter that is there now for what is stored."""
        local = self.parameter._local_tensor
        self.inner: Handle = (_Foreign if self.foreign else Handle)(local)
        if self.lent and not self.foreign:
            self.inner.careful = self.inner.shared = True
        #: The part and what torch knows of the whole, for readers without the lock: one attribute, changed at once.
        self.now = (local, self.parameter._spec)

    def count(self) -> int:
        """The writes that torch has counted: those of the parameter, and those of the part of this process."""
        count: int = self.parameter._version + self.parameter._local_tensor._version
        return count

    @property
    def use(self) -> Any:
        """The streams on which the part of this process is used; None on the host."""
        return self.inner.use

    def exclusive(self) -> Never:
        raise moved_meanwhile()

    follow = replace = copied = exclusive

    def catch_up(self) -> None:
        """Takes note of what other code has done to the parameter that it was given."""
        if not self.lent:
            return
        if self.places is not None:
            self.places.check()
        parameter = self.parameter
        shape, sharding = tuple(parameter.shape), TorchSharding(parameter.device_mesh, tuple(parameter.placements))
        unseen = self.others()
        if parameter._local_tensor is not self.inner.parameter or self.layout.shape != shape:
            self.layout = layout_of(sharding, shape)
            self.bind()
            self.seen = self.count() - unseen
        self.unseen = unseen

    def others(self) -> int:
        """The number of writes by other code."""
        if self.parameter._local_tensor is not self.inner.parameter:
            return self.unseen + 1  # it has put another tensor there, with a count of its own
        return self.count() - self.seen

    def wrote(self) -> ShardedHandle:
        """Takes note that the last write was ours."""
        if not self.lent and not self.inner.careful:
            return self  # nobody has the parameter, and torch counts nothing
        if self.lent:  # a snapshot has memory of its own then
            torch.autograd.graph.increment_version(self.parameter)
        if self.foreign and self.places is not None:
            self.places.wrote()
        if self.inner.use is not None:
            self.inner.use.done()
        self.seen = self.count() - self.unseen
        return self

    def lend(self) -> None:
        """Gives the parameter to user code, which may write in place from now on."""
        if self.lent:
            return
        self.lent = True  # before the readers are counted: those who read without the lock look at it
        inner = self.inner
        inner.careful = True
        if not inner.exclusive():
            inner.replace(inner.copied())
        inner.shared = True
        self.places = Places(self.parameter)

    def become(self, local: Tensor, layout: Layout) -> None:
        """Gives the parameter a value of another shape or sharding. It stays the same object.

        Args:
            local: the part of this process, in memory that nobody else has.
        """
        if self.foreign:
            problem = f"expected shape {self.layout.shape}, got {layout.shape}, of a parameter that torch has sharded"
            raise ShapeError.of("assign", problem, hint="assign a value of the same shape")
        parameter = self.parameter
        if parameter.grad is not None:
            parameter.grad = None  # its shape or its placements would be wrong
        fresh = layout.wrapped(local)
        parameter.data = fresh  # which gives the wrapper the shape, and leaves the rest
        parameter._local_tensor, parameter._spec = local, fresh._spec
        self.layout = layout
        self.bind()

    def savepoint(self) -> ShardedFork:
        """The present value, from which `adopt` restores the variable if a commit fails."""
        if self.foreign:
            return ShardedFork(Memento(self.inner.copied(), self.inner.use), self.layout)
        return ShardedFork(PLAIN.savepoint(self.inner), self.layout)


class ShardedFork:
    """A value that is written apart from its variable: the part of this process, as a fork of one device.

    Args:
        inner: the fork of the part.
        layout: where the part is.
    """

    __slots__ = ("inner", "layout")

    published = None
    lent = foreign = False

    def __init__(self, inner: Any, layout: Layout) -> None:
        self.inner = inner
        self.layout = layout

    @property
    def use(self) -> Any:
        """The streams that use the memory of the part; None on the host."""
        return self.inner.use

    def catch_up(self) -> None:
        """Does nothing: no other code has the value."""

    def wrote(self) -> ShardedFork:
        """Does nothing, as above."""
        return self

    def become(self, local: Tensor, layout: Layout) -> None:
        """Takes on a value of another shape or sharding."""
        self.inner.replace(local)
        self.layout = layout
