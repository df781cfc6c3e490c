"""The base class of the suite: the settings of its users, and functions that make arrays and handles."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn
from unittest import SkipTest

import numpy as np

from .._arrays.backend import Backend, Handle
from .._arrays.dtypes import HOST, dtype_kind
from .._arrays.indexing import select
from .._arrays.registry import get_backend
from .._arrays.shapes import DeclaredShape, Shape
from .._arrays.types import Array, HostArray
from .._core.variable import Variable
from ..errors import DTypeError
from ._cases import SHAPES

__all__ = ["SuiteBase"]


class SuiteBase:
    """The part of `statevar.testing.BackendSuite` that its users fill in."""

    #: The name of the backend to test.
    backend: ClassVar[str]
    #: The names of the dtypes that the library supports; the adapter must refuse all others. If empty, the dtypes that
    #: it does not refuse. float32, int32 and bool must be among them.
    dtypes: ClassVar[tuple[str, ...]] = ()

    #: Whether a reader that writes to a snapshot gets an error, or changes only its own copy. False for a library
    #: whose arrays cannot be made read-only, and which shares its memory with readers.
    guards_snapshots: ClassVar[bool] = True

    def address(self, variable: Variable) -> int | None:
        """Returns the address of the variable's buffer; None if its library does not write in place.

        It must keep no reference to the buffer.
        """
        return None

    def gradient(self, function: Callable[[Any], Any], variable: Variable) -> Any:
        """Returns the library's gradient of a scalar function of the variable; None if it has no gradients."""
        return None

    # -- helpers of the tests-------------------------------------------------------------------------------

    @property
    def adapter(self) -> Backend:
        """The adapter under test."""
        return get_backend(self.backend)

    def held(self, *kinds: str) -> list[str]:
        """Returns the dtypes that the library supports, of the given dtype kinds or of all."""
        names = self.dtypes or tuple(name for name in HOST if self.holds_dtype(name))
        return [name for name in names if not kinds or dtype_kind(name) in kinds]

    def holds_dtype(self, name: str) -> bool:
        """Whether the adapter accepts a dtype."""
        try:
            self.adapter.dtype(name)
        except DTypeError:
            return False
        return True

    def shapes_and_dtypes(self) -> Iterator[tuple[str, Shape]]:
        """Yields every dtype with one shape, and one dtype with every shape."""
        yield from ((name, (3, 4)) for name in self.held())
        yield from (("float32", shape) for shape in SHAPES)

    def operand(self, host: HostArray) -> Array:
        """Returns an operand for the write verbs, made as the core makes it."""
        return self.adapter.from_host(host, None)

    def handle(self, host: HostArray, declared: DeclaredShape | None = None) -> Handle:
        """Returns a handle with a value."""
        shape = host.shape if declared is None else declared
        return self.adapter.create(self.operand(host), declared=shape, device=None, trainable=False)

    def native(self, host: HostArray) -> Array:
        """Returns an array of the library."""
        return self.adapter.snapshot(self.handle(host))

    def value(self, handle: Handle) -> HostArray:
        """Returns the value of a handle, as a NumPy array."""
        return self.host(self.adapter.snapshot(handle))

    def host(self, array: Array | HostArray) -> HostArray:
        """Returns a NumPy copy of an array of the library or of NumPy."""
        return np.array(array if isinstance(array, np.ndarray) else self.adapter.to_host(array))

    def written_from(self, x: HostArray | Array) -> Iterator[tuple[str, Handle]]:
        """Yields handles with the value x, each written by another verb."""
        adapter = self.adapter

        def operand() -> Array:
            return self.operand(x) if isinstance(x, np.ndarray) else x

        def zeros() -> Handle:
            return self.handle(np.zeros(adapter.shape(operand()), np.float32))

        everything = select(..., adapter.shape(operand()), "")
        yield "create", adapter.create(operand(), declared=..., device=None, trainable=False)
        yield "assign", adapter.assign(zeros(), operand())
        yield "redeclare", adapter.redeclare(zeros(), operand())
        yield "apply", adapter.apply(zeros(), operand(), operator.add)
        yield "put", adapter.put(zeros(), operand(), "set", everything)

    def variable(self, value: Any, **options: Any) -> Variable:
        """Returns a variable of the backend."""
        return Variable(value, backend=self.backend, name="suite", **options)

    def skip(self, reason: str) -> NoReturn:
        """Skips the test. pytest accepts the SkipTest of unittest."""
        raise SkipTest(reason)
