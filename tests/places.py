"""`pytest --device NAME` runs the tests on a device: it becomes the default of each library that has it.

So the variables and arrays of the tests lie there, if a test does not place them itself. A library without the device
stays on the host, as NumPy does. A test that assumes memory of the host is marked ``@pytest.mark.host``, and skipped on
an accelerator; so are the examples in the documentation, which print what an array on the host prints.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

import statevar as sv

__all__ = ["HOST", "install", "is_accelerator", "places", "skip_what_assumes_the_host"]

#: The device of a run without the option.
HOST = "CPU:0"

#: The device of each library in this run, if it is not the host.
places: dict[str, Any] = {}


def install(config: pytest.Config, backends: list[str]) -> None:
    """Makes the device of the option the default; a usage error if no library of the run has it."""
    config.addinivalue_line(
        "markers", "host: assumes that the values lie in the memory of the host, see tests/places.py"
    )
    name = config.getoption("--device")
    if name == HOST:
        return
    scopes = ExitStack()
    config.add_cleanup(scopes.close)
    problems = []
    for backend in backends:
        try:
            device = sv.Variable(0.0, backend=backend, device=name).device
        except (sv.errors.BackendNotInstalledError, sv.errors.DeviceError) as error:
            problems.append(f"{backend}: {error}")
        else:
            places[backend] = device
            _make_default(backend, device, scopes)
    if not places:
        raise pytest.UsageError(f"--device {name}: no library of this run has it.\n" + "\n".join(problems))


def _make_default(backend: str, device: Any, scopes: ExitStack) -> None:
    if backend == "jax":
        import jax

        update: Any = jax.config.update
        update("jax_default_device", device)
        scopes.callback(update, "jax_default_device", None)
    elif backend == "torch":
        import torch

        torch.set_default_device(device)
        scopes.callback(torch.set_default_device, None)
    elif backend == "tensorflow":
        import tensorflow as tf

        scopes.enter_context(tf.device(device))


def is_accelerator(name: str) -> bool:
    """Whether values on a device are out of NumPy's reach."""
    return not name.upper().startswith("CPU")


def skip_what_assumes_the_host(name: str, items: list[pytest.Item]) -> None:
    """Marks tests to be skipped that can only be right on the host."""
    if not is_accelerator(name):
        return
    for item in items:
        if isinstance(item, pytest.DoctestItem) or item.get_closest_marker("host") is not None:
            item.add_marker(pytest.mark.skip(reason=f"assumes the memory of the host, and the run is on {name}"))
