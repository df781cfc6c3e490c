"""What the tests themselves keep to: private modules in one place, no sleeping, interrupts in another process."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import statevar as sv
from tests.helpers import ROOT
from tests.internals import PUBLIC, overlays

SOURCE = Path(sv.__file__).parent
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=[each.relative_to(TESTS).as_posix() for each in FILES])


def dotted(path: Path) -> str:
    """The name by which a module of ours is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PRIVATE = {dotted(path) for path in SOURCE.rglob("*.py")} - set(PUBLIC)


def private_modules_named_in(source: str) -> set[str]:
    """Private modules that are imported, or named by an attribute or in a string, which may be code."""
    named: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            named.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named += re.findall(r"\b(?:statevar|sv)(?:\.\w+)+", node.value)
            for module, names in re.findall(r"\bfrom (statevar[\w.]*) import ([\w, ]+)", node.value):
                named += [f"{module}.{name}" for name in re.findall(r"\w+", names)]
    parts = [re.sub(r"^sv\b", "statevar", each).split(".") for each in named]
    return PRIVATE & {".".join(each[:count]) for each in parts for count in range(len(each) + 1)}


@each_file
def test_private_modules_are_named_in_one_file_of_the_tests(path: Path) -> None:
    assert bool(private_modules_named_in(path.read_text())) == (path == TESTS / "internals.py")


@pytest.mark.parametrize(
    "source",
    [
        "import {package}.{name}",
        "import {package}.{name} as module",
        "from {package} import {name}",
        "from {package}.{name} import active",
        "import statevar as sv\nprint({short}.active)",
        "def test(patch): patch.setattr('{package}.{name}.active', None)",
        "CODE = 'import statevar as sv; {short}.active'",
        'CODE = "import os\\nfrom {package} import errors, {name}"',
        'def f(x): return f"{package}.{name} {{x}}"',
    ],
)
def test_the_test_of_private_modules_can_fail(source: str) -> None:
    module = overlays.__name__
    package, _, name = module.rpartition(".")
    breach = source.format(package=package, name=name, short=module.replace("statevar", "sv"))
    assert module in private_modules_named_in(breach)
    assert not private_modules_named_in(f"# {breach!r}\nimport statevar.errors\nfrom statevar.backends import Backend")


INTERRUPTING = {
    *("KeyboardInterrupt", "Interrupt", "Interruption", "ctypes.pythonapi.PyThreadState_SetAsyncExc"),
    *("os.fork", "os.kill", "os.killpg", "os.abort", "signal.raise_signal", "signal.setitimer", "signal.signal"),
    *("signal.alarm", "signal.pthread_kill", "_thread.interrupt_main"),
}


def interrupting_tests_in(source: str) -> set[str]:
    """Tests that interrupt or kill, and do not say that they need a process of their own."""
    tree = ast.parse(source)
    if any(ast.unparse(each).startswith("pytestmark = pytest.mark.own_process") for each in tree.body):
        return set()
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not any(ast.unparse(each).startswith("pytest.mark.own_process") for each in node.decorator_list)
        if INTERRUPTING & {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute)}
    }


@each_file
def test_what_interrupts_has_a_process_of_its_own(path: Path) -> None:
    assert not interrupting_tests_in(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "def test_it(): raise KeyboardInterrupt",
        "@pytest.mark.parametrize('error', [KeyboardInterrupt])\ndef test_it(error): ...",
        "def test_it():\n    def handler(): os.kill(os.getpid(), 2)\n    handler()",
        "def test_it(): signal.setitimer(signal.ITIMER_REAL, 1.0)",
    ],
)
def test_the_test_of_interrupts_can_fail(source: str) -> None:
    assert interrupting_tests_in(source) == {"test_it"}
    assert not interrupting_tests_in(f"@pytest.mark.own_process(shared=True)\n{source}")
    assert not interrupting_tests_in(f"pytestmark = pytest.mark.own_process\n{source}")


def pauses_in(source: str) -> list[str]:
    """Where a test, or a program of one, lets a time pass. ``sleep(0)`` only gives others their turn."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    found = [re.match(r"(\w+\.)*(sleep|Timer)\(.*", each) for each in calls]
    found += [match for each in texts if isinstance(each, str) for match in re.finditer(r"\b(sleep|Timer)\(.*", each)]
    return [match[0] for match in found if match and not match[0].endswith("sleep(0)")]


@each_file
def test_no_test_sleeps_to_wait_for_something(path: Path) -> None:
    if path not in (TESTS / "helpers.py", Path(__file__)):
        assert not pauses_in(path.read_text()), "wait for the thing itself, or with helpers.until"


@pytest.mark.parametrize(
    "source",
    [
        "def test_it(): time.sleep(0.1)",
        "async def test_it(): await asyncio.sleep(100)",
        "def test_it(): threading.Timer(0.05, go.set).start()",
        "CODE = 'import time; time.sleep(1)'",
    ],
)
def test_the_test_of_sleeps_can_fail(source: str) -> None:
    assert pauses_in(source)
    assert not pauses_in("def test_it(): time.sleep(0)")
