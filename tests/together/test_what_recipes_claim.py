"""What each recipe claims: beside the optimizers and layers of other libraries, and beside plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same, host
from tests.together.examples import example

STEPS, CLOSE = 12, 1e-6
_RNG = np.random.default_rng(0)
FIRST = [_RNG.normal(size=shape).astype("float32") for shape in ((3, 2), (2,))]
GRADIENTS = [[_RNG.normal(size=each.shape).astype("float32") for each in FIRST] for _ in range(STEPS)]

# -- optimizers: torch.optim, optax ----------------------------------------------------------------------------------

#: By name: ours, torch's, and optax's.
OPTIMIZERS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]], Callable[[Any], Any]]] = {
    "SGD": (("SGD", {}), ("SGD", {}), lambda optax: optax.sgd(0.05)),
    "momentum": (
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9}),
        lambda optax: optax.sgd(0.05, 0.9),
    ),
    "Nesterov": (
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        lambda optax: optax.sgd(0.05, 0.9, nesterov=True),
    ),
    "Adam": (("Adam", {}), ("Adam", {}), lambda optax: optax.adam(0.05)),
    "AdamW": (
        ("Adam", {"decay": 0.1}),
        ("AdamW", {"weight_decay": 0.1}),
        lambda optax: optax.adamw(0.05, weight_decay=0.1),
    ),
}


def ours(backend: str, name: str) -> list[np.ndarray[Any, Any]]:
    """The weights after all steps, eager."""
    (kind, options), _, _ = OPTIMIZERS[name]
    weights = [sv.Variable(each, backend=backend) for each in FIRST]
    optimizer = getattr(example("optimizers"), kind)(weights, rate=0.05, **options)
    for gradients in GRADIENTS:
        optimizer.apply(weights, [array_of(backend, each) for each in gradients])
    return [host(each) for each in weights]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_that_of_torch(name: str, backend: str) -> None:
    torch = pytest.importorskip("torch")
    _, (kind, options), _ = OPTIMIZERS[name]
    parameters = [torch.nn.Parameter(torch.tensor(each)) for each in FIRST]
    optimizer = getattr(torch.optim, kind)(parameters, lr=0.05, **options)
    for gradients in GRADIENTS:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
    for got, expected in zip(ours(backend, name), parameters, strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_that_of_optax(name: str) -> None:
    """In double precision there: in that of the weights, optax loses half of the digits of 1 - 0.999**steps."""
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        optimizer, weights = OPTIMIZERS[name][2](optax), [jax.numpy.array(each, "float64") for each in FIRST]
        state = optimizer.init(weights)
        for gradients in GRADIENTS:
            wide = [jax.numpy.array(each, "float64") for each in gradients]
            updates, state = optimizer.update(wide, state, weights)
            weights = optax.apply_updates(weights, updates)
        expected = [np.asarray(each) for each in weights]
    for got, each in zip(ours("numpy", name), expected, strict=True):
        np.testing.assert_allclose(got, each, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 100.0])
def test_gradients_are_clipped_as_torch_and_optax_clip_them(limit: float, backend: str) -> None:
    xp = sv.Variable(0.0, backend=backend).__array_namespace__()
    clipped = example("optimizers").clip_by_global_norm([array_of(backend, each) for each in GRADIENTS[0]], limit, xp)
    norm = np.sqrt(sum(np.sum(each.astype("float64") ** 2) for each in GRADIENTS[0]))
    for got, gradient in zip(clipped, GRADIENTS[0], strict=True):
        np.testing.assert_allclose(host(got), gradient * min(1, limit / norm), rtol=CLOSE)


def test_gradients_of_zero_stay_zero(backend: str) -> None:
    xp = sv.Variable(0.0, backend=backend).__array_namespace__()
    (clipped,) = example("optimizers").clip_by_global_norm([array_of(backend, np.zeros(3, "float32"))], 1.0, xp)
    assert_same(clipped, np.zeros(3))


def test_an_average_is_read_in_place_of_the_weights(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    average, expected = example("optimizers").Average([v], decay=0.5), np.array([1.0, 2.0])
    for value in ([3.0, 4.0], [5.0, 6.0]):
        v.assign(value)
        average.update([v])
        expected = 0.5 * expected + 0.5 * np.array(value)
    with average.applied([v]):
        assert_same(v.value, expected)
    assert_same(v, [5.0, 6.0])


def test_an_optimizer_goes_on_from_what_was_saved(backend: str) -> None:
    module = example("optimizers")
    weights = [sv.Variable(each, backend=backend) for each in FIRST]
    optimizer, gradients = module.Adam(weights, rate=0.05), [array_of(backend, each) for each in GRADIENTS[0]]
    optimizer.apply(weights, gradients)
    cut = sv.snapshot({"weights": weights, "optimizer": optimizer})
    optimizer.apply(weights, gradients)
    after = [host(each) for each in sv.variables([weights, optimizer])]
    sv.restore(cut)
    optimizer.apply(weights, gradients)
    for v, value in zip(sv.variables([weights, optimizer]), after, strict=True):
        assert_same(v, value)
    assert int(optimizer.steps) == 2


# -- the filter: arithmetic in double precision, and differences -----------------------------------------------------


@pytest.mark.usefixtures("compiled_quickly")
def test_the_filter_has_the_likelihood_of_numpy_and_the_derivatives_of_differences(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    kalman = example("kalman")
    _, measured = kalman.simulate(10, seed=3)
    model = kalman.Filter(backend)
    series = array_of(backend, measured, "float32")
    loss, gradients = sv.value_and_grad(model.loss, model.noises)(series)
    at = float(model.log_push), float(model.log_noise)
    assert float(loss) == pytest.approx(kalman.plain_loss(measured, *at), rel=1e-5)
    assert [float(each) for each in gradients] == pytest.approx(kalman.differences(measured, *at), rel=1e-3)


def test_the_filter_one_by_one_is_the_filter_by_scan() -> None:
    kalman = example("kalman")
    _, measured = kalman.simulate(10, seed=3)
    online, at_once = kalman.Filter("numpy"), kalman.Filter("numpy")
    total = sum(float(online.step(np.float32(one))) for one in measured)
    assert total == pytest.approx(float(at_once.run(measured.astype("float32"))[0]), rel=1e-5)
    np.testing.assert_allclose(online.mean.numpy(), at_once.mean.numpy(), rtol=1e-5)


# -- the wave --------------------------------------------------------------------------------------------------------


def test_the_wave_conserves_energy_in_place() -> None:
    wave = example("wave_equation")
    membrane = wave.Membrane("numpy", 40)
    first, heights = float(membrane.energy()), []
    for _ in range(10):
        energies = np.asarray(membrane.advance())
        np.testing.assert_allclose(energies, first, rtol=1e-5)
        heights.append(membrane.height.value)
    assert len({height.tobytes() for height in heights}) == 10, "what was read is not overwritten"
    assert not np.any(membrane.height.numpy()[wave.walls(40) == 0]), "the walls do not move"


# -- batch normalisation: torch, Keras -------------------------------------------------------------------------------

BATCHES = [_RNG.normal(3, 2, size=(7, 4)).astype("float32") for _ in range(5)]


def normalised(backend: str, *, unbiased: bool) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    """The layer after all batches, and what it returned: in training, and at last in evaluation."""
    layer = example("batch_norm").BatchNorm(4, backend, unbiased=unbiased)
    found = [host(sv.Variable(layer(array_of(backend, each), training=True))) for each in BATCHES]
    versions = [each.version for each in (layer.mean, layer.variance)]
    found.append(host(sv.Variable(layer(array_of(backend, BATCHES[0]), training=False))))
    assert [each.version for each in (layer.mean, layer.variance)] == versions, "evaluation changes nothing"
    return layer, found


def test_batch_norm_is_that_of_torch(backend: str) -> None:
    torch = pytest.importorskip("torch")
    layer, found = normalised(backend, unbiased=True)
    other = torch.nn.BatchNorm1d(4)
    with torch.no_grad():
        expected = [other(torch.tensor(each)).numpy() for each in BATCHES]
        expected.append(other.eval()(torch.tensor(BATCHES[0])).numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.mean.numpy(), other.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(layer.variance.numpy(), other.running_var.numpy(), rtol=1e-5)


def test_batch_norm_is_that_of_keras(backend: str) -> None:
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    layer, found = normalised(backend, unbiased=False)
    other = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    expected = [np.asarray(other(each, training=True)) for each in BATCHES]
    expected.append(np.asarray(other(BATCHES[0], training=False)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.mean.numpy(), np.asarray(other.moving_mean), rtol=1e-5)
    np.testing.assert_allclose(layer.variance.numpy(), np.asarray(other.moving_variance), rtol=1e-5)


# -- word vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled_quickly")
def test_rows_are_the_dense_gradient(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    words = example("word_vectors")
    of, near = _RNG.integers(6, size=12), _RNG.integers(6, size=(12, 3))  # words are repeated, and some are not met
    batch = [array_of(backend, each, "int32") for each in (of, near)]
    by_rows, dense = (words.WordVectors(backend, 9, 4, seed=0) for _ in range(2))
    for model in (by_rows, dense):
        model.contexts.assign(np.linspace(-1, 1, 36).reshape(9, 4))
    before = [host(each) for each in by_rows.tables]
    by_rows.step(*batch)
    dense.dense_step(*batch)
    for table, other, first in zip(by_rows.tables, dense.tables, before, strict=True):
        np.testing.assert_allclose(host(table), host(other), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(host(table)[6:], first[6:])
        assert not np.array_equal(host(table), first)


def test_words_of_one_group_become_alike(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("word_vectors").main(["--steps", "300", "--rounds=0"])
    assert found["alike"] > 0.9
    assert "% of the words have one of their group as the nearest" in capsys.readouterr().out
    random = _RNG.normal(size=(len(example("word_vectors").WORDS), 8))
    assert example("word_vectors").alike(random) < 0.6, "the measure can fail"
