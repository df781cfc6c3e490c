"""What notebooks, IPython, rich and treescope show of variables, modules, snapshots, checkpoints and results."""

# Attributes are set from outside, as a person does who tries things.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.state.models import Dense, Model

HOSTILE = "<script>alert('x')</script>\x1b[2J\u202e"


class Parsed(HTMLParser):
    """The text in HTML, and its tags; it refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def html_of(each: Any) -> Parsed:
    parsed = Parsed(each._repr_html_())
    assert parsed.tags <= {
        *("style", "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "b", "span"),
    }
    assert parsed.attributes <= {"class", "open"}
    assert "http" not in parsed.words
    assert "url(" not in parsed.words
    return parsed


def shown(backend: str, folder: Path) -> Iterator[Any]:
    """One of each object that has displays, with a hostile name in it."""
    model = {HOSTILE: sv.Variable([[1.0, 2.0], [3.0, np.nan]], backend=backend), "n": sv.Variable(3, backend=backend)}
    path = folder / "state.safetensors"
    sv.save(model, path, metadata={HOSTILE: 1})
    yield sv.Variable([1.0, 2.0], name="scale<b>", backend=backend)
    yield sv.Variable(shape=(None, 2), dtype="float32", name="w<b>", backend=backend)
    module = sv.Module()
    module.d = model
    yield module
    yield sv.view({HOSTILE: np.ones(3)})
    yield sv.snapshot(model)
    yield sv.summary(model)
    yield sv.load(path)
    yield sv.load({"other" + HOSTILE: sv.Variable(1.0), "n": sv.Variable(4)}, path, strict=False)
    yield sv.verify(path)
    yield sv.checkpoint.Progress(10, 40, 2.0)
    yield sv.FrozenVariable(model["n"].value)
    with sv.CheckpointManager(folder / "run", model) as manager:
        manager.save(1, wait=True)
        yield manager.restore()


def test_html_is_escaped_and_needs_nothing_from_elsewhere(backend: str, tmp_path: Path) -> None:
    for each in shown(backend, tmp_path):
        parsed = html_of(each)
        assert (type(each).__name__ if type(each) is not sv.Summary else "dict") in parsed.words
        assert "\x1b" not in parsed.words
        assert "\u202e" not in parsed.words
        assert "alert" not in parsed.words or "<script>" in parsed.words  # as text


def test_text_is_escaped(backend: str, tmp_path: Path) -> None:
    for each in shown(backend, tmp_path):
        for text in (str(each), repr(each)):
            assert all(char.isprintable() for char in text.replace("\n", "")), text


def test_names_are_escaped_in_the_parts_of_what_has_no_structure(
    backend: str, rich_print: Callable[..., str], tmp_path: Path
) -> None:
    shared = sv.Variable(1.0, backend=backend)
    model = {HOSTILE: shared, "other": {HOSTILE: shared}}
    sv.save(model, tmp_path / "a.safetensors")
    with sv.load(tmp_path / "a.safetensors") as checkpoint:
        for each in (sv.snapshot(model), checkpoint, sv.summary(model)):
            text = rich_print(each)
            assert "script" in text
            assert all(character.isprintable() or character == "\n" for character in text)


def test_a_module_with_a_repr_of_its_own_is_printed_by_it() -> None:
    class Named(sv.Module):
        def __init__(self) -> None:
            self.weight = sv.Variable(1.0)

        def __repr__(self) -> str:
            return "Named!"

    @dataclass
    class Made(sv.Module):
        weight: sv.Variable

    class Heir(Made):
        pass

    assert str(Named()) == "Named!"
    for kind in (Made, Heir):
        assert str(kind(sv.Variable(1.0))).startswith(f"{kind.__name__}: 1 variable")


def test_html_of_a_large_model_folds() -> None:
    model = Model()
    model.layers = [Dense(2, 2) for _ in range(50)]
    parsed = html_of(model)
    assert "layers/49/kernel" in parsed.words
    assert "layers/ 150 variables, 350 elements, 1.4 kB" in parsed.words
    opened = model._repr_html_().count("<details open>")
    assert opened == 1
    model.layers = [Dense(2, 2) for _ in range(500)]
    assert len(html_of(model).words) < 2000  # each kind of variable is one line


def test_html_of_a_variable(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0], [3.0, 0.0]], name="scale", backend=backend)
    words = html_of(v.assign(v)).words.partition("Variable scale")[2]
    assert words == (
        f" 2x2, float32, {backend} on CPU:0, 16 B, trainable, 1 write"
        "meanstdminimummaximumzeros1.51.12031value[[1. 2.]\n [3. 0.]]"
    )


@pytest.fixture
def rich_print() -> Callable[..., str]:
    console = pytest.importorskip("rich.console")

    def text(each: Any, width: int = 100) -> str:
        out = StringIO()
        console.Console(file=out, width=width, no_color=True).print(each)
        return out.getvalue()

    return text


def test_rich_indents_the_lines_of_a_nested_variable(backend: str, rich_print: Callable[..., str]) -> None:
    v = sv.Variable(np.arange(6, dtype="float32").reshape(2, 3), name="w", backend=backend)
    assert rich_print({"v": [v]}, 60).splitlines() == [
        "{",
        "    'v': [",
        "        Variable(",
        "            'w',",
        "            shape=(2, 3),",
        "            dtype='float32',",
        "            device='CPU:0',",
        f"            backend='{backend}',",
        "            trainable=True,",
        "            value=[[0. 1. 2.], [3. 4. 5.]]",
        "        )",
        "    ]",
        "}",
    ]


def test_rich_shows_the_structure_of_a_model_or_folds_it(rich_print: Callable[..., str], tmp_path: Path) -> None:
    model = Model()
    text = rich_print(model)
    assert text.startswith("Model(\n    layers=[\n        Dense(\n            kernel=Variable(\n")
    assert text.count("Variable(") == 9
    model.layers = [Dense(2, 2) for _ in range(50)]
    assert "    layers/*/kernel=variables=50 2x2 float32 200 800 B mean=1 std=0 trainable=yes" in rich_print(model)
    for each in shown("numpy", tmp_path):
        assert "\x1b" not in rich_print(each)
    narrow = rich_print(sv.summary({"a" * 60: {"[bold]x": sv.Variable(1.0)}}), 60).splitlines()
    assert max(map(len, narrow)) <= 60
    assert "[bold]x " in narrow[2]


def test_treescope_shows_the_structure_and_shared_objects(backend: str, tmp_path: Path) -> None:
    treescope = pytest.importorskip("treescope")
    model = Dense(backend=backend)
    model.tied = model.kernel
    text = treescope.render_to_text({"m": model})
    assert "Dense(" in text
    assert "kernel=Variable(" in text
    assert text.count("Repeated python obj") == 2  # the kernel, where it is met first and again
    assert "np.ndarray float32(2, 2)" in text
    assert "Rich HTML" not in text
    for each in shown(backend, tmp_path):
        assert type(each).__name__ in treescope.render_to_text(each)
        assert "statevar" not in treescope.render_to_html(each).partition("<style>.statevar")[1]
    large = Model()
    large.layers = [Dense(2, 2) for _ in range(400)]
    assert "layers/*/kernel=variables=400 2x2 float32" in treescope.render_to_text(large)


class Printer:
    """Stands for `IPython.lib.pretty.RepresentationPrinter`, of which a display uses four things."""

    def __init__(self, nested: bool) -> None:
        self.stack = [1, 2] if nested else [1]
        self.indentation = 2 if nested else 0
        self.written = ""

    def text(self, text: str) -> None:
        self.written += text

    def break_(self) -> None:
        self.written += "\n" + " " * self.indentation

    @contextmanager
    def group(self, indent: int = 0) -> Iterator[None]:
        self.indentation += indent
        yield
        self.indentation -= indent


def test_ipython_indents_the_lines_of_a_nested_variable(backend: str) -> None:
    v = sv.Variable(np.arange(4, dtype="float32").reshape(2, 2), name="w", backend=backend)
    alone, nested = Printer(nested=False), Printer(nested=True)
    v._repr_pretty_(alone, cycle=False)
    assert alone.written == repr(v)
    v._repr_pretty_(nested, cycle=False)
    assert nested.written.splitlines()[1:] == ["    [[0. 1.]", "     [2. 3.]]>"]
    model = Dense(backend=backend)
    alone, nested = Printer(nested=False), Printer(nested=True)
    model._repr_pretty_(alone, cycle=False)
    assert alone.written == str(model)
    model._repr_pretty_(nested, cycle=False)
    assert nested.written == repr(model)
    model._repr_pretty_(nested, cycle=True)
    assert nested.written.endswith("<Dense …>")


def test_ipython_itself_prints_the_same() -> None:
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    model = Dense()
    assert pretty(model) == str(model)
    v = sv.Variable(np.zeros((2, 2)), name="w")
    assert pretty({"v": [v]}).splitlines()[1:] == ["    [[0. 0.]", "     [0. 0.]]>]}"]


def test_a_display_never_raises(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable(np.zeros((2, 2)), name="w", backend=backend)
    model = Dense(backend=backend)
    empty = object.__new__(sv.Variable)
    kind = type(v._backend)

    def fail(*_: Any) -> Any:
        raise RuntimeError("device lost")

    for verb in ("to_host", "device_name"):
        with monkeypatch.context() as patch:
            patch.setattr(kind, verb, fail)
            for each in (v, model, {"v": v}["v"], sv.snapshot(v), empty):
                assert "unavailable" in each._repr_html_()
                assert list(each.__rich_repr__())
                printer = Printer(nested=False)
                each._repr_pretty_(printer, cycle=False)
                assert "unavailable" in printer.written


def test_results_with_many_names_are_short() -> None:
    many = {f"w{i}": sv.Variable(1.0) for i in range(1000)}
    report = sv.load(many, {f"w{i}": np.float32(2.0) for i in range(500, 1500)}, strict=False)
    assert len(repr(report)) < 2000
    assert repr(report).startswith("LoadReport(loaded=['w500', ")
    assert str(report).splitlines()[0] == "LoadReport: 500 loaded, 500 missing, 500 unexpected"
    assert "… and 480 more" in str(report)
    assert "missing (500)" in html_of(report).words
    assert repr(sv.load(many, {"w0": np.float32(2.0)}, strict=False, only="w0")) == (
        "LoadReport(loaded=['w0'], missing=[], unexpected=[], mismatched={})"
    )
    assert str(sv.checkpoint.Progress(10_000_000, 40_000_000, 2.0)) == "Progress: 10.0 MB of 40.0 MB (25%), 5.0 MB/s"


def test_displays_import_no_library() -> None:
    code = (
        "import sys, statevar as sv\n"
        "assert not {m for m in sys.modules if m.startswith('statevar') and 'html' in m}\n"
        "m = sv.Module(); m.v = sv.Variable([1.0]); s = sv.snapshot(m)\n"
        "for x in (m, m.v, s, sv.summary(m)):\n"
        "    str(x), repr(x), x._repr_html_(), list(x.__rich_repr__())\n"
        "assert not {'rich', 'treescope', 'IPython', 'pandas', 'jax', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
