"""The same steps give a shared variable and a private one the same value, dtype, version and errors."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.internals import shared_part

from ..helpers import host, thorough

Step = Callable[[sv.Variable], object]

_DTYPES = ("bool", "int8", "uint8", "int32", "float16", "float32", "bfloat16", "float8_e4m3fn", "complex64")
_SHAPES = ((), (0,), (5,), (2, 3), (2, 0, 3), (2, 3, 4))
_OPERATORS = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift, operator.imatmul),
)
_AT = ("set", "add", "subtract", "multiply", "divide", "power", "min", "max")
_INDICES = (0, -1, 7, slice(None), slice(None, None, -1), ..., [0, 0, 1], [-1, 0], [9], (0, 1), (..., -1), "mask")
_OPERANDS = (0, 1, 2, -1, 2.5, True, 1j, [1, 2], "text", None)


def _index(v: sv.Variable, index: Any) -> Any:
    if isinstance(index, str):  # a mask of the shape of the variable
        return (np.arange(np.prod(v.shape, dtype=int)) % 2 == 0).reshape(v.shape)
    return index


def _by_operator(op: Any, x: Any) -> Step:
    return lambda v: op(v, x)


def _at(name: str, index: Any, x: Any) -> Step:
    return lambda v: getattr(v.at[_index(v, index)], name)(x)


def _put(index: Any, x: Any) -> Step:
    return lambda v: v.__setitem__(_index(v, index), x)


def _assign(method: str, x: Any) -> Step:
    return lambda v: getattr(v, method)(x)


def _full(x: Any) -> Step:
    return lambda v: v.assign(np.full(v.shape, x))


def _update(x: Any) -> Step:
    return lambda v: v.update(lambda a: a * x)


def _update_all(operation: Any, x: Any) -> Step:
    return lambda v: sv.update_all({"v": v}, operation, {"v": x})


def _nested(inner: Step, fails: bool, fails_inside: bool) -> Step:
    """A transaction in a transaction, of which either or both are undone."""

    def step(v: sv.Variable) -> None:
        with sv.transaction(v):
            inner(v)
            try:
                with sv.transaction(v):
                    inner(v)
                    if fails_inside:
                        raise KeyError("inside")  # noqa: TRY301  # the block is what is tried
            except KeyError:
                pass
            if fails:
                raise LookupError("outside")

    return step


def _rolled_back(inner: Step) -> Step:
    def step(v: sv.Variable) -> None:
        with sv.rollback(v):
            inner(v)

    return step


def _restored(inner: Step) -> Step:
    def step(v: sv.Variable) -> None:
        before = sv.snapshot({"v": v})
        inner(v)
        sv.restore(before)

    return step


def _copied(v: sv.Variable) -> Any:
    other = copy.deepcopy(v)
    assert other.shared is None
    return other.version, str(other.dtype), other.shape, host(other).tobytes()


def _edited(x: Any) -> Step:
    def step(v: sv.Variable) -> None:
        with v.edit() as array:
            array[...] = x

    return step


_operands = st.sampled_from(_OPERANDS)
_indices = st.sampled_from(_INDICES)
_writes = st.one_of(
    st.builds(_assign, st.sampled_from(["assign", "assign_add", "assign_sub"]), _operands),
    st.builds(_full, st.sampled_from([0, 1, 3])),
    st.builds(_by_operator, st.sampled_from(_OPERATORS), _operands),
    st.builds(_at, st.sampled_from(_AT), _indices, _operands),
    st.builds(_put, _indices, _operands),
    st.builds(_update, st.sampled_from([1, 2])),
    st.builds(_update_all, st.sampled_from(["assign", "add", "subtract", "multiply"]), _operands),
)
_steps = st.one_of(
    _writes,
    st.builds(_nested, _writes, st.booleans(), st.booleans()),
    st.builds(_rolled_back, _writes),
    st.builds(_restored, _writes),
    st.builds(_edited, st.sampled_from([0, 1])),
    st.just(_copied),
)


def _outcome(step: Step, v: sv.Variable) -> tuple[Any, ...]:
    """What a step did to a variable, or the type and text of the error it raised."""
    said: Any = None
    try:
        got = step(v)
        if step is _copied:
            said = got
    except Exception as error:  # noqa: BLE001  # whatever it is, both must raise it
        said = type(error), str(error)
    return said, v.version, v.shape, str(v.dtype), host(v).tobytes()


@pytest.mark.filterwarnings("ignore")  # of overflow and of casts, which both give
@pytest.mark.parametrize("border", [65536, 1], ids=["copied", "leased"])
def test_the_same_steps_have_the_same_outcome(
    shm: Path, backend: str, border: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("entry", "pool"):  # so that small values are leased, as large ones are
        monkeypatch.setattr(shared_part(part), "SMALL", border)

    @settings(
        max_examples=thorough(60 if backend == "numpy" else 10, 2000),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(_DTYPES),
        st.sampled_from([each for each in _SHAPES if each or border > 1]),  # no scalar is large
        st.sampled_from([None, "no autocast", "constraint"]),
        st.booleans(),
        st.lists(_steps, min_size=1, max_size=8),
    )
    def same(dtype: str, shape: tuple[int, ...], extra: str | None, trainable: bool, steps: list[Step]) -> None:
        options: dict[str, Any] = {"constraint": abs} if extra == "constraint" and dtype != "bool" else {}
        if extra == "no autocast":
            options["autocast"] = False
        x = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3 if dtype != "bool" else np.ones(shape, bool)
        private, shared = (
            sv.Variable(x, dtype=dtype, name="v", backend=backend, trainable=trainable, **options) for _ in range(2)
        )
        sv.share({"v": shared})
        for step in steps:
            assert _outcome(step, shared) == _outcome(step, private)

    same()
