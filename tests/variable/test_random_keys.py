"""Keys of `jax.random` are state like any other."""

from __future__ import annotations

import copy
import operator
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv

jax = pytest.importorskip("jax")
jnp = jax.numpy

IMPLEMENTATIONS = {"threefry2x32": "key<fry>", "rbg": "key<rbg>", "unsafe_rbg": "key<urbg>"}


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[(), (3,), (2, 2)], ids=str)
def keys(request: pytest.FixtureRequest, implementation: str) -> Any:
    key = jax.random.key(7, impl=implementation)
    return jax.random.split(key, request.param) if request.param else key


def numbers(keys: Any) -> list[Any]:
    """The numbers of keys, of a variable too."""
    found: list[Any] = np.asarray(jax.random.key_data(getattr(keys, "value", keys))).tolist()
    return found


def other(keys: Any) -> Any:
    """Other keys of the same implementation and shape."""
    data = jax.random.key_data(keys)
    return jax.random.wrap_key_data(data + 1, impl=jax.random.key_impl(keys))


def test_the_value_is_the_typed_key(keys: Any, implementation: str) -> None:
    v = sv.Variable(keys, name="rng")
    assert v.dtype == keys.dtype == v.value.dtype
    assert v.dtype_name == IMPLEMENTATIONS[implementation]
    assert v.shape == keys.shape
    assert v.nbytes == keys.nbytes
    assert not v.trainable
    assert numbers(v) == numbers(keys)
    assert jax.random.key_impl(v.value) == implementation
    assert f"dtype={v.dtype_name}" in repr(v)
    assert "unavailable" not in repr(v)
    assert bool((v == keys).all())
    with pytest.raises(sv.errors.DTypeError, match=r"^trainable: key<.*> has no gradients, at 'rng'"):
        v.trainable = True


def test_a_long_array_of_keys_is_shown_abridged() -> None:
    v = sv.Variable(jax.random.split(jax.random.key(0), 2000))
    shown = repr(v)
    assert "..." in shown
    assert "(" not in shown.partition("value=")[2]
    assert len(shown) < 500


def test_an_implementation_of_somebody_else_is_named() -> None:
    define = getattr(pytest.importorskip("jax.extend.random"), "define_prng_impl", None)
    if define is None:
        pytest.skip("this JAX has no way to make one")
    keep = jax.random.key_data(jax.random.key(0))
    own = define(
        key_shape=(2,),
        seed=lambda seed: keep,
        split=lambda key, shape: jnp.broadcast_to(keep, (*shape, 2)),
        random_bits=lambda key, width, shape: jnp.zeros(shape, "uint32"),
        fold_in=lambda key, data: key,
        name="own",
        tag="own",
    )
    with pytest.raises(sv.errors.DTypeError, match=r"and not key<own>.*Hint: store its numbers, jax.random.key_data"):
        sv.Variable(jax.random.key(0, impl=own))


def test_a_write_replaces_the_key(keys: Any) -> None:
    v = sv.Variable(keys)
    first = v.value
    for value in (other(keys), keys, other(keys)):
        v.assign(value)
        assert numbers(v) == numbers(value)
    v.assign(keys).assign(other(keys))  # nobody has read the value between
    assert v.version == 5
    assert numbers(first) == numbers(keys)
    assert numbers(v.update(lambda old: other(old))) == numbers(other(other(keys))) == numbers(v)
    v.assign(sv.Variable(keys))
    assert numbers(v) == numbers(keys)


def test_a_key_that_was_given_is_copied() -> None:
    key = jax.random.key(0)
    v = sv.Variable(key)
    v.assign(jax.random.key(1)).assign(jax.random.key(2))
    assert numbers(key) == [0, 0]
    later = jax.random.key(3)
    v.assign(later)
    jax.jit(lambda x: x, donate_argnums=0)(later)
    assert numbers(v) == [0, 3]


def test_a_donated_key_is_named(tmp_path: Path) -> None:
    v = sv.Variable(jax.random.key(0), name="rng")
    jax.jit(lambda key: jax.random.split(key)[0], donate_argnums=0)(v.value)
    if not v._handle.array.is_deleted():
        pytest.skip("this JAX has not used the memory of the key")
    for use in (lambda: sv.save({"rng": v}, tmp_path / "a"), lambda: v[...], lambda: sv.jit(lambda: v.value)()):
        with pytest.raises(sv.errors.UninitializedError, match="rng"):
            use()
    v.assign(jax.random.key(4))
    assert numbers(v) == [0, 4]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            lambda: jax.random.key(0, impl="rbg"),
            "cannot cast key<rbg> to key<fry>, at 'rng'.*Hint: pass a key of the same impl",
        ),
        (lambda: 5, "cannot cast int.* to key<fry>, at 'rng'.*Hint: pass a key: "),
        (lambda: 0.5, "cannot cast float.* to key<fry>, at 'rng'.*Hint: pass a key: "),
        (lambda: [1, 2], "cannot cast int.* to key<fry>, at 'rng'.*Hint: pass a key: "),
        (lambda: "a", "cannot cast string to key<fry>, at 'rng'.*Hint: pass a key: "),
        (lambda: np.zeros(2, np.uint32), "cannot cast uint32 to key<fry>, at 'rng'.*wrap_key_data"),
        (lambda: jnp.zeros(2, "uint32"), "cannot cast uint32 to key<fry>, at 'rng'.*wrap_key_data"),
        (lambda: sv.Variable(1.0, backend="numpy"), "cannot cast float32 to key<fry>, at 'rng'.*Hint: pass a key: "),
    ],
)
def test_nothing_else_is_assigned(value: Any, problem: str) -> None:
    v = sv.Variable(jax.random.key(0), name="rng")
    for write in (v.assign, lambda x: v.update(lambda _: x), lambda x: v.at[...].set(x)):
        with pytest.raises(sv.errors.DTypeError, match=problem):
            write(value())
    assert v.version == 0
    assert numbers(v) == [0, 0]


def test_no_arithmetic() -> None:
    v = sv.Variable(jax.random.split(jax.random.key(0), 3), name="rng")
    before = numbers(v)
    refused = ": key<fry> variables do not support arithmetic, at 'rng'. Hint: make a new key with jax.random.split"
    with pytest.raises(sv.errors.DTypeError, match=f"^add{refused}"):
        v += 1
    with pytest.raises(sv.errors.DTypeError, match=f"^assign_sub{refused}"):
        v.assign_sub(1)
    for operation in ("add", "multiply", "min", "power"):
        with pytest.raises(sv.errors.DTypeError, match=rf"^at\.{operation}{refused}"):
            getattr(v.at[0], operation)(1)
    with pytest.raises(sv.errors.DTypeError):
        operator.add(v, [1, 2, 3])
    with pytest.raises(TypeError):
        v + 1
    assert numbers(v) == before
    assert v.version == 0


def test_items() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    key, two = jax.random.key(9), jax.random.split(jax.random.key(8), 2)
    v = sv.Variable(keys)
    assert numbers(v[1]) == numbers(keys[1])
    assert numbers(v[1:3]) == numbers(keys[1:3])
    assert numbers(v[[3, 0]]) == numbers(keys[jnp.array([3, 0])])
    expected = numbers(keys)
    assert [numbers(each) for each in v] == expected
    for _ in range(2):  # without and with a reader of the value before
        v[1] = key
        expected[1] = numbers(key)
        v.at[2].set(two[0])
        expected[2] = numbers(two[0])
        assert numbers(v) == expected
        v[[0, 3]] = two
        expected[0], expected[3] = numbers(two)
        v[np.array([False, True, True, False])] = key
        expected[2] = numbers(key)
        assert numbers(v) == expected
    v[::-1] = keys
    assert numbers(v) == numbers(keys)[::-1]
    v[...] = key
    assert numbers(v) == [numbers(key)] * 4
    scalar = sv.Variable(key)
    scalar[...] = two[0]
    scalar.at[()].set(two[1])
    assert numbers(scalar) == numbers(two[1])


def test_a_variable_without_a_value_takes_its_first_key() -> None:
    v = sv.Variable(shape=(), dtype=jax.random.key(0).dtype, backend="jax", name="rng")
    assert v.dtype_name == "key<fry>"
    with pytest.raises(sv.errors.DTypeError, match="^assign: cannot cast int64 to key<fry>, at 'rng'"):
        v.assign(1)
    assert numbers(v.assign(jax.random.key(5))) == [0, 5]
    with pytest.raises(sv.errors.DTypeError, match="^Variable: a key of jax.random"):
        sv.Variable("zeros", shape=(), dtype="key<fry>", backend="jax")
    with pytest.raises(sv.errors.DTypeError, match="no array of numbers has the dtype key<fry>"):
        sv.initializers.zeros((), "key<fry>")


def test_a_key_is_no_number() -> None:
    v = sv.Variable(jax.random.key(0), name="rng")
    hint = r": a key of jax.random \(key<fry>\) is no number.*, at 'rng'. Hint: jax.random.key_data\(v.value\)"
    for ask in (v.numpy, lambda: np.asarray(v), v.item, v.tolist, lambda: float(v), lambda: np.sin(v)):
        with pytest.raises(sv.errors.DTypeError, match=hint):
            ask()
    with pytest.raises(sv.errors.DTypeError, match=f"^edit{hint}"), v.edit():
        pass
    with pytest.raises(sv.errors.DTypeError, match=r"^astype: cannot cast key<fry> to float32, at 'rng'.*key_data"):
        v.astype("float32")
    with pytest.raises(sv.errors.DTypeError, match=r"^dlpack: a key of jax.random.*key_data"):
        np.from_dlpack(v)
    with pytest.raises(sv.errors.DTypeError, match="cannot cast float32 to key<fry>"):
        sv.Variable(1.0, backend="jax").astype("key<fry>")
    with pytest.raises(sv.errors.DTypeError, match="cannot cast key<fry> to float32.*key_data"):
        sv.Variable(jax.random.key(0), dtype="float32")


def test_other_libraries_have_no_keys(backend: str) -> None:
    key = jax.random.key(0)
    w = sv.Variable(1.0, backend=backend, name="w")
    with pytest.raises(sv.errors.DTypeError, match=r"^assign: cannot cast key<fry> to float32, at 'w'.*key_data"):
        w.assign(key)
    if backend == "jax":
        return
    with pytest.raises(sv.errors.DTypeError, match=r"^Variable: .*only JAX has keys, at 'rng'.*jax.random.key_data"):
        sv.Variable(key, backend=backend, name="rng")
    with pytest.raises(sv.errors.DTypeError, match="cannot cast float32 to key<fry>"):
        w.astype("key<fry>")


def test_transactions_and_snapshots(keys: Any) -> None:
    v, w = sv.Variable(keys), sv.Variable(1.0, backend="jax")
    cut = sv.snapshot([v, w])
    with pytest.raises(ZeroDivisionError), sv.transaction():
        v.assign(other(keys))
        w.assign(2.0)
        assert numbers(v) == numbers(other(keys))
        raise ZeroDivisionError
    assert numbers(v) == numbers(keys)
    with sv.transaction():
        v.assign(other(keys))
        w.assign(2.0)
    assert numbers(v) == numbers(other(keys))
    assert numbers(cut[v]) == numbers(keys)
    sv.restore(cut)
    assert numbers(v) == numbers(keys)
    v.assign(other(keys))
    loaded = pickle.loads(pickle.dumps(cut))
    sv.restore(loaded)
    assert numbers(v) == numbers(keys)


def test_copies_and_pickles(keys: Any) -> None:
    v = sv.Variable(keys, name="rng")
    for made in (copy.copy(v), copy.deepcopy(v), pickle.loads(pickle.dumps(v))):
        assert made.dtype_name == v.dtype_name
        assert made.path == "rng"
        assert numbers(made) == numbers(keys)
        made.assign(other(keys))
        assert numbers(v) == numbers(keys)


def test_an_argument_of_a_transform_of_jax() -> None:
    v = sv.Variable(jax.random.key(3))
    assert float(jax.jit(lambda v: jax.random.normal(v.value))(v)) == float(jax.random.normal(v.value))
    frozen = jax.jit(lambda v: v)(v)
    copies = [frozen, copy.deepcopy(frozen)]
    if jax_pickles_keys():
        copies.append(pickle.loads(pickle.dumps(frozen)))
    for made in copies:
        assert numbers(made) == [0, 3]


def jax_pickles_keys() -> bool:
    """JAX 0.9 does not."""
    try:
        pickle.dumps(jax.random.key(0))
    except TypeError:
        return False
    return True


def test_jit() -> None:
    v = sv.Variable(jax.random.key(0))

    @sv.jit
    def draw() -> Any:
        key, sub = jax.random.split(v.value)
        v.assign(key)
        return jax.random.normal(sub)

    key = jax.random.key(0)
    for _ in range(4):
        key, sub = jax.random.split(key)
        assert float(draw()) == float(jax.random.normal(sub))
    assert numbers(v) == numbers(key)
    v.assign(jax.random.key(0))
    first = float(draw())
    assert first == float(jax.random.normal(jax.random.split(jax.random.key(0))[1]))
    with pytest.raises(sv.errors.DTypeError, match="cannot cast"):
        sv.jit(lambda: v.assign(1.0) and None)()


def test_jit_with_items() -> None:
    v = sv.Variable(jax.random.split(jax.random.key(0), 3))
    expected = numbers(v)

    @sv.jit
    def swap(i: Any) -> None:
        v[i] = v.value[i + 1]

    swap(jnp.array(0))
    expected[0] = expected[1]
    assert numbers(v) == expected


def test_gradients_beside_a_key() -> None:
    v, w = sv.Variable(jax.random.key(0)), sv.Variable([1.0, 2.0], backend="jax")

    def loss() -> Any:
        key, sub = jax.random.split(v.value)
        v.assign(key)
        return (w.value * jax.random.normal(sub, (2,))).sum()

    steps: list[Any] = [sv.value_and_grad(loss, w), sv.jit(sv.value_and_grad(loss, w))]
    for step in steps:
        v.assign(jax.random.key(0))
        _, grads = step()
        key, sub = jax.random.split(jax.random.key(0))
        found = jax.tree.leaves(grads)[0]
        assert np.allclose(np.asarray(found), np.asarray(jax.random.normal(sub, (2,))))
        assert numbers(v) == numbers(key)


def test_scan_and_vmap() -> None:
    v = sv.Variable(jax.random.key(0))

    def body(carry: Any, _: Any) -> Any:
        key, sub = jax.random.split(v.value)
        v.assign(key)
        return carry, jax.random.normal(sub)

    key, expected = jax.random.key(0), []
    for _ in range(3):
        key, sub = jax.random.split(key)
        expected.append(float(jax.random.normal(sub)))
    _, drawn = sv.scan(body, 0.0, jnp.zeros(3))
    assert np.allclose(np.asarray(drawn), expected)
    assert numbers(v) == numbers(key)

    many = sv.Variable(jax.random.split(jax.random.key(1), 3))
    before = many.value

    def step(x: Any) -> Any:
        key, sub = jax.random.split(many.value)
        many.assign(key)
        return x + jax.random.normal(sub)

    sv.vmap(step, variable_axes={many: 0})(jnp.zeros(3))
    assert numbers(many) == [numbers(jax.random.split(each)[0]) for each in before]


# -- files -----------------------------------------------------------------------------------------


def test_save_and_load(keys: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    v, w = sv.Variable(keys), sv.Variable([1.0, 2.0], backend="jax")
    sv.save({"rng": v, "w": w}, path)
    v.assign(other(keys))
    assert sv.load({"rng": v, "w": w}, path).loaded == ["rng", "w"]
    assert numbers(v) == numbers(keys)
    assert v.dtype == keys.dtype
    empty = sv.Variable(shape=keys.shape, dtype=keys.dtype, backend="jax")
    sv.load({"rng": empty}, path, strict=False)
    assert numbers(empty) == numbers(keys)
    assert sv.verify(path)
    with sv.load(path) as opened:
        assert opened.variables["rng"].dtype == v.dtype_name
        assert opened["rng"].dtype == np.uint32
        assert opened["rng"].tolist() == numbers(keys)


def test_other_readers_find_the_numbers(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    sv.save({"rng": sv.Variable(jax.random.key(5))}, tmp_path / "a")
    assert safetensors.load_file(tmp_path / "a")["rng"].tolist() == [0, 5]


def test_a_key_is_loaded_only_into_its_implementation(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    v = sv.Variable(jax.random.key(0))
    sv.save({"rng": v}, path)
    for target in (sv.Variable(jax.random.key(1, impl="rbg")), sv.Variable(np.zeros(2, np.uint32))):
        before = target.version
        for cast in (False, True):
            wanted = rf"mismatched  rng: expected {target.dtype_name}, got key<fry>"
            with pytest.raises(sv.errors.CheckpointMismatchError, match=wanted):
                sv.load({"rng": target}, path, cast=cast)
        assert target.version == before
    sv.save({"rng": sv.Variable(np.zeros(2, np.uint32))}, path)
    with pytest.raises(sv.errors.CheckpointMismatchError, match=r"rng: expected key<fry>, got uint32"):
        sv.load({"rng": v}, path)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    v = sv.Variable(jax.random.key(0))
    sv.save({"rng": v}, path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert list(sv.verify(path).damaged) == ["rng"]
    with pytest.raises(sv.errors.CheckpointError, match="rng"):
        sv.load({"rng": v}, path)
    assert v.version == 0


def test_a_manager(keys: Any, tmp_path: Path) -> None:
    v = sv.Variable(keys)
    with sv.CheckpointManager(tmp_path / "run", {"rng": v}) as manager:
        manager.save(1)
        v.assign(other(keys))
        manager.restore()
    assert numbers(v) == numbers(keys)
