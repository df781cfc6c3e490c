"""`filled` and `CheckpointManager.restore(like=)`: copies of trees that cannot change, with other values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import statevar as sv


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Frozen:
    array: Any
    number: int
    name: str = "x"


@dataclass(frozen=True, slots=True)
class Slotted:
    array: Any


def of_numpy(x: float) -> Any:
    array = np.full((2, 3), x, np.float32)
    parts: tuple[Any, ...] = (Pair(array, [array + 1, (x, int(x))]), Frozen(array * 2, int(x)), Slotted(array - 1))
    return {"a/b": parts, "none": None, "deep": {"flag": True, "c": {"d": array * 3}}}


def of_torch(x: float) -> Any:
    torch = pytest.importorskip("torch")
    return Pair(torch.full((2,), x), (Frozen(torch.tensor(int(x)), int(x)),))


def of_optax(x: float) -> Any:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    params = {"w": jax.numpy.full((2, 3), x), "b": jax.numpy.full(3, x, "bfloat16")}
    chain = optax.chain(optax.clip(1.0), optax.adam(lambda count: 0.1 / (1 + count)))
    return params, chain.update(params, chain.init(params), params)[1], jax.random.key(int(x)), int(x)


def of_equinox(x: float) -> Any:
    jax, eqx = pytest.importorskip("jax"), pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(int(x)))
    return eqx.tree_at(lambda model: model.layers[1].bias, model, jax.numpy.full(2, x))


def of_linen(x: float) -> Any:
    jax, flax = pytest.importorskip("jax"), pytest.importorskip("flax")
    return flax.core.freeze({"params": {"dense": {"kernel": jax.numpy.full((2, 3), x)}}, "n": jax.numpy.full(2, x)})


def of_train_state(x: float) -> Any:
    optax, train_state = pytest.importorskip("optax"), pytest.importorskip("flax.training.train_state")
    params = of_linen(x)["params"]
    made = train_state.TrainState.create(apply_fn=len, params=params, tx=optax.sgd(0.1, momentum=0.9))
    return made.apply_gradients(grads=params)


TREES: dict[str, Callable[[float], Any]] = {
    "numpy": of_numpy,
    "torch": of_torch,
    "optax": of_optax,
    "equinox": of_equinox,
    "linen": of_linen,
    "train state": of_train_state,
}


def leaves(tree: Any) -> dict[str, tuple[Any, ...]]:
    """The dtype, the backend and the bytes of each leaf."""
    return {
        path: (each.dtype_name, each._backend.name, each._backend.packed(each.value).tobytes())
        for path, each in sv.named_variables(sv.view(tree)).items()
    }


def saved(tree: Any, path: Path) -> Path:
    sv.save(sv.view(tree), path)
    return path


SOURCES: dict[str, Callable[[Any, Path], Any]] = {
    "file": saved,
    "tree": lambda tree, _: tree,
    "view": lambda tree, _: sv.view(tree),
    "snapshot": lambda tree, _: sv.snapshot(sv.view(tree)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", TREES)
def test_a_copy_has_the_values_of_the_source_and_the_types_of_the_tree(kind: str, source: str, tmp_path: Path) -> None:
    tree, other = TREES[kind](1.0), TREES[kind](5.0)
    before, expected = leaves(tree), leaves(other)
    assert before != expected
    made = sv.filled(tree, SOURCES[source](other, tmp_path / "x.safetensors"))
    assert type(made) is type(tree)
    assert leaves(made) == expected
    assert leaves(tree) == before
    assert leaves(other) == expected


def test_arrays_of_the_copy_are_its_own() -> None:
    tree, other = of_numpy(1.0), of_numpy(5.0)
    made = sv.filled(tree, other)
    made["deep"]["c"]["d"] += 1
    made["a/b"][0].first[...] = 9
    assert leaves(tree) == leaves(of_numpy(1.0))
    assert leaves(other) == leaves(of_numpy(5.0))
    assert type(made["a/b"][1].number) is int
    assert made["deep"]["flag"] is True


def test_a_compiled_step_takes_the_copy_and_its_donation_harms_nobody() -> None:
    jax = pytest.importorskip("jax")
    tree, other = of_optax(1.0), of_optax(5.0)
    expected = leaves(other)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x, tree), donate_argnums=0)
    step(sv.filled(tree, other)[:2])
    assert leaves(other) == expected
    step(tree[:2])
    assert leaves(sv.filled(tree, other)) == expected  # the arrays of the tree are gone; it needs only their shapes


def test_shapes_are_enough(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    tree = of_optax(5.0)[:3]
    like = jax.eval_shape(lambda: tree)
    made = sv.filled(like, tree)
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    assert leaves(made) == leaves(tree)
    with sv.CheckpointManager(tmp_path) as manager:
        manager.save(1, state=tree)
        assert leaves(manager.restore(like=like)) == leaves(tree)
    with pytest.raises(sv.errors.ForeignStateError, match=r"a ShapeDtypeStruct has no value.*sv\.filled"):
        sv.view(like)
    with pytest.raises(sv.errors.CheckpointMismatchError, match=r"expected shape \(2, 3\), got \(2,\)"):
        sv.filled({"w": jax.ShapeDtypeStruct((2, 3), "float32")}, {"w": np.zeros(2, np.float32)})


def test_what_does_not_match_is_listed() -> None:
    tree = Pair({"w": np.zeros(2), "b": np.zeros(3)}, 0)
    source = {"first": {"w": np.zeros(4), "c": np.zeros(5)}, "second": 1}
    with pytest.raises(sv.errors.CheckpointMismatchError) as caught:
        sv.filled(tree, source)
    text = str(caught.value)
    assert "mismatched  first/w: expected shape (2,), got (4,)" in text
    assert "missing     first/b" in text
    assert "unexpected  first/c" in text


def test_the_options_are_those_of_load() -> None:
    tree = Pair(np.zeros(2, np.float32), np.zeros(3))
    made = sv.filled(tree, {"a": np.ones(2)}, strict=False, cast=True, rename={"a": "first"})
    assert made.first.tolist() == [1.0, 1.0]
    assert made.first.dtype == np.float32
    assert made.second.tolist() == [0.0, 0.0, 0.0]


def test_what_changes_by_itself_is_not_copied() -> None:
    with pytest.raises(sv.errors.ForeignStateError, match=r"(?s)filled: the Variable is state .* at 'a/0'.*sv\.load"):
        sv.filled({"a": [sv.Variable(1.0)], "b": np.zeros(2)}, {})
    torch = pytest.importorskip("torch")
    with pytest.raises(sv.errors.ForeignStateError, match=r"filled: the Parameter is state .* at 'weight'"):
        sv.filled(torch.nn.Linear(2, 2), {})


def test_a_tree_must_have_arrays_and_no_cycle() -> None:
    with pytest.raises(TypeError, match="filled: found no array in dict"):
        sv.filled({"a": "x"}, {})
    tree: list[Any] = [np.zeros(2)]
    tree.append(tree)
    with pytest.raises(sv.errors.ForeignStateError, match="filled: the list contains itself, at '1'"):
        sv.filled(tree, {})
    both = {1: np.zeros(2), "1": np.zeros(2)}
    with pytest.raises(sv.errors.NameScopeError, match="two leaves of the tree have this path, at '1'"):
        sv.filled(both, {})


# -- the manager of a loop whose state is a new tree after each step ---------------------------------------------------


@pytest.mark.parametrize("kind", TREES)
def test_a_manager_keeps_the_trees_of_a_functional_loop(kind: str, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, keep=2) as manager:
        assert manager.restore(like=TREES[kind](0.0)) is None
        for step in (1, 2, 3):
            manager.save(step, {"loss": 1 / step}, state=TREES[kind](float(step)))
        made = manager.restore(like=TREES[kind](0.0))
        assert manager.steps() == [2, 3]
        assert leaves(made) == leaves(TREES[kind](3.0))
        assert leaves(manager.restore(2, like=TREES[kind](0.0))) == leaves(TREES[kind](2.0))
        assert manager.metrics(2) == {"loss": 0.5}


def test_a_save_in_the_background_is_of_the_moment(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = Pair(jax.numpy.zeros(1000), {"n": jax.numpy.zeros((), "int32")})
    with sv.CheckpointManager(tmp_path, keep=9) as manager:
        for number in range(6):
            manager.save(number, state=state)
            state = step(state)
        for number in range(6):
            made = manager.restore(number, like=state)
            assert made is not None
            assert (float(made.first[999]), int(made.second["n"])) == (number, number)


def test_a_damaged_tree_is_skipped(tmp_path: Path) -> None:
    like = {"w": np.zeros(2)}
    with sv.CheckpointManager(tmp_path) as manager:
        for step in (1, 2):
            manager.save(step, state={"w": np.full(2, float(step))}, wait=True)
        (part,) = manager.path(2).glob("part-*")
        part.write_bytes(part.read_bytes()[:-1])
        with pytest.warns(RuntimeWarning, match="restored step 1, because newer checkpoints are damaged"):
            made = manager.restore(like=like)
        assert made is not None
        assert made["w"].tolist() == [1.0, 1.0]


def test_a_manager_has_an_object_or_gets_a_state(tmp_path: Path) -> None:
    tree = {"w": np.zeros(2)}
    with sv.CheckpointManager(tmp_path / "a") as manager:
        for call in (partial(manager.save, 1), manager.restore):
            with pytest.raises(ValueError, match=r"(?s)the manager has no object.*save\(step, state=tree\)"):
                call()
    with (
        sv.CheckpointManager(tmp_path / "b", sv.view(tree)) as manager,
        pytest.raises(ValueError, match=r"(?s)has an object, and got a state as well.*CheckpointManager\(directory\)"),
    ):
        manager.save(1, state=tree)


def test_no_warning_of_a_tree(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sv.CheckpointManager(tmp_path) as manager:
            manager.save(1, state=of_numpy(1.0), wait=True)
            sv.filled(of_numpy(0.0), manager.path(1))


def test_numbers_of_python_fit_what_represents_them() -> None:
    target = {"steps": sv.Variable(0), "rate": sv.Variable(0.0), "big": sv.Variable(0, dtype="int64")}
    assert len(sv.load(target, {"steps": 3.0, "rate": 2, "big": 2**40}).loaded) == 3
    assert [each.numpy().item() for each in target.values()] == [3, 2.0, 2**40]
    with pytest.raises(sv.errors.CheckpointMismatchError, match=r"steps: .*2\.5 cannot be represented as int32"):
        sv.load(target, {"steps": 2.5, "rate": 1.0, "big": 1})
    with pytest.raises(sv.errors.CheckpointMismatchError, match="steps: .*is out of the range of int32"):
        sv.load(target, {"steps": 2**40, "rate": 1.0, "big": 1})
    with pytest.raises(sv.errors.CheckpointMismatchError, match="steps: expected int32, got float32"):
        sv.load(target, {"steps": np.float32(3), "rate": 1.0, "big": 1})
    assert [each.numpy().item() for each in target.values()] == [3, 2.0, 2**40]
