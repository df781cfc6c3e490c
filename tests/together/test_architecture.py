"""How the package is built: which part imports which, no circle at any level, and one writer of a variable."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import statevar as sv

SOURCE = Path(sv.__file__).parent

#: What stands at the top of the package: each imports from its own part and those before it. Of several in one place,
#: none imports another.
ORDER = (
    ("errors", "_public"),
    ("_arrays",),
    ("initializers", "backends", "distributed"),
    ("_shared",),
    ("shared",),
    ("_core",),
    ("_state",),
    ("interop", "checkpoint", "_transforms"),
    ("testing",),
    ("_backends",),
    ("__init__",),
    ("_cli",),
    ("__main__",),
)

#: What only the writer may change, of anything.
STATE = {"_handle", "_snapshot", "_holder", "_version", "_shape", "_declared"}
#: Who may change what of it. A reader publishes a snapshot, and a hold says only who may write.
WRITERS = {
    "_core/cell.py": STATE,
    "_core/draft.py": STATE,
    "_core/readable.py": {"_snapshot"},
    "_core/held.py": {"_holder"},
}


def sources() -> dict[str, str]:
    """The text of each file, by its place in the package."""
    return {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}


def segments(file: str) -> tuple[str, ...]:
    """The names of the packages and of the module: ``_core/cell.py`` is ``_core``, ``cell``."""
    return tuple(file.removesuffix(".py").split("/"))


def imports_of(file: str, source: str, files: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The modules of ours that a file imports, anywhere in it, also for annotations only."""
    modules = {segments(each) for each in files}
    package = segments(file)[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["statevar", *package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            found = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in (tuple(each[1:]) for each in found if each[0] == "statevar"):
            known = (name, (*name, "__init__"), name[:-1], (*name[:-1], "__init__"))  # a module, or a name in one
            yield next(each for each in known if each in modules)


def upward_imports(files: dict[str, str]) -> list[str]:
    """The imports that do not point to what stands before in ORDER."""
    place = {name: number for number, names in enumerate(ORDER) for name in names}
    found = []
    for file, source in files.items():
        mine = segments(file)[0]
        upward = (each for each in imports_of(file, source, files) if each[0] != mine and place[each[0]] >= place[mine])
        found += [f"{file} imports {'/'.join(each)}" for each in upward]
    return found


def circles(files: dict[str, str]) -> list[str]:
    """The folders in which files or folders import each other in a circle; the package itself is "."."""
    edges = [
        (segments(file), module)
        for file, source in files.items()
        for module in imports_of(file, source, files)
        if module != segments(file)
    ]
    found = []
    for folder in sorted({segments(file)[:depth] for file in files for depth in range(len(segments(file)))}):
        depth = len(folder)
        graph: dict[str, set[str]] = {}
        for mine, other in edges:
            # A package's own face may import what is in it, and is imported by it nowhere.
            if mine[:depth] == folder == other[:depth] and mine[depth] != other[depth]:
                graph.setdefault(mine[depth], set()).add(other[depth])
                graph.setdefault(other[depth], set())
        done: set[str] = set()
        while ready := {name for name in graph.keys() - done if graph[name] <= done}:
            done |= ready
        if stuck := graph.keys() - done:
            found.append(f"{'/'.join(folder) or '.'}: {', '.join(sorted(stuck))}")
    return found


def written_state(source: str, state: set[str] = STATE) -> list[str]:
    """The statements that change an attribute of anything that is part of its state, as text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        named = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and node.attr in state
        by_name = (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in ("setattr", "delattr", "__setattr__", "__delattr__")
            and any(isinstance(each, ast.Constant) and each.value in state for each in node.args)
        )
        if named or by_name:
            found.append(ast.unparse(node))
    return found


def test_imports_point_downwards() -> None:
    assert {segments(file)[0] for file in sources()} == {name for names in ORDER for name in names}
    assert not upward_imports(sources())


def test_nothing_imports_in_a_circle_at_any_level() -> None:
    assert not circles(sources())


def test_one_writer_changes_a_variable() -> None:
    assert {file for file, source in sources().items() if written_state(source)} == WRITERS.keys()
    assert not [each for file, may in WRITERS.items() for each in written_state(sources()[file], STATE - may)]


@pytest.mark.parametrize(
    ("file", "line", "breach"),
    [
        ("_arrays/dtypes.py", "from .._core import cell", "_arrays/dtypes.py imports _core/cell"),
        ("_core/cell.py", f"import {sv.__name__}._state.walk", "_core/cell.py imports _state/walk"),
        ("_core/cell.py", "from ..checkpoint import save", "_core/cell.py imports checkpoint/__init__"),
        ("interop/__init__.py", "from ..checkpoint._save import save", "interop/__init__.py imports checkpoint/_save"),
        ("_transforms/jit.py", "def f():\n    from .._backends.jax import adapter", "imports _backends/jax/adapter"),
        (
            "_core/watchers.py",
            "if TYPE_CHECKING:\n    from .._state.module import Module",
            "_core/watchers.py imports _state/module",
        ),
    ],
)
def test_an_upward_import_is_found(file: str, line: str, breach: str) -> None:
    files = sources()
    files[file] += f"\n{line}\n"
    assert any(breach in each for each in upward_imports(files))


@pytest.mark.parametrize(
    ("file", "line", "folder"),
    [
        ("_core/writes.py", "if TYPE_CHECKING:\n    from .cell import Cell", "_core: "),
        ("_core/holds.py", "def f():\n    from . import overlays", "_core: "),
        ("_arrays/backend.py", "from .registry import get_backend", "_arrays: "),
        ("checkpoint/_formats/safetensors/header.py", "from .writer import sweep", "checkpoint/_formats/safetensors: "),
        ("checkpoint/_formats/safetensors/values.py", "from ..._save import save", "checkpoint: "),
        ("_backends/jax/adapter.py", "from .transforms import TRANSFORMS", "_backends/jax: "),
        ("errors.py", "from ._core.cell import Cell", ".: "),
    ],
)
def test_a_circle_is_found(file: str, line: str, folder: str) -> None:
    files = sources()
    files[file] += f"\n{line}\n"
    assert any(each.startswith(folder) for each in circles(files))


@pytest.mark.parametrize(
    "breach",
    [
        "variable._version += 1",
        "variable._handle = variable._snapshot = None",
        "_, variable._shape = state",
        "self._holder: Hold | None = None",
        "for variable._declared in shapes: pass",
        "with lock as variable._holder: pass",
        "del variable._snapshot",
        "setattr(variable, '_handle', None)",
        "object.__setattr__(variable, '_version', 1)",
    ],
)
def test_another_writer_is_found(breach: str) -> None:
    assert written_state(dedent(breach))
    assert not written_state(f"x = variable._handle\nvariable._shapes = 1\n# {breach}\n{breach!r}")
