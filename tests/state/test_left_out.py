"""State that a search does not take along: of other libraries, in arrays, generators and functions, out of reach."""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of
from tests.internals import left_out, paths_in
from tests.state.models import Plain, module_of, scalar


@pytest.fixture(autouse=True)
def _nothing_was_warned_of() -> None:
    left_out._warned.clear()
    left_out._looked_through.clear()


def of_tensorflow() -> tuple[Any, str]:
    tf = pytest.importorskip("tensorflow")
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1), "tensorflow"


def of_keras_2() -> tuple[Any, str]:
    tf_keras = pytest.importorskip("tf_keras")
    return tf_keras.optimizers.legacy.Adam(), "tf_keras"


def of_jax() -> tuple[Any, str]:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    return optax.adam(1e-3).init({"w": jax.numpy.ones(2)})[0], "optax"


def like(module: str, name: str, **attributes: Any) -> Any:
    """An object of a class that looks as if it were of a library that is not installed here."""
    cls = type(name, (), {"__module__": module})
    each = cls()
    vars(each).update(attributes)
    return each


def of_others(case: str) -> tuple[Any, str]:
    param = like("flax.nnx.variablelib", "Variable", value=np.ones(2))
    made = {
        "nnx variable": (param, "flax"),
        "nnx module": (like("flax.nnx.nn.linear", "Linear", kernel=param), "flax"),
        "equinox module": (like("equinox.nn", "Linear", weight=np.ones(2), layers=[1, "x"]), "equinox"),
        "tf_keras": (like("tf_keras.src.engine", "Model", variables=[1]), "tf_keras"),
    }
    # `variables` of a Keras object is an attribute of its class.
    type(made["tf_keras"][0]).variables = property(lambda self: vars(self)["variables"])
    return made[case]


FOREIGN: dict[str, Callable[[], tuple[Any, str]]] = {
    "tensorflow table": of_tensorflow,
    "keras 2 optimizer": of_keras_2,
    "optax": of_jax,
    **{case: partial(of_others, case)
       for case in ("nnx variable", "nnx module", "equinox module", "tf_keras")},
}  # fmt: skip

OPERATIONS: dict[str, Callable[[Any, Path], Any]] = {
    "variables": lambda obj, _: sv.variables(obj),
    "named_variables": lambda obj, _: sv.named_variables(obj),
    "snapshot": lambda obj, _: sv.snapshot(obj),
    "rollback": lambda obj, _: sv.rollback(obj).__enter__(),
    "transaction": lambda obj, _: sv.transaction(obj),
    "save": lambda obj, folder: sv.save(obj, folder / "x.safetensors"),
    "load": lambda obj, folder: sv.load(obj, folder / "x.safetensors"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_state_of_another_library_is_never_left_out_in_silence(case: str, tmp_path: Path) -> None:
    thing, library = FOREIGN[case]()
    for target in (
        {"v": scalar(), "deep": [1, {"net": thing}]},
        module_of({"v": scalar(), "deep": [1, {"net": thing}]}),
    ):
        for name, operation in OPERATIONS.items():
            with pytest.raises(sv.errors.ForeignStateError) as caught:
                operation(target, tmp_path)
            text = str(caught.value)
            assert text.startswith(f"{name}: the ")
            assert f" has state of {library}, which statevar would leave out" in text
            assert "at 'deep/1/net'" in text
            assert (
                f"Hint: keep it outside of the object that you pass and save it with {library}'s own functions" in text
            )
    assert not list(tmp_path.iterdir())
    module = module_of({"v": scalar(), "net": thing})
    for attribute in ("variables", "trainable_variables", "non_trainable_variables"):
        with pytest.raises(sv.errors.ForeignStateError, match="variables: the .* at 'net'"):
            getattr(module, attribute)
    assert "Module: 1 variable" in repr(module)
    with sv.CheckpointManager(tmp_path, module) as manager, pytest.raises(sv.errors.ForeignStateError, match="save: "):
        manager.save(1)


@pytest.mark.parametrize("case", FOREIGN)
def test_state_of_another_library_alone_is_named(case: str, tmp_path: Path) -> None:
    thing, library = FOREIGN[case]()
    with pytest.raises(sv.errors.ForeignStateError, match=f"save: the .* has state of {library}.*leave out. Hint"):
        sv.save(thing, tmp_path / "x.safetensors")


def test_the_path_is_that_of_the_whole_object() -> None:
    net, _ = of_others("nnx module")
    v = scalar()
    for tree in ({"v": v, "deep": [net]}, {"v": v, "deep": {net}}):
        where = "at 'deep/0'" if isinstance(tree["deep"], list) else "at 'deep'"
        for call in (sv.named_variables, partial(sv.grad, len), partial(sv.functionalize, len), sv.snapshot):
            with pytest.raises(sv.errors.ForeignStateError, match=where):
                call(tree)


def test_state_of_another_library_in_an_object_that_cannot_be_searched() -> None:
    net, _ = of_others("nnx module")
    for hidden in ({"net": net}.values(), iter([net]), Settings(hidden=[net])):
        with pytest.raises(
            sv.errors.NameScopeError, match=r"(contains|has) the flax.nnx.nn.linear.Linear.*, at 'nets'"
        ):
            sv.variables({"v": scalar(), "nets": hidden})
    sv.snapshot({"v": scalar(), "net": lambda: net})  # kept out of the search on purpose


def test_tensors_in_an_object_of_their_library_are_arrays() -> None:
    torch = pytest.importorskip("torch")
    normal = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
    with pytest.warns(sv.errors.StateWarning, match="the torch.Tensor is not a variable, .* at 'noise/(loc|scale)'"):
        sv.snapshot({"v": scalar(), "noise": normal})
    empty = torch.nn.Linear.__new__(torch.nn.Linear)  # no constructor has run
    sv.snapshot({"v": scalar(), "empty": empty})


def test_one_error_names_several() -> None:
    made = {f"net{i}": of_others("equinox module")[0] for i in range(8)}
    with pytest.raises(sv.errors.ForeignStateError) as caught:
        sv.snapshot({"v": scalar(), **made})
    assert "at 'net1', the equinox.nn.Linear at 'net2'" in str(caught.value)
    assert "and 3 more), at 'net0'" in str(caught.value)


def test_the_outermost_object_that_cannot_be_entered_is_named() -> None:
    tf = pytest.importorskip("tensorflow")
    outer = like("equinox.nn", "Net", inner=of_others("equinox module")[0])
    with pytest.raises(sv.errors.ForeignStateError, match=r"the equinox.nn.Net has .*, at 'nets/0'\. "):
        sv.variables({"v": scalar(), "nets": [outer]})
    module = tf.Module()
    module.table, _ = of_tensorflow()
    with pytest.raises(sv.errors.ForeignStateError, match=r"MutableHashTable has .*, at 'net/table'\. "):
        sv.variables({"v": scalar(), "net": module})


def test_objects_of_other_libraries_without_state_are_no_error() -> None:
    torch = pytest.importorskip("torch")
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    v = scalar()
    relu = torch.nn.ReLU()
    assert sv.variables({"v": v, "act": relu, "drop": torch.nn.Dropout(), "device": torch.device("cpu")}) == (v,)
    assert sv.variables([v, optax.adam(1e-3), jax.jit(lambda x: x), jax.numpy.tanh, jax.numpy.float32]) == (v,)
    relu.ours = [scalar()]
    assert sv.variables({"act": relu}) == (relu.ours[0],)


def test_an_activation_of_keras_and_a_function_of_tensorflow_are_no_error() -> None:
    tf = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    v = scalar()
    assert sv.variables([v, keras.layers.ReLU(), tf.function(lambda x: x), tf.float32, tf.TensorShape([1])]) == (v,)


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_the_parameter_of_a_variable_is_not_state_of_its_own(name: str) -> None:
    pytest.importorskip(name)
    v = sv.Variable([1.0, 2.0], backend=name)
    assert sv.variables({"p": v.parameter, "v": v}) == (v,)
    w = sv.Variable(0.0, backend=name)
    assert sv.variables({"p": v.parameter, "w": w}) == (v, w)
    if name == "torch":
        import torch

        net = torch.nn.Linear(2, 1, bias=False)
        net.weight = v.parameter
        assert sv.variables({"net": net, "v": v}) == (v,)


def test_no_library_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, statevar as sv\n"
        "m = sv.Module(); m.v = sv.Variable(1.); m.a = np.ones(2); m.f = lambda x, y=1: x\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "sv.snapshot(m); sv.named_variables(m)\n"
        "assert not {'torch', 'jax', 'tensorflow', 'keras', 'flax', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- arrays and generators ---------------------------------------------------------------------------------------------


class Model(sv.Module):
    def __init__(self, **attributes: Any) -> None:
        self.v = scalar()
        vars(self).update(attributes)


def test_a_model_with_plain_arrays_is_searched_once_for_each_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    located = left_out._located

    def noted(*args: Any) -> Any:
        searches.append(args)
        return located(*args)

    monkeypatch.setattr(left_out, "_located", noted)
    model = Model(a=np.zeros(2))
    with pytest.warns(sv.errors.StateWarning, match="at 'a'"):
        sv.snapshot(model)
    for _ in range(3):
        model.a = np.ones(2)
        sv.snapshot(model)
    assert len(searches) == 1
    model.b = model.a
    model.c = np.zeros(3)
    with pytest.warns(sv.errors.StateWarning, match="at 'c'"):
        sv.snapshot(model)
    assert len(searches) == 2
    for name in ("x", "y", "z"):
        with pytest.warns(sv.errors.StateWarning, match=f"at '{name}'"):
            sv.snapshot({"v": model.v, name: np.zeros(2)})


def test_a_constant_of_a_layer_is_no_state() -> None:
    layer, _ = of_others("tf_keras")
    layer.variables.clear()
    layer.threshold = np.zeros(1)
    sv.snapshot({"v": scalar(), "layer": layer})


def test_an_array_of_python_and_each_kind_of_thing_are_warned_of() -> None:
    import array

    for thing in (array.array("d", [1.0]), np.zeros(1), random.SystemRandom(0)):
        with pytest.warns(sv.errors.StateWarning, match="at 'x'"):
            sv.snapshot(Model(x=thing))


def test_a_plain_array_is_warned_of_once(backend: str, tmp_path: Path) -> None:
    model = Model(stats={"window": array_of(backend, [1.0, 2.0])})
    with pytest.warns(sv.errors.StateWarning) as caught:
        sv.save(model, tmp_path / "x.safetensors")
    (only,) = caught
    text = str(only.message)
    assert text.startswith("save: the ")
    assert "is not a variable, so it is left out, at 'stats/window'. Hint: " in text
    assert "sv.Variable(x, trainable=False)" in text
    assert "warnings.simplefilter('ignore', sv.errors.StateWarning)" in text
    assert only.filename == __file__
    sv.save(model, tmp_path / "x.safetensors")
    sv.snapshot(model)
    model.other = np.zeros(2)
    with pytest.warns(sv.errors.StateWarning, match="snapshot: .* at 'other'"):
        sv.snapshot(model)


def test_a_generator_without_a_state_to_read_is_warned_of() -> None:
    with pytest.warns(
        sv.errors.StateWarning, match="its state is left out, at 'rng'. Hint: keep the state in a variable"
    ):
        sv.snapshot(Model(rng=random.SystemRandom()))


def test_the_warning_can_be_turned_off_and_can_be_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # the second one is not lost because the first was an error
            with pytest.raises(sv.errors.StateWarning):
                sv.snapshot(Model(a=np.zeros(2)))
        warnings.simplefilter("ignore", sv.errors.StateWarning)
        sv.snapshot(Model(a=np.zeros(2)))


def test_numbers_and_names_are_hyperparameters() -> None:
    sv.snapshot(Model(rate=0.1, steps=3, on=True, z=1j, name="x", none=None, scalar=np.float32(2.0), size=(1, 2)))


def test_only_what_keeps_values_warns() -> None:
    model = Model(a=np.zeros(2))
    sv.variables(model), sv.named_variables(model), model.variables
    with sv.transaction(model):
        model.v.assign(1.0)
    with pytest.warns(sv.errors.StateWarning, match="rollback: "), sv.rollback(model):
        pass


def test_an_array_in_place_of_a_variable_in_a_list_is_warned_of() -> None:
    model = Model(parts=[sv.Variable([1.0, 2.0])])
    model.parts[0] = model.parts[0] * 0.9
    with pytest.warns(sv.errors.StateWarning, match="at 'parts/0'"):
        sv.snapshot(model)


# -- functions, and what cannot be searched ----------------------------------------------------------------------------


def with_default(w: sv.Variable) -> Callable[[], sv.Variable]:
    def function(v: sv.Variable = w) -> sv.Variable:
        return v

    return function


FUNCTIONS: dict[str, Callable[[sv.Variable], Any]] = {
    "closure": lambda w: lambda: w,
    "default": with_default,
    "partial": lambda w: partial(print, w),
    "keyword": lambda w: partial(print, end={"w": [w]}),
    "nested": lambda w: partial(lambda: w),
    "method": lambda w: w.assign,
    "method of an object": lambda w: Plain(w=w).__repr__,
    "compiled": lambda w: sv.jit(lambda: w.assign_add(1.0)),
}


@pytest.mark.parametrize("how", FUNCTIONS)
def test_a_variable_that_only_a_function_has_is_warned_of(how: str) -> None:
    w = scalar()
    if how == "method of an object":
        Plain.method = lambda self: self.w
        function = Plain(w=w).method
        del Plain.method
    else:
        function = FUNCTIONS[how](w)
    model = Model(update=function)
    assert len(model.variables) == 1
    with pytest.warns(sv.errors.StateWarning, match="a function uses a variable that .*, at 'update'. Hint: keep the"):
        sv.snapshot(model)
    left_out._warned.clear()
    left_out._looked_through.clear()
    model.w = w
    sv.snapshot(model)


def test_functions_without_variables_are_nothing() -> None:
    x = 3
    sv.snapshot(Model(f=lambda: x, g=np.sin, h=partial(int, base=8), sort=[].sort, kind=int))


def generated(w: sv.Variable) -> Iterator[sv.Variable]:
    yield w


def in_an_array(w: sv.Variable) -> Any:
    array = np.empty(2, object)
    array[1] = w
    return array


UNSEARCHED: dict[str, Callable[[sv.Variable], Any]] = {
    "dict_values": lambda w: {"w": w}.values(),
    "list_iterator": lambda w: iter([w]),
    "map": lambda w: map(str, [w]),
    "generator": generated,
    "ndarray": in_an_array,
}


@pytest.mark.parametrize("how", UNSEARCHED)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_variable_out_of_reach_is_an_error(how: str, operation: str, tmp_path: Path) -> None:
    w = scalar()
    model = Model(hidden=UNSEARCHED[how](w))
    problem = f"the .*{how} contains a variable, but such an object cannot be searched"
    with pytest.raises(sv.errors.NameScopeError, match=f"{operation}: {problem}, at 'hidden'. Hint: "):
        OPERATIONS[operation](model, tmp_path)
    model.w = w  # now it is found
    assert set(sv.variables(model)) == {model.v, w}


class Settings(Mapping[str, Any]):
    """A mapping with attributes, of which one is no item."""

    def __init__(self, hidden: Any = None, **items: Any) -> None:
        self.items_of_it = items
        self.hidden = hidden

    def __getitem__(self, key: str) -> Any:
        return self.items_of_it[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_of_it)

    def __len__(self) -> int:
        return len(self.items_of_it)


def test_a_variable_in_an_attribute_of_a_mapping_is_an_error() -> None:
    v, w = scalar(), scalar()
    assert list(sv.named_variables({"settings": Settings(v=v)})) == ["settings/v"]
    assert sv.variables(Settings(hidden=v, v=v)) == (v,)
    with pytest.raises(sv.errors.NameScopeError) as caught:
        sv.snapshot({"settings": Settings(hidden=[w], v=v)})
    assert "Settings has a variable in an attribute, but only its items are searched" in str(caught.value)
    assert "at 'settings'. Hint: make it an item, or derive the class from sv.Module too." in str(caught.value)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "variables"])
def test_a_variable_that_is_only_a_key_is_an_error(operation: str, tmp_path: Path) -> None:
    v, w = scalar("v"), scalar("w")
    with pytest.raises(
        sv.errors.NameScopeError, match=f"{operation}: the variable 'w' is only a key, at 'opt/rates'. Hi"
    ):
        OPERATIONS[operation](Model(opt={"rates": {w: 0.1}}), tmp_path)
    sv.snapshot(Model(opt={"rates": {w: 0.1, v: 0.2}}, w=[w, v]))


def test_what_is_read_and_written_must_be_ours() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    calls: dict[str, Callable[[], Any]] = {
        "get_value": lambda: sv.get_value(net),
        "set_value": lambda: sv.set_value(net, 1.0),
        "assign": lambda: sv.assign(net, 1.0),
    }
    for name, call in calls.items():
        with pytest.raises(
            sv.errors.ForeignStateError,
            match=f"{name}: expected a variable.*, got torch.nn.*pass a leaf of it: sv.named_v",
        ):
            call()
    v = scalar()
    with pytest.raises(sv.errors.ForeignStateError, match="set_value: expected a variable"):
        sv.batch_set_value([(v, 1.0), (net, 2.0)])
    assert float(v) == 0.0
    with pytest.raises(TypeError, match="assign: expected a variable, got list"):
        sv.assign([], 1.0)


def test_a_mapping_of_ours_is_not_read(tmp_path: Path) -> None:
    v = scalar()
    sv.save({"v": v}, tmp_path / "x.safetensors")
    with sv.load(tmp_path / "x.safetensors") as saved:
        assert list(paths_in("save", {"v": v, "saved": saved, "before": sv.snapshot(v)}).variables) == ["v"]


# -- variables of a class --------------------------------------------------------------------------------------------


def _sharing() -> Any:
    class Layer(sv.Module):
        rate = scalar()
        rates = (scalar(),)

        def __init__(self) -> None:
            self.own = scalar()

    class Model(sv.Module):
        def __init__(self) -> None:
            self.layers = [Layer(), Layer()]

    return Model()


def test_a_variable_of_a_class_is_left_out_with_a_warning() -> None:
    model = _sharing()
    with pytest.warns(sv.errors.StateWarning) as caught:
        taken = sv.snapshot(model)
    assert list(taken) == ["layers/0/own", "layers/1/own"]
    assert str(caught[0].message) == (
        "snapshot: the variable belongs to the class _sharing.<locals>.Layer, whose objects share it, so it is left "
        "out, at 'layers/0/rate'. Hint: make it an attribute of the object, in __init__; or ignore the warning: "
        "warnings.simplefilter('ignore', sv.errors.StateWarning)."
    )
    places = [str(each.message).partition(" at '")[2].partition("'")[0] for each in caught]
    assert places == ["layers/0/rate", "layers/0/rates", "layers/1/rate", "layers/1/rates"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sv.snapshot(model)  # it was said once


def test_a_variable_of_a_class_that_is_elsewhere_too() -> None:
    model = _sharing()
    del model.layers[1]
    (layer,) = model.layers
    model.shared = [layer.rate, *layer.rates]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sv.snapshot(model)) == 3
        del model.shared
        layer.rate, layer.rates = scalar(), []
        assert len(sv.snapshot(model)) == 2


def test_a_variable_of_a_class_is_not_replaced_by_an_array() -> None:
    (layer, _) = _sharing().layers
    with pytest.raises(sv.errors.ReadOnlyError, match="^setattr: numpy.float32 would replace the variable"):
        layer.rate = np.float32(3.0)


def test_an_attribute_of_a_function() -> None:
    def function() -> None: ...

    function.state = scalar()
    with pytest.warns(sv.errors.StateWarning, match="a function uses a variable that the object does not contain"):
        sv.snapshot(module_of({"v": scalar(), "f": function}))


def test_an_array_of_objects_that_lacks_methods_of_numpy() -> None:
    """As a Series of pandas lacks `ravel`."""

    class Column:
        shape, dtype = (1,), np.dtype(object)

        def __init__(self, each: Any) -> None:
            self.each = each

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            made = np.empty(1, object)
            made[0] = self.each
            return made

    with pytest.warns(sv.errors.StateWarning, match="Column is not a variable"):
        sv.snapshot(module_of({"v": scalar(), "column": Column("text")}))
    with pytest.raises(sv.errors.NameScopeError, match="contains a variable, but such an object cannot be searched"):
        sv.snapshot(module_of({"v": scalar(), "column": Column(scalar())}))
