"""A progress bar on the standard error, where somebody looks and `rich` is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .output import has_rich

__all__ = ["progress"]

#: Less is read before anybody wonders.
_WORTH_IT = 500_000_000


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Shows how much of a number of bytes is done, if that takes a while. The function that it gives counts bytes."""
    looked_at = sys.stdout.isatty() and sys.stderr.isatty()
    if total < _WORTH_IT or not looked_at or not has_rich():
        yield lambda _: None
        return
    from rich.console import Console  # which takes as long as all the rest
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda nbytes: bar.advance(task, nbytes)
