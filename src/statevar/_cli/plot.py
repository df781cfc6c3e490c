"""Draws the histograms of variables, with matplotlib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._arrays.statistics import Statistics
from .._core.tables import escaped, number_text, shape_text
from ..checkpoint._formats.safetensors.values import VariableRecord
from .exits import CommandError, Exit
from .output import complain

__all__ = ["check_picture", "draw"]

_MOST = 120  # histograms in one picture
_LONGEST_TITLE = 34


def check_picture(path: str | None, kind: str, source: str) -> None:
    """Raises CommandError if a picture cannot be drawn to a path: before a file of gigabytes is read for it."""
    if path is None:
        return
    if not path.lower().endswith(f".{kind}"):  # else `--png model.safetensors` would destroy the model
        raise CommandError(f"--{kind} {path} does not end with .{kind}", hint=f"--{kind} histograms.{kind}")
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise CommandError(f"--{kind} {path} is the file that is looked at", hint="choose another name")
    try:
        import matplotlib.figure  # noqa: F401  # whether it is there
    except ImportError:
        raise CommandError(f"--{kind} needs matplotlib", Exit.USAGE, "pip install 'statevar[plot]'") from None


def draw(path: str, variables: Sequence[tuple[str, VariableRecord, Statistics]]) -> None:
    """Draws one histogram for each variable to a file, whose name says the format."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = [each for each in variables if any(each[2].histogram)]
    if not drawn:
        raise CommandError(f"there is nothing to draw in {path}", hint="no variable has finite numbers")
    if len(drawn) > _MOST:
        hint = "--only chooses others, --sort size draws the largest"
        complain("inspect", f"{path} has the first {_MOST} of {len(drawn):,} histograms. Hint: {hint}")
        drawn = drawn[:_MOST]
    across = min(4, math.ceil(math.sqrt(len(drawn))))
    down = math.ceil(len(drawn) / across)
    style: Any = {"axes.spines.top": False, "axes.spines.right": False}
    with rc_context({**style, "svg.hashsalt": "statevar", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.2 * across, 2.3 * down), layout="constrained")  # no window, no state of pyplot
        for place, (name, record, figures) in enumerate(drawn):
            axes = figure.add_subplot(down, across, place + 1)
            low, high = float(figures.minimum or 0.0), float(figures.maximum or 0.0)
            if not math.isfinite(high - low):
                axes.axis("off")
                axes.text(0.5, 0.5, "the range is too wide", ha="center", va="center", fontsize=8)
            elif low == high:
                around = max(abs(low), 1.0) * 0.5
                axes.bar([low], [sum(figures.histogram)], width=around * 0.05)
                axes.set_xlim(low - around, low + around)
            else:
                count = len(figures.histogram)
                step = (high - low) / count
                axes.bar([low + (at + 0.5) * step for at in range(count)], figures.histogram, width=step)
            about = f"{shape_text(record.shape)} {record.dtype}"
            about += f", {number_text(figures.mean)} ± {number_text(figures.std)}"
            wrong = figures.nan + figures.infinite
            about += f", {wrong:,} not finite" if wrong else ""
            color = "firebrick" if wrong else "black"
            axes.set_title(f"{_title(name)}\n{about}", fontsize=8, parse_math=False, color=color)
            axes.tick_params(labelsize=7)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # it draws a box
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.lower().endswith("svg") else None)


def _title(name: str) -> str:
    name = escaped(name)
    return name if len(name) <= _LONGEST_TITLE else f"…{name[1 - _LONGEST_TITLE :]}"
