"""`Module`: names, flags, display, copies, and who hears of its attributes."""

# Attributes are set from outside, as a person does who tries things.
# mypy: disable-error-code="attr-defined, assignment"

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.internals import named_in, objects_in, paths_in, tracking, variables_in
from tests.state.models import Dense, Model, all_paths, module_of, scalar

# -- modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Model", "model"), ("MLP", "mlp"), ("DenseBlock", "dense_block"), ("HTTPCache", "http_cache"), ("_A", "a")],
)
def test_the_default_name_is_the_class_in_snake_case(kind: str, expected: str) -> None:
    assert type(kind, (sv.Module,), {})().name == expected
    assert type(kind, (Dense,), {})().name == expected


def test_default_names_are_those_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for kind in (
        "Model",
        "MLP",
        "DenseBlock",
        "HTTPCache",
        "Conv2D",
        "Conv2DTranspose",
        "LSTMCell",
        "A",
        "lower",
        "aB",
    ):
        assert type(kind, (sv.Module,), {})().name == type(kind, (tf.Module,), {})().name


def test_a_name_scope_of_its_own(backend: str) -> None:
    class Inner(sv.Module):
        def __init__(self) -> None:
            with self.name_scope() as path:
                self.where = path
                self.w = sv.Variable(0.0, name="w", backend=backend)

    with sv.Module("outer").name_scope():
        inner = Inner()
    assert (inner.where, inner.w.path) == ("outer/inner", "outer/inner/w")
    assert list(inner.named_variables()) == ["w"]


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_bad_names_are_refused_when_they_are_used(name: Any) -> None:
    with pytest.raises(sv.errors.NameScopeError, match="name: expected a non-empty string without '/'"):
        sv.Module(name)
    module = sv.Module()
    module.name = name
    with pytest.raises(sv.errors.NameScopeError, match="name: expected a non-empty"), module.name_scope():
        pass
    assert repr(module) == "<Module: 0 variables, 0 elements, 0 bytes>"


def test_a_dataclass_may_be_a_module() -> None:
    @dataclass(eq=False)
    class Filter(sv.Module):
        name: str
        mean: sv.Variable
        inner: list[Any] = field(default_factory=list)

    with pytest.raises(TypeError, match="name"):
        Filter()  # type: ignore[call-arg]
    each = Filter("ema", scalar(), [scalar()])
    assert each.name == "ema"
    assert list(each.named_variables()) == ["mean", "inner/0"]
    assert isinstance(hash(each), int)


def test_a_dataclass_with_equality_may_be_a_module() -> None:
    @dataclass
    class Filter(sv.Module):
        mean: sv.Variable

    each, module = Filter(scalar()), sv.Module()
    module.filters = [each, each]
    assert module.submodules == (each,)
    assert list(module.named_variables()) == ["filters/0/mean"]


def test_variables_are_told_apart_by_trainable(backend: str) -> None:
    dense = Dense(backend=backend)
    assert dense.trainable_variables == (dense.kernel, dense.bias)
    assert dense.non_trainable_variables == (dense.calls,)
    dense.kernel.trainable = False
    assert list(dense.trainable_variables) == [dense.bias]
    assert dense.variables == (dense.kernel, dense.bias, dense.calls)


def test_what_the_class_holds_belongs_to_no_module() -> None:
    class Shared(sv.Module):
        v = scalar()

    assert Shared().variables == ()


def test_a_module_shows_its_variables_and_counts() -> None:
    model = Model()
    assert repr(model) == "<Model: 9 variables, 18 elements, 72 bytes>"
    model.layers[0].extra = sv.Variable(shape=(None,), dtype="float32")
    model.layers[1].inner = [Dense(1, 1)]
    lines = str(model).splitlines()
    assert lines[0].startswith("Model: 13 variables, 1 without a value, 21 elements (17 trainable), 84 B, ")
    assert [line.split()[0] for line in lines[2:]] == list(model.named_variables())
    assert repr(model).startswith("<Model: 13 variables, 1 without a value, 21 elements, 84 bytes>")
    one = module_of({"v": sv.Variable(True)})
    assert repr(one) == "<Module: 1 variable, 1 element, 1 byte>"


def test_showing_never_raises() -> None:
    class Bad(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise KeyError(key)

        def __iter__(self) -> Iterator[str]:
            raise RuntimeError("no")

        def __len__(self) -> int:
            return 1

    module = module_of({"bad": Bad()})
    assert repr(module) == str(module) == f"<Module at {id(module):#x}, unavailable: RuntimeError>"


@pytest.mark.parametrize("how", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_have_variables_of_their_own(backend: str, how: Callable[[Any], Any]) -> None:
    model = Model(backend)
    model.tied = model.layers[0].kernel
    model.back = model
    model.name = "mine"
    model.step(array_of(backend, np.ones((1, 2), "float32")))
    other = how(model)
    assert list(other.named_variables()) == list(model.named_variables())
    assert paths_in("save", other).aliases == paths_in("save", model).aliases
    assert not set(map(id, other.variables)) & set(map(id, model.variables))
    assert other.name == "mine"
    other.step(array_of(backend, np.ones((1, 2), "float32")))
    model.layers[0].kernel.assign_add(1.0)
    assert_same(other.tied, np.ones((2, 3)))
    assert (int(model.layers[0].calls), int(other.layers[0].calls)) == (1, 2)


def test_the_rest_of_the_package_takes_modules(backend: str) -> None:
    model = Model(backend)
    before = sv.snapshot(model)
    with pytest.raises(KeyError), sv.transaction(model):
        model.layers[0].kernel.assign_add(1.0)
        raise KeyError
    assert_same(model.layers[0].kernel, np.ones((2, 3)))
    x = array_of(backend, np.ones((1, 2), "float32"))
    assert_same(model.step(x), [[6.0]])
    assert_same(model.step(x), [[6.0]])
    assert int(model.layers[1].calls) == 2
    model.layers[0].bias.assign([1.0, 0.0, 0.0])
    assert_same(model.step(x), [[7.0]])
    sv.restore(before)
    assert int(model.layers[1].calls) == 0
    assert_same(model.step(x), [[6.0]])
    if backend == "numpy":
        pytest.importorskip("autograd")

    def loss() -> Any:
        return model.layers[1](model.layers[0](x))[0, 0]

    wanted = [each for layer in model.layers for each in layer.trainable_variables]
    value, gradients = sv.value_and_grad(loss, tuple(wanted))()
    assert_same(value, 6.0)
    assert_same(gradients[-1], [1.0])
    assert_same(gradients[2], np.full((3, 1), 2.0))
    assert len(sv.value_and_grad(loss, model.layers[1].trainable_variables)()[1]) == 2


# -- setattr -----------------------------------------------------------------------------------------------------------


def test_hooks_hear_of_attributes() -> None:
    heard: list[tuple[sv.Module, list[str]]] = []
    remove = tracking._on_setattr(lambda module: heard.append((module, sorted(vars(module)))))
    try:
        model = sv.Module()
        model.w = scalar()
        model.other = 3
    finally:
        remove()
    remove()
    model.more = 4
    assert heard == [(model, ["w"]), (model, ["other", "w"])]
    assert not tracking._hooks


def test_a_hook_may_end_itself_and_fail() -> None:
    def once(module: sv.Module) -> None:
        remove()
        raise ValueError("does not fit")

    calls: list[sv.Module] = []
    remove = tracking._on_setattr(once)
    last = tracking._on_setattr(calls.append)
    model = sv.Module()
    try:
        with pytest.raises(ValueError, match="does not fit"):
            model.w = 1
        model.w = 2
    finally:
        last()
    assert calls == [model]
    assert not tracking._hooks


def test_a_hook_that_ends_itself_leaves_the_others() -> None:
    heard: list[str] = []

    def once(module: sv.Module) -> None:
        heard.append("once")
        remove()

    remove = tracking._on_setattr(once)
    last = tracking._on_setattr(lambda _: heard.append("last"))
    model = sv.Module()
    model.w = 1
    model.w = 2
    last()
    assert heard == ["once", "last", "last"]


def test_setattr_passes_on_to_other_bases() -> None:
    heard = []

    class Other:
        def __setattr__(self, name: str, value: Any) -> None:
            heard.append(name)
            super().__setattr__(name, value)

    class Both(sv.Module, Other):
        pass

    Both().w = 1
    remove = tracking._on_setattr(lambda _: heard.append("hook"))
    Both().v = 1
    remove()
    assert heard == ["w", "v", "hook"]


# -- variables in attributes --------------------------------------------------------------------------------------


def test_a_value_does_not_replace_a_variable(backend: str) -> None:
    model = Dense(backend=backend)
    kernel = model.kernel
    hint = r"at 'kernel'\. Hint: write the variable: module\.kernel\.assign\(\.\.\.\); or delete it first: del"
    for value in (
        model.kernel * 0.9,
        model.kernel.value,
        np.ones((2, 2)),
        1,
        2.5,
        True,
        np.float32(1.0),
        [[1.0], (2,)],
    ):
        with pytest.raises(
            TypeError, match=rf"setattr: .* would replace the variable in this attribute of Dense.*{hint}"
        ):
            model.kernel = value
        with pytest.raises(TypeError, match="setattr: "):
            setattr(model, "kernel", value)  # noqa: B010
    assert model.kernel is kernel
    assert list(model.named_variables()) == ["kernel", "bias", "calls"]
    model.kernel *= 0.5
    model.kernel @= np.ones((2, 2), "float32")
    assert model.kernel is kernel


def test_values_do_not_replace_a_container_of_variables(backend: str) -> None:
    model: Any = sv.Module()
    model.weights = {"a": sv.Variable([1.0], backend=backend), "b": [sv.Variable([2.0], backend=backend)]}
    model.pair = (sv.Variable(1.0, backend=backend), "name")
    weights = model.weights
    for value in (dict.fromkeys(weights, 0.0), [w * 0.9 for w in sv.variables(weights)], 3.0, np.zeros(2)):
        with pytest.raises(TypeError, match=r"setattr: .* would replace the variables in .*at 'weights'\. Hint: w"):
            model.weights = value
    with pytest.raises(
        TypeError, match=r"batch_set_value\(\[\(v, x\), \.\.\.\]\); or delete them first: del module.pair"
    ):
        model.pair = (2.0, 3.0)
    assert model.weights is weights
    model.weights = weights
    model.weights = {**weights, "c": 3.0}
    model.weights, model.pair = {}, None
    model.sizes = [1, 2]
    model.sizes = [3]
    assert model.variables == ()


def test_a_value_does_not_replace_a_variable_in_compiled_code(backend: str) -> None:
    model = Dense(backend=backend)

    @sv.jit
    def step() -> None:
        model.bias = model.bias * 0.9

    with pytest.raises(
        sv.errors.ReadOnlyError, match=r"setattr: .* at 'bias'\. Hint: write the variable: module\.bias\.assi"
    ):
        step()
    assert list(model.named_variables()) == ["kernel", "bias", "calls"]


def test_a_variable_may_be_replaced_by_an_object_or_removed(backend: str) -> None:
    model = Dense(backend=backend)
    new = model.kernel = sv.Variable(1.0, backend=backend)
    assert model.variables[0] is new
    model.kernel = Dense()
    model.bias = None
    assert list(model.named_variables()) == ["kernel/kernel", "kernel/bias", "kernel/calls", "calls"]
    model.calls = "not needed"
    model.bias = sv.Variable(1.0)
    del model.bias
    model.bias = 3.0
    assert model.variables == model.kernel.variables


def test_values_do_not_replace_variables_in_slots_and_behind_properties() -> None:
    class Slotted(sv.Module):
        __slots__ = ("w",)

    class Behind(sv.Module):
        def __init__(self) -> None:
            self._w = scalar()

        @property
        def w(self) -> Any:
            return self._w

        @w.setter
        def w(self, value: Any) -> None:
            if isinstance(value, float):
                self._w.assign(value)
            else:
                self._w = value

    slotted: Any = Slotted()
    behind: Any = Behind()
    slotted.w = scalar()
    for module in (slotted, behind):
        with pytest.raises(TypeError, match="setattr: numpy.ndarray would replace the variable"):
            module.w = np.zeros(2)
    behind.w = 3.0
    assert float(behind._w) == 3.0
    text = sv.Module()
    text.words = sv.Variable(["a"])
    with pytest.raises(TypeError, match="setattr: list would replace"):
        text.words = ["b"]


def test_a_module_has_no_flag_trainable() -> None:
    model = Dense()
    with pytest.raises(
        AttributeError, match="trainable: Dense has no such flag, only its variables have. Hint: for v in"
    ):
        model.trainable = False
    with pytest.raises(
        AttributeError, match="requires_grad: Dense has no such flag, .*v.trainable = …; or declare your"
    ):
        model.requires_grad = False
    assert not hasattr(model, "trainable")
    assert not hasattr(model, "requires_grad")
    assert model.trainable_variables == (model.kernel, model.bias)

    @dataclass(eq=False)
    class Declared(sv.Module):
        trainable: bool

    class Derived(sv.Module):
        @property
        def trainable(self) -> bool:
            return self._trainable

        @trainable.setter
        def trainable(self, value: bool) -> None:
            self._trainable = value

    for each in (Declared(True), Derived()):
        each.trainable = False
        assert each.trainable is False


# -- what others do ---------------------------------------------------------------------------------------------------


def test_names_and_order_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")

    def theirs(name: str) -> Any:
        return torch.nn.Parameter(torch.zeros(()))

    def build(kind: Any, leaf: Callable[[str], Any], listed: Any) -> Any:
        model = kind()
        model.scale = leaf("scale")
        model.encoder = kind()
        model.encoder.kernel, model.encoder.bias = leaf("kernel"), leaf("bias")
        inner = [kind(), kind()]
        for each in inner:
            each.w = leaf("w")
        model.layers = listed(inner)
        model.tied = model.encoder
        return model

    other = build(torch.nn.Module, theirs, torch.nn.ModuleList)
    model = build(sv.Module, scalar, list)
    assert [name.replace(".", "/") for name, _ in other.named_parameters()] == list(model.named_variables())
    everything = {name.replace(".", "/") for name, _ in other.named_parameters(remove_duplicate=False)}
    found = paths_in("save", model)
    assert everything == all_paths(found)
    assert [name.replace(".", "/") for name, _ in other.named_modules() if name not in ("", "layers")] == list(
        model.named_submodules()
    )


def test_the_variables_are_those_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")

    def build(kind: Any, leaf: Callable[[], Any]) -> Any:
        model = kind()
        model.w, model._hidden = leaf(), [leaf(), (leaf(), {"a": leaf()})]
        model.inner = {"x": kind()}
        model.inner["x"].v = leaf()
        model.again = model.w
        return model

    other, model = build(tf.Module, lambda: tf.Variable(0.0)), build(sv.Module, scalar)
    assert len(model.variables) == len(other.variables) == 5
    assert len(model.submodules) == len(other.submodules) == 1


def test_found_and_named_agree() -> None:
    model = Model()
    assert objects_in(model, Dense) == list(named_in("test", model, Dense).values())
    assert variables_in("test", [model, model.layers]) == list(model.variables)


def test_a_copy_of_a_module_has_a_compiled_method_of_its_own() -> None:
    class Counter(sv.Module):
        def __init__(self) -> None:
            self.total = sv.Variable(0.0)
            self.step = sv.jit(self._step)

        def _step(self) -> Any:
            return self.total.assign_add(1.0).value

    counter = Counter()
    counter.step()
    other = copy.deepcopy(counter)
    other.step()
    assert (float(counter.total), float(other.total)) == (1.0, 2.0)
