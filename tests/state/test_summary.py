"""`summary` and ``print(model)``: what they list, how they fold, and what they never do."""

# Attributes are set from outside, as a person does who tries things.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.helpers import assert_same
from tests.internals import merged, statistics, summary_entries
from tests.state.models import Dense, Model, module_of, scalar


def test_a_model_lists_its_variables(backend: str) -> None:
    model = Model(backend)
    model.tied = model.layers[0]
    model.layers[0].kernel.assign([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
    text = str(model)
    first, head, *lines = text.splitlines()
    assert first == f"Model: 9 variables, 18 elements (15 trainable), 72 B, {backend} on CPU:0"
    assert head.split() == ["path", "shape", "dtype", "bytes", "mean", "std", "not", "finite", "trainable"]
    assert lines[0].split() == ["layers/0/kernel", "2x3", "float32", "24", "B", "3", "1.41", "1", "yes"]
    assert lines[2].split() == ["layers/0/calls", "scalar", "int32", "4", "B", "0", "no"]
    assert lines[-1] == "  tied is layers/0"
    assert text == str(sv.summary(model))


def test_the_lines_are_data(backend: str) -> None:
    found = sv.summary({"w": sv.Variable([1.0, 3.0, np.inf], backend=backend), "n": sv.Variable(7, backend=backend)})
    assert (found.variables, found.elements, found.trainable_elements, found.bytes) == (2, 4, 3, 16)
    assert [row._asdict() for row in found.rows] == [
        {
            "path": "w",
            "variables": 1,
            "shape": (3,),
            "dtype": "float32",
            "where": f"{backend} on CPU:0",
            "elements": 3,
            "bytes": 12,
            "trainable": True,
            "mean": 2.0,
            "std": 1.0,
            "minimum": 1.0,
            "maximum": 3.0,
            "not_finite": 1,
            "note": "",
        },
        {
            "path": "n",
            "variables": 1,
            "shape": (),
            "dtype": "int32",
            "where": f"{backend} on CPU:0",
            "elements": 1,
            "bytes": 4,
            "trainable": False,
            "mean": 7.0,
            "std": 0.0,
            "minimum": 7,
            "maximum": 7,
            "not_finite": 0,
            "note": "",
        },
    ]


def test_one_element_is_written_with_more_digits() -> None:
    model = {"rate": sv.Variable(0.001234567), "step": sv.Variable(2**62 + 1, dtype="int64"), "on": sv.Variable(True)}
    lines = str(sv.summary(model)).splitlines()[2:]
    assert [line.split()[5] for line in lines] == ["0.00123457", "4611686018427387905", "1"]


def test_variables_of_several_libraries_say_where_they_are(backend: str) -> None:
    model = {"a": sv.Variable([1.0]), "b": sv.Variable([1.0], backend=backend), "s": sv.Variable(["x"])}
    text = str(sv.summary(model))
    assert ("where" in text) == (backend != "numpy")
    assert text.count(f"{backend} on CPU:0") == 1
    assert sv.summary(model).rows[2][8:] == (None, None, None, None, None, "")


def test_a_large_model_is_folded() -> None:
    model = sv.Module()
    model.layers = [Dense(2, 2) for _ in range(40)]
    model.embedding = sv.Variable(np.ones((5, 2), np.float32))
    assert [(row.path, row.variables, row.shape, row.mean) for row in sv.summary(model).rows] == [
        ("layers/*/kernel", 40, (2, 2), 1.0),
        ("layers/*/bias", 40, (2,), 0.0),
        ("layers/*/calls", 40, (), 0.0),
        ("embedding", 1, (5, 2), 1.0),
    ]
    model.layers[7].kernel.assign(np.ones((3, 3)), validate_shape=False)
    rows = sv.summary(model).rows
    assert [(row.path, row.variables) for row in rows[:4]] == [
        *(("layers/*/kernel", 39), ("layers/*/bias", 40), ("layers/*/calls", 40)),
        ("layers/7/kernel", 1),
    ]
    assert [(row.path, row.variables, row.shape, row.elements) for row in sv.summary(model, depth=1).rows] == [
        ("layers/", 120, None, 285),
        ("embedding", 1, (5, 2), 10),
    ]
    assert len(sv.summary(model, depth=2).rows) == 41
    assert len(sv.summary(model, limit=None).rows) == 121
    assert [row.path for row in sv.summary(model, limit=2).rows] == ["layers/*/", "embedding"]
    only = sv.summary(model, only=["layers/1?/kernel", "embedding"])
    assert (len(only.rows), only.variables) == (11, 11)
    assert "120 variables" not in str(only)
    flat = sv.summary({f"w{i}": scalar() for i in range(60)}, limit=10)
    assert flat.left_out == 50
    assert str(flat).splitlines()[-1] == "  … and 50 more variables"
    for wrong in ({"depth": 0}, {"limit": -1}, {"depth": True}):
        with pytest.raises(ValueError, match="summary: expected a positive (depth|limit), got"):
            sv.summary(model, **wrong)
    with pytest.raises(TypeError, match="summary: found no variable in int"):
        sv.summary(3)


def test_a_huge_model_is_short_and_few_values_are_read(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sv.Module()
    model.blocks = [{"w": [sv.Variable(np.float32(0)) for _ in range(100)]} for _ in range(50)]
    model.last = sv.Variable(0.0, backend=backend)
    read: list[Any] = []
    original = summary_entries.host_parts

    def counting(variable: Any) -> Any:
        read.append(variable)
        return original(variable)

    monkeypatch.setattr(summary_entries, "host_parts", counting)
    text = str(model)
    assert len(text.splitlines()) == 4
    assert "blocks/*/w/*      5,000" in text
    assert len(read) <= 4096
    read.clear()
    assert sv.summary(model, stats=False).rows[0].mean is None
    assert not read
    assert sv.summary(model, stats=True).rows[0].mean == 0.0
    assert len(read) == 5001


def test_a_large_value_is_not_read_unless_asked(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_entries, "ENOUGH", 10_000)
    model = {"large": sv.Variable(np.ones((200, 50), "float32"), backend=backend), "small": sv.Variable([2.0])}
    assert [row.mean for row in sv.summary(model).rows] == [None, 2.0]
    assert [row.mean for row in sv.summary(model, stats=True).rows] == [1.0, 2.0]


def test_a_display_shows_what_it_can(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = module_of({"v": sv.Variable([1.0], name="v", backend=backend), "open": sv.Variable(shape=(None, 2))})
    model.inside = {scalar()}  # a set has no order
    kind = type(model.v._backend)

    def fail(*_: Any) -> Any:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "to_host", fail)
        text = str(model)
        assert "v " in text
        assert "unavailable: RuntimeError" in text
        assert "inside/?" in text
    with monkeypatch.context() as patch:
        patch.setattr(kind, "device_name", fail)
        assert "unavailable: RuntimeError" in str(model)
    assert [line.split()[-1] for line in str(model).splitlines() if " open " in line] == ["uninitialized"]
    with pytest.raises(sv.errors.NameScopeError, match="summary: a set has no order"):
        sv.summary(model)


def test_a_traced_value_is_not_read(backend: str) -> None:
    if backend in ("numpy", "torch"):
        pytest.skip("NumPy traces nothing, and torch runs code that it cannot compile as it is")
    model = Dense(backend=backend)
    seen: list[str] = []

    @sv.jit
    def step() -> Any:
        seen.append(f"{sv.summary(model)}\n{model.bias!r}")
        return model.kernel * 2

    step()
    assert seen[0].count("traced") == 4
    assert "mean" in str(model)


def test_values_that_other_processes_have_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("x",))
    v = sv.Variable(jax.numpy.arange(8.0), sharding=("x",), mesh=mesh)
    assert sv.summary(v).rows[0].mean == 3.5
    kind = type(v._backend)
    monkeypatch.setattr(kind, "spans", lambda *_: True)
    monkeypatch.setattr(kind, "gather", None)
    (row,) = sv.summary({"v": v, "list": [v]}).rows
    assert (row.mean, row.note) == (None, "shard 0 of 1, 8")
    assert "x" in (row.where or "")


def others() -> dict[str, Any]:
    """A model, an optimizer or an array of each library that is installed."""
    found: dict[str, Any] = {"numpy": sv.view({"w": np.ones((2, 3), np.float32), "b": np.zeros(3)})}
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(4, 2)).sum().backward()
    adam.step()
    found["torch"] = {"net": net, "adam": adam}
    nnx = pytest.importorskip("flax.nnx")
    found["nnx"] = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    keras = pytest.importorskip("keras")
    found["keras"] = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3)])
    return found


def test_everybodys_state_is_listed() -> None:
    for name, thing in others().items():
        found = sv.summary(thing)
        named = sv.named_variables(thing)
        assert [row.path for row in found.rows] == list(named), name
        assert [row.shape for row in found.rows] == [each.shape for each in named.values()]
        means = [float(np.mean(np.asarray(each, np.float64))) for each in named.values() if each.size]
        assert_same(np.array([row.mean for row in found.rows if row.elements]), np.array(means), rtol=1e-6)


def test_a_view_of_a_huge_array_is_not_copied_to_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((2000, 2000), np.float32)
    v = sv.view(array)
    monkeypatch.setattr(type(v._backend), "copied", None)
    monkeypatch.setattr(type(v._backend.arrays), "copied", None)
    assert "..." in repr(v)
    assert sv.summary(v).rows[0].mean == 0.0


def test_snapshots_checkpoints_and_views_are_listed(backend: str, tmp_path: Path) -> None:
    model = Dense(backend=backend)
    model.empty = sv.Variable(shape=(None,), dtype="int8", backend=backend)
    model.tied = model.kernel
    snapshot = sv.snapshot(model)
    model.kernel.assign(np.zeros((2, 2)))
    assert [(row.path, row.mean, row.note) for row in sv.summary(snapshot).rows] == [
        *(("kernel", 1.0, ""), ("bias", 0.0, ""), ("calls", 0.0, ""), ("empty", None, "uninitialized")),
    ]
    assert repr(snapshot) == "<Snapshot of 4 variables>"
    assert str(snapshot).startswith("Snapshot: 4 variables, 1 without a value, 7 elements (6 trainable), 28 B")
    path = tmp_path / "model.safetensors"
    sv.save(model, path, metadata={"epoch": 3})
    with sv.load(path) as saved:
        text = str(saved)
        assert text.splitlines()[0].startswith("Checkpoint: 4 variables, 1 without a value, 7 elements")
        assert "mean" not in text  # which would read the file
        assert text.splitlines()[-2:] == ["  tied is kernel", 'metadata: {"epoch": 3}']
        assert sv.summary(saved, stats=True, only="kernel").rows[0].mean == 0.0
    assert "mean" not in str(saved)
    assert sv.summary(saved, stats=True).rows[0].note == "unavailable: ValueError"
    view = sv.view({"w": np.ones(2)})
    assert str(view).splitlines()[2].split()[:3] == ["w", "2", "float64"]


def test_a_kept_summary_keeps_no_variable_alive() -> None:
    import gc
    import weakref

    model = Dense()
    gone = weakref.ref(model.kernel)
    found = sv.summary(model)
    del model
    gc.collect()
    assert gone() is None
    assert "kernel" in str(found)


_NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), max_size=8)


@settings(max_examples=60)
@given(st.lists(_NUMBERS, min_size=1, max_size=4))
def test_the_figures_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    found = merged(each for part in parts if (each := statistics(np.array(part, np.float64))) is not None)
    numbers = [x for part in parts for x in part]
    whole = statistics(np.array(numbers, np.float64))
    assert found is not None
    assert whole is not None
    assert found[:3] == whole[:3]
    assert found[5:] == whole[5:]
    for got, expected in ((found.mean, whole.mean), (found.std, whole.std)):
        assert (got is None) == (expected is None)
        assert got is None or got == pytest.approx(expected, rel=1e-9, abs=1e-6)
    finite = [x for x in numbers if np.isfinite(x)]
    if finite:
        assert whole.mean == pytest.approx(np.mean(finite), rel=1e-9, abs=1e-6)
        assert whole.std == pytest.approx(np.std(finite), rel=1e-9, abs=1e-6)


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    model = {"kernel": sv.Variable(1.0)}
    for only in ("kernal", [], ["bias", "*/kernel"]):
        with pytest.raises(ValueError, match=r"^summary: no path matches only=.*\.$"):
            sv.summary(model, only=only)
    assert [row.path for row in sv.summary(model, only=["bias", "k*"]).rows] == ["kernel"]
