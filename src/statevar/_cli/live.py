"""The table of the steps in a folder that stays in its place in a terminal, with `rich`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .._core.tables import bytes_text, escaped, number_text
from .watched import Event, Folder

__all__ = ["live_table"]

_MOST = 20  # rows, of the newest steps


@contextmanager
def live_table(folder: Folder) -> Iterator[Callable[[list[Event]], None]]:
    """Shows the steps of a folder until the block ends, and gives a function that shows the present ones."""
    from rich.live import Live  # it need not be installed
    from rich.table import Table
    from rich.text import Text

    def table() -> Table:
        metrics = sorted({name for step in folder.steps.values() for name in step.metrics})
        shown = Table(title=Text(escaped(folder.path)))
        for head in ("step", "variables", "size", *metrics, ""):
            shown.add_column(Text(escaped(head)), justify="left" if not head else "right")
        newest = sorted(folder.steps)[-_MOST:]
        for number in newest:
            step = folder.steps[number]
            facts = ["", ""] if step.damage else [f"{step.variables}", bytes_text(step.nbytes)]
            values = [number_text(step.metrics.get(name)) for name in metrics]
            shown.add_row(str(number), *facts, *values, Text(escaped(step.damage), "red"))
        if len(folder.steps) > len(newest):
            shown.caption = f"and {len(folder.steps) - len(newest)} older steps"
        return shown

    with Live(table(), auto_refresh=False) as live:

        def show(events: list[Event]) -> None:
            if events:
                live.update(table(), refresh=True)

        yield show
