"""Saves variables to files, loads them, and keeps the checkpoints of a running program."""

from .._state.variables_by_path import VariablesByPath
from ._checkpoint import Checkpoint
from ._filled import filled
from ._load import load
from ._manager import CheckpointManager, Restored
from ._match import LoadReport
from ._progress import Progress
from ._rules.api import rules
from ._rules.rule import Rules
from ._save import save
from ._verify import Verification, verify

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "LoadReport",
    "Progress",
    "Restored",
    "Rules",
    "VariablesByPath",
    "Verification",
    "filled",
    "load",
    "rules",
    "save",
    "verify",
]
