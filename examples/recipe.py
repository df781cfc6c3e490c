"""What the recipes share: options, the measure of their speed beside a plain program, and how a picture is saved.

A recipe is a file beside this one, with a function ``main`` that takes the arguments of the command line, prints what
it found, and returns the figures that are the same on every library. Its page is ``docs/recipes/NAME.md``, and its row
stands in the table of ``tests/together/test_recipes.py``.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import statevar as sv

__all__ = ["Step", "array_like", "compare", "parser", "picture", "run"]

#: One step of a program. It returns a number, which can be read only when the step has ended.
Step = Callable[[], Any]


def run(main: Callable[[], object]) -> None:
    """Runs a recipe as a program, with one thread: two libraries of threads would wait for each other's cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow's greeting comes first
    main()


def parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The options of every recipe."""
    found = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    found.add_argument("--backend", default="numpy", choices=sv.backend_names())
    found.add_argument("--steps", default=steps, type=int, help=f"{steps} by default")
    found.add_argument("--seed", default=0, type=int)
    found.add_argument("--rounds", default=20, type=int, help="in which the speed is measured; 0: it is not")
    found.add_argument("--picture", metavar="FILE", type=Path, help="draw there, as .svg or .png; needs matplotlib")
    return found


def array_like(v: sv.Variable, values: Any, dtype: str = "float32") -> Any:
    """An array of the library of a variable, on its device."""
    xp: Any = sv.namespace(v)
    return xp.asarray(np.asarray(values, dtype), device=v.device)


# -- speed ---------------------------------------------------------------------------------------------------------


def compare(title: str, ours: Step, others: dict[str, Step], rounds: int) -> dict[str, float]:
    """Prints how long a step takes, and how many times as long as a step of each of the others.

    The programs take turns, so that a machine that is busy for a while is busy for all of them. The shortest time of
    each counts.

    Returns:
        By the name of the other program, our time divided by its time; nothing without rounds.
    """
    if not rounds:
        return {}
    programs = {"": ours, **others}
    counts = {name: _steps_in(0.005, step) for name, step in programs.items()}
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, step in programs.items():
            best[name] = min(best[name], _seconds(step, counts[name]) / counts[name])
    ratios = {name: best[""] / best[name] for name in others}
    beside = ", ".join(f"{ratio:.2f} of {name}" for name, ratio in ratios.items())
    print(f"{title}: {_text(best[''])}, {beside}")
    return ratios


def _steps_in(seconds: float, step: Step) -> int:
    """How many steps take about so long. The first ones may compile, and do not count."""
    took = [_seconds(step, 1) for _ in range(4)]
    return max(1, round(seconds / min(took)))


def _seconds(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        last = step()
    float(last)  # waits for what is still being computed
    return time.perf_counter() - start


def _text(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


# -- pictures ------------------------------------------------------------------------------------------------------


@contextmanager
def picture(file: str | os.PathLike[str], width: float = 6.4, height: float = 3.2) -> Iterator[Any]:
    """A figure of matplotlib, saved when the block ends. The same figure is the same file, bit for bit."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "statevar",  # else the names of clip paths are random
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):  # type: ignore[arg-type]  # its names are a Literal there
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        if Path(file).suffix == ".png":
            _save_png(figure, file)
        else:
            figure.savefig(file, metadata={"Date": None})
    print(f"drawn: {file}")


def _save_png(figure: Any, file: Any) -> None:
    """With 128 colours, which halves the file."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    Image.open(drawn).convert("RGB").quantize(128).save(file, optimize=True)
