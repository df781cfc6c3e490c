"""`Generator`: a stream of random numbers, the same on every library, whose state is a variable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self, SupportsIndex

import numpy as np

from .._arrays.dtypes import HOST
from .._arrays.random.numbers import (
    Bernoulli,
    Integers,
    Normal,
    Numbers,
    Order,
    Uniform,
    Weighted,
    WideIntegers,
)
from .._arrays.registry import draws_of, owner_of
from .._arrays.shapes import Shape, ShapeLike
from .._arrays.types import Array, DType, HostArray
from .._core import overlays
from .._core.convert import to_value
from .._core.deferring import suspended
from .._core.variable import Variable
from .._public import public
from ..errors import DTypeError, RangeError, ShapeError, describe
from .draw_arguments import check_bounds, count_of, floating, integral, is_number, key_of, shape_of, wider
from .module import Module

__all__ = ["Generator"]


@public()
class Generator(Module):
    """A stream of random numbers. A seed gives the same bits on every library, eager or compiled, on every device.

    Its state is a variable of four words: a key, and the position in the stream. A draw moves the position in one
    atomic step, and computes its numbers from the key and the positions that it has taken. So no two threads get the
    same numbers; a transaction, a step or a transform that fails gives its numbers back; and a checkpoint has them.

    In `vmap`, each example draws numbers of its own, and the generator moves on as for one of them.

    Args:
        seed: an integer from 0 to 2**64 - 1, the key; a sequence of integers, which is hashed to one; or None, for a
            key from the operating system.
        backend: the library of the state and of the numbers; by default NumPy.
        device: as in `Variable`.
        name: the name of its scope.

    Raises:
        RangeError: the seed is negative, or has more than 64 bits.
        TypeError: the seed is no integer.

    Source: ``numpy.random.Generator``, ``tf.random.Generator``, ``jax.random``. The numbers come from Threefry-2x32
    with 20 rounds (Salmon et al., 2011), as those of ``jax.random``.

    >>> import statevar as sv
    >>> rng = sv.Generator(0)
    >>> rng.normal(3)
    array([ 0.20584175, -1.2787127 ,  0.4826225 ], dtype=float32)
    >>> list(rng.named_variables())
    ['state']
    """

    state: Variable

    def __init__(
        self,
        seed: SupportsIndex | Sequence[SupportsIndex] | HostArray | None = None,
        *,
        backend: str | None = None,
        device: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        key = key_of(seed)
        words = np.array([key >> 32, key & 0xFFFFFFFF, 0, 0], np.uint32).view(np.int32)
        with self.name_scope(), suspended():  # `deferred` is for values that are large
            self.state = Variable(
                words, trainable=False, autocast=False, name="state", backend=backend or "numpy", device=device
            )
        draws_of(self._backend)  # imports it, which traced code cannot

    # -- draws ---------------------------------------------------------------------------------------------

    def normal(self, shape: ShapeLike = (), dtype: DType = "float32") -> Any:
        """Draws from the normal distribution of the mean 0 and the standard deviation 1.

        A number of float32 has 31 random bits and is below 6.4; one of float64 has 52 and is below 8.3.

        Raises:
            DTypeError: the dtype is not one of float16, bfloat16, float32 and float64, or the library lacks it.
            ShapeError: the shape is not one of non-negative integers.

        >>> import statevar as sv
        >>> sv.Generator(0, backend="numpy").normal((2, 3)).shape
        (2, 3)
        """
        return self._draw("normal", Normal(floating("normal", dtype, self._path)), shape)

    def uniform(self, shape: ShapeLike = (), dtype: DType = "float32", *, low: float = 0.0, high: float = 1.0) -> Any:
        """Draws from the uniform distribution over ``[low, high)``.

        The numbers are equally far apart: as the numbers of the dtype in the upper half of ``[0, high - low)`` are.

        Args:
            low: a Python number. For bounds that are arrays, scale the result.
            high: as ``low``.

        Raises:
            DTypeError: as `normal`.
            RangeError: ``low`` is not below ``high``, or a bound is out of the dtype's range.
            ShapeError: as `normal`.

        >>> import statevar as sv
        >>> x = sv.Generator(0).uniform(1000, low=-1.0, high=1.0)
        >>> bool((x >= -1).all() and (x < 1).all())
        True
        """
        name = floating("uniform", dtype, self._path)
        low, high = float(low), float(high)
        check_bounds(name, low, high, self._path)
        return self._draw("uniform", Uniform(name, low, high), shape)

    def integers(self, low: Any, high: Any = None, shape: ShapeLike | None = None, dtype: DType = "int32") -> Any:
        """Draws integers from ``low`` up to, but not including, ``high``; with one bound, from 0 up to it.

        The probabilities of two integers differ by a factor of at most 1 + 2**-32.

        Args:
            low: an integer, or an array of integers of at most 32 bits, which broadcasts into the shape.
            high: as ``low``.
            shape: by default that of the bounds.

        Raises:
            DTypeError: the dtype is no integer dtype, or the library lacks it.
            RangeError: ``low`` is not below ``high``, or a bound is out of the dtype's range. Arrays in traced code are
                not checked: where ``low`` is not below ``high`` in them, the result has no meaning.
            ShapeError: as `normal`, or the bounds do not broadcast into the shape.

        >>> import statevar as sv
        >>> dice = sv.Generator(0).integers(1, 7, 1000)
        >>> dice.min(), dice.max()
        (np.int32(1), np.int32(6))
        """
        if high is None:
            low, high = 0, low
        name = integral("integers", dtype, self._path)
        self._backend.dtype(name)
        if is_number(low) and is_number(high):
            low, high = int(low), int(high)
            limits = np.iinfo(HOST[name])
            if not low < high or low < limits.min or high - 1 > limits.max:
                problem = f"expected low < high in the range of {name}, got low={low} and high={high}"
                raise RangeError.of("integers", problem, self._path)
            return self._integers("integers", name, low, high, () if shape is None else shape)
        if name.endswith("64"):
            problem = f"bounds that are arrays have at most 32 bits, got dtype={name}"
            raise DTypeError.of("integers", problem, self._path, "draw int32, or pass bounds that are Python integers")
        wide = "uint32" if name == "uint32" else "int32"  # since ``high`` may be one more than the largest integer
        bounds = [self._operand("integers", each, wide) for each in (low, high)]
        wanted = wider("integers", shape, bounds, self._path)
        known = [self._known(each) for each in bounds]
        if known[0] is not None and known[1] is not None and not (known[0] < known[1]).all():
            raise RangeError.of("integers", "expected low < high in every element", self._path)
        return self._draw("integers", Integers(name), wanted, *bounds)

    def bernoulli(self, p: Any = 0.5, shape: ShapeLike | None = None) -> Any:
        """Draws booleans that are True with the probability ``p``, rounded to float32.

        Args:
            p: a number, or an array that broadcasts into the shape.
            shape: by default that of ``p``.

        Raises:
            RangeError: ``p`` is not between 0 and 1. In traced code it is taken for the nearer one then.
            ShapeError: as `normal`, or ``p`` does not broadcast into the shape.

        >>> import statevar as sv
        >>> sv.Generator(0).bernoulli([0.0, 1.0])
        array([False,  True])
        """
        chance = self._operand("bernoulli", p, "float32")
        wanted = wider("bernoulli", shape, [chance], self._path)
        known = self._known(chance)
        if known is not None and not ((known >= 0) & (known <= 1)).all():
            raise RangeError.of("bernoulli", f"expected probabilities from 0 to 1, got {p}", self._path)
        return self._draw("bernoulli", Bernoulli(), wanted, chance)

    def permutation(self, x: Any) -> Any:
        """The numbers from 0 up to ``x`` in random order; or the elements of an array, along its first axis.

        Args:
            x: an integer, or an array, of which a copy is made.

        Raises:
            RangeError: ``x`` is negative.
            ShapeError: ``x`` is an array without axes.

        >>> import statevar as sv
        >>> sorted(sv.Generator(0).permutation(5).tolist())
        [0, 1, 2, 3, 4]
        """
        if is_number(x):
            return self._order("permutation", int(x))
        array = self._array("permutation", x)
        return draws_of(self._backend).taken(array, self._order("permutation", int(array.shape[0])))

    def choice(self, a: Any, shape: ShapeLike = (), replace: bool = True, p: Any = None) -> Any:
        """Draws elements of the first axis of an array; or, of an integer, numbers from 0 up to it.

        Args:
            a: an integer, or an array.
            shape: how many are drawn: the result has this shape, followed by the further axes of ``a``.
            replace: whether an element may be drawn again.
            p: the probability of each element, an array that sums to 1; by default all are equal. They are rounded to
                multiples of 2**-31.

        Raises:
            RangeError: there are no elements, or fewer than are drawn without replacement; or a probability is
                negative, or they do not sum to 1.
            ShapeError: as `normal`; or ``a`` has no axis; or ``p`` has another length than ``a``.
            NotImplementedError: ``p`` is given, and ``replace`` is False.

        >>> import statevar as sv
        >>> sv.Generator(0).choice(3, 5, p=[0.0, 0.0, 1.0])
        array([2, 2, 2, 2, 2], dtype=int32)
        """
        array = None if is_number(a) else self._array("choice", a)
        count, wanted = int(a if array is None else array.shape[0]), shape_of("choice", shape, self._path)
        size = math.prod(wanted)
        if count < (1 if replace else size) and size:
            problem = f"expected at least {1 if replace else size} elements to choose from, got {count}"
            raise RangeError.of("choice", problem, self._path, "" if replace else "pass replace=True")
        if p is not None:
            found = self._weighted(p, count, wanted, replace=replace)
        elif replace:
            found = self._integers("choice", "int32", 0, max(count, 1), wanted)
        else:
            found = self._order("choice", count)[:size]
            found = self._backend.namespace().reshape(found, wanted)
        return found if array is None else draws_of(self._backend).taken(array, found)

    def _weighted(self, p: Any, count: int, shape: Shape, *, replace: bool) -> Any:
        if not replace:
            problem = "elements that differ in their probability are drawn with replacement only"
            raise NotImplementedError(describe("choice", problem, self._path, "leave out p, or replace=False"))
        weights = self._operand("choice", p, "float32")
        if tuple(weights.shape) != (count,):
            problem = f"expected p of shape ({count},), got {tuple(weights.shape)}"
            raise ShapeError.of("choice", problem, self._path)
        known = self._known(weights)
        if known is not None and not (known.min() >= 0 and abs(known.sum(dtype="float64") - 1) < 1e-3):
            problem = f"expected probabilities from 0 to 1 that sum to 1, got the sum {known.sum(dtype='float64')}"
            raise RangeError.of("choice", problem, self._path)
        return self._draw("choice", Weighted(), shape, weights)

    # -- other streams ---------------------------------------------------------------------------------------

    def split(self, count: int) -> list[Self]:
        """Makes generators whose numbers have nothing to do with each other's, or with those of this one.

        Each has the library and the device of this one. This generator moves on, so that the next split gives others.

        >>> import statevar as sv
        >>> first, second = sv.Generator(0).split(2)
        >>> bool((first.normal(4) == second.normal(4)).any())
        False
        """
        count = count_of("split", count, self._path)
        state, draws = self._take(count), draws_of(self._backend)
        return [self._with(draws.child(state, number)) for number in range(count)]

    def fork(self) -> Self:
        """Makes one generator as `split` does.

        >>> import statevar as sv
        >>> rng = sv.Generator(0)
        >>> noise = rng.fork()
        """
        return self.split(1)[0]

    def _with(self, state: Array) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update({key: each for key, each in self.__dict__.items() if key != "state"})
        with self.name_scope(), suspended():
            made.state = Variable(state, trainable=False, autocast=False, name="state", backend=self.state.backend)
        return made

    def to(self, device: Any) -> Self:
        """Moves the state to another device, on which the numbers are then drawn; see `Variable.to`."""
        self.state.to(device)
        return self

    # -- the state -------------------------------------------------------------------------------------------

    @property
    def _backend(self) -> Any:
        return self.state._backend.native

    @property
    def _path(self) -> str:
        return self.state.path

    def _take(self, blocks: int) -> Array:
        """Moves the position by so many blocks, and returns the state before."""
        draws = draws_of(self._backend)
        taken: list[Array] = []

        def moved(state: Array) -> Array:
            taken[:] = [state]
            return draws.after(state, blocks)

        if blocks:
            self.state.update(moved)
            (state,) = taken
        else:
            state = self.state.value
        for lane in self._lanes():
            state = draws.lane(state, lane)
        return state

    def _lanes(self) -> list[Any]:
        """The indices of the examples of `vmap` for which this code runs, the outermost first."""
        found, overlay = [], overlays.current() if overlays.active else None
        while overlay is not None:
            lane = overlay.lane_of(self.state)
            if lane is not None:
                found.append(lane)
            overlay = getattr(overlay, "outer", None)
        return found[::-1]

    def _draw(self, operation: str, numbers: Numbers, shape: ShapeLike, *operands: Array) -> Array:
        declared = shape_of(operation, shape, self._path)
        self._backend.dtype(numbers.dtype)
        blocks = numbers.blocks(math.prod(declared))
        return draws_of(self._backend).draw(self._take(blocks), numbers, declared, operands)

    def _integers(self, operation: str, dtype: str, low: int, high: int, shape: ShapeLike) -> Array:
        if dtype.endswith("64"):
            return self._draw(operation, WideIntegers(dtype, low, high), shape)
        # As operands, so that no library compiles a program for each bound.
        bounds = [np.array([each & 0xFFFFFFFF], np.uint32).view(np.int32) for each in (low, high)]
        operands = [self._backend.operand_from_host(each) for each in bounds]
        return self._draw(operation, Integers(dtype, full=high - low == 1 << 32), shape, *operands)

    def _order(self, operation: str, count: int) -> Array:
        if not 0 <= count < 1 << 31:
            raise RangeError.of(operation, f"expected a number of elements below 2**31, got {count}", self._path)
        state = self._take(Order().blocks(count))
        return draws_of(self._backend).draw(state, Order(), (count,), ())

    # -- arguments -------------------------------------------------------------------------------------------

    def _operand(self, operation: str, value: Any, dtype: str) -> Array:
        """A parameter as an array beside the state, which a program may compute."""
        backend = self._backend
        x = to_value(value, backend, dtype, operation=operation, path=self._path, old=self.state.value)
        return backend.to_host(x) if backend.is_host else x  # without a gradient

    def _known(self, operand: Array) -> HostArray | None:
        """The elements of an operand that is on the host and that no program computes; else None."""
        backend = self._backend
        if overlays.active and overlays.current_values() is not None:  # a transform may have begun
            return None
        if backend.is_symbolic(operand) or not backend.device_name(backend.device_of(operand)).startswith("CPU"):
            return None
        found: HostArray | None = backend.known(operand)
        return found

    def _array(self, operation: str, x: Any) -> Array:
        """An array with an axis, beside the state."""
        x = x.value if isinstance(x, Variable) else x
        owner = owner_of(x)
        found = x if owner is self._backend else np.asarray(x) if owner is None else owner.to_host(x)
        if not len(found.shape):  # a `TensorShape` without axes is true
            problem = "expected an integer or an array with an axis, got one without"
            raise ShapeError.of(operation, problem, self._path)
        return found if owner is self._backend else self._backend.from_host(found, self.state.device)

    def __repr__(self) -> str:
        try:
            return f"<Generator {self.name!r} backend={self.state.backend} state={self.state.tolist()}>"
        except Exception as error:  # noqa: BLE001  # a repr never raises
            return f"<Generator at {id(self):#x}, unavailable: {type(error).__name__}>"

    __str__ = __repr__
