"""The `backend` fixture: every test that takes it runs on each array library."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Generator, Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import statevar as sv
from tests import places, processes

# Else a failed assertion of a helper says nothing of the values.
pytest.register_assert_rewrite(
    "tests.checkpoint.damaged",
    "tests.checkpoint.disks",
    "tests.checkpoint.pieces",
    "tests.faults",
    "tests.helpers",
    "tests.transforms.on_jax",
    "tests.variable.protocols",
)

#: Programs that tests start in processes of their own. They need arguments or libraries, and have no tests in them.
collect_ignore_glob = ["*/*_program.py", "*/mesh_*.py"]

# The `backend` fixture does the same for every example of a property, so that hypothesis need not mind it.
settings.register_profile("statevar", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("statevar")

BACKENDS = ("numpy", "jax", "torch", "tensorflow")
#: What comes with a backend: Keras computes with TensorFlow here.
COMES_WITH = {"jaxlib": "jax", "flax": "jax", "keras": "tensorflow", "tf_keras": "tensorflow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        default=",".join(BACKENDS),
        help="comma-separated; the tests run as if no other library were installed; default: all four",
    )
    parser.addoption(
        "--touching",
        choices=BACKENDS,
        help="only tests that can touch this backend: those with it among their parameters, and those that have no "
        "backend among them, in files that mention it",
    )
    parser.addoption(
        "--device",
        default=places.HOST,
        help="where the tests run, for each library that has the device: GPU:0, for instance; default: the host",
    )
    parser.addoption(
        "--require-backends", action="store_true", help="fail, instead of skipping, where a backend is not installed"
    )


def pytest_configure(config: pytest.Config) -> None:
    processes.install(config)
    if hidden := frozenset(BACKENDS[1:]) - set(chosen(config)):
        sys.meta_path[:] = [Without(hidden, each) if each is PathFinder else each for each in sys.meta_path]
        adapters = [str(Path(__file__).parents[1] / "src/statevar/_backends" / each / "*") for each in hidden]
        gone = hidden | {library for library, backend in COMES_WITH.items() if backend in hidden}
        adapters += [str(Path(__file__).parents[1] / "src/statevar/_state/foreign" / f"{each}*.py") for each in gone]
        config.option.ignore_glob = [*(config.option.ignore_glob or ()), *adapters]
    places.install(config, chosen(config))


def pytest_report_header(config: pytest.Config) -> str | None:
    if not places.places:
        return None
    return f"device: {config.getoption('--device')}, with {', '.join(places.places)}"


class Without:
    """Finds modules as Python does, but those of some backends: as if they were not installed."""

    def __init__(self, hidden: frozenset[str], finder: Any) -> None:
        self._hidden = hidden
        self._finder = finder

    def find_spec(self, name: str, *where: Any) -> ModuleSpec | None:
        library = name.partition(".")[0]
        if COMES_WITH.get(library, library) in self._hidden:
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, *where)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def pytest_collection_finish() -> None:
    """Keeps what the libraries have made out of later collections, which took a quarter of the time of JAX's tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _collections_are_short() -> None:
    """Does the same for what the tests before have left in caches, such as compiled programs."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # when -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    name = config.getoption("--touching")
    kept = [item for item in items if shows_only(item, chosen(config)) and (name is None or can_touch(item, name))]
    if dropped := [item for item in items if item not in set(kept)]:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    places.skip_what_assumes_the_host(config.getoption("--device"), items)


def shows_only(item: pytest.Item, shown: list[str]) -> bool:
    """Whether it is no example in the documentation that uses a backend which the run hides."""
    if not isinstance(item, pytest.DoctestItem):
        return True
    sources = " ".join(example.source for example in item.dtest.examples)
    return not any(name in sources or "backend_names()" in sources for name in BACKENDS if name not in shown)


def can_touch(item: pytest.Item, name: str) -> bool:
    """Whether a test can reach a library: it has to get its name from somewhere."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {each for each in parameters if isinstance(each, str) and each in BACKENDS}
    if named:
        return name in named
    return "backends" in getattr(item, "fixturenames", ()) or name in text_of(item.path)


@cache
def text_of(path: Path) -> str:
    return path.read_text()


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


@pytest.fixture
def without_inductor(backend: str) -> Iterator[None]:
    """Torch traces and checks as ever, but does not compile the graphs, which takes seconds."""
    if backend != "torch":
        yield
        return
    import torch._dynamo.config

    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.fixture
def compiled_quickly(without_inductor: None, backend: str) -> Iterator[None]:
    """JAX leaves out most of what makes a program fast as well, which takes a third of the time until it runs."""
    if backend != "jax":
        yield
        return
    import jax

    config: Any = jax.config
    config.update("jax_disable_most_optimizations", True)
    yield
    config.update("jax_disable_most_optimizations", False)
