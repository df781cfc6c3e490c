"""Row 7: snapshots, writes in place, writes whole or not at all. See design: the laws."""

from __future__ import annotations

import gc
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, array_of, assert_same, host
from tests.internals import adapter


#: With warnings turned to errors, as here, NumPy may raise after an in-place result; then no write is in place.
def quiet() -> np.errstate:
    return np.errstate(all="ignore")


SIZES = [(), (3,), (7, 5), (300, 1000)]
WRITES: dict[str, Callable[[sv.Variable], object]] = {
    "assign": lambda v: v.assign(np.full(v.shape, 7.0, "float32")),
    "assign_add": lambda v: v.assign_add(1.0),
    "assign_sub": lambda v: v.assign_sub(np.float32(1.0)),
    "multiply": lambda v: v.__imul__(2.0),
    "divide": lambda v: v.__itruediv__(2.0),
    "setitem": lambda v: v.__setitem__(..., 5.0),
    "setitem first": lambda v: v.__setitem__((0,) * v.ndim, 5.0),
    "at": lambda v: v.at[(slice(None, None, -1),) * v.ndim].add(1.0),
    "at max": lambda v: v.at[(slice(0, 1),) * v.ndim].max(100.0),
    "redeclare": lambda v: v.assign([1.0, 2.0, 3.0, 4.0], validate_shape=False),
}


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("write", WRITES)
def test_a_snapshot_never_changes(backend: str, write: str, shape: tuple[int, ...]) -> None:
    v = sv.Variable(np.arange(1, np.prod(shape) + 1, dtype="float32").reshape(shape), backend=backend)
    for count in range(3):
        before = v.value
        expected = v.numpy()
        as_numpy = np.asarray(v)
        WRITES[write](v)
        assert v.version == count + 1
        assert_same(before, expected)
        assert_same(as_numpy, expected)
        if count == 0:
            assert v.shape != shape or (host(v) != expected).any()


DERIVED: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "slice": lambda a: a[1:],
    "slice of a slice": lambda a: a[1:][1:],
    "reshaped": lambda a: a.reshape(-1, 2),
    "transposed": lambda a: a.reshape(2, -1).T,
    "memoryview": memoryview,
    "memoryview of a slice": lambda a: memoryview(a[2:])[1:],
    "bytes view": lambda a: a.view(np.uint8),
    "flat": lambda a: a.flat,
    "iterator": iter,
    "base": lambda a: a.base,
    "broadcast": lambda a: np.broadcast_to(a, (3, *a.shape)),
    "strided": lambda a: np.lib.stride_tricks.sliding_window_view(a, 2),
    "frombuffer": lambda a: np.frombuffer(a, a.dtype),
    "dlpack": np.from_dlpack,
    "masked": lambda a: np.ma.masked_array(a, copy=False),
    "record": lambda a: a.view(np.recarray),
    "closure": lambda a: lambda: a,
    "generator": lambda a: (x for x in a),
    "ctypes": lambda a: a.ctypes.data_as(__import__("ctypes").c_void_p),
}


@pytest.mark.parametrize("size", [8, 100_000])
@pytest.mark.parametrize("derive", DERIVED)
def test_numpy_whatever_holds_the_memory_is_seen(derive: str, size: int) -> None:
    v = sv.Variable(np.zeros(size, "float32"))
    place = address(v)
    held = DERIVED[derive](v.value)
    with quiet():
        v.assign_add(1.0)
        assert address(v) != place, "written under a holder"
        del held
        place = address(v)
        v.assign_add(1.0)
        assert address(v) == place, "copied although nobody holds it"


@pytest.mark.parametrize("size", [8, 100_000])
def test_numpy_memory_held_by_other_libraries_is_seen(size: int) -> None:
    jax, torch, tf = (pytest.importorskip(name) for name in ("jax", "torch", "tensorflow"))
    import pandas as pd

    takers: list[Callable[[Any], Any]] = [
        jax.device_put,
        lambda a: jax.device_put(a[16:]) if size > 16 else a,
        torch.from_dlpack,
        lambda a: torch.from_dlpack(a)[1:],
        tf.convert_to_tensor,
        lambda a: pd.Series(a, copy=False),
    ]
    for take in takers:
        v = sv.Variable(np.zeros(size, "float32"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that the memory is read-only
            held = take(v.value)
        v.assign_add(1.0)
        v[0] = 5.0
        assert not np.asarray(held).any()


def test_numpy_snapshots_refuse_to_be_written() -> None:
    for size in (3, 100_000):
        snapshot = sv.Variable(np.zeros(size)).value
        with pytest.raises(ValueError, match="read-only"):
            snapshot[0] = 1.0
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            snapshot.setflags(write=True)


def test_torch_refuses_to_write_into_a_trainable_snapshot() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        v.value.add_(100.0)
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(v)[0] = 100.0
    assert_same(v, [1.0, 2.0])


def test_torch_a_snapshot_survives_those_who_write_through_the_parameter() -> None:
    torch = pytest.importorskip("torch")
    for trainable in (True, False):
        v = sv.Variable([1.0, 2.0], backend="torch", trainable=trainable)
        parameter, before = v.parameter, v.value
        parameter.data.add_(5.0)
        with torch.no_grad():
            parameter.add_(5.0)
        assert_same(before, [1.0, 2.0])
        assert_same(v, [11.0, 12.0])


def test_torch_a_write_between_forward_and_backward_does_not_change_the_gradient() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    for _ in range(2):
        loss = (v.value**2).sum()
        v.assign([10.0, 20.0]).assign_add(1.0)
        v[0] = 0.0
        loss.backward()
        v.assign([1.0, 2.0])
    assert_same(v.parameter.grad, [4.0, 8.0])


def test_torch_modes_do_not_matter() -> None:
    torch = pytest.importorskip("torch")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            v = sv.Variable([1.0, 2.0], backend="torch")
            v.assign_add(1.0)
            held = v.value
            v.assign_add(torch.ones(2))
            v[0] = torch.zeros(())
            v *= 2.0
        assert_same(held, [2.0, 3.0])
        (v.value * 3).sum().backward()
        assert_same(v.parameter.grad, [3.0, 3.0])
        assert_same(v, [0.0, 8.0])


@pytest.mark.parametrize("shape", [(4,), (300, 1000)], ids=str)
@pytest.mark.parametrize("write", ["assign", "assign_add", "assign_sub"])
def test_an_exclusive_write_is_in_place(backend: str, write: str, shape: tuple[int, ...]) -> None:
    if backend in ("jax", "tensorflow") and write == "assign":
        pytest.skip("an immutable value is adopted: no copy at all")
    v = sv.Variable(np.zeros(shape, "float32"), backend=backend)
    with quiet():
        WRITES[write](v)  # the first write after creation may leave the array it was made from
        place = address(v)
        for _ in range(5):
            WRITES[write](v)
            assert address(v) == place
        held = v.value
        WRITES[write](v)
        assert address(v) != place
        del held
        WRITES[write](v)
        place = address(v)
        WRITES[write](v)
        assert address(v) == place


@pytest.mark.parametrize("write", ["setitem", "setitem first", "at", "at max", "multiply"])
def test_an_exclusive_item_write_is_in_place(backend: str, write: str) -> None:
    if backend == "tensorflow":
        pytest.skip("its in-place scatter would switch the variable to copy-on-read for ever")
    v = sv.Variable(np.zeros((300, 1000), "float32"), backend=backend)
    with quiet():
        WRITES[write](v)
        place = address(v)
        WRITES[write](v)
        assert address(v) == place


def test_numpy_memory_does_not_grow_with_the_number_of_writes() -> None:
    v = sv.Variable(np.zeros(1_000_000, "float32"))
    x = np.ones(1_000_000, "float32")
    with quiet():
        v.assign_add(x)
    gc.collect()
    tracemalloc.start()
    with quiet():
        for _ in range(20):
            v.assign(x).assign_add(x)
            v[5:] = x[5:]
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000, f"{peak} bytes for writes in place"
    assert current < 10_000


def test_numpy_buffers_are_aligned_for_other_libraries() -> None:
    for _ in range(10):
        assert address(sv.Variable(np.zeros(100_000, "float32"))) % 64 == 0


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's variables mark what was read, as where counts of references prove nothing: without the GIL."""
    numpy = adapter("numpy")
    monkeypatch.setattr(numpy, "_UNHELD", (-1, -1))
    monkeypatch.setattr(numpy, "_UNHELD_PUBLISHED", -1)
    monkeypatch.setattr(numpy, "_new", numpy._Marked)


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("size", [3, 100_000])
def test_numpy_without_meaningful_counts_writes_in_place_what_nobody_has_read(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    v = sv.Variable(np.zeros(size, "float32"))
    kept: list[tuple[Any, Any]] = []
    monkeypatch.setattr(adapter("numpy"), "may_raise", lambda: False)  # warnings are errors in these tests
    for write in ("assign_add", "assign", "setitem", "at"):
        WRITES[write](v)  # after this, nobody has read the value
        place = address(v)
        WRITES[write](v)
        assert address(v) == place, f"{write} of what nobody has read was not in place"
        value = v.value
        kept.append((value, value.copy()))
        kept.append((v[1:], v[1:].copy()))
        WRITES[write](v)
        assert address(v) != place, f"{write} wrote what somebody has read"
    for value, then in kept:
        assert_same(value, then)


@pytest.mark.usefixtures("marks")
def test_numpy_without_meaningful_counts_keeps_every_snapshot() -> None:
    v, w = sv.Variable(np.zeros(5, "float32")), sv.Variable(np.zeros(5, "float32"))
    cuts: list[tuple[Any, Any, Any]] = []
    for step in range(20):
        with sv.transaction(v, w):
            v.assign_add(1.0)
            w[0] = v[0]
            cuts.append((sv.snapshot(v, w), v.numpy(), w.numpy()))
            w.assign_add(1.0)
        with v.edit() as array:
            array[1] = step
        cuts.append((sv.snapshot(v, w), v.numpy(), w.numpy()))
        v.at[[0, 0]].add(1.0)
        sv.restore(sv.snapshot(w))
        w.assign_sub(1.0)
    for cut, a, b in cuts:
        assert_same(cut[v], a)
        assert_same(cut[w], b)


class Unconvertible:
    """Raises when NumPy asks for it."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ZeroDivisionError


FAILURES: dict[str, Callable[[sv.Variable], object]] = {
    "shape": lambda v: v.assign(np.zeros(9, "float32")),
    "kind": lambda v: v.assign(np.zeros(v.shape, "complex64")),
    "range": lambda v: v.assign_add(1e300),
    "index": lambda v: v.__setitem__(10**6, 1.0),
    "later index": lambda v: v.at[[0, 10**6]].add(1.0),
    "unconvertible": lambda v: v.assign(Unconvertible()),
    "unconvertible item": lambda v: v.__setitem__(0, Unconvertible()),
    "matmul": lambda v: v.__imatmul__(np.zeros((7, 7), "float32")),
    "object": lambda v: v.assign_add(object()),
    "unvalidated kind": lambda v: v.assign([1j], validate_shape=False),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("shape", [(5,), (300, 1000)], ids=str)
def test_a_write_that_fails_changes_nothing(backend: str, failure: str, shape: tuple[int, ...]) -> None:
    start = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    v = sv.Variable(start, name="w", backend=backend)
    v.assign_add(0.0)
    held = v.value
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, IndexError, OverflowError, ArithmeticError)):
            FAILURES[failure](v)
    assert_same(v, start)
    assert_same(held, start)
    assert (v.shape, v.version, v.dtype_name) == (shape, 1, "float32")
    assert_same(v.assign_add(1.0), start + 1)


@pytest.mark.parametrize("size", [4, 100_000])
@pytest.mark.parametrize("mode", ["errstate", "warnings"])
def test_numpy_a_floating_point_error_changes_nothing(size: int, mode: str) -> None:
    # NumPy raises after it has written the result: in place that would be too late.
    v = sv.Variable(np.full(size, 3e38, "float32"))
    huge = np.full(size, 3e38, "float32")
    with np.errstate(all="raise" if mode == "errstate" else "warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for write in (v.assign_add, v.at[...].add, v.at[[0, 0]].add, v.at[1:].multiply):
            with pytest.raises((FloatingPointError, RuntimeWarning), match="overflow"):
                write(huge if write == v.assign_add else 3e38)
    assert_same(v, np.full(size, 3e38, "float32"))
    assert v.version == 0
    with quiet():
        v.assign_add(huge)
    assert np.isinf(v.numpy()).all()


def test_a_constraint_that_raises_changes_nothing(backend: str) -> None:
    def refuse(value: Any) -> Any:
        if float(value[0]) < 0:
            raise ArithmeticError("negative")
        return value

    v = sv.Variable([1.0, 2.0], constraint=refuse, backend=backend)
    for write in (lambda: v.assign([-1.0, 0.0]), lambda: v.assign_sub(5.0), lambda: v.__setitem__(0, -1.0)):
        with pytest.raises(ArithmeticError):
            write()
    assert_same(v, [1.0, 2.0])
    assert v.version == 0
    assert_same(v.assign_add(1.0), [2.0, 3.0])


def test_a_failing_adapter_leaves_the_variable_whole(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)

    def fail(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(v._backend), "assign", fail)
        with pytest.raises(MemoryError):
            v.assign([3.0, 4.0])
    assert_same(v, [1.0, 2.0])
    assert v.version == 0
    assert_same(v.assign([3.0, 4.0]), [3.0, 4.0])


def test_a_write_inside_a_write_is_an_error(backend: str) -> None:
    def again(value: Any) -> Any:
        v.assign([0.0])
        return value

    v = sv.Variable([1.0], name="w", backend=backend)
    v.constraint = again
    with pytest.raises(RuntimeError, match="assign: this thread is already inside a write of this variable, at 'w'"):
        v.assign([2.0])
    v.constraint = lambda value: value + v.value  # a read is not
    assert_same(v.assign([2.0]), [3.0])


def test_jax_a_write_in_a_raw_jit_is_an_error() -> None:
    jax = pytest.importorskip("jax")
    v = sv.Variable([1.0], name="w", backend="jax")

    def constant(x: Any) -> Any:
        v.assign_add(1.0)
        return x

    def traced(x: Any) -> Any:
        v.assign(x)
        return x

    def differentiated(x: Any) -> Any:
        v.assign(x)
        return x.sum()

    for function in (jax.jit(constant), jax.jit(traced), jax.grad(differentiated)):
        with pytest.raises(sv.errors.TraceError, match="at 'w'. Hint: return"):
            function(np.ones(1, "float32"))
    assert_same(v, [1.0])
    assert v.version == 0


def test_numpy_a_tracer_is_never_stored() -> None:
    jax = pytest.importorskip("jax")
    v = sv.Variable([1.0], backend="numpy")
    with pytest.raises(sv.errors.TraceError, match="jax is tracing this code: the write would happen once"):
        jax.jit(lambda x: v.assign(x).value)(np.ones(1, "float32"))


def test_versions_count_writes(backend: str) -> None:
    v = sv.Variable(np.zeros(3, "float32"), backend=backend)
    assert v.version == 0
    for count, write in enumerate((*WRITES.values(),), start=1):
        write(v)
        assert v.version == count
    v.value, v.numpy(), v + 1, v[0]
    assert v.version == len(WRITES)
    assert isinstance(array_of(backend, 1.0), object)
