"""The table of ``docs/protocols.md``: DLPack, calls without a copy, and what these must not cost."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from tests.helpers import address, array_of, assert_same
from tests.variable.protocols import LIBRARIES, OTHER, VALUE, Call, assert_result, double, lib, pointer, variable

# -- DLPack ------------------------------------------------------------------------------------------------------


DLPACK: dict[str, tuple[str, Call]] = {
    "np.from_dlpack": ("numpy", np.from_dlpack),
    "np.from_dlpack, copy=True": ("numpy", lambda v: np.from_dlpack(v, copy=True)),
    "jnp.from_dlpack": ("jax", lambda v: lib("jax.numpy").from_dlpack(v)),
    "torch.from_dlpack": ("torch", lambda v: lib("torch").from_dlpack(v)),
    "torch.as_tensor": ("torch", lambda v: lib("torch").as_tensor(v)),
    "torch.asarray": ("torch", lambda v: lib("torch").asarray(v)),
    "torch.tensor": ("torch", lambda v: lib("torch").tensor(v)),
    "tf.experimental.dlpack": (
        "tensorflow",
        lambda v: lib("tensorflow").experimental.dlpack.from_dlpack(v.__dlpack__()),
    ),
}


@pytest.mark.parametrize(("library", "call"), list(DLPACK.values()), ids=list(DLPACK))
def test_other_libraries_take_a_variable_by_dlpack(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    assert_result(call(variable(backend, trainable=False)), library, VALUE)


@pytest.mark.parametrize("library", LIBRARIES)
def test_dlpack_comes_in_as_any_array_does(backend: str, library: str) -> None:
    pytest.importorskip(library)
    source = np.from_dlpack(array_of(library, OTHER))
    assert_same(variable(backend).assign(source), OTHER)
    assert variable(library, OTHER, trainable=False).__dlpack_device__() == (1, 0)


def test_dlpack_of_a_trainable_torch_variable_names_the_way_round(torch: Any) -> None:
    v = variable("torch")
    for call in (np.from_dlpack, torch.from_dlpack, torch.as_tensor, torch.tensor):
        with pytest.raises(BufferError, match=r"v\.value.*v\.value\.detach\(\) or v\.numpy\(\)"):
            call(v)
    assert torch.from_dlpack(v.value.detach()).shape == (2, 2)
    assert torch.as_tensor(v.value).requires_grad
    assert_same(np.from_dlpack(v.value.detach()), VALUE)


def test_numpy_gets_a_read_only_array_by_dlpack(backend: str) -> None:
    assert not np.from_dlpack(variable(backend, trainable=False)).flags.writeable


# -- zero-copy, and what it must not cost ----------------------------------------------------------------------------


#: Large enough for the aligned buffers that JAX and TensorFlow take as they are.
LARGE = np.arange(8192, dtype=np.float32)

ZERO_COPY: dict[str, tuple[str, tuple[str, ...], Call]] = {
    "np.asarray": ("numpy", LIBRARIES, np.asarray),
    "np.from_dlpack": ("numpy", LIBRARIES, np.from_dlpack),
    "torch.as_tensor": ("torch", LIBRARIES, lambda v: lib("torch").as_tensor(v)),
    "torch.asarray": ("torch", LIBRARIES, lambda v: lib("torch").asarray(v)),
    "torch.from_dlpack": ("torch", LIBRARIES, lambda v: lib("torch").from_dlpack(v)),
    "jnp.asarray": ("jax", ("jax",), lambda v: lib("jax.numpy").asarray(v)),
    "jnp.from_dlpack": ("jax", ("jax",), lambda v: lib("jax.numpy").from_dlpack(v)),
    "jax.device_put": ("jax", ("numpy", "jax"), lambda v: lib("jax").device_put(v).value),
    "tf.convert_to_tensor": (
        "tensorflow",
        ("tensorflow",),
        lambda v: lib("tensorflow").convert_to_tensor(v),
    ),
}


@pytest.mark.parametrize(("library", "backends", "call"), list(ZERO_COPY.values()), ids=list(ZERO_COPY))
def test_calls_that_need_no_copy_make_none(backend: str, library: str, backends: tuple[str, ...], call: Call) -> None:
    pytest.importorskip(library)
    v = variable(backend, LARGE, trainable=False)
    got = call(v)
    assert_result(got, library, LARGE)
    if backend in backends:
        assert pointer(got) == address(v)
        assert pointer(call(v)) == pointer(got)


HOLDERS: dict[str, tuple[str, Call]] = {
    "v.value": ("numpy", lambda v: v.value),
    "np.asarray": ("numpy", np.asarray),
    "np.asarray, a slice": ("numpy", lambda v: np.asarray(v)[:]),
    "np.from_dlpack": ("numpy", np.from_dlpack),
    "memoryview": ("numpy", lambda v: np.asarray(v).data),
    "pandas.Series": ("pandas", lambda v: lib("pandas").Series(v, copy=False)),
    "scipy.sparse": ("scipy", lambda v: lib("scipy.sparse").csr_array(v[None]).toarray()[0]),
    "torch.sin": ("torch", lambda v: lib("torch").reshape(v, (-1,))),
    "torch.from_dlpack": ("torch", lambda v: lib("torch").from_dlpack(v)),
    "torch.as_tensor": ("torch", lambda v: lib("torch").as_tensor(v)),
    "torch.from_numpy": ("torch", lambda v: lib("torch").from_numpy(np.asarray(v))),
    "jax.device_put": ("jax", lambda v: lib("jax").device_put(v)),
    "jax.device_put, NumPy": ("jax", lambda v: lib("jax").device_put(np.asarray(v))),
    "jnp.asarray": ("jax", lambda v: lib("jax.numpy").asarray(v)),
    "jnp.from_dlpack": ("jax", lambda v: lib("jax.numpy").from_dlpack(v)),
    "tf.convert_to_tensor": ("tensorflow", lambda v: lib("tensorflow").convert_to_tensor(v)),
    "tf.constant": ("tensorflow", lambda v: lib("tensorflow").constant(np.asarray(v))),
}


# torch warns, once a process, that it cannot mark as read-only the tensor it makes of a read-only array.
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.host
@pytest.mark.parametrize("size", [4, 8192])
@pytest.mark.parametrize(("library", "call"), list(HOLDERS.values()), ids=list(HOLDERS))
def test_what_a_holder_has_never_changes(backend: str, library: str, call: Call, size: int) -> None:
    pytest.importorskip(library)
    before = LARGE[:size]
    v = variable(backend, before, trainable=False)
    v.assign_add(0.0)  # so that the buffer is the variable's own
    held = call(v)
    writes: tuple[Call, ...] = (
        lambda w: w.assign_add(1.0),
        lambda w: w.assign(before * 3),
        lambda w: operator.setitem(w, slice(None), -1.0),
        lambda w: w.at[0].multiply(5.0),
        double,
    )
    for write in writes:
        write(v)
        assert_same(np.asarray(getattr(held, "value", held)), before)
    again = call(v)
    del v  # what is held outlives the variable
    assert_same(np.asarray(getattr(again, "value", again)), [-10.0, *[-2.0] * (size - 1)])


def test_a_torch_tensor_of_a_variable_can_be_written(backend: str, torch: Any) -> None:
    """Not protected: torch has no read-only tensors. The way round is a copy."""
    v = variable(backend, trainable=False)
    torch.tensor(v).add_(10.0)
    torch.from_dlpack(v, copy=True).add_(10.0)
    torch.from_numpy(v.numpy()).add_(10.0)
    assert_same(v, VALUE)
