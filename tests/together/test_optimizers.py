"""The optimizers of each library on our variables, beside the same optimizers on the library's own parameters."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.together.examples import example

STEPS, EXAMPLES, FEATURES = 12, 16, 3
CLOSE = 1e-5  # a compiled step rounds in another order

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(EXAMPLES, FEATURES)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3).astype("float32")
KERNEL, BIAS = np.array([[0.5], [0.25], [-1.0]], "float32"), np.array(0.125, "float32")

Loss = Callable[[], Any]


def squares(kernel: Any, bias: Any, x: Any, y: Any) -> Any:
    """The mean square error of a linear model."""
    error = x @ kernel + bias - y
    total = (error * error).sum() if hasattr(error, "sum") else _tensorflow_sum(error * error)
    return total / EXAMPLES


def _tensorflow_sum(array: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(array)


def least_squares(backend: str) -> tuple[list[sv.Variable], Loss]:
    """Two variables, and the loss of the model that they are."""
    x, y = array_of(backend, X), array_of(backend, Y)
    kernel = sv.Variable(KERNEL, name="kernel", backend=backend)
    bias = sv.Variable(BIAS, name="bias", backend=backend)
    return [kernel, bias], lambda: squares(kernel.value, bias.value, x, y)


def check_step(variables: list[sv.Variable], step: Callable[[], object], *, counted: bool = True) -> None:
    """Takes one step, and asserts what everybody sees of it: the versions, the next read, and what was read before."""
    versions = [each.version for each in variables]
    before = [each.value for each in variables]
    copies = [each.numpy().copy() for each in variables]
    cut = sv.snapshot(variables)
    step()
    for variable, version, value, copy in zip(variables, versions, before, copies, strict=True):
        assert variable.version > version or not counted, f"{variable.path}: still at version {version}"
        assert not np.array_equal(variable.numpy(), copy), f"{variable.path}: nothing was written"
        assert_same(value, copy)
        assert_same(cut[variable], copy)
        assert_same(variable.value, variable.numpy())


# -- NumPy -------------------------------------------------------------------------------------------------------


def test_gradient_descent_by_hand_is_that_of_arrays(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    variables, loss = least_squares(backend)

    @sv.jit
    def step() -> None:
        for variable, gradient in zip(variables, sv.grad(loss, variables)(), strict=True):
            variable.assign_sub(0.1 * gradient)

    kernel, bias = KERNEL.copy(), BIAS.copy()
    for _ in range(STEPS):
        check_step(variables, step)
        error = 2 * (X @ kernel + bias - Y) / EXAMPLES
        kernel, bias = kernel - 0.1 * (X.T @ error), bias - 0.1 * error.sum()
    assert_same(variables[0], kernel, rtol=CLOSE)
    assert_same(variables[1], bias, rtol=CLOSE)


# -- JAX ---------------------------------------------------------------------------------------------------------

OPTAX: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda optax: optax.sgd(0.05),
    "momentum": lambda optax: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda optax: optax.adam(0.05),
    "adamw": lambda optax: optax.adamw(0.05, weight_decay=0.1),  # needs the weights
    "clipped, with a schedule": lambda optax: optax.chain(
        optax.clip_by_global_norm(0.5), optax.rmsprop(optax.cosine_decay_schedule(0.05, STEPS))
    ),
}


def optax_on_arrays(optimizer: Any) -> list[Any]:
    """As in optax's documentation."""
    import jax
    import optax

    x, y = array_of("jax", X), array_of("jax", Y)

    @jax.jit
    def step(weights: list[Any], state: Any) -> tuple[list[Any], Any]:
        gradients = jax.grad(lambda weights: squares(weights[0], weights[1], x, y))(weights)
        updates, state = optimizer.update(gradients, state, weights)
        updated: list[Any] = optax.apply_updates(weights, updates)
        return updated, state

    weights = [array_of("jax", KERNEL), array_of("jax", BIAS)]
    state = optimizer.init(weights)
    for _ in range(STEPS):
        weights, state = step(weights, state)
    return weights


@pytest.fixture
def optax() -> Any:
    pytest.importorskip("jax")
    return pytest.importorskip("optax")


@pytest.mark.parametrize("name", OPTAX)
def test_optax_learns_the_same_with_its_state_in_variables(optax: Any, name: str) -> None:
    import jax

    optimizer = OPTAX[name](optax)
    variables, loss = least_squares("jax")
    values = optimizer.init([each.value for each in variables])
    held = [sv.Variable(each, trainable=False) for each in jax.tree.leaves(values)]
    form = jax.tree.structure(values)

    @sv.jit
    def step() -> None:
        gradients = sv.grad(loss, variables)()
        state = jax.tree.unflatten(form, [each.value for each in held])
        updates, state = optimizer.update(gradients, state, [each.value for each in variables])
        for variable, update in zip(variables, updates, strict=True):
            variable.assign_add(update)
        for each, value in zip(held, jax.tree.leaves(state), strict=True):
            each.assign(value)

    for _ in range(STEPS):
        check_step(variables, step)
    for variable, expected in zip(variables, optax_on_arrays(optimizer), strict=True):
        assert_same(variable, expected, rtol=CLOSE)
    assert [each.version for each in held] == [STEPS] * len(held)


@pytest.mark.parametrize("name", OPTAX)
def test_optax_learns_the_same_with_its_state_as_an_argument(optax: Any, name: str) -> None:
    optimizer = OPTAX[name](optax)
    variables, loss = least_squares("jax")

    @sv.jit
    def update(state: Any) -> Any:
        gradients = sv.grad(loss, variables)()
        updates, state = optimizer.update(gradients, state, [each.value for each in variables])
        for variable, change in zip(variables, updates, strict=True):
            variable.assign_add(change)
        return state

    state = optimizer.init([each.value for each in variables])

    def step() -> None:
        nonlocal state
        state = update(state)

    for _ in range(STEPS):
        check_step(variables, step)
    for variable, expected in zip(variables, optax_on_arrays(optimizer), strict=True):
        assert_same(variable, expected, rtol=CLOSE)


def test_optax_learns_the_same_without_compiling(optax: Any) -> None:
    optimizer = optax.adam(0.05)
    variables, loss = least_squares("jax")
    state = optimizer.init([each.value for each in variables])

    def step() -> None:
        nonlocal state
        updates, state = optimizer.update(sv.grad(loss, variables)(), state)
        with sv.transaction(variables):
            for variable, update in zip(variables, updates, strict=True):
                variable.assign_add(update)

    for _ in range(STEPS):
        check_step(variables, step)
    for variable, expected in zip(variables, optax_on_arrays(optimizer), strict=True):
        assert_same(variable, expected, rtol=CLOSE)


# -- torch -------------------------------------------------------------------------------------------------------

TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "momentum, all at once": ("SGD", {"lr": 0.05, "momentum": 0.9, "foreach": True}),
    "Adam": ("Adam", {"lr": 0.05}),
    "Adam, all at once": ("Adam", {"lr": 0.05, "foreach": True}),
    "Adam, fused": ("Adam", {"lr": 0.05, "fused": True}),
    "AdamW": ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.05, "momentum": 0.5}),
    "Adagrad": ("Adagrad", {"lr": 0.05}),
    "LBFGS": ("LBFGS", {"lr": 0.1, "max_iter": 2}),
}


def counted(name: str) -> bool:
    """Whether torch counts what its optimizer writes: not in its fused kernels, for its own parameters neither."""
    return name != "Adam, fused"


def torch_on_parameters(name: str, steps: int) -> list[Any]:
    import torch

    x, y = torch.tensor(X), torch.tensor(Y)
    kernel, bias = torch.nn.Parameter(torch.tensor(KERNEL)), torch.nn.Parameter(torch.tensor(BIAS))
    run = torch_step(name, [kernel, bias], lambda: squares(kernel, bias, x, y))
    for _ in range(steps):
        run()
    assert (kernel._version > 0) == counted(name)
    return [kernel.detach(), bias.detach()]


def torch_step(name: str, parameters: list[Any], loss: Loss) -> Callable[[], Any]:
    """The step of a torch program; LBFGS asks for the loss several times."""
    import torch

    kind, options = TORCH[name]
    optimizer = getattr(torch.optim, kind)(parameters, **options)

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return lambda: optimizer.step(closure)


@pytest.mark.parametrize("name", TORCH)
def test_torch_optim_learns_what_it_learns_on_parameters(name: str) -> None:
    pytest.importorskip("torch")
    variables, loss = least_squares("torch")
    parameters = [each.parameter for each in variables]
    step = torch_step(name, parameters, loss)
    for _ in range(STEPS):
        check_step(variables, step, counted=counted(name))
    for variable, parameter, expected in zip(variables, parameters, torch_on_parameters(name, STEPS), strict=True):
        assert_same(variable, expected, rtol=CLOSE)
        assert variable.parameter is parameter


@pytest.mark.parametrize("name", ["momentum", "Adam"])
def test_torch_optim_takes_our_gradients(name: str) -> None:
    torch = pytest.importorskip("torch")
    variables, loss = least_squares("torch")
    parameters = [each.parameter for each in variables]
    kind, options = TORCH[name]
    optimizer = getattr(torch.optim, kind)(parameters, **options)

    def step() -> None:
        for parameter, gradient in zip(parameters, sv.grad(loss, variables)(), strict=True):
            parameter.grad = gradient
        optimizer.step()

    for _ in range(STEPS):
        check_step(variables, step)
    for variable, expected in zip(variables, torch_on_parameters(name, STEPS), strict=True):
        assert_same(variable, expected, rtol=CLOSE)


def test_torch_optim_goes_on_from_what_we_assign() -> None:
    """A step, an assignment while a snapshot lives (so the memory is replaced), a step: one parameter throughout."""
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    optimizer = torch.optim.SGD([v.parameter], lr=0.25)

    def step() -> None:
        optimizer.zero_grad()
        (v.value**2).sum().backward()
        optimizer.step()

    step()
    held = v.value
    v.assign([4.0, 8.0])
    step()
    assert_same(v, [2.0, 4.0])
    assert_same(held.detach(), [0.5, 1.0])


# -- TensorFlow ----------------------------------------------------------------------------------------------------

KERAS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda keras: keras.optimizers.SGD(0.05),
    "momentum": lambda keras: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "Adam": lambda keras: keras.optimizers.Adam(0.05),
    "AdamW": lambda keras: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "RMSprop": lambda keras: keras.optimizers.RMSprop(0.05, momentum=0.5),
    "Adam, clipped": lambda keras: keras.optimizers.Adam(0.05, global_clipnorm=0.5),
}
TENSORFLOW: dict[str, Callable[[Any], Any]] = {
    "GradientDescentOptimizer": lambda train: train.GradientDescentOptimizer(0.05),
    "MomentumOptimizer": lambda train: train.MomentumOptimizer(0.05, 0.9),
    "AdamOptimizer": lambda train: train.AdamOptimizer(0.05),
    "AdagradOptimizer": lambda train: train.AdagradOptimizer(0.05),
}


@pytest.fixture
def tf() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


@pytest.fixture
def keras(tf: Any) -> Any:
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "tensorflow":
        pytest.skip(f"keras was loaded with its {keras.config.backend()} backend, and takes one a process")
    return keras


def tensorflow_on_variables(tf: Any, optimizer: Any) -> list[Any]:
    x, y = tf.constant(X), tf.constant(Y)
    weights = [tf.Variable(KERNEL), tf.Variable(BIAS)]
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            loss = squares(weights[0], weights[1], x, y)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    return [each.numpy() for each in weights]


def check_tensorflow(tf: Any, make: Callable[[], Any], *, graph: bool) -> None:
    """A step as TensorFlow's guide writes it; what is differentiated and updated is the parameter of a variable."""
    variables, loss = least_squares("tensorflow")
    parameters = [each.parameter for each in variables]
    optimizer = make()
    if hasattr(optimizer, "build"):
        optimizer.build(parameters)  # Keras makes its variables; not in a graph

    def step() -> None:
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, parameters), parameters, strict=True))

    run = tf.function(step) if graph else step
    for _ in range(STEPS):
        # TensorFlow keeps no count of the writes to a tf.Variable.
        check_step(variables, run, counted=False)
    for variable, parameter, expected in zip(variables, parameters, tensorflow_on_variables(tf, make()), strict=True):
        assert_same(variable, expected, rtol=CLOSE)
        assert variable.parameter is parameter


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("name", KERAS)
def test_keras_optimizers_learn_what_they_learn_on_their_variables(tf: Any, keras: Any, name: str, graph: bool) -> None:
    check_tensorflow(tf, lambda: KERAS[name](keras), graph=graph)


@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow_optimizers_learn_what_they_learn_on_their_variables(tf: Any, name: str) -> None:
    check_tensorflow(tf, lambda: TENSORFLOW[name](tf.compat.v1.train), graph=False)


@pytest.mark.parametrize("name", ["momentum", "Adam"])
def test_keras_optimizers_take_our_gradients(tf: Any, keras: Any, name: str) -> None:
    variables, loss = least_squares("tensorflow")
    parameters = [each.parameter for each in variables]
    optimizer = KERAS[name](keras)
    for _ in range(STEPS):
        check_step(variables, lambda: optimizer.apply(sv.grad(loss, variables)(), parameters), counted=False)
    for variable, expected in zip(variables, tensorflow_on_variables(tf, KERAS[name](keras)), strict=True):
        assert_same(variable, expected, rtol=CLOSE)


def test_keras_optimizers_go_on_from_what_we_assign(tf: Any, keras: Any) -> None:
    v = sv.Variable([1.0, 2.0], backend="tensorflow")
    optimizer = keras.optimizers.SGD(0.25)

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(v.value**2)
        optimizer.apply([tape.gradient(loss, v.parameter)], [v.parameter])

    step()
    held = v.value
    v.assign([4.0, 8.0])
    step()
    assert_same(v, [2.0, 4.0])
    assert_same(held, [0.5, 1.0])


# -- the example -------------------------------------------------------------------------------------------------


def test_the_example_reaches_one_loss(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    if backend in ("jax", "tensorflow"):
        request.getfixturevalue({"jax": "optax", "tensorflow": "keras"}[backend])
    losses = example("library_optimizers").main(["--backend", backend])
    assert losses
    assert list(losses.values()) == pytest.approx([0.408592] * len(losses), abs=2e-6)
