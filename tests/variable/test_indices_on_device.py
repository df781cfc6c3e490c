"""Indices and masks of the variable's own library stay on their device: the host stands in for one.

The arrays of JAX and torch on the host are taken for arrays on a device, and refuse to become NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.internals import engine
from tests.variable.test_indexing import UFUNCS, model_of, shaped_index

pytestmark = pytest.mark.host  # it stands in for a device

LIBRARIES = ("jax", "torch")


def _refuses(*_: Any, **__: Any) -> Any:
    raise AssertionError("an index went through the host")


@contextmanager
def on_device(library: str) -> Iterator[None]:
    """The library's arrays on the host stand in for arrays on a device."""
    sv.Variable(0, backend=library)  # it is installed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine(f"{library}_indices"), "on_host", True)
        yield


@contextmanager
def never_on_host(library: str) -> Iterator[None]:
    """In the block, an array of more than one element cannot become a NumPy array."""
    with on_device(library), pytest.MonkeyPatch.context() as patch:
        if library == "torch":
            import torch

            patch.setattr(torch.Tensor, "numpy", _refuses)
            patch.setattr(torch.Tensor, "__array__", _refuses)
            patch.setattr(torch.Tensor, "tolist", _refuses)
            yield
        else:
            import jax

            array_type = type(jax.numpy.zeros(2))
            real = array_type.__array__

            def small(self: Any, *args: Any, **kwargs: Any) -> Any:
                return real(self, *args, **kwargs) if self.size == 1 else _refuses()

            patch.setattr(array_type, "__array__", small)
            with jax.transfer_guard("disallow"):
                yield


def own(library: str, index: Any) -> Any:
    """An index with the library's arrays in place of NumPy's."""
    if isinstance(index, tuple):
        return tuple(own(library, part) for part in index)
    return array_of(library, index) if isinstance(index, np.ndarray) else index


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "rows": lambda v, a: v.__setitem__(a([2, 0, 2], "int32"), a([[1.0] * 3, [2.0] * 3, [3.0] * 3], "float32")),
    "add rows": lambda v, a: v.at[a([2, 0, -2], "int32")].add(a([[1.0] * 3, [2.0] * 3, [3.0] * 3], "float32")),
    "one number": lambda v, a: v.__setitem__(a([1, 1], "int32"), a(5.0, "float32")),
    "small indices": lambda v, a: v.at[a([1, 3], "uint8"), a([-1, 0], "int8")].multiply(a([4.0, 5.0], "float32")),
    "mask": lambda v, a: v.__setitem__(v.value > a(5.0, "float32"), a(-1.0, "float32")),
    "mask of rows": lambda v, a: v.at[a([True, False, True, False], "bool")].add(a(9.0, "float32")),
    "mask and values": lambda v, a: v.__setitem__(a([True, False, True, False], "bool"), a([7.0, 8.0, 9.0], "float32")),
    "mask and min": lambda v, a: v.at[v.value > a(5.0, "float32")].min(a(7.0, "float32")),
    "slice": lambda v, a: v.at[1:3, a([0, 2, 2], "int32")].subtract(a([1.0, 1.0, 2.0], "float32")),
    "nothing": lambda v, a: v.at[a([], "int32")].add(a(1.0, "float32")),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("held", [False, True], ids=["in place", "with a snapshot"])
def test_nothing_goes_through_the_host(library: str, case: str, held: bool) -> None:
    model = sv.Variable(model_of((4, 3)))
    CASES[case](model, lambda x, dtype: np.array(x, dtype))
    v = sv.Variable(model_of((4, 3)), backend=library, trainable=False)
    made: list[Any] = []

    def make(x: Any, dtype: str) -> Any:
        made.append(array_of(library, x, dtype))
        return made[-1]

    CASES[case](sv.Variable(v.value, trainable=False), make)
    if not held:
        v.assign(model_of((4, 3)))  # the variable's own memory
    kept = v.value if held else None
    given = iter(made)
    with never_on_host(library):
        CASES[case](v, lambda *_: next(given))
    assert_same(v, model.numpy())
    assert v.version == 2 - held
    if kept is not None:
        assert_same(kept, model_of((4, 3)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_host_would_be_noticed(library: str) -> None:
    v = sv.Variable(model_of((4, 3)), backend=library, trainable=False)
    # So many indices that JAX's variables round the number up, and NumPy does that.
    rows, x = array_of(library, [2, 0, 1], "int32"), array_of(library, 1.0, "float32")
    with never_on_host(library):
        vars(engine(f"{library}_indices"))["on_host"] = False
        with pytest.raises(Exception, match="an index went through the host|Disallowed host-to-device transfer"):
            v[rows] = x


@pytest.mark.parametrize("library", LIBRARIES)
def test_reads_do_not_go_through_the_host(library: str) -> None:
    v = sv.Variable(model_of((4, 3)), backend=library)
    rows = array_of(library, [3, -4, 3], "int32")
    mask = array_of(library, [True, False, False, True])
    with never_on_host(library):
        by_rows, by_mask = v[rows], v[mask]
    assert_same(by_rows, model_of((4, 3))[[3, 0, 3]])
    assert_same(by_mask, model_of((4, 3))[[0, 3]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_variable_is_an_index(library: str) -> None:
    v, rows = sv.Variable(model_of((4, 3)), backend=library), sv.Variable([1, 2], backend=library)
    with on_device(library):
        v[rows] = 0.0
        assert_same(v[rows], np.zeros((2, 3)))
        v[v > 5.0] = -1.0
    assert_same(v, [[0, 1, 2], [0, 0, 0], [0, 0, 0], [-1, -1, -1]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_index_of_another_library_is_converted(library: str, backend: str) -> None:
    sv.Variable(0, backend=library)
    v = sv.Variable(model_of((4, 3)), backend=backend)
    v[array_of(library, [0, 2])] = -1.0
    v.at[array_of(library, [True, False, False, False])].add(1.0)
    assert_same(v, [[0, 0, 0], [3, 4, 5], [-1, -1, -1], [9, 10, 11]])
    assert_same(v[array_of(library, [1])], [[3, 4, 5]])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.array([0, 3]), "index 3 is out of bounds for axis 0 with size 3"),
        (np.array([-4]), "index -4 is out of bounds for axis 0 with size 3"),
        ((np.array([0]), np.array([2])), "index 2 is out of bounds for axis 1 with size 2"),
        ((np.array([0]), np.array([0]), np.array([0])), "too many indices"),
        (np.array([True, False]), "boolean index did not match"),
        (np.array([0.5]), "expected an index of integers, slices"),
        ((np.array([0, 1]), np.array([0, 1, 0])), "shape mismatch"),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_bad_indices_are_refused(library: str, index: Any, message: str) -> None:
    v = sv.Variable(np.zeros((3, 2), "float32"), name="w", backend=library)
    index = own(library, index)
    with on_device(library):
        for use in (lambda: v[index], lambda: v.__setitem__(index, 1.0), lambda: v.at[index].add(1.0)):
            with pytest.raises(IndexError, match=message):
                use()
        with pytest.raises(IndexError, match=r"index: .* \(shape \(3, 2\)\), at 'w'. Hint: indexing follows NumPy's"):
            v[index] = 1.0
        with pytest.raises(sv.errors.ShapeError, match=r"shape \(3,\) does not broadcast into the selected shape"):
            v[own(library, np.array([True, True, False]))] = np.zeros(3, "float32")
    assert v.version == 0


@settings(max_examples=40)
@pytest.mark.parametrize("library", LIBRARIES)
@given(case=shaped_index(), kind=st.sampled_from(["set", *UFUNCS]), data=st.data())
def test_device_indices_are_numpys(library: str, case: Any, kind: str, data: st.DataObject) -> None:
    shape, index = case
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, np.ndarray) for part in parts) and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(parts)))
        used = sum(part.ndim if getattr(part, "dtype", None) == np.bool_ else part is not None for part in parts)
        if used < len(shape) and not any(part is ... for part in parts) and shape[used]:
            index = (*parts[:at], None, *parts[at:]) if data.draw(st.booleans()) else (*parts, shape[used] - 1)
    model = model_of(shape)
    v = sv.Variable(model, backend=library, trainable=False)
    expected = model[index]
    x: Any = np.float32(3.0)
    if data.draw(st.booleans()):
        x = np.arange(1, expected.size + 1, dtype=np.float32).reshape(expected.shape)
    with on_device(library):
        assert_same(v[own(library, index)], expected)
        if kind == "set":
            model[index] = x
            v[own(library, index)] = x
        else:
            UFUNCS[kind].at(model, index, x)
            getattr(v.at[own(library, index)], kind)(x)
    assert_same(v, model, rtol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_last_of_several_values_is_kept(library: str) -> None:
    rows = np.random.default_rng(0).integers(0, 5, 1000)
    x = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    model = model_of((5, 2))
    model[rows] = x
    v = sv.Variable(model_of((5, 2)), backend=library)
    with on_device(library):
        v[own(library, rows)] = array_of(library, x)
    assert_same(v, model)


def test_dtypes_without_kernels_go_through_the_host() -> None:
    v = sv.Variable(np.zeros(3, "uint16"), backend="torch")
    with on_device("torch"):
        v[array_of("torch", [0, 2])] = 7
        v[array_of("torch", [False, True, False])] = 5
        assert v[array_of("torch", [2, 1])].tolist() == [7, 5]
    assert v.numpy().tolist() == [7, 5, 7]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes_without_kernels_are_indexed(dtype: str) -> None:
    pytest.importorskip("torch")
    v = sv.Variable(model_of((4, 3)).astype("uint8").tolist(), dtype=dtype, backend="torch")
    model = sv.Variable(v.numpy())
    for each in (v, model):
        each[[2, 0, 2]] = [[1] * 3, [2] * 3, [3] * 3]
        each[[True, False, False, False]] = 4
    rows: list[Any] = [[3, -1], [True, False, True, False], ([0, 1], [2, 0])]
    for index in rows:
        assert_same(v[index], model[index])
    assert_same(v, model.numpy())


@pytest.mark.parametrize("size", [5, 20_000])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("negative", [False, True])
def test_row_numbers_of_every_dtype(backend: str, dtype: str, size: int, negative: bool) -> None:
    """Of a small table the row that wins is found in another way than of a large one."""
    given = np.array([2, 4, 2, 0], dtype) - np.array(3 if negative and dtype != "uint8" else 0, dtype)
    ids = given.astype(np.int64)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    for operation in ("set", "add", "max", "divide"):
        model, v = np.ones((size, 2), np.float32), sv.Variable(np.ones((size, 2), np.float32), backend=backend)
        if operation == "set":
            model[ids] = x
        else:
            UFUNCS[operation].at(model, ids, x + 1)
        getattr(v.at[array_of(backend, given, dtype)], operation)(x if operation == "set" else x + 1)
        assert_same(v, model, rtol=1e-6)
    assert_same(v[array_of(backend, given, dtype)], model[ids], rtol=1e-6)
    with pytest.raises(IndexError, match="out of bounds for axis 0"):
        v.at[array_of(backend, [0, -size - 1], "int32")].add(1.0)
    assert_same(v, model, rtol=1e-6)


@pytest.mark.parametrize(
    "ids",
    [np.arange(4)[::-1], np.broadcast_to(np.int64(2), 3), np.array([[0, 3], [2, 2]], "uint8"), np.arange(-4, 0).T],
    ids=["negative strides", "zero strides", "unsigned", "negative"],
)
def test_row_numbers_in_any_memory(backend: str, ids: Any) -> None:
    """Torch refuses negative strides, and warns of memory that it may not write."""
    ids.setflags(write=False)
    model, v = model_of((4, 3)), sv.Variable(model_of((4, 3)), backend=backend)
    np.add.at(model, ids, 2)
    v.at[ids].add(2.0)
    assert_same(v, model)
    assert_same(v[ids], model[ids])
