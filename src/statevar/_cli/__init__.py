"""The command line, `statevar`: looks at, compares, edits, checks, converts and watches saved state."""

from .main import main

__all__ = ["main"]
