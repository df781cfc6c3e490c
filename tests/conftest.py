"""The `backend` fixture: every test that takes it runs on each array library."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

import statevar as sv

# The `backend` fixture does the same for every example of a property, so that hypothesis need not mind it.
settings.register_profile("statevar", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("statevar")

BACKENDS = ("numpy", "jax", "torch", "tensorflow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", default=",".join(BACKENDS), help="comma-separated; default: all four")
    parser.addoption(
        "--require-backends", action="store_true", help="fail, instead of skipping, where a backend is not installed"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backends").split(",")
        metafunc.parametrize("backend", [name for name in BACKENDS if name in chosen], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The name of an array library that is installed."""
    name: str = request.param
    try:
        sv.Variable(0, backend=name)
    except sv.errors.BackendNotInstalledError as error:
        if request.config.getoption("--require-backends"):
            raise
        pytest.skip(str(error))
    return name
