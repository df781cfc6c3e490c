"""Row 12: the repr says what and where, abridges, and never raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv


def test_one_line_of_facts_then_the_value(backend: str) -> None:
    with sv.name_scope("encoder"):
        v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], name="w", backend=backend)
    facts = f"<Variable 'encoder/w' shape=(2, 2) dtype=float32 device=CPU:0 backend={backend} value="
    assert repr(v) == f"{facts}\n[[1. 2.]\n [3. 4.]]>"
    assert str(v) == repr(v)
    assert repr(sv.Variable(3, name="n", backend=backend)).endswith("value=3>")
    assert repr(sv.Variable([True], name="n", backend=backend)).endswith("value=[ True]>")


@pytest.mark.parametrize("shape", [(10_000,), (500, 400), (20, 30, 40), (2, 5000), (5000, 1), (7, 200), (8, 200)])
def test_large_values_are_abridged_as_numpy_abridges(backend: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype="int32").reshape(shape)
    v = sv.Variable(array, name="w", backend=backend)
    assert repr(v).partition("value=")[2].strip("\n>") == np.array2string(array, threshold=0)


def test_only_the_corners_of_a_large_value_leave_the_device(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable(np.zeros((1000, 1000), "float32"), backend=backend)
    moved = []
    kind = type(v._backend)
    to_host = kind.to_host

    def counting(self: Any, array: Any) -> Any:
        result = to_host(self, array)
        moved.append(result.size)
        return result

    monkeypatch.setattr(kind, "to_host", counting)
    assert "..." in repr(v)
    assert sum(moved) < 100


def test_a_variable_without_a_value_says_so(backend: str) -> None:
    v = sv.Variable(shape=..., dtype="int8", name="u", backend=backend)
    assert repr(v) == f"<Variable 'u' shape=... dtype=int8 device=CPU:0 backend={backend} value=<uninitialized>>"


def test_a_repr_never_raises(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable([1.0], name="w", backend=backend)
    kind = type(v._backend)

    def fail(*_: Any) -> Any:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "to_host", fail)
        assert repr(v).endswith(f"backend={backend} value=<unavailable: RuntimeError>>")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "device_name", fail)
        assert repr(v).endswith("unavailable: RuntimeError>")
    assert "unavailable" in repr(object.__new__(sv.Variable))


def test_strings_and_empty_arrays_are_shown() -> None:
    assert repr(sv.Variable(["a", "b"], name="s")).endswith("dtype=string device=CPU:0 backend=numpy value=['a' 'b']>")
    assert repr(sv.Variable([], name="s")).endswith("value=[]>")


def test_a_tracer_is_not_printed_as_a_value() -> None:
    tf = pytest.importorskip("tensorflow")
    jax = pytest.importorskip("jax")
    v = sv.Variable([1.0], name="w", backend="tensorflow")
    seen = []
    tf.function(lambda: seen.append(repr(v)))()
    assert seen[0].endswith("backend=tensorflow value=<traced>>")
    j = sv.Variable([1.0], backend="jax")
    jax.jit(lambda frozen: seen.append(repr(frozen)))(j)
    assert "FrozenVariable" in seen[1]
