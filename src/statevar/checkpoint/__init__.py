"""Saves variables to files, loads them, and keeps the checkpoints of a running program."""

from ._checkpoint import Checkpoint
from ._load import load
from ._manager import CheckpointManager, Restored
from ._match import LoadReport
from ._save import Progress, save
from ._verify import Verification, verify

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "LoadReport",
    "Progress",
    "Restored",
    "Verification",
    "load",
    "save",
    "verify",
]
