"""The package as a whole: layers, lazy imports, the public face, and the errors of absent backends."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import statevar as sv
from statevar.backends import Backend
from tests.helpers import ROOT, reference_entries
from tests.internals import PUBLIC

SOURCE = Path(sv.__file__).parent
FRAMEWORKS = ("jax", "jaxlib", "torch", "tensorflow", "keras", "flax")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def frameworks_named_in(source: str) -> set[str]:
    """Frameworks named by an import, an identifier or a string that is not a docstring."""
    tree = ast.parse(source)
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found.add(node.value)
    return (found | imported_in(source)) & set(FRAMEWORKS)


def imported_in(source: str) -> set[str]:
    """The packages that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found |= {name.partition(".")[0] for name in names}
    return found


#: By file, the table that names the frameworks: the backends, the libraries whose state is not ours, the adapters of
#: that state, and the objects that may hold variables of ours.
TABLES = {"registry": "_ROWS", "kinds": "_RULES", "table": "_ROWS", "holders": "_ROWS"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_a_framework_is_named_only_by_its_adapters_and_in_four_tables(path: Path) -> None:
    named = frameworks_named_in(path.read_text())
    if path.parent.parent.name == "_backends":
        library = path.parent.name
        assert named <= {library, f"{library}lib"}
    elif path.parent.name == "foreign" and path.stem != "table":
        assert named <= {*path.stem.split("_"), f"{path.stem}lib"}
    elif path.parent.name in ("_rules", "_formats"):  # they name libraries, and what is in their files, as data
        assert not imported_in(path.read_text()) & set(FRAMEWORKS)
    elif path.stem in TABLES:
        tree = ast.parse(path.read_text())
        rows = next(
            node
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and TABLES[path.stem] in ast.unparse(node).split("=")[0]
        )
        tree.body.remove(rows)
        assert not frameworks_named_in(ast.unparse(tree))
    else:
        assert not named


@pytest.mark.parametrize(
    "source", ["import jax.numpy", "from torch import nn", "x = 'tensorflow'", "keras.ops", "def f(): import flax"]
)
def test_the_test_of_frameworks_can_fail(source: str) -> None:
    assert frameworks_named_in(source)
    assert not frameworks_named_in(f'"""{source}"""')


def test_adapters_have_the_same_verbs_in_the_same_order() -> None:
    orders = {}
    for path in (SOURCE / "_backends").glob("*/adapter.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Backend"):
                orders[path.parent.name] = [
                    each.name for each in node.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_"
                ]
    contract = list(vars(Backend))
    assert len(orders) == 4
    for library, verbs in orders.items():
        positions = [contract.index(verb) for verb in verbs]
        assert positions == sorted(positions), f"{library} has {verbs}"


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize(
    "code",
    [
        "import statevar",
        "import statevar as sv; v = sv.Variable([1.0]); v += 1; v[0] = 2; repr(v); v.numpy()",
        "import statevar as sv; sv.Variable('normal', shape=(2,), seed=0)",
        f"sys.path.insert(0, {str(ROOT)!r}); import tests.internals",
    ],
)
def test_no_framework_is_loaded(code: str) -> None:
    loaded = loaded_by(code)
    assert "numpy" in loaded
    assert not loaded & {*FRAMEWORKS, "rich", "scipy", "pandas", "hypothesis", "pytest"}


def test_no_framework_is_loaded_can_fail() -> None:
    pytest.importorskip("jax")  # the one that loads fastest
    assert "jax" in loaded_by("import statevar as sv; sv.Variable(1.0, backend='jax')")


def test_what_only_some_programs_need_is_loaded_later() -> None:
    """`numpy.random` took a fifth of the import, for the name of a type."""
    script = "import numpy, sys; before = set(sys.modules); import statevar; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    slow = {
        "ml_dtypes",
        "numpy.random",
        "secrets",
        "asyncio",
        "concurrent.futures",
        "logging",
        "dataclasses",
        "tempfile",
        "json",
    }
    assert not slow & set(found)


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_sorted_and_complete(name: str) -> None:
    module = __import__(name, fromlist=["__all__"])
    public = sorted(module.__all__)
    assert [each for each in module.__all__ if each[0] != "_"] == [each for each in public if each[0] != "_"]
    for each in public:
        assert hasattr(module, each)


def names_loaded_later() -> dict[str, str]:
    """Each with its module, from what a type checker is told."""
    (checked,) = (
        node
        for node in ast.parse((SOURCE / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )
    return {
        each.name: f"statevar.{node.module or each.name}"  # a module itself, or what is in one
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }


def test_what_is_loaded_when_it_is_used_is_listed_before() -> None:
    later = names_loaded_later()
    assert {"save", "jit", "transaction", "Module"} <= later.keys() < set(sv.__all__)
    code = (
        "import sys, statevar as sv\n"
        f"later = {later}\n"
        "assert later.keys() <= set(dir(sv))\n"
        "assert not set(later.values()) & sys.modules.keys()\n"
        "sv.Variable(1.0).assign_add(1.0)\n"
        "assert not set(later.values()) & sys.modules.keys()\n"
        "for name, module in later.items():\n"
        "    assert getattr(getattr(sv, name), '__module__', 'statevar') == 'statevar', name\n"
        "    assert module in sys.modules, name\n"
        "    assert name in vars(sv)\n"
        "assert set(later.values()) <= sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def public_things() -> Iterator[tuple[str, str, Any]]:
    """(module, name, object) of every public class and function."""
    for module in PUBLIC:
        for name in __import__(module, fromlist=["__all__"]).__all__:
            found = getattr(sys.modules[module], name)
            if (inspect.isclass(found) or inspect.isfunction(found)) and found is not Any:
                yield module, name, found


def test_a_public_name_is_of_a_public_module() -> None:
    for module, name, found in public_things():
        assert found.__module__ in PUBLIC, f"{module}.{name} says it is of {found.__module__}"
        assert getattr(sys.modules[found.__module__], found.__qualname__) is found
        for member in vars(found).values() if inspect.isclass(found) else ():
            if inspect.isfunction(member) and "<" not in member.__qualname__:
                lent = "." not in member.__qualname__  # by dataclasses or typing, to every class
                assert (member.__module__ == found.__module__) != lent, f"{module}.{name}.{member.__name__}"


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_name_has_one_place_in_the_reference(module: str) -> None:
    """Add a line `::: statevar.NAME` to the page of docs/reference where users would look for a new name."""
    listed = reference_entries()
    names = [name for name in import_module(module).__dict__["__all__"] if name != "__version__"]
    assert {name: entries_of(f"{module}.{name}", listed) for name in names} == dict.fromkeys(names, 1)


def entries_of(path: str, listed: list[str]) -> int:
    """How often a public name is described, by its own path or by another one of the same thing."""
    thing = resolve_name(path)
    named = inspect.isclass(thing) or inspect.isfunction(thing)  # a type alias may be equal to another one
    return sum(each == path or (named and resolve_name(each) is thing) for each in listed)


def test_every_example_in_a_docstring_is_run() -> None:
    """Pytest finds an example in the module of which its function says it is; it must be there."""
    written, found = 0, 0
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                written += ">>>" in (ast.get_docstring(node) or "")
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").strip(".")
        if not name.startswith(("_backends", "cli", "_state.foreign.")):
            module = import_module(f"statevar.{name}" if name else "statevar")
            found += sum(bool(each.examples) for each in doctest.DocTestFinder().find(module))
    assert found == written > 50


def test_eight_modules_are_public() -> None:
    top = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {f"statevar.{name}" for name in top if not name.startswith("_")}
    assert public == set(PUBLIC) - {"statevar"}
    assert len(public) <= 8


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'statevar' has no attribute 'sav'"):
        sv.sav  # type: ignore[attr-defined]  # noqa: B018


def test_everything_public_is_documented() -> None:
    for name in sv.__all__:
        assert inspect.getdoc(getattr(sv, name)), name
    for owner in (sv.Variable, sv.FrozenVariable):
        for name, member in vars(owner).items():
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{owner.__name__}.{name}"


def test_help_shows_no_comment_of_the_source() -> None:
    """For a function without a docstring, `help` shows the comment that stands right above it."""
    shown = {
        f"{owner.__qualname__}.{name}": comment
        for owner in (*sv.Variable.__mro__, type(sv.Variable(0.0).at[0]), sv.Module, sv.Snapshot, sv.Checkpoint)
        for name, member in vars(owner).items()
        if inspect.isfunction(member) and not inspect.getdoc(member) and (comment := inspect.getcomments(member))
    }
    assert not shown


def test_errors_subclass_a_builtin_and_the_root() -> None:
    for name in sv.errors.__all__:
        each = getattr(sv.errors, name)
        if name in ("StateWarning", "StatevarError", "describe"):
            continue
        assert issubclass(each, sv.errors.StatevarError)
        builtin = [base for base in each.__mro__ if base.__module__ == "builtins"]
        assert set(builtin) - {object, BaseException, Exception}, name
        assert (each.__doc__ or "").startswith("Raised"), name
        assert name in (sv.errors.__doc__ or "")


def test_unknown_backend_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown backend 'cupy'\. Hint: known backends are numpy, jax, torch, tensorf"
    ):
        sv.Variable(1.0, backend="cupy")


@pytest.mark.parametrize("name", ["jax", "torch", "tensorflow"])
def test_missing_backend_gives_the_command_to_install_it(name: str) -> None:
    # A None in sys.modules makes an import fail as if the library were not there.
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        "import statevar as sv\n"
        f"try: sv.Variable(1.0, backend={name!r})\n"
        "except ImportError as error: print(type(error).__name__, error, file=sys.stderr)\n"
        "else: raise SystemExit('no error')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f"BackendNotInstalledError backend: {name} is not installed. Hint: pip install 'statevar[{name}]'." in (
        result.stderr
    )


def test_a_broken_library_is_told_apart_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import a_module_that_torch_needs")
    code = "import statevar as sv\ntry: sv.Variable(1.0, backend='torch')\nexcept ImportError as e: print(e.name)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "a_module_that_torch_needs"


def test_py_typed_is_shipped() -> None:
    assert (SOURCE / "py.typed").exists()


@pytest.mark.parametrize(
    "asked",
    [
        "pass",
        "importlib.util.find_spec('jax')",
        "threading.Thread(target=importlib.util.find_spec, args=['jax']).start()",
    ],
    ids=["imported", "looked up before", "looked up in a thread"],
)
def test_a_library_that_is_imported_later_takes_a_variable(asked: str) -> None:
    """And the list of finders stays as it is: another thread may be going through it."""
    pytest.importorskip("jax")
    code = (
        "import importlib.util, sys, threading\n"
        "import statevar as sv\n"
        "v = sv.Variable([0.0, 0.0])\n"
        "finders = list(sys.meta_path)\n"
        f"{asked}\n"
        "import jax, jax.numpy as jnp\n"
        "assert sys.meta_path == finders\n"
        "assert jnp.cos(v).tolist() == [1.0, 1.0]\n"
        "assert type(jax.jit(lambda v: v)(v)).__name__ == 'FrozenVariable'\n"
        "assert type(jax.__loader__).__module__.startswith('_frozen_importlib')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
