"""`sv.jit` uses the variables that plain Python would find now, not those that it was compiled with."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref
from collections import UserDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same

pytestmark = pytest.mark.usefixtures("without_inductor")


def var(backend: str, value: Any = 0.0, **options: Any) -> sv.Variable:
    return sv.Variable(np.asarray(value, "float32"), backend=backend, **options)


def add_to(*variables: sv.Variable) -> None:
    for variable in variables:
        variable.assign_add(1.0)


class Plain:
    """An object of the user, with whatever attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None: ...


class Tree(sv.Module):
    def __init__(self, **attributes: Any) -> None:
        for name, each in attributes.items():
            setattr(self, name, each)


class Slotted:
    __slots__ = ("__weakref__", "v")

    def __init__(self, v: Any) -> None:
        self.v = v


class WithClassAttribute:
    v: Any = None


STATE: Any = None
MODULE: Any = ModuleType("state_of_the_user")


def _in_global(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    globals()["STATE"] = first
    return lambda: add_to(STATE), lambda: globals().update(STATE=second)


def _through_a_helper(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    globals()["STATE"] = first
    return lambda: _helper(), lambda: globals().update(STATE=second)


def _helper() -> None:
    add_to(STATE)


class Caller:
    def helper(self) -> None:
        add_to(STATE)


def _through_a_method(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    globals()["STATE"] = first
    caller = Caller()
    return lambda: caller.helper(), lambda: globals().update(STATE=second)


def _in_closure(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    held = first

    def replace() -> None:
        nonlocal held
        held = second

    return lambda: add_to(held), replace


def _in_module(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    MODULE.v = first
    return lambda: add_to(MODULE.v), lambda: setattr(MODULE, "v", second)


def _in_class(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
    WithClassAttribute.v = first
    return lambda: add_to(WithClassAttribute.v), lambda: setattr(WithClassAttribute, "v", second)


def _held_in(container: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], object]) -> Any:
    def made(first: sv.Variable, second: sv.Variable) -> tuple[Callable[[], object], Callable[[], object]]:
        held = container(first)
        return lambda: add_to(read(held)), lambda: write(held, second)

    return made


#: Each gives a function that adds to the first variable, and what puts the second one in its place.
PLACES: dict[str, Callable[..., tuple[Callable[[], object], Callable[[], object]]]] = {
    "a closure": _in_closure,
    "a global name": _in_global,
    "a global name of a function that is called": _through_a_helper,
    "a global name of a method that is called": _through_a_method,
    "an attribute of a Python module": _in_module,
    "an attribute of a class": _in_class,
    "an attribute": _held_in(lambda v: Plain(v=v), lambda o: o.v, lambda o, v: setattr(o, "v", v)),
    "an attribute of a Module": _held_in(lambda v: Tree(v=v), lambda o: o.v, lambda o, v: vars(o).__setitem__("v", v)),
    "a slot": _held_in(Slotted, lambda o: o.v, lambda o, v: setattr(o, "v", v)),
    "a namespace": _held_in(lambda v: SimpleNamespace(v=v), lambda o: o.v, lambda o, v: setattr(o, "v", v)),
    "a list": _held_in(lambda v: [v], lambda o: o[0], lambda o, v: o.__setitem__(0, v)),
    "a deque": _held_in(lambda v: deque([v]), lambda o: o[0], lambda o, v: o.__setitem__(0, v)),
    "a dict": _held_in(lambda v: {"v": v}, lambda o: o["v"], lambda o, v: o.__setitem__("v", v)),
    "a UserDict": _held_in(lambda v: UserDict(v=v), lambda o: o["v"], lambda o, v: o.__setitem__("v", v)),
    "a defaultdict": _held_in(lambda v: defaultdict(list, v=v), lambda o: o["v"], lambda o, v: o.__setitem__("v", v)),
    "a set": _held_in(lambda v: {v}, lambda o: next(iter(o)), lambda o, v: (o.clear(), o.add(v))),
    "the keys of a dict": _held_in(
        lambda v: {v: 1}, lambda o: next(iter(o)), lambda o, v: (o.clear(), o.update({v: 1}))
    ),
    "a tuple in an attribute": _held_in(
        lambda v: Plain(v=(1, v)), lambda o: o.v[1], lambda o, v: setattr(o, "v", (1, v))
    ),
    "a list of objects": _held_in(lambda v: [Plain(v=v)], lambda o: o[0].v, lambda o, v: o.__setitem__(0, Plain(v=v))),
    "an object in an object": _held_in(
        lambda v: Plain(inner=Plain(v=v)), lambda o: o.inner.v, lambda o, v: setattr(o.inner, "v", v)
    ),
    "the argument of a partial function": _held_in(
        lambda v: Plain(call=partial(add_to, v)),
        lambda o: o.call.args[0],
        lambda o, v: setattr(o, "call", partial(add_to, v)),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_variable_that_was_replaced(place: str, backend: str) -> None:
    """The old one went on being written."""
    first, second = var(backend), var(backend, 100.0)
    function, replace = PLACES[place](first, second)
    step = sv.jit(function, backend=backend)
    step()
    step()
    replace()
    step()
    step()
    assert (float(first), float(second)) == (2.0, 102.0)


def _changes(backend: str) -> dict[str, Callable[[list[Any]], object]]:
    return {
        "grew": lambda vs: vs.append(var(backend, [9.0, 9.0])),
        "shrank": lambda vs: vs.pop(),
        "another one in the middle": lambda vs: vs.__setitem__(3, var(backend, [9.0, 9.0])),
        "exchanged": lambda vs: vs.__setitem__(slice(0, 2), [vs[1], vs[0]]),
        "reversed": lambda vs: vs.reverse(),
        "equal values": lambda vs: vs.__setitem__(3, var(backend, vs[3].numpy())),
    }


@pytest.mark.parametrize("elements", [(), (2,)])
@pytest.mark.parametrize("change", _changes(""))
def test_a_list_that_changes(change: str, elements: tuple[int, ...], backend: str) -> None:
    """Each variable gets another number, so that the order shows."""

    def filled() -> list[Any]:
        return [var(backend, np.zeros(elements)) for _ in range(6)]

    def walk(vs: list[Any]) -> Callable[[], object]:
        return lambda: [v.assign_add(float(i + 1)) for i, v in enumerate(vs)] and None

    def program(run: Callable[[Any], Any]) -> list[Any]:
        vs = filled()
        step = run(walk(vs))
        met = list(vs)
        step()
        if elements == () and change in ("grew", "another one in the middle"):
            vs.append(var(backend, 9.0))
        else:
            _changes(backend)[change](vs)
        step()
        step()
        return [each.numpy() for each in [*met, *vs]]

    for got, expected in zip(program(lambda fn: sv.jit(fn, backend=backend)), program(lambda fn: fn), strict=True):
        assert_same(got, expected)


def test_what_is_there_later(backend: str) -> None:
    """None, an empty list and a missing attribute have no variable yet."""
    model = Plain(v=var(backend), average=None, extra=[], named={})

    def step() -> None:
        add_to(*[each for each in vars(model).values() if isinstance(each, sv.Variable)])
        add_to(*model.extra, *model.named.values())

    compiled = sv.jit(step, backend=backend)
    compiled()
    model.average = var(backend)
    compiled()
    model.extra.append(var(backend))
    compiled()
    model.named["a"] = var(backend)
    compiled()
    model.another = var(backend)
    compiled()
    got = [model.v, model.average, model.extra[0], model.named["a"], model.another]
    assert [float(each) for each in got] == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_the_first_variable_comes_later(backend: str) -> None:
    model = Plain(v=None)
    step = sv.jit(lambda: None if model.v is None else add_to(model.v), backend=backend)
    step()
    model.v = var(backend)
    step()
    step()
    assert float(model.v) == 2.0


def test_what_does_not_matter_is_not_compiled_again(backend: str) -> None:
    runs = []
    model = Plain(v=var(backend), losses=[], count=0, last=None, rest=[])

    def step() -> None:
        runs.append(1)
        model.v.assign_add(1.0)

    compiled = sv.jit(step, backend=backend)
    compiled()
    compiled()
    before = len(runs)
    for number in range(12):
        model.losses.append(float(number))
        model.count += 1
        model.last = object() if number % 2 else None
        model.rest.append(var(backend))
        setattr(model, f"extra{number}", number)
        compiled()
    assert float(model.v) == 14.0
    assert backend == "numpy" or len(runs) <= before + 3  # once, when the empty list of `rest` got a variable


class Above:
    v: Any = None


class Below(Above):
    pass


class Another:
    v: Any = None


@pytest.mark.parametrize("how", ["attribute", "class", "subclass", "base"])
def test_a_class_attribute_that_no_longer_counts(how: str, backend: str) -> None:
    """An attribute of the object, or another class, took the place of it; the old one went on being written."""
    Above.v, Another.v = var(backend), var(backend, 100.0)
    old, new, each = Above.v, Another.v, Below()
    holder = [each]
    step = sv.jit(lambda: add_to(holder[0].v), backend=backend)
    step()
    step()
    if how == "attribute":
        each.v = new
    elif how == "class":
        each.__class__ = Another  # type: ignore[assignment]
    elif how == "subclass":
        Below.v = new
    else:
        Above.v = new
    try:
        step()
    finally:
        if how == "subclass":
            del Below.v
    assert (float(old), float(new)) == (2.0, 101.0)


def test_a_variable_that_is_frozen(backend: str) -> None:
    """Its setting was part of the program for ever."""
    runs = []
    a, b = var(backend, 1.0), var(backend, 1.0)

    def train() -> None:
        runs.append(1)
        for variable, gradient in sv.grad(lambda: a * b)().items():
            variable.assign_sub(gradient * 0.0 + 1.0)

    step = sv.jit(train, backend=backend)
    step()
    b.trainable = False
    step()
    b.trainable = True
    step()
    before = len(runs)
    assert (float(a), float(b)) == (-2.0, -1.0)
    for frozen in (True, False, True):
        b.trainable = not frozen
        step()
    assert (float(a), float(b)) == (-5.0, -2.0)
    assert backend == "numpy" or len(runs) == before  # both programs are kept
    var(backend).trainable = False  # another one's setting does not matter
    step()
    assert backend == "numpy" or len(runs) == before


def test_a_constraint_that_is_replaced(backend: str) -> None:
    v = var(backend, 1.0)
    step = sv.jit(lambda: add_to(v), backend=backend)
    step()
    v.constraint = lambda x: x * 10.0
    step()
    assert float(v) == 30.0
    v.constraint = None
    step()
    assert float(v) == 31.0


def test_a_program_for_each_autocast(backend: str) -> None:
    v = var(backend, [1.0, 2.0])
    read = sv.jit(lambda: v * 2, backend=backend)

    class Model:
        @sv.jit
        def read(self, scale: Any) -> Any:
            return v * 2

    model = Model()

    def dtypes() -> list[str]:
        return [sv.Variable(each).dtype_name for each in (read(), model.read(1.0))]

    assert dtypes() == ["float32"] * 2
    for _ in range(2):
        with sv.autocast("float16"):
            assert dtypes() == ["float16"] * 2
            with sv.autocast("bfloat16"):
                assert dtypes() == ["bfloat16"] * 2
            with sv.autocast(None):
                assert dtypes() == ["float32"] * 2
        assert dtypes() == ["float32"] * 2


def test_variables_that_change_places_are_compiled_once(backend: str) -> None:
    """As a target network does."""
    runs = []
    pair = Plain(online=var(backend), target=var(backend, 100.0))

    def step() -> None:
        runs.append(1)
        pair.online.assign_add(1.0)

    compiled = sv.jit(step, backend=backend)
    for _ in range(2):
        compiled()
        pair.online, pair.target = pair.target, pair.online
    before = len(runs)
    for _ in range(6):
        compiled()
        pair.online, pair.target = pair.target, pair.online
    assert (float(pair.online), float(pair.target)) == (4.0, 104.0)
    assert backend == "numpy" or len(runs) == before


def test_a_replaced_variable_can_die(backend: str) -> None:
    model = Plain(v=var(backend))
    step = sv.jit(lambda: add_to(model.v), backend=backend)
    step()
    gone = weakref.ref(model.v)
    model.v = var(backend)
    step()
    step()
    gc.collect()
    assert gone() is None


# -- methods: by identity --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equal:
    number: int
    v: Any = field(compare=False)

    @sv.jit
    def step(self) -> None:
        self.v.assign_add(1.0)


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, number: int, v: Any) -> None:
        self.v = v

    def __eq__(self, other: object) -> bool:
        return True

    @sv.jit
    def step(self) -> None:
        self.v.assign_add(1.0)


class SlottedWithMethod:
    __slots__ = ("v",)

    def __init__(self, v: Any) -> None:
        self.v = v

    @sv.jit
    def step(self) -> None:
        self.v.assign_add(1.0)


@pytest.mark.parametrize("kind", [Equal, Unhashable])
def test_equal_objects_have_their_own_variables(kind: Any, backend: str) -> None:
    """They shared a program, so the variable of the wrong object was written."""
    first, second = kind(1, var(backend)), kind(1, var(backend))
    first.step()
    first.step()
    second.step()
    assert (float(first.v), float(second.v)) == (2.0, 1.0)


@pytest.mark.parametrize("options", [{"static_argnums": 0}, {"static_argnames": "model"}, {"static_argnums": -2}, {}])
def test_an_object_as_an_argument(options: dict[str, Any], backend: str) -> None:
    """Equal objects shared a program, and a variable that was replaced in one went on being written."""

    def add(model: Any, x: Any) -> Any:
        return model.v.assign_add(x).value * 1.0

    step = sv.jit(add, backend=backend, **options)
    first, second, x = Equal(1, var(backend)), Equal(1, var(backend)), var(backend, 1.0, trainable=False).value

    def call(model: Any) -> Any:
        return step(model=model, x=x) if "static_argnames" in options else step(model, x)

    assert [float(call(model)) for model in (first, first, second)] == [1.0, 2.0, 1.0]
    old = first.v
    object.__setattr__(first, "v", var(backend, 100.0))
    assert float(call(first)) == 101.0
    assert (float(old), float(first.v), float(second.v)) == (2.0, 101.0, 1.0)
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda each: [each],
        lambda each: ([each, 1.0],),
        lambda each: {"model": each},
        lambda each: defaultdict(list, model=each),
        lambda each: Pair(1.0, each),
        lambda each: {each.v},
    ],
)
def test_an_object_in_a_container(wrapped: Callable[[Any], Any], backend: str) -> None:
    """Equal objects in containers shared a program; JAX raised an error of its own."""

    def add(container: Any, x: Any) -> Any:
        (each,) = _flat(container)
        (each if isinstance(each, sv.Variable) else each.v).assign_add(x)

    step = sv.jit(add, backend=backend)
    first, second = Equal(1, var(backend)), Equal(1, var(backend))
    for model, x in [(first, 1.0), (second, 10.0), (first, 100.0)]:
        step(wrapped(model), x)
    assert (float(first.v), float(second.v)) == (101.0, 10.0)


class Pair(NamedTuple):
    x: float
    model: Any


def _flat(container: Any) -> list[Any]:
    if isinstance(container, dict):
        container = list(container.values())
    if isinstance(container, list | tuple | set):
        return [leaf for each in container for leaf in _flat(each)]
    return [container] if isinstance(container, Equal | sv.Variable) else []


@pytest.mark.parametrize("static", [{"static_argnums": 0}, {"static_argnames": "models"}])
def test_objects_in_a_static_tuple(static: dict[str, Any], backend: str) -> None:
    step = sv.jit(lambda models: add_to(*[each.v for each in models]), backend=backend, **static)
    first, second = Equal(1, var(backend)), Equal(1, var(backend))
    for model in (first, second, first):
        step(models=(model,)) if "static_argnames" in static else step((model,))
    assert (float(first.v), float(second.v)) == (2.0, 1.0)


def test_arrays_beside_an_object_are_data(backend: str) -> None:
    """They are passed at each call, and not part of the program."""
    runs = []
    model = Plain(v=var(backend))

    def step(batch: Any) -> None:
        runs.append(1)
        batch["model"].v.assign_add(batch["x"])

    compiled = sv.jit(step, backend=backend)
    for number in range(4):
        compiled({"model": model, "x": np.float32(number)})
        if number == 1:
            before = len(runs)
    assert float(model.v) == 6.0
    assert backend == "numpy" or len(runs) == before


def test_a_module_as_an_argument(backend: str) -> None:
    class Layer(sv.Module):
        def __init__(self) -> None:
            self.w = var(backend, 2.0)

        def __call__(self, x: Any) -> Any:
            return self.w * x

    @partial(sv.jit, backend=backend)
    def train(layers: list[Any], x: Any) -> None:
        gradients = sv.grad(lambda: layers[0](layers[1](x)))()
        for variable, gradient in gradients.items():
            variable.assign_sub(gradient)

    layers = [Layer(), Layer()]
    one = var(backend, 1.0, trainable=False).value
    train(layers, one)
    train(layers, one)
    assert [float(each.w) for each in layers] == [0.0, 0.0]


def test_a_decorator_with_arguments(backend: str) -> None:
    traced = []

    class Counter:
        def __init__(self) -> None:
            self.v = var(backend)

        @sv.jit(static_argnames="twice", backend=backend)
        def add(self, x: Any, twice: bool = False) -> Any:
            traced.append(twice)
            return self.v.assign_add(x * 2 if twice else x).value * 1.0

    @sv.jit()
    def add(x: Any) -> Any:
        return counter.v.assign_add(x).value * 1.0

    counter = Counter()
    x = var(backend, 1.0, trainable=False).value
    assert [float(counter.add(x)), float(counter.add(x, twice=True)), float(add(x))] == [1.0, 3.0, 4.0]
    assert set(traced) == {False, True}
    with pytest.raises(TypeError, match="^jit: expected a callable, got int"):
        sv.jit(donate=False)(3)  # type: ignore[arg-type]


def test_an_object_that_cannot_be_referred_to_weakly(backend: str) -> None:
    with pytest.raises(
        TypeError, match="^jit: a compiled method needs a weak reference to its object, which SlottedWithMethod"
    ):
        SlottedWithMethod(var(backend)).step()


class Cyclic:
    def __init__(self, backend: str) -> None:
        self.v = var(backend)
        self.children = [Plain(v=var(backend), parent=self)]

    @sv.jit
    def step(self) -> None:
        add_to(self.v, self.children[0].v)


def test_a_method_keeps_no_object_alive(backend: str) -> None:
    model = Cyclic(backend)
    step = model.step
    model.step()
    model.step()
    model.children.append(model.children[0])
    model.step()
    assert (float(model.v), float(model.children[0].v)) == (3.0, 3.0)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(ReferenceError, match="^jit: the object of the compiled method step no longer exists. Hint: "):
        step()


# -- copies ----------------------------------------------------------------------------------------------------


class Holder:
    def __init__(self, backend: str) -> None:
        self.v = var(backend)
        self.compiled = sv.jit(self.add)
        self.own = self.step

    def add(self) -> None:
        self.v.assign_add(10.0)

    @sv.jit
    def step(self) -> None:
        self.v.assign_add(1.0)


@sv.jit
def at_module_level(x: Any) -> Any:
    return x


def _pickled(each: Any) -> Any:
    return pickle.loads(pickle.dumps(each))


def _cloudpickled(each: Any) -> Any:
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(each))


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled, _cloudpickled])
def test_a_copy_of_a_module_with_compiled_functions(copied: Callable[[Any], Any], backend: str) -> None:
    """A weak reference in it could not be pickled, and a copied method wrote the variables of the original."""
    model = Holder(backend)
    model.step()
    model.compiled()
    other = copied(model)
    for _ in range(2):
        other.step()
        other.own()
        other.compiled()
    model.step()
    assert (float(model.v), float(other.v)) == (12.0, 35.0)


def test_a_shallow_copy_has_its_own_method(backend: str) -> None:
    model = Equal(1, var(backend))
    model.step()
    other = copy.copy(model)
    object.__setattr__(other, "v", var(backend))
    other.step()
    assert (float(model.v), float(other.v)) == (1.0, 1.0)


@pytest.mark.parametrize("copied", [copy.copy, _pickled, _cloudpickled])
def test_a_copy_of_a_compiled_function(copied: Callable[[Any], Any]) -> None:
    assert copied(at_module_level) is at_module_level


def test_a_pickled_method_keeps_its_object(backend: str) -> None:
    model = Equal(1, var(backend, 5.0))
    step = _pickled(model.step)
    gc.collect()
    step()
    assert float(model.v) == 5.0


def test_the_code_of_a_function_is_pickled_where_it_can_be(backend: str) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    v = var(backend, 5.0)
    step = sv.jit(lambda x: v.assign_add(x).value)
    step(1.0)
    assert_same(pickle.loads(cloudpickle.dumps(step))(2.0), 8.0)
    assert float(v) == 6.0
    with pytest.raises(Exception, match="lambda"):
        pickle.dumps(step)


# -- names of arguments ----------------------------------------------------------------------------------------


def test_no_name_of_an_argument_is_taken(backend: str) -> None:
    """`self` and some others were."""
    v = var(backend, 2.0, trainable=False)
    w = var(backend)
    names = ("self", "fn", "args", "kwargs", "config", "written", "read", "program", "values", "x", "call", "variables")
    for name in names:
        out = eval(f"lambda {name}, y: {name} * v.value + y", {"v": v})
        x = v.value
        for wrap in (
            sv.jit,
            sv.remat,
            lambda fn: lambda **each: sv.value_and_grad(fn, w)(**each)[0],
            lambda fn: lambda **each: sv.functionalize(fn, [v])([v.value], **each)[0],
        ):
            assert_same(wrap(out)(**{name: x, "y": x}), 6.0)
        rows = np.full(3, 2.0, "float32")
        given = sv.Variable(rows, backend=backend).value
        assert_same(sv.vmap(out)(**{name: given, "y": given}), np.full(3, 6.0))


# -- random numbers --------------------------------------------------------------------------------------------


DRAWS: dict[str, tuple[Callable[[], Any], str]] = {
    "np.random": (lambda: np.random.rand(), "np.random"),
    "random": (lambda: random.random(), "random"),
    "a generator": (lambda: GENERATOR.random(), "a Generator"),
    "a RandomState": (lambda: STATE_OF_RANDOM.rand(), "a RandomState"),
}
GENERATOR: Any = np.random.default_rng(0)
STATE_OF_RANDOM: Any = np.random.RandomState(0)


@pytest.mark.parametrize("draw", DRAWS)
def test_random_numbers_that_would_be_frozen(draw: str, backend: str) -> None:
    """Each call got the same numbers, without a word."""
    function, name = DRAWS[draw]
    v = var(backend)
    step = sv.jit(lambda: v.assign(v.value * 0.0 + np.float32(function())), backend=backend)
    if backend == "numpy":
        step()
        first = float(v)
        step()
        assert float(v) != first
        return
    with pytest.warns(RuntimeWarning, match=f"^jit: .* draws random numbers from {name} while it is compiled"):
        step()
    step()  # which warns no more: warnings are errors here


def test_no_warning_without_random_numbers(backend: str) -> None:
    v = var(backend)
    made: list[sv.Variable] = []

    def step() -> None:
        if not made:
            made.append(sv.Variable("normal", shape=(2,), backend=backend))
        v.assign_add(1.0)

    compiled = sv.jit(step, backend=backend)
    compiled()
    compiled()
    assert float(v) == 2.0


def test_the_name_of_a_mapped_axis(backend: str) -> None:
    v = var(backend, [1.0, 3.0], trainable=False)
    if backend != "jax":
        with pytest.raises(ValueError, match=f"^vmap: {backend} has no operations over a named axis, got axis"):
            sv.vmap(lambda x: x, axis_name="batch")(v.value)
        return
    jax: Any = pytest.importorskip("jax")

    total = var("jax", 0.0, trainable=False)

    def centred(x: Any) -> Any:
        mean = jax.lax.pmean(x, "batch")
        total.assign_add(mean)
        return x - mean

    for mapped in (sv.vmap(centred, axis_name="batch"), sv.jit(sv.vmap(centred, axis_name="batch"))):
        assert_same(mapped(v.value), [-1.0, 1.0])
    assert float(total) == 4.0
