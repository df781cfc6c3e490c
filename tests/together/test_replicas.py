"""What processes say of their variables is compared, and the differences are told in a sentence.

That processes say the right thing, and hear of it, is tested in `test_worlds`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.internals import replicas
from tests.launch import run

HINT = (
    " Hint: write it in every process, with the same values in the same order; sv.load in every process makes it equal."
)


def told(value: Any = (1.0, 2.0), version: int | None = 3, **changed: Any) -> Any:
    """The record of a variable in one process."""
    shape, dtype, _, blocks, differ = replicas.record_of(sv.Variable(value)._backend, np.float32(value), 0)
    names = ("shape", "dtype", "version", "blocks", "differ")
    return tuple((dict(zip(names, (shape, dtype, version, blocks, differ), strict=True)) | changed).values())


def problem(*records: Any) -> str:
    """The error for what each process has told of one variable, without what is always the same."""
    error = replicas.compare([{} if each is None else {"w": each} for each in records])
    if error is None:
        return ""
    begin, end = "check_replicas: copies that should be equal differ: ", f", at 'w'.{HINT}"
    text = str(error)
    assert text.startswith(begin)
    assert text.endswith(end)
    return text.removeprefix(begin).removesuffix(end)


ONE, OTHER, THIRD = told(), told((1.0, 3.0)), told((1.0, 4.0))
EMPTY: Any = (None, "", 0, {}, "")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ((ONE, ONE, ONE), ""),
        ((ONE, OTHER, ONE), "process 1 of 3 has another value"),
        ((OTHER, ONE, ONE), "process 0 of 3 has another value"),
        ((ONE, OTHER), "process 1 of 2 has another value"),
        ((ONE, OTHER, OTHER, ONE), "processes 1 and 2 of 4 have another value"),
        ((ONE, OTHER, THIRD), "processes 1 and 2 of 3 have another value"),
        ((ONE, told(version=2), ONE), "process 1 of 3 has version 2 and not 3"),
        (
            (ONE, told((0.0, 0.0), version=2), ONE),
            "process 1 of 3 has version 2 and not 3, process 1 of 3 has another value",
        ),
        ((told(version=1), told(version=2), ONE, ONE), "processes 0 and 1 of 4 have versions 1, 2 and not 3"),
        ((told(version=None), told(version=None)), ""),
        ((told(1.0), ONE, ONE), "process 0 of 3 has shape [] and not [2]"),
        ((told(dtype="int32"), ONE, ONE), "process 0 of 3 has dtype int32 and not float32"),
        ((ONE, None, ONE), "process 1 of 3 has no such variable"),
        ((ONE, None, ONE, None), "processes 1 and 3 of 4 have no such variable"),
        ((None, None, ONE), "only process 2 of 3 has it"),
        ((EMPTY, EMPTY), ""),
        ((EMPTY, ONE, ONE), "process 0 of 3 has no value"),
        (
            (told(differ="CPU:0 and another one on CPU:1"),),
            "this process has one value on CPU:0 and another one on CPU:1",
        ),
        (
            (ONE, told(differ="GPU:0 and another one on GPU:3")),
            "process 1 of 2 has one value on GPU:0 and another one on GPU:3",
        ),
    ],
)
def test_a_difference_is_told(records: tuple[Any, ...], expected: str) -> None:
    assert problem(*records) == expected


def test_the_blocks_that_several_processes_have_are_compared() -> None:
    half = told(blocks={"0:1": "a"})
    assert problem(half, told(blocks={"1:2": "b"}), half, told(blocks={"1:2": "b"})) == ""
    assert (
        problem(half, told(blocks={"0:1": "x", "1:2": "b"}), half)
        == "process 1 of 3 has another value in the block [0:1]"
    )


def test_several_variables_are_named_and_of_many_the_first() -> None:
    good, bad = {str(number): ONE for number in range(7)}, {str(number): OTHER for number in range(7)}
    error = replicas.compare([good, good | {"1": OTHER, "2": None}, good])
    assert "copies of 2 variables differ: '1': process 1 of 3 has another value; '2': process 1 of 3 has no" in str(
        error
    )
    assert "copies of 7 variables differ: '0': process 1 of 2" in str(replicas.compare([good, bad]))
    assert "'4': process 1 of 2 has another value; and 2 more. Hint: " in str(replicas.compare([good, bad]))
    assert "save: copies of 7 variables differ" in str(replicas.compare([good, bad], "save"))


def test_a_variable_is_told_by_its_value_bit_for_bit(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 3), "float32"), backend=backend, name="v")
    late = sv.Variable(shape=(2,), dtype="float32", backend=backend, name="late")
    first = replicas.digests(sv.snapshot(v, late))
    assert replicas.unpacked(replicas.packed(first)) == first
    assert first["v"][:3] == ([2, 3], "float32", 0)
    assert first["late"] == EMPTY
    v.assign(np.full((2, 3), -0.0, "float32"))
    second = replicas.digests(sv.snapshot(v, late))
    assert second["v"][2] == 1
    assert second["v"][3] != first["v"][3]
    v.assign(np.zeros((2, 3), "float32"))
    assert replicas.digests(sv.snapshot(v, late))["v"][3] == first["v"][3]
    sv.check_replicas(v, late)


def test_views_and_strings_are_told_too() -> None:
    texts = sv.Variable(["a", "b"])
    state = {"w": np.ones(3, "float32")}
    first = replicas.digests(sv.snapshot(texts, sv.view(state["w"])))
    assert [each[2] for each in first.values()] == [0, None]  # other code writes a view
    texts.assign(["a", "c"])
    state["w"][0] = 2
    second = replicas.digests(sv.snapshot(texts, sv.view(state["w"])))
    assert all(one[3] != two[3] for one, two in zip(first.values(), second.values(), strict=True))


@pytest.mark.own_process
def test_copies_on_the_devices_of_one_process_are_compared() -> None:
    pytest.importorskip("jax")
    run(
        [
            "-c",
            """
import jax, numpy as np, statevar as sv
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
for spec, shape, size in ((P(), (2,), 2), (P("data"), (4,), 2)):
    for wrong in (None, 3):
        copies = [np.zeros(size, "float32") + (number == wrong) for number in range(4)]
        arrays = [jax.device_put(each, device) for each, device in zip(copies, mesh.devices.flat)]
        x = jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), arrays)
        v = sv.Variable(x, name="v")
        if wrong is None:
            sv.check_replicas(v)
            continue
        try:
            sv.check_replicas(v)
        except sv.errors.ReplicaError as error:
            assert "this process has one value on CPU:" in str(error), error
            assert " and another one on CPU:3, at 'v'. Hint: " in str(error), error
        else:
            raise AssertionError(v)
""",
        ],
        1,
        library="jax",
        devices=4,
    )
