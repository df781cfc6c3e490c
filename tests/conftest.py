"""The `backend` fixture: every test that takes it runs on each array library."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import statevar as sv
from tests import processes

# Else a failed assertion of a helper says nothing of the values.
pytest.register_assert_rewrite(
    "tests.checkpoint.damaged",
    "tests.checkpoint.disks",
    "tests.faults",
    "tests.helpers",
    "tests.transforms.on_jax",
    "tests.variable.protocols",
)

# The `backend` fixture does the same for every example of a property, so that hypothesis need not mind it.
settings.register_profile("statevar", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("statevar")

BACKENDS = ("numpy", "jax", "torch", "tensorflow")
#: What comes with a backend: Keras computes with TensorFlow here.
COMES_WITH = {"jaxlib": "jax", "keras": "tensorflow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", default=",".join(BACKENDS), help="comma-separated; default: all four")
    parser.addoption(
        "--require-backends", action="store_true", help="fail, instead of skipping, where a backend is not installed"
    )


def pytest_configure(config: pytest.Config) -> None:
    processes.install(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", chosen(metafunc.config), indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from skips_without_its_backends(item.config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from skips_without_its_backends(item.config))


def skips_without_its_backends(config: pytest.Config) -> Generator[None, Any, Any]:
    """A test that meets a backend that is not installed is skipped, unless the run is to have that backend."""
    try:
        return (yield)
    except ImportError as error:
        name = missing_backend(error)
        if name is None or (config.getoption("--require-backends") and name in chosen(config)):
            raise
        pytest.skip(f"{name} is not installed")


def missing_backend(error: ImportError) -> str | None:
    """The backend whose library an import in a test, or a call with `backend=…`, did not find."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    if isinstance(error, sv.errors.BackendNotInstalledError):
        assert isinstance(error.__cause__, ImportError)
        error = error.__cause__
    elif any(module.startswith("statevar.") for module in modules):
        return None  # an import of ours, that has no business there: let it fail
    library = (error.name or "").partition(".")[0]
    name = COMES_WITH.get(library, library)
    return name if name in BACKENDS else None


def chosen(config: pytest.Config) -> list[str]:
    """The backends that the run is asked for."""
    names = config.getoption("--backends").split(",")
    return [name for name in BACKENDS if name in names]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The name of an array library that is installed."""
    name: str = request.param
    sv.Variable(0, backend=name)
    return name


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> list[str]:
    """The chosen backends that are installed, for a test that compares them with each other."""
    required = request.config.getoption("--require-backends")
    return [name for name in chosen(request.config) if required or find_spec(name)]
