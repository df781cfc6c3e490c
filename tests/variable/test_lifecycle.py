"""Row 10: freed with the last reference; copies and pickles share nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import pickletools
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "pickle protocol 2": lambda v: pickle.loads(pickle.dumps(v, 2)),
}


def test_it_is_freed_with_the_last_reference(backend: str) -> None:
    v = sv.Variable(np.zeros(1000, "float32"), backend=backend)
    v.assign_add(1.0)
    v[0] = 2.0
    v.value, v.numpy(), v + 1, repr(v)
    freed = weakref.ref(v)
    handle = weakref.ref(v._handle.writer) if backend == "numpy" else None
    gc.disable()
    try:
        del v
        assert freed() is None
        assert handle is None or handle() is None
    finally:
        gc.enable()


def test_a_snapshot_outlives_its_variable(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    snapshot = v.value
    del v
    assert_same(snapshot, [1.0, 2.0])


def test_memory_does_not_grow_with_the_number_of_variables_made() -> None:
    import resource

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(3):
        sv.Variable(np.zeros(5_000_000, "float32")).assign_add(1.0)
    before = peak()
    for _ in range(30):
        sv.Variable(np.zeros(5_000_000, "float32")).assign_add(1.0)
    assert peak() - before < 30_000  # kB; thirty variables would be 600,000


def test_variables_are_weakly_referenceable_and_hashable(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    table = weakref.WeakKeyDictionary({v: "x"})
    assert table[v] == "x"
    assert {v, v} == {v}


def twice(value: Any) -> Any:
    """A constraint that pickles."""
    return value


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_everything_and_share_nothing(backend: str, how: str) -> None:
    with sv.name_scope("scope"):
        v = sv.Variable(
            np.ones((2, 3)),
            (None, 3),
            "float16",
            trainable=False,
            autocast=False,
            aggregation="sum",
            name="w",
            backend=backend,
            device="cpu:0",
            constraint=twice,
        )
    w = COPIES[how](v)
    assert w is not v
    assert type(w) is sv.Variable
    for attribute in ("shape", "declared_shape", "dtype", "dtype_name", "trainable", "autocast", "aggregation",
                      "name", "path", "backend", "device", "constraint"):  # fmt: skip
        assert getattr(w, attribute) == getattr(v, attribute), attribute
    assert_same(w, v, dtype=True)
    w.assign_add(1.0)
    v[0] = 7.0
    assert_same(w, np.full((2, 3), 2.0))
    assert_same(v, [[7.0] * 3, [1.0] * 3])


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_variable_without_a_value_has_none(backend: str, how: str) -> None:
    w = COPIES[how](sv.Variable(shape=(None, 2), dtype="int32", name="u", backend=backend))
    assert not w.is_initialized
    assert (w.declared_shape, w.dtype_name, w.name, w.backend) == ((None, 2), "int32", "u", backend)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "bool", "complex64", "int8"])
def test_a_copy_keeps_every_kind_of_dtype(backend: str, how: str, dtype: str) -> None:
    v = sv.Variable([1, 0], dtype=dtype, backend=backend)
    assert_same(COPIES[how](v), v, dtype=True)


def test_pickles_keep_strings_and_scalars() -> None:
    for value in (["a", "bc"], 3.5, 2):
        assert_same(pickle.loads(pickle.dumps(sv.Variable(value))), sv.Variable(value), dtype=True)


def test_a_copy_takes_no_default_name() -> None:
    with sv.name_scope("test_a_copy_takes_no_default_name"):
        v = sv.Variable(0)
        assert copy.deepcopy(v).name == v.name == "variable"
        assert sv.Variable(0).name == "variable_1"


def test_a_deepcopied_container_keeps_its_sharing() -> None:
    v = sv.Variable(0)
    first, second = copy.deepcopy([v, v])
    assert first is second
    assert first is not v


class Counter(sv.Module):
    def __init__(self) -> None:
        self.count = sv.Variable(0)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make",
    [
        lambda backend: sv.Variable([1.0, 2.0], name="w", backend=backend),
        lambda backend: sv.Variable(shape=(2, None), dtype="float32", backend=backend),
        lambda backend: sv.Variable([1.0], name="w", backend=backend, device="CPU:0"),
        lambda backend: sv.FrozenVariable(np.ones(2)),
        lambda _: Counter(),
        lambda _: sv.errors.ShapeError("assign: …"),
        lambda _: sv.initializers.get("ones"),
        lambda _: sv.Variable.assign,
        lambda _: sv.save,
    ],
    ids=["variable", "no value", "device", "frozen", "module", "error", "initializer", "method", "function"],
)
def test_a_pickle_holds_only_public_names(backend: str, make: Callable[[str], Any], protocol: int) -> None:
    """So that a file of ours can move, and pickles that were written before can be read after."""
    data = pickle.dumps(make(backend), protocol)
    pickle.loads(data)
    words = " ".join(argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)).split()
    ours = {word for word in words if word.split(".")[0] == "statevar"}
    assert ours <= {"statevar", "statevar.errors", "statevar.initializers"}
    assert ours or isinstance(make(backend), Counter)


def test_a_pickle_is_read_in_another_process(backend: str) -> None:
    data = pickle.dumps(sv.Variable([1.0, 2.0], name="w", backend=backend))
    code = "import pickle, sys; v = pickle.loads(sys.stdin.buffer.read()); print(v.backend, v.name, v.numpy().tolist())"
    result = subprocess.run([sys.executable, "-c", code], input=data, check=True, capture_output=True)
    assert result.stdout.decode().split("\n")[-2] == f"{backend} w [1.0, 2.0]"
