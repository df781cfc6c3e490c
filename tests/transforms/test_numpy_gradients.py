"""Gradients of NumPy code through the package ``autograd``, and `sv.jit` on NumPy."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import BackendNotInstalledError, ConflictError, DTypeError, TraceError

autograd = pytest.importorskip("autograd")
anp = pytest.importorskip("autograd.numpy")

Array = np.ndarray[Any, Any]


def pair() -> tuple[sv.Variable, sv.Variable]:
    """A matrix and a vector, in float64 so that finite differences tell something."""
    matrix = sv.Variable(np.array([[0.5, -1.25], [2.0, 0.75]]), name="m")
    return matrix, sv.Variable(np.array([1.5, -0.5]), name="w")


def by_differences(fn: Callable[[], Any], v: sv.Variable, step: float = 1e-6) -> Array:
    """The gradient of a scalar by central differences."""
    before = v.numpy()
    result = np.zeros_like(before)
    for index in np.ndindex(before.shape):
        sides = []
        for sign in (1, -1):
            moved = before.copy()
            moved[index] += sign * step
            v.assign(moved)
            sides.append(float(fn()))
        result[index] = (sides[0] - sides[1]) / (2 * step)
    v.assign(before)
    return result


def check(fn: Callable[[], Any], *variables: sv.Variable) -> None:
    """The gradients of a function that writes nothing, against finite differences."""
    expected = float(fn())
    value, gradients = sv.value_and_grad(fn, list(variables))()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for v, gradient in zip(variables, gradients, strict=True):
        assert type(gradient) is np.ndarray
        assert gradient.dtype == v.dtype
        np.testing.assert_allclose(gradient, by_differences(fn, v), rtol=1e-5, atol=1e-7)


# -- what code may be written like ------------------------------------------------------------------------------

X = np.array([0.3, -0.7])

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "ufunc of a variable": lambda m, w: np.sum(np.sin(m)),
    "ufunc of its value": lambda m, w: np.sum(np.sin(m.value)),
    "sum of a variable": lambda m, w: np.sum(m) * np.sum(w),
    "sum of its value": lambda m, w: np.sum(m.value * 2),
    "method": lambda m, w: (m.value * w).sum(axis=0)[1],
    "dot": lambda m, w: np.sum(np.dot(m, w)),
    "dot with an array": lambda m, w: np.sum(np.dot(m, X)),
    "where": lambda m, w: np.sum(np.where(m > 0, m, w)),
    "matmul": lambda m, w: (m @ w).sum(),
    "matmul of an array": lambda m, w: (m @ X).sum() + (X @ w),
    "element": lambda m, w: m[0, 1] * w[0],
    "slice": lambda m, w: (m[:, 0] * w).sum(),
    "elements, one twice": lambda m, w: m[[0, 0, 1], [1, 1, 0]].sum(),
    "mask": lambda m, w: m[m > 0].sum(),
    "array + variable": lambda m, w: (X + w).sum() + (X - m).sum(),
    "scalar of NumPy": lambda m, w: (np.float64(3) * w).sum(),
    "value * variable": lambda m, w: (m.value * w).sum() + (w.value - m).sum(),
    "result * variable": lambda m, w: (np.exp(m) * w / 2).sum(),
    "concatenate": lambda m, w: (np.concatenate([m, m.value * 2, [[1.0, 2.0]]]) ** 2).sum(),
    "stack": lambda m, w: np.prod(np.stack([w, w * 3, X])),
    "vstack, hstack": lambda m, w: np.sum(np.vstack([m, w]) ** 2) + np.hstack([w, w]).sum(),
    "mean, std, var": lambda m, w: np.mean(m) + np.std(m) * np.var(w),
    "norm, inv, det": lambda m, w: np.linalg.norm(m) + np.linalg.inv(m).sum() + np.linalg.det(m),
    "solve": lambda m, w: np.linalg.solve(m, w).sum(),
    "max, min": lambda m, w: np.max(m) * np.min(w),
    "maximum": lambda m, w: np.maximum(m, w).sum(),
    "einsum": lambda m, w: np.einsum("ij,j,i->", m, w, w),
    "outer": lambda m, w: np.outer(w, w)[0, 1],
    "cumsum": lambda m, w: (np.cumsum(w) ** 2).sum(),
    "reshape, T": lambda m, w: (m.value.reshape(4)[1:3] * w).sum() + (m.value.T @ w)[0],
    "clip": lambda m, w: np.clip(m, -1.0, 1.0).sum(),
    "logaddexp, tanh, hypot": lambda m, w: np.logaddexp(m, w).sum() + np.tanh(w).sum() + np.sqrt(m**2 + 1).sum(),
    "abs, neg, pow, reflected": lambda m, w: abs(-m).sum() + (m**2).sum() + (2**w).sum() + (1 / w).sum() + (1 - w)[0],
    "iteration": lambda m, w: sum(row.sum() * w[0] for row in m),
    "shape": lambda m, w: np.sum(m) * len(m) * np.shape(m)[0] * np.ndim(m) * m.value.shape[1],
    "control flow": lambda m, w: np.sum(m) if m[0, 0] > 0 else np.sum(w),
    "autograd.numpy": lambda m, w: anp.sum(anp.sin(m) * anp.dot(m.value, w.value)),
    "autograd.numpy of variables": lambda m, w: anp.sum(anp.dot(m, w)) + anp.sum(anp.multiply(m.value, w)),
    "autograd.numpy, one variable": lambda m, w: anp.sum(anp.dot(m.value, w)) + anp.sum(anp.add(X, w)),
    "ufunc.reduce": lambda m, w: np.add.reduce(np.multiply.reduce(m, axis=1)),
}


@pytest.mark.parametrize("form", FORMS, ids=list(FORMS))
def test_any_form_has_its_gradient(form: str) -> None:
    m, w = pair()
    check(lambda: FORMS[form](m, w), m, w)


def test_the_function_of_the_guide_runs_with_every_name_of_sin() -> None:
    _, w = pair()
    for sin in (np.sin, anp.sin):
        (gradient,) = sv.grad(lambda sin=sin: sin(w).sum(), [w])()
        np.testing.assert_allclose(gradient, np.cos(w.value))


_FFTS = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
_FFTS_OF_AXES = ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")


def weighed(y: Any) -> Any:
    """A real number to which each part of an array contributes in its own way."""
    weights = np.cos(np.arange(y.size)) + 1j * np.sin(1 + np.arange(y.size) ** 2)
    return np.sum(np.real(np.ravel(y) * weights))


def check_transform(name: str, v: Any, *args: Any, **kwargs: Any) -> None:
    check(lambda: weighed(getattr(np.fft, name)(v, *args, **kwargs)), v)


@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
def test_fourier_transforms(norm: Any) -> None:
    cases: list[dict[str, Any]] = [{}, {"n": 3}, {"n": 6}, {"n": 2, "axis": 0}, {"n": 4, "axis": -2}]
    cases_of_axes: list[dict[str, Any]] = [{}, {"s": (2, 6), "axes": (0, 1)}, {"s": (4, 3), "axes": (1, 0)}]
    for size in (4, 5):
        v = sv.Variable(np.sin(np.arange(3.0 * size)).reshape(3, size))
        for name in _FFTS:
            for kwargs in cases:
                check_transform(name, v, norm=norm, **kwargs)
            check_transform(name, v, 6, -1, norm)
        for name in _FFTS_OF_AXES:
            for kwargs in cases_of_axes:
                check_transform(name, v, norm=norm, **kwargs)
        for name in _FFTS_OF_AXES[4:]:
            check_transform(name, v, axes=(0,), norm=norm)


def check_of_complex(name: str, v: Any) -> None:
    check(lambda: weighed(getattr(np.fft, name)(np.exp(1j * v))), v)


def check_twice(name: str, v: Any) -> None:
    def squared() -> Any:
        y = getattr(np.fft, name)(v * v)
        return np.sum(np.real(y) ** 2 + np.imag(y) ** 2)

    check(lambda: np.sum(np.sin(sv.grad(squared, [v])()[0])), v)


def test_fourier_transforms_of_complex_numbers_and_twice() -> None:
    v = sv.Variable(np.array([1.0, -2.0, 0.5, 3.0]))
    for name in _FFTS:
        check_twice(name, v)
        if name not in ("rfft", "ihfft"):
            check_of_complex(name, v)
    with pytest.raises(TraceError, match=r"^np\.fftn: .*\(an axis is transformed twice\)"):
        sv.grad(lambda: weighed(np.fft.fftn(v, axes=(0, 0))))()


# -- dtypes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_gradient_has_the_dtype_of_the_variable(dtype: str) -> None:
    v = sv.Variable(np.array([1.0, 2.0]), dtype=dtype)
    value, gradients = sv.value_and_grad(lambda: np.sum(v * v))()
    assert value.dtype == v.dtype
    assert gradients[v].dtype == v.dtype
    assert gradients[v].astype("float32").tolist() == [2.0, 4.0]
    wide = np.array([1.0, 1.0])  # float64: the loss is wider, the gradient is not
    assert sv.grad(lambda: np.sum(v.value * wide.astype(v.dtype)), v)().dtype == v.dtype


def test_a_wide_loss_of_a_narrow_variable() -> None:
    v = sv.Variable([1.0, 2.0])
    value, gradient = sv.value_and_grad(lambda: np.sum(v * np.array([3.0, 4.0])), v)()
    assert value.dtype == np.float64
    assert gradient.dtype == np.float32


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_is_as_autograd_has_it(dtype: str) -> None:
    start = np.array([1 + 2j, 3 - 1j], dtype)

    def loss(z: Any) -> Any:
        return anp.sum(anp.real(z * anp.conj(z) + anp.exp(z)))

    v = sv.Variable(start)
    gradient = sv.grad(lambda: loss(v.value), v)()
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, autograd.grad(loss)(start), rtol=1e-5)
    plain = sv.grad(lambda: np.sum(np.real(v * np.conj(v)) + np.real(np.exp(v))), v)()
    np.testing.assert_allclose(plain, gradient, rtol=1e-6)


def test_a_scalar_variable_has_a_gradient_of_no_axes() -> None:
    v = sv.Variable(3.0)
    gradient = sv.grad(lambda: v * v, v)()
    assert type(gradient) is np.ndarray
    assert gradient.shape == ()
    assert gradient == 6.0


def test_gradients_end_at_integers() -> None:
    v = sv.Variable([1.5, 2.5])
    assert sv.grad(lambda: np.sum(v.value.astype("int32") * v), v)().tolist() == [1.0, 2.0]
    assert sv.grad(lambda: v.value.astype(int).sum() * v[0], v)().tolist() == [3.0, 0.0]
    with pytest.raises(DTypeError, match="int32 has no gradients"):
        sv.grad(lambda: None, sv.Variable(1))


def test_autocast_changes_reads_and_not_the_gradient() -> None:
    v = sv.Variable([1.0, 2.0])

    def loss() -> Any:
        with sv.autocast("float16"):
            assert v.value.dtype == np.float16
            return np.sum(v * v)

    assert sv.grad(loss, v)().dtype == np.float32


# -- writes ------------------------------------------------------------------------------------------------------


def test_an_assigned_value_keeps_its_gradient() -> None:
    v = sv.Variable([1.0, 2.0])
    out = sv.Variable([0.0, 0.0], trainable=False)

    def loss() -> Any:
        out.assign(v * 3.0).assign_add(v)
        return np.sum(out * out)

    value, gradient = sv.value_and_grad(loss, v)()
    assert value == 80.0
    assert gradient.tolist() == [32.0, 64.0]
    assert type(out.value) is np.ndarray
    assert out.value.tolist() == [4.0, 8.0]
    assert v.version == 0


def test_what_is_written_after_the_read_does_not_count() -> None:
    v = sv.Variable([1.0, 2.0])

    def loss() -> Any:
        before = v * v
        v.assign([10.0, 20.0])
        return np.sum(before)

    assert sv.grad(loss, v)().tolist() == [2.0, 4.0]
    assert v.value.tolist() == [10.0, 20.0]


INDICES: list[Any] = [
    0,
    (slice(None), 1),
    (slice(None, None, -1),),
    [1, 0],
    [0, 0],
    ([0, 1, 0], [1, 1, 1]),
    np.array([[True, False], [True, True]]),
    ...,
    slice(0, 0),
    (0, [1, 1, 1]),
]


@pytest.mark.parametrize("kind", ["set", "add", "subtract", "multiply", "divide", "min", "max"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_write_at_an_index_keeps_its_gradient(kind: str, index: Any) -> None:
    m, w = pair()
    start = np.array([[1.1, 2.2], [3.3, 4.4]])
    shape = start[index].shape

    def run(*, wants: bool) -> Any:
        target = sv.Variable(start, trainable=False)

        def loss() -> Any:
            target.assign(start * m)
            x = w[0] * np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape) + np.sum(m)
            getattr(target.at[index], kind)(x)
            return np.sum(target * target)

        return sv.grad(loss, [m, w])() if wants else loss()

    for v, gradient in zip((m, w), run(wants=True), strict=True):
        np.testing.assert_allclose(gradient, by_differences(lambda: run(wants=False), v), rtol=1e-5, atol=1e-6)


def test_a_plain_value_written_into_a_recorded_one_and_the_other_way() -> None:
    v = sv.Variable([1.0, 2.0, 3.0])
    plain = sv.Variable([0.0, 0.0, 0.0], trainable=False)

    def loss() -> Any:
        v[0] = 10.0
        plain[1:] = v[:2] * 2.0
        return np.sum(v * v) + np.sum(plain)

    value, gradient = sv.value_and_grad(loss, v)()
    assert value == 100 + 4 + 9 + 20 + 4
    assert gradient.tolist() == [0.0, 6.0, 6.0]
    assert plain.value.tolist() == [0.0, 20.0, 4.0]


def test_an_exception_drops_the_writes() -> None:
    v = sv.Variable([1.0, 2.0])

    def loss() -> Any:
        v.assign_add(v * 2.0)
        raise KeyError

    with pytest.raises(KeyError):
        sv.grad(loss, v)()
    assert v.value.tolist() == [1.0, 2.0]
    assert v.version == 0


def test_an_error_inside_drops_the_writes_and_the_next_call_works() -> None:
    v = sv.Variable([1.0, 2.0])

    def loss(fails: bool) -> Any:
        v.assign_add([1.0, 1.0])
        return float(np.sum(v)) if fails else np.sum(v)

    with pytest.raises(TraceError):
        sv.grad(loss, v)(True)
    assert v.version == 0
    assert sv.grad(loss, v)(False).tolist() == [1.0, 1.0]
    assert v.value.tolist() == [2.0, 3.0]


# -- the rest of the contract ---------------------------------------------------------------------------------------


def test_zeros_where_a_variable_is_not_used() -> None:
    m, w = pair()
    unread, gradient = sv.grad(lambda: np.sum(w) * 1.0, [m, w])()
    assert unread.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert unread.dtype == np.float64
    assert gradient.tolist() == [1.0, 1.0]
    read = sv.grad(lambda: (m.value, np.sum(w))[1], m)()
    assert read.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_has_aux_and_the_value_are_plain() -> None:
    _, w = pair()
    (value, aux), gradient = sv.value_and_grad(lambda: (np.sum(w * w), {"double": [w * 2]}), w, has_aux=True)()
    assert type(value) is np.float64
    assert type(aux["double"][0]) is np.ndarray
    assert aux["double"][0].tolist() == [3.0, -1.0]
    assert gradient.tolist() == [3.0, -1.0]


def test_the_gradient_is_the_callers_own() -> None:
    _, w = pair()
    gradient = sv.grad(lambda: np.sum(w), w)()
    gradient[0] = 7.0
    assert sv.grad(lambda: np.sum(w), w)().tolist() == [1.0, 1.0]


def test_second_and_third_order_are_right() -> None:
    v = sv.Variable(np.array([1.0, 2.0, -1.0]))

    def first() -> Any:
        return sv.grad(lambda: np.sum(v**4), v)()

    def second() -> Any:
        return sv.grad(lambda: np.sum(first()), v)()

    np.testing.assert_allclose(first(), 4 * v.value**3)
    np.testing.assert_allclose(second(), 12 * v.value**2)
    np.testing.assert_allclose(sv.grad(lambda: np.sum(second() * v), v)(), 24 * v.value**2 + 12 * v.value**2)


def test_second_order_through_writes_is_right() -> None:
    v, out = sv.Variable(np.array([1.0, 2.0])), sv.Variable(np.zeros(3), trainable=False)

    def inner() -> Any:
        out.at[[0, 0, 2]].set(np.stack([v[0], v[0] ** 3, v[1] ** 3]))
        out.at[[0, 0]].multiply(v[1])
        return np.sum(out)

    def outer() -> Any:
        return np.sum(sv.grad(inner, v)() ** 2)

    # out = [a^3 b^2, 0, b^3]; its gradient is (3 a^2 b^2, 2 a^3 b + 3 b^2).
    a, b = v.value
    first, other = 3 * a**2 * b**2, 2 * a**3 * b + 3 * b**2
    expected = [
        2 * first * 6 * a * b**2 + 2 * other * 6 * a**2 * b,
        2 * first * 6 * a**2 * b + 2 * other * (2 * a**3 + 6 * b),
    ]
    np.testing.assert_allclose(sv.grad(outer, v)(), expected)


def test_it_works_inside_and_around_autograd_itself() -> None:
    v = sv.Variable(np.array([1.0, 2.0]))

    def of_x(x: Any) -> Any:
        return np.sum(sv.grad(lambda: np.sum(v * v * x), v)() ** 2)  # sum((2 v x)^2)

    x = np.array([3.0, 4.0])
    np.testing.assert_allclose(autograd.grad(of_x)(x), 8 * v.value**2 * x)

    def of_v() -> Any:
        return np.sum(autograd.grad(lambda x: anp.sum(v.value * x**2))(x))  # sum(2 v x)

    np.testing.assert_allclose(sv.grad(of_v, v)(), 2 * x)


def test_an_inner_gradient_may_read_first() -> None:
    v, w = sv.Variable(np.array([1.0, 2.0])), sv.Variable(np.array([3.0, 4.0]))

    def inner() -> Any:
        first = np.sum(w * 2.0)
        return first + np.sum(w * w * v)

    mixed = sv.grad(lambda: np.sum(sv.grad(inner, w)()), v)()
    np.testing.assert_allclose(mixed, 2 * w.value)
    with sv.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(v)
        total = np.sum(sv.grad(inner, [w])()[0])
    np.testing.assert_allclose(tape.gradient(total, v), 2 * w.value)


def test_autograd_alone_is_as_it_was() -> None:
    v = sv.Variable(X)
    sv.grad(lambda: np.sum(v), v)()
    np.testing.assert_allclose(autograd.grad(lambda x: anp.sum(anp.sin(x) * x.T))(X), np.cos(X) * X + np.sin(X))
    np.testing.assert_allclose(autograd.elementwise_grad(autograd.elementwise_grad(anp.sin))(X), -np.sin(X))
    with pytest.raises(TypeError, match="Can't differentiate w.r.t. type <class 'int'>"):
        autograd.grad(lambda x: x**2)(3)
    np.testing.assert_allclose(autograd.grad(lambda x: anp.sum(v * x + x * v))(X), 2 * X)


def test_threads_differentiate_at_once() -> None:
    found: list[Array] = []
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        v = sv.Variable(np.array([1.0, seed]))
        try:
            each = sv.grad(lambda: np.sum(sv.grad(lambda: np.sum(v**3), v)() ** 2), v)
            found.extend(each() / v.value**3 for _ in range(30))
        except BaseException as error:  # noqa: BLE001  # shown below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 240
    for each in found:
        np.testing.assert_allclose(each, [36.0, 36.0])


def test_nothing_is_kept_alive() -> None:
    def differentiate() -> weakref.ref[sv.Variable]:
        v = sv.Variable(np.ones(1000))
        sv.grad(lambda: np.sum(np.sin(v) * v), v)()
        return weakref.ref(v)

    held = differentiate()
    gc.collect()
    assert held() is None


# -- what cannot be differentiated is an error ------------------------------------------------------------------------

LOST = r": the gradient of this value is being recorded, and would be lost in a plain array or number"

SCALAR: sv.Variable = sv.Variable(2.0, name="scalar")

REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "np.asarray": (lambda m, w: np.asarray(m).sum(), rf"np\.asarray{LOST}, at 'm'\. Hint: compute with np functions"),
    "np.asarray of a value": (lambda m, w: np.asarray(m.value).sum(), rf"np\.asarray{LOST}"),
    "np.array of values": (lambda m, w: np.array([m[0, 0], m[0, 1]]).sum(), rf"np\.asarray{LOST}"),
    "a list": (lambda m, w: np.sum([w[0] * 2, w[1] * w[0]]), rf"np\.asarray{LOST}"),
    "float": (lambda m, w: float(np.sum(w)) * np.sum(w), rf"float{LOST}"),
    "float of a variable": (lambda m, w: float(SCALAR) * np.sum(w), rf"float{LOST}, at 'scalar'"),
    "int": (lambda m, w: int(w[0]) * np.sum(w), rf"int{LOST}"),
    "item": (lambda m, w: w[0].item() * np.sum(w), rf"item{LOST}"),
    "tolist": (lambda m, w: sum(w.value.tolist()), rf"tolist{LOST}"),
    "numpy": (lambda m, w: m.numpy().sum(), rf"np\.asarray{LOST}, at 'm'"),
    "no gradient": (
        lambda m, w: np.nextafter(m, 1).sum(),
        r"np\.nextafter: the package autograd has no gradient for this function\. Hint: use other functions",
    ),
    "no such gradient": (
        lambda m, w: np.sort(m).sum(),
        r"np\.sort: .* no gradient for this function \(.*multi-dimensional.*Hint",
    ),
    "no gradient of a function": (lambda m, w: np.interp(w, X, X).sum(), r"np\.interp: .* has no gradient"),
    "no gradient of a method": (lambda m, w: np.multiply.outer(w, w).sum(), r"np\.multiply\.outer: .* no gradient"),
    "out": (lambda m, w: np.add(w, 1, out=np.zeros(2)).sum(), r"np\.add: out= would lose the gradient"),
    "out of a function": (lambda m, w: np.sum(w, out=np.zeros(())), r"np\.\w+: out= would lose the gradient"),
    "keyword": (lambda m, w: np.sum(a=m), r"np\.sum: autograd does not see .* Hint: pass it by position"),
    "keywords of a ufunc": (
        lambda m, w: np.add(w, w, where=[True, False]).sum(),
        r"np\.add with where: .* no gradient",
    ),
    "setitem": (
        lambda m, w: w.value.__setitem__(0, 1.0),
        r"setitem: .* cannot be changed in place\. Hint: use np\.where, or v\.at",
    ),
}


@pytest.mark.parametrize("name", REFUSED, ids=list(REFUSED))
def test_a_gradient_is_never_cut_in_silence(name: str) -> None:
    m, w = pair()
    fn, message = REFUSED[name]
    with pytest.raises(TraceError, match=message):
        sv.grad(lambda: fn(m, w))()


def test_outside_nothing_of_this_is_seen() -> None:
    v = sv.Variable([1.0, 2.0])
    kept: list[Any] = []

    def loss() -> Any:
        kept.append(v.value)
        return np.sum(v)

    sv.grad(loss, v)()
    assert not hasattr(v, "__array_function__")  # in the class NumPy finds it
    # What was let out of the function is an array again.
    assert np.asarray(kept[0]).tolist() == [1.0, 2.0]
    assert float(kept[0][1]) == 2.0
    assert type(kept[0] * 2) is np.ndarray
    assert repr(kept[0]) == repr(v.value)


def test_printing_inside_shows_the_value() -> None:
    v = sv.Variable([1.0, 2.0])
    shown: list[str] = []

    def loss() -> Any:
        shown.extend([repr(v), f"{v.value}"])
        return np.sum(v)

    sv.grad(loss, v)()
    assert "Variable" in shown[0]
    assert shown[1] == "<recorded array([1., 2.], dtype=float32)>"


def test_another_library_does_not_take_what_is_recorded(backend: str) -> None:
    if backend == "numpy":
        pytest.skip("it is NumPy's own")
    v, other = sv.Variable([1.0, 2.0]), sv.Variable([0.0, 0.0], backend=backend, trainable=False)
    with pytest.raises(TraceError):
        sv.grad(lambda: (other.assign(v.value), np.sum(v))[1], v)()
    assert other.numpy().tolist() == [0.0, 0.0]


def test_another_library_does_not_read_what_is_recorded() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], name="v")
    with pytest.raises(TraceError, match=r"a conversion for torch: the gradient .* would be lost.*, at 'v'"):
        sv.grad(lambda: torch.sin(v).sum(), v)()


def test_a_recorded_value_is_checked_as_any_other() -> None:
    v, narrow, count = sv.Variable(np.array([1e30])), sv.Variable([0.0]), sv.Variable([1])
    with pytest.raises(sv.errors.RangeError, match="out of the range of float32"):
        sv.grad(lambda: (narrow.assign(v * v), np.sum(v))[1], v)()
    with pytest.raises(DTypeError, match="assign"):
        sv.grad(lambda: (count.assign(v * 0.0), np.sum(v))[1], v)()
    with pytest.raises(sv.errors.ShapeError, match=r"expected shape \(1,\), got \(2,\)"):
        sv.grad(lambda: (narrow.assign(np.stack([v[0], v[0]]) * 0), np.sum(v))[1], v)()


def test_a_variable_made_inside_keeps_the_gradient_and_the_value() -> None:
    v = sv.Variable([1.0, 2.0])
    kept: list[sv.Variable] = []

    def loss() -> Any:
        kept.append(sv.Variable(v * 2))
        return np.sum(kept[-1] ** 2)

    assert sv.grad(loss, v)().tolist() == [8.0, 16.0]
    assert kept[0].value.tolist() == [2.0, 4.0]
    assert type(kept[0].value) is np.ndarray


def test_without_autograd_the_error_is_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['autograd'] = None\n"
        "import numpy as np, statevar as sv\n"
        "v = sv.Variable([1.0])\n"
        "try: sv.grad(lambda: np.sum(v))()\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
        "print(np.sum(v), sv.jit(lambda: v.assign_add(1.0).value)())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == (
        "BackendNotInstalledError gradient: NumPy itself computes no gradients, and the package autograd is not "
        "installed. Hint: pip install 'statevar[autograd]'.\n1.0 [2.]\n"
    )
    assert issubclass(BackendNotInstalledError, ImportError)


@pytest.mark.parametrize(
    ("code", "loads"), [("sv.jit(lambda: np.sin(v))()", False), ("sv.grad(lambda: np.sum(v))()", True)]
)
def test_autograd_is_loaded_for_those_who_differentiate(code: str, loads: bool) -> None:
    script = (
        f"import sys, numpy as np, statevar as sv\nv = sv.Variable([1.0])\n{code}\nprint('autograd' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == str(loads)


# -- small programs ---------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "sin": lambda y, m, w, s: np.sin(y),
    "* m": lambda y, m, w, s: y * m,
    "@ m": lambda y, m, w, s: y @ m * 0.5,
    "+ w": lambda y, m, w, s: w + y,
    "row": lambda y, m, w, s: y[0] * y,
    "where": lambda y, m, w, s: np.where(m > 0, y, 2 * y),
    "stack": lambda y, m, w, s: np.stack([y[0], w]),
    "keep": lambda y, m, w, s: s.assign(y).value,
    "keep more": lambda y, m, w, s: s.assign_add(y * 0.25).value,
    "keep at": lambda y, m, w, s: s.at[[0, 0]].add(y[1] * w).value,
    "keep row": lambda y, m, w, s: s.at[1].set(y[0]).value,
    "write w": lambda y, m, w, s: (w.assign(w * y[0, 1] * 0.5), y)[1],
    "mean": lambda y, m, w, s: y - np.mean(y),
    "tanh": lambda y, m, w, s: np.tanh(y) + np.dot(m, w),
}


@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))
def test_gradients_of_programs_are_their_finite_differences(names: list[str]) -> None:
    start = [each.numpy() for each in pair()]

    def build() -> tuple[Callable[[], Any], list[sv.Variable], sv.Variable]:
        m, w = (sv.Variable(each) for each in start)
        s = sv.Variable(np.full((2, 2), 0.1), trainable=False)

        def loss() -> Any:
            y = m * 1.0
            for name in names:
                y = STEPS[name](y, m, w, s)
            return np.sum(y * y) + np.sum(s * m)

        return loss, [m, w], s

    loss, variables, state = build()
    value, gradients = sv.value_and_grad(loss, variables)()
    plain, others, expected = build()
    np.testing.assert_allclose(value, float(plain()), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.value, expected.value, rtol=1e-12, atol=1e-12)  # what was written is the same
    for ours, theirs in zip(variables, others, strict=True):
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-12, atol=1e-12)

    for number, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            sides = []
            for sign in (1, -1):
                fresh, moved, _ = build()
                moved[number].at[index].add(sign * 1e-6)
                sides.append(float(fresh()))
            slope = (sides[0] - sides[1]) / 2e-6
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-4, atol=1e-5 + 1e-6 * abs(float(value)))


# -- jit ------------------------------------------------------------------------------------------------------


def test_jit_counts_with_eight_threads() -> None:
    total, count = sv.Variable(0.0), sv.Variable(0)
    seen: list[bool] = []

    @sv.jit
    def step(x: float) -> Any:
        before = count.value
        total.assign_add(x)
        count.assign(before + 1)
        seen.append(float(total) == float(count))
        return count.value

    threads = [threading.Thread(target=lambda: [step(1.0) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert float(total) == int(count) == 800
    assert all(seen)


def test_jit_knows_a_variable_of_a_branch_from_then_on() -> None:
    a, b = sv.Variable(0), sv.Variable(0)

    @sv.jit
    def step(other: bool) -> Any:
        target = b if other else a
        return target.assign(target.value + 1).value

    errors: list[BaseException] = []

    def work(other: bool) -> None:
        try:
            for i in range(50):
                step(other or i % 3 == 0)
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n % 2 == 0,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert int(a) + int(b) == 400


def test_jit_is_all_or_nothing() -> None:
    v, w = sv.Variable([1.0, 2.0]), sv.Variable(0)

    @sv.jit
    def step(x: Any) -> None:
        v.assign_add(1.0)
        w.assign(x)

    for _ in range(2):
        with pytest.raises(DTypeError):
            step("seven")
        assert v.value.tolist() == [1.0, 2.0]
        assert v.version == 0
    step(7)
    assert v.value.tolist() == [2.0, 3.0]
    assert int(w) == 7


def test_jit_takes_variables_as_arguments() -> None:
    step = sv.jit(lambda v, x: v.assign_add(x).value)
    a, b = sv.Variable(1.0), sv.Variable([10.0, 20.0])
    assert float(step(a, 1.0)) == 2.0
    assert step(b, 1.0).tolist() == [11.0, 21.0]
    assert float(step(a, 1.0)) == 3.0
    assert float(step(v=a, x=1.0)) == 4.0
    held = weakref.ref(a)
    del a
    gc.collect()
    assert held() is None  # an argument is not kept


def test_jit_keeps_a_variable_of_the_first_call_only() -> None:
    kept: list[sv.Variable] = []
    count = sv.Variable(np.array([0, 0]))

    @sv.jit
    def step(again: bool) -> Any:
        count.assign_add(1)
        passing = sv.Variable(np.array([5.0, 6.0]))
        passing.assign_add(1.0)
        if again or not kept:
            kept.append(sv.Variable(passing.value * 2, name="extra"))
        return kept[0].assign_add(1.0).value

    assert step(False).tolist() == [13.0, 15.0]
    assert step(False).tolist() == [14.0, 16.0]
    with pytest.raises(
        TraceError, match=r"jit: every call of the function creates a new variable, at 'extra'\. Hint: create it"
    ):
        step(True)
    assert count.value.tolist() == [2, 2]
    assert kept[0].value.tolist() == [14.0, 16.0]
    assert step(False).tolist() == [15.0, 17.0]


def test_jit_with_other_static_arguments_is_another_program() -> None:
    made: dict[int, sv.Variable] = {}

    def step(n: int, x: float) -> Any:
        if n not in made:
            made[n] = sv.Variable(np.zeros(n))
        return made[n].assign_add(x).value

    fast = sv.jit(step, static_argnums=0)
    assert [fast(n, 1.0).tolist() for n in (1, 2, 1)] == [[1.0], [1.0, 1.0], [2.0]]


def test_jit_inside_a_transaction_belongs_to_it() -> None:
    v = sv.Variable(0)
    step = sv.jit(lambda: v.assign_add(1).value)
    step()
    with pytest.raises(KeyError), sv.transaction(v):
        step()
        assert int(v) == 2
        raise KeyError
    assert int(v) == 1


def test_jit_of_a_training_step_learns() -> None:
    w, steps = sv.Variable(np.zeros(2)), sv.Variable(0)

    def loss(x: Any, y: Any) -> Any:
        return np.mean((x @ w - y) ** 2)

    @sv.jit
    def step(x: Any, y: Any) -> Any:
        value, gradients = sv.value_and_grad(loss)(x, y)
        for v, gradient in gradients.items():
            v.assign_sub(0.1 * gradient)
        steps.assign_add(1)
        return value

    x = np.random.default_rng(0).normal(size=(50, 2))
    for _ in range(200):
        last = step(x, x @ [1.0, -2.0])
    assert last < 1e-6
    np.testing.assert_allclose(w.value, [1.0, -2.0], atol=1e-3)
    assert int(steps) == 200


def test_jit_passes_a_conflict_of_its_own_on() -> None:
    v = sv.Variable(0)

    @sv.jit
    def step() -> None:
        v.assign_add(1)
        raise ConflictError("mine")

    for _ in range(2):
        with pytest.raises(ConflictError, match="mine"):
            step()
    assert int(v) == 0
