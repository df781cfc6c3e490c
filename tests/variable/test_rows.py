"""What is promised of rows, slices and masks, on every backend: NumPy's rules, whole writes, and snapshots that stay.

The numbers are small integers and powers of two, of which every library computes the same results in any order.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import statevar as sv
from tests.helpers import address, array_of, assert_same, every_table_has_a_log, host

#: Few shapes and lengths, since JAX compiles for each of them.
SHAPES = [(5,), (5, 2), (3, 2, 2), (0, 3), ()]
LENGTHS = [(0,), (1,), (4,), (2, 2)]

UFUNCS: dict[str, Any] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "min": np.minimum,
    "max": np.maximum,
}
NUMBERS: dict[str, list[Any]] = {"float32": [-2.0, -1.0, 0.5, 1.0, 2.0, 4.0], "int32": [-2, -1, 1, 2, 3]}
FORMS = ["list", "numpy", "own"]


class Step(NamedTuple):
    """A write of the operation at an index; index and operand are given as lists, NumPy's or the library's arrays."""

    operation: str
    index: Any
    index_form: str
    x: Any
    x_form: str
    held: bool  #: whether somebody has the old value


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """An index into an array of a shape: rows, or anything else that NumPy takes."""
    kinds = ["nothing", "mask", "zero-dimensional mask", "basic"]
    if shape and shape[0]:
        kinds += ["rows", "rows", "rows", "row", "mask of rows"]
        kinds += ["rows and columns", "rows and a slice"] if len(shape) > 1 else []
    kind = draw(st.sampled_from(kinds))
    if kind == "basic":
        return draw(hnp.basic_indices(shape, allow_ellipsis=True, allow_newaxis=True))
    if kind == "nothing" and shape:
        return np.zeros(0, np.int64)
    if kind == "mask of rows":
        return draw(hnp.arrays(np.bool_, shape[:1]))
    if kind == "zero-dimensional mask":
        return np.array(draw(st.booleans()))
    if kind in ("mask", "nothing"):
        return draw(hnp.arrays(np.bool_, shape))
    lengths = () if kind == "row" else draw(st.sampled_from(LENGTHS))
    rows, *others = (draw(hnp.arrays(np.int64, lengths, elements=st.integers(-size, size - 1))) for size in shape[:2])
    if kind == "rows and columns":
        return rows, others[0]
    return (rows, draw(st.slices(shape[1]))) if kind == "rows and a slice" else rows


@st.composite
def operands(draw: st.DrawFn, dtype: str, selected: tuple[int, ...]) -> Any:
    """An array of a dtype that broadcasts into a shape."""
    shape = draw(st.sampled_from([selected, selected, selected[1:], (), tuple(1 for _ in selected)]))
    return draw(hnp.arrays(dtype, shape, elements=st.sampled_from(NUMBERS[dtype])))


@st.composite
def steps(draw: st.DrawFn, dtype: str, shape: tuple[int, ...]) -> Step:
    names = [name for name in UFUNCS if dtype != "int32" or name != "divide"]
    index = draw(indices(shape))
    x = draw(operands(dtype, np.zeros(shape)[index].shape))
    form, x_form = draw(st.sampled_from(FORMS)), draw(st.sampled_from(FORMS))
    return Step(
        draw(st.sampled_from(["set", "set", "add", "add", *names])), index, form, x, x_form, draw(st.booleans())
    )


class Case(NamedTuple):
    model: np.ndarray[Any, Any]
    steps: list[Step]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """The first value of a variable, and what happens to it."""
    dtype, shape = draw(st.sampled_from(list(NUMBERS))), draw(st.sampled_from(SHAPES))
    return Case(start(shape, dtype), draw(st.lists(steps(dtype, shape), min_size=1, max_size=4)))


def start(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def given_as(form: str, backend: str, value: Any) -> Any:
    """An index or an operand in one of the `FORMS`."""
    if isinstance(value, tuple):
        return tuple(given_as(form, backend, part) for part in value)
    if not isinstance(value, np.ndarray) or form == "numpy":
        return value
    if form == "list":
        return value.tolist() if value.size or value.ndim == 1 else value  # a list of nothing has one axis
    return array_of(backend, value)


def write(v: sv.Variable, step: Step) -> None:
    index, x = given_as(step.index_form, v.backend, step.index), given_as(step.x_form, v.backend, step.x)
    if step.operation == "set":
        v[index] = x
    else:
        getattr(v.at[index], step.operation)(x)


def write_model(model: np.ndarray[Any, Any], step: Step) -> None:
    if step.operation == "set":
        model[step.index] = step.x
    else:
        x = np.broadcast_to(step.x, model[step.index].shape)  # which `ufunc.at` of NumPy 2.4 does wrong
        UFUNCS[step.operation].at(model, step.index, x)


def do(v: sv.Variable, model: np.ndarray[Any, Any], made: list[Step]) -> list[tuple[Any, Any]]:
    """Makes the writes, looks at the rows after each, and returns the snapshots that were taken, with what they had."""
    kept = []
    for step in made:
        if step.held:
            kept.append((v.value, model.copy()))
        write(v, step)
        write_model(model, step)
        assert_same(v[given_as(step.index_form, v.backend, step.index)], model[step.index])
    return kept


@settings(max_examples=60)
@given(case=cases())
def test_writes_of_rows_are_numpys(backend: str, case: Case) -> None:
    v, model = sv.Variable(case.model, backend=backend), case.model.copy()
    kept = do(v, model, case.steps)
    assert_same(v, model, dtype=True)
    assert v.version == len(case.steps)
    for snapshot, then in kept:
        assert_same(snapshot, then)


def test_an_operand_that_broadcasts_along_several_axes_of_indices(backend: str) -> None:
    """NumPy's own ``np.add.at(np.zeros(3), [[0, 1], [0, 1]], [1, 2])`` reads past the end of the operand."""
    v = sv.Variable(np.zeros(3, "float32"), backend=backend)
    v.at[[[0, 1], [0, 1], [0, 1]]].add([1.0, 2.0])
    assert_same(v, [3.0, 6.0, 0.0])


@pytest.mark.parametrize("place", ["alone", "in a transaction", "with a log"])
@pytest.mark.parametrize("layout", ["reversed", "columns first"])
@pytest.mark.parametrize("two", [False, True], ids=["rows", "elements"])
def test_the_last_of_several_counts_in_whatever_order_the_indices_lie(
    backend: str, layout: str, two: bool, place: str
) -> None:
    """NumPy itself goes through indices of two axes as they and the operand lie in memory."""
    rows = np.array([[0, 1, 2], [2, 0, 0], [1, 1, 2]])
    rows = rows.T if layout == "columns first" else rows[::-1]
    columns = np.array([0, 1, 0])[::-1]
    shape = (4, 2) if two else (4,)
    v, model = sv.Variable(start(shape) + 100, backend=backend), start(shape) + 100
    index = (rows, columns) if two else rows
    x = np.array([3.0, 5.0, 7.0], "float32")
    logged = every_table_has_a_log() if place == "with a log" else nullcontext()
    with logged, nullcontext() if place == "alone" else sv.transaction():
        v[index] = x
        v.at[index].add(100.0)
        v.at[index].remainder(x)
    for change in (lambda _, new: new, lambda old, _: old + 100, np.remainder):
        for at in np.ndindex(rows.shape):
            element = (rows[at], columns[at[1]]) if two else rows[at]
            model[element] = change(model[element], x[at[1]])
    assert_same(v, model)


class _UndoneError(Exception):
    pass


@settings(max_examples=60)
@given(case=cases(), listed=st.booleans(), before=st.booleans(), data=st.data())
@pytest.mark.parametrize("log", [False, True], ids=["", "with a log"])
def test_a_transaction_writes_the_same_rows(
    backend: str, log: bool, case: Case, listed: bool, before: bool, data: st.DataObject
) -> None:
    """The writes are divided among a transaction, one in it, one in it that is undone, and one after it."""
    if log and backend != "numpy":
        pytest.skip("only NumPy has one")
    parts: list[list[Step]] = [[], [], [], [], []]
    for step in case.steps:
        parts[data.draw(st.integers(0, 4))].append(step)
    outer, inner, dropped, undone_later, after = parts
    v, model = sv.Variable(case.model, backend=backend), case.model.copy()
    kept = [(v.value, model.copy())] if before else []
    with every_table_has_a_log() if log else nullcontext(), sv.transaction(*([v] if listed else [])):
        kept += do(v, model, outer)
        with sv.transaction():
            kept += do(v, model, inner)
        with suppress(_UndoneError), sv.transaction():
            aside = model.copy()
            for step in dropped:
                write(v, step)
                write_model(aside, step)
            assert_same(v, aside)
            raise _UndoneError
        assert_same(v, model)
        kept += do(v, model, after)
    assert_same(v, model, dtype=True)
    assert v.version == len(outer) + len(inner) + len(after)
    with suppress(_UndoneError), sv.transaction(v):
        for step in undone_later:
            write(v, step)
        raise _UndoneError
    assert_same(v, model)
    for snapshot, then in kept:
        assert_same(snapshot, then)


@settings(max_examples=40)
@given(case=cases(), before=st.booleans(), log=st.booleans())
def test_a_compiled_function_writes_the_same_rows_on_numpy(case: Case, before: bool, log: bool) -> None:
    v, model = sv.Variable(case.model), case.model.copy()
    kept = [(v.value, model.copy())] if before else []
    step = sv.jit(lambda: kept.extend(do(v, model, case.steps)))
    with every_table_has_a_log() if log else nullcontext():
        for _ in range(2):
            step()
    assert_same(v, model, dtype=True)
    assert v.version == 2 * len(case.steps)
    for snapshot, then in kept:
        assert_same(snapshot, then)


@pytest.mark.usefixtures("without_inductor")
def test_a_compiled_function_takes_the_rows_as_arguments(backend: str) -> None:
    v, model = sv.Variable(start((5, 2)), backend=backend, trainable=False), start((5, 2))

    @sv.jit
    def step(ids: Any, others: Any, x: Any) -> Any:
        v.at[ids].add(x)
        v[others] = x
        return v[ids]

    for ids, others in (([1, -1, 1], [0, 3, -3]), ([4, 4, 4], [2, 1, 0])):
        x = start((3, 2)) * len(ids)
        rows = step(array_of(backend, ids, "int32"), array_of(backend, others, "int32"), array_of(backend, x))
        np.add.at(model, ids, x)
        model[others] = x
        assert_same(v, model)
        assert_same(rows, model[ids])


# -- what fails changes nothing --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    step=steps("float32", (5, 2)),
    ids=hnp.arrays(np.int64, st.sampled_from(LENGTHS[1:]), elements=st.integers(-7, 6)),
    form=st.sampled_from(FORMS),
    operation=st.sampled_from(["set", "add", "max"]),
    beside=st.sampled_from([None, 1, slice(1)]),
)
def test_an_index_out_of_bounds_changes_nothing(
    backend: str, step: Step, ids: Any, form: str, operation: str, beside: Any
) -> None:
    ids.reshape(-1)[-1] = ids.flat[0] % 2 * -11 + 5  # 5 or -6: the last one, when all others could be written already
    bad = Step(operation, ids if beside is None else (ids, beside), form, np.float32(7), "numpy", False)
    v, model = sv.Variable(start((5, 2)), backend=backend), start((5, 2))
    old = v.value
    with pytest.raises(IndexError, match=r"index -?\d+ is out of bounds for axis 0 with size 5"):
        write(v, bad)
    assert_same(v, model)
    assert v.version == 0
    with sv.transaction(v):  # which goes on
        write(v, step)
        write_model(model, step)
        with pytest.raises(IndexError, match="out of bounds for axis 0"):
            write(v, bad)
        assert_same(v, model)
    assert_same(v, model)
    assert v.version == 1
    assert_same(old, start((5, 2)))


@pytest.mark.parametrize("form", FORMS)
def test_a_value_of_another_shape_changes_nothing(backend: str, form: str) -> None:
    v = sv.Variable(start((5, 2)), backend=backend)
    ids = given_as(form, backend, np.array([0, 4, 0]))
    message = r"shape \(2, 2\) does not broadcast into the selected shape \(3, 2\)"
    with pytest.raises(sv.errors.ShapeError, match=message):
        v[ids] = np.zeros((2, 2), "float32")
    with sv.transaction(v):
        v.at[ids].add(1.0)
        with pytest.raises(sv.errors.ShapeError, match=message):
            v.at[ids].add(np.zeros((2, 2), "float32"))
    assert_same(v, start((5, 2)) + np.array([[2.0], [0.0], [0.0], [0.0], [1.0]]))
    assert v.version == 1


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("width", [1, 32])
@pytest.mark.parametrize("index", [[0, 7, 2], [0, 2, 7, 2, -3], ([0, 7, 7], 0)], ids=["rows", "repeated", "elements"])
def test_a_floating_point_error_leaves_no_row_half_written(index: Any, width: int, inside: bool) -> None:
    v, model = sv.Variable(np.ones((100, width), "float32")), np.ones((100, width), "float32")
    v.at[[7]].multiply(1e30)
    model[7] = 1e30
    with sv.transaction(v) if inside else nullcontext():
        with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
            v.at[index].multiply(1e30)  # the first row does not overflow
        assert_same(v, model)
    assert_same(v, model)


# -- who sees what, and in which memory ------------------------------------------------------------------------


def test_other_threads_see_the_rows_of_a_transaction_together(backend: str) -> None:
    v = sv.Variable(np.zeros((100, 3), "float32"), backend=backend)
    seen: list[Any] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(v.value))
        thread.start()
        thread.join()

    with sv.transaction(v):
        v.at[[1, 7, 1]].add(1.0)
        look()
        assert_same(v[[1, 7, 2]], [[2.0] * 3, [1.0] * 3, [0.0] * 3])
        v[[7]] = 5.0
        look()
    look()
    assert [float(host(each).sum()) for each in seen] == [0.0, 0.0, 21.0]


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_written_in_place_unless_somebody_has_the_old_value(backend: str, form: str) -> None:
    v = sv.Variable(np.zeros((3000, 64), "float32"), backend=backend, trainable=False)
    ids = given_as(form, backend, np.array([5, 0, 5]))
    mask = given_as("numpy" if form == "list" else form, backend, np.arange(3000 * 64).reshape(3000, 64) % 3 == 0)

    def write_all() -> None:
        v.at[ids].add(1.0)
        v[ids] = 2.0
        if backend != "tensorflow":  # which computes the whole value for a mask of many elements, and keeps it
            v[mask] = 3.0

    write_all()
    before = address(v)
    write_all()
    assert address(v) == before
    old = v.value
    expected = host(old)
    write_all()
    assert address(v) != before
    assert_same(old, expected)


# -- few rows on torch, which NumPy sets in the memory of the tensor ------------------------------------------------


OPERANDS = (
    "rows",
    "one row",
    "a number",
    "strided",
    "expanded",
    "negated lazily",
    "of a subclass",
    "with a gradient",
    "large",
    "bfloat16",
    "of bool",
)


def operands_of_torch() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    rows = torch.arange(8.0).reshape(4, 2)
    twice = torch.stack((rows, rows), 2)

    class Mine(torch.Tensor):  # type: ignore[name-defined,misc]  # of a module that may be missing
        pass

    operands = (
        rows,
        rows[0],
        torch.tensor(3.0),
        twice[..., 0],
        rows[:, :1].expand(4, 2),
        torch.complex(rows, -rows).conj().imag,
        rows.as_subclass(Mine),
        rows.clone().requires_grad_(),
        torch.arange(40_000.0).reshape(4, 10_000),
        rows.bfloat16(),
        rows > 2.0,
    )
    return dict(zip(OPERANDS, operands, strict=True))


@pytest.mark.parametrize("careful", [False, True], ids=["", "parameter taken"])
@pytest.mark.parametrize("kind", OPERANDS)
def test_rows_of_torch_are_set_to_any_tensor(kind: str, careful: bool) -> None:
    torch = pytest.importorskip("torch")
    x = operands_of_torch()[kind]
    width = x.shape[-1] if x.ndim else 2
    v = sv.Variable(torch.zeros((6, width), dtype=x.dtype))
    parameter = v.parameter if careful else None
    before, ids = v.value, torch.tensor([5, -1, 0, -5])
    assert not v.value.any()
    counted = None if parameter is None else parameter._version
    expected = torch.zeros((6, width), dtype=x.dtype)
    for row, number in zip(x.expand(4, width) if x.ndim < 2 else x, ids.tolist(), strict=True):
        expected[number] = row.detach()
    v[ids] = x
    v[ids] = x  # in place, if nobody has the value now
    assert torch.equal(v.value.detach(), expected)
    assert not before.any()
    assert v.version == 2
    if parameter is not None:
        assert parameter._version > counted, "autograd must notice"
    with pytest.raises(IndexError):
        v[torch.tensor([0, 6, 1, 2])] = x * 2 if x.dtype is not torch.bool else x
    assert torch.equal(v.value.detach(), expected)
