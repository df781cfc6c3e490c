"""`CheckpointManager`: keeps the checkpoints of a running program in one folder, and writes them in the background."""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self, SupportsIndex, TypeVar, Unpack, overload

from .._core.copies import Uncopied
from .._core.tables import count_text
from .._core.variable import Variable
from .._public import public
from .._state.paths import paths_in
from .._state.view import view
from ..errors import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConflictError,
    ReplicaError,
    StatevarError,
    describe,
)
from . import _files
from ._background import Background
from ._checkpoint import encode_metrics
from ._filled import filled
from ._formats.others import owner_of_folder
from ._load import load
from ._match import LoadOptions, LoadReport
from ._numbers import check_not_traced, checked_metrics, count, cut_of, floats_of
from ._pieces.places import InStepFolder
from ._pieces.saving import Save, save_in_pieces
from ._progress import Progress, callback_of, following
from ._retention import Retention
from ._save import items_of, parsed_size, texts_of
from ._shown import Result
from ._step_folder import StepFolder
from ._step_writer import Request, StepWriter
from ._together import TIMEOUT, group_of

__all__ = ["CheckpointManager", "Restored"]

_Tree = TypeVar("_Tree")


@public("statevar.checkpoint")
@dataclass(frozen=True, repr=False)
class Restored(Result):
    """The result of `CheckpointManager.restore`.

    Attributes:
        step: the step that was restored.
        skipped: the newer steps that could not be restored, each with the reason.
        report: the report of the load.
    """

    step: int
    skipped: dict[int, str]
    report: LoadReport

    def _head(self) -> str:
        skipped = f", {count_text(len(self.skipped), 'newer step')} skipped" if self.skipped else ""
        return f"step {self.step}{skipped}, {self.report._head()}"

    def _lists(self) -> Mapping[str, Sequence[str]]:
        return {"skipped steps": [f"{step}: {why}" for step, why in self.skipped.items()], **self.report._lists()}


@public()
class CheckpointManager(Uncopied):
    """Keeps checkpoints of an object in a folder, and restores the newest that is whole.

    `save` returns as soon as the snapshot is taken. A background thread writes the values of that moment while the
    program goes on. On Linux the thread takes only the processor time that other threads leave, unless ``save`` waits
    for it. If no variable in a file has changed since the last save, that file is hard-linked instead of being
    rewritten, and each checkpoint can still be loaded alone. Only one manager of all processes can use a folder. Its
    lock ends with the process.

    Args:
        directory: the folder, which is made if it does not exist. Its checkpoints are folders (``step-0000000100``),
            which `load` takes too.
        obj: the object to save, as for `save`. Each save looks for its variables anew. None if each save gets a tree,
            as ``state=``.
        keep: the number of newest checkpoints to keep. The last whole one is never removed.
        keep_every: also keeps every step that is divisible by this number.
        best: the name of a metric; also keeps the best step by that metric.
        mode: whether the best metric is the smallest (``"min"``) or the largest (``"max"``).
        shard_size: the size of a file, in bytes or as ``"64MB"``. A file is rewritten if one of its variables changes.
        progress: called after each write, with a `Progress` of this process, by the thread that writes: never by the
            one that called ``save``, also with ``wait=True``. If it raises, that save fails as by an error of the disk.
            True shows a bar for all the saves that are under way, by `rich`, if stderr is a terminal.
        alone: whether one process of several has a manager, without the others. By default each process of a program
            makes a manager of the same folder, and calls the same methods in the same order: each writes its own part
            of a checkpoint, and all restore the same one.
        timeout: how many seconds to wait for a process that is alive. One that has died is noticed sooner.

    Raises:
        ConflictError: another manager uses the folder.
        ProcessError: another process is missing, late or has died.
        StorageError: the folder cannot be made or locked; or the system is Windows.

    >>> import tempfile
    >>> import statevar as sv
    >>> model = {"w": sv.Variable([1.0, 2.0])}
    >>> with sv.CheckpointManager(tempfile.mkdtemp(), model, keep=2) as manager:
    ...     for step in (1, 2, 3):
    ...         model["w"] += 1.0
    ...         manager.save(step)
    ...     manager.wait()
    ...     print(manager.steps())
    ...     _ = model["w"].assign([0.0, 0.0])
    ...     print(manager.restore().step, model["w"].value)
    [2, 3]
    3 [4. 5.]
    """

    def _uncopied(self) -> tuple[str, str, str]:
        problem = "a manager has the lock of its folder and a thread that writes"
        return (
            "CheckpointManager",
            problem,
            "keep it outside of the objects that you copy",
        )

    def __init__(
        self,
        directory: str | os.PathLike[str],
        obj: Any = None,
        keep: int = 5,
        keep_every: int | None = None,
        *,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        shard_size: int | str = "64MB",
        progress: Callable[[Progress], object] | bool | None = None,
        alone: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        where = _files.path_of("CheckpointManager", directory)
        _files.require_posix("CheckpointManager", where)
        keep = count("CheckpointManager", "keep", keep, 1)
        if keep_every is not None:
            keep_every = count("CheckpointManager", "keep_every", keep_every, 1)
        if mode not in ("min", "max"):
            raise ValueError(describe("CheckpointManager", f"expected mode 'min' or 'max', got {mode!r}"))
        limit = parsed_size(shard_size)
        self._obj = obj
        self._process = os.getpid()
        self._lock = Lock()  # the folder, between the threads of this process
        group = group_of("CheckpointManager", alone=alone, timeout=timeout)
        self._name = group.numbered("manager")
        self._group = group.doing("CheckpointManager", self._name)
        self._progress = callback_of("CheckpointManager", progress, leads=self._group.leads)
        self._open(where)
        self._retention = Retention(self._folder, keep, keep_every, best, mode)
        self._writer = StepWriter(self._folder, limit)
        self._background = Background()
        self._damaged: set[int] = set()  # steps that `restore` has skipped, in every process the same
        _managers.add(self)

    def _open(self, where: Path) -> None:
        """Locks the folder, in one process for all."""
        folder: StepFolder | None = None
        try:
            with self._group.phase("open"), _files.os_errors_as("CheckpointManager", where):
                folder = StepFolder(where.absolute(), locks=self._group.leads)
        except BaseException:
            if folder is not None:
                folder.free()
            raise
        self._folder = folder

    # -- saving ----------------------------------------------------------------------------------------

    def save(
        self,
        step: SupportsIndex | Variable,
        metrics: Mapping[str, Any] | None = None,
        wait: bool = False,
        *,
        state: Any = None,
        metadata: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Takes a consistent snapshot, and lets the background thread write it.

        Args:
            step: the step of the program, which names the checkpoint: an integer of Python or of any library; or a
                variable, in the object or not, whose value in the snapshot is the step.
            metrics: numbers to store with the checkpoint, for `best`. Those that are variables are read from the
                snapshot. A number that is not finite, such as the loss of a run that diverged, is never the best.
            wait: whether to return only when the checkpoint is on the disk.
            state: what to save, for a manager without an object: any tree of arrays that `view` takes, such as the
                parameters and the state of optax of this step, which the next step replaces by others.
            metadata: a mapping to store with the checkpoint, as JSON.
            exist_ok: whether a step that has a checkpoint already, or is being written, is left as it is. If False,
                it is an error. A checkpoint that `restore` of this manager has skipped, since it is damaged, is
                replaced, so that a program that has gone back can come to its step again.

        Raises:
            TraceError: the code is traced, so that the save would happen once and not in each call.
            ValueError: this step has a checkpoint already; or it is no integer, or negative.
            StatevarError: an earlier save in the background failed, or this one did and ``wait`` is True.
        """
        self._check_usable("save")
        group = self._group.doing("save", self._name)
        try:
            with group.phase("start") as phase:
                self._background.reap()
                found = paths_in("save", self._target("save", state))
                check_not_traced(found)
                texts = texts_of(found, metadata)
                if not isinstance(step, Variable):
                    step = count("save", "step", step, 0)
                    if group.count == 1 and self._is_there(step, exist_ok=exist_ok, wait=wait):
                        return
                self._background.make_room()
                metrics = checked_metrics(metrics)
                cut, (number, *values) = cut_of(found, [step, *metrics.values()])
                step = count("save", "step", number, 0)
                there = phase.agree([step, group.leads and self._has(step)], _same_step)
        except StatevarError:
            if group.count > 1:  # the others have raised the error of a save that has ended here only now
                self._background.drain()
            raise
        if isinstance(there, str):
            raise ReplicaError.of("save", there, str(self.directory), "save the same step in every process")
        if self._is_there(step, exist_ok=exist_ok, wait=wait, known=there):
            return
        texts |= {"statevar.step": str(step), "statevar.metrics": encode_metrics(floats_of(metrics, values))}
        request = Request(step, found, cut, texts)
        del cut
        self._background.begin(step, partial(self._write, request), wait=bool(wait))
        del request
        if wait:
            self.wait()

    def _has(self, step: int) -> bool:
        """Whether a step has a checkpoint, or is being written."""
        return step in self.steps() or self._background.has(step)

    def _is_there(self, step: int, *, exist_ok: bool, wait: bool, known: bool | None = None) -> bool:
        """Whether a step has a checkpoint, or is being written.

        Args:
            known: whether it has, if process 0 has told it.

        Raises:
            ValueError: it has, and this is not ``exist_ok``.
        """
        if not (self._has(step) if known is None else known):
            return False
        if step in self._damaged:
            self.delete(step)
            self._damaged.discard(step)
            return False
        if not exist_ok:
            hint = f"call delete({step}) first, or pass exist_ok=True to keep the one that is there"
            raise ValueError(describe("save", f"step {step} has a checkpoint already", str(self.directory), hint))
        if wait:
            self.wait()
        return True

    def wait(self) -> None:
        """Waits until all saves are on the disk.

        Raises:
            StatevarError: one of the saves failed.
        """
        self._background.wait()

    def _write(self, request: Request) -> None:
        step = request.step
        following_it = following(self._progress, step)
        with self._lock, _files.os_errors_as("save", self.path(step), _UNTOUCHED), following_it as report:
            group = self._group.doing("save", f"{self._name}/step")
            if group.count == 1 and not any(each._backend.cuts for each in request.found.variables.values()):
                self._writer.write(request, report)
                self._retention.apply(step)
                return
            save_in_pieces(
                group,
                InStepFolder(self._folder, step),
                lambda: Save(request.cut, items_of(request.found, request.cut), request.texts),
                self.path(step),
                hint=_UNTOUCHED,
                same={"step": step},
                reporter=report,
            )
            with group.phase("retain"), _files.os_errors_as("save", self.path(step), _UNTOUCHED):
                if group.leads:
                    self._retention.apply(step)

    # -- inspecting -----------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """The folder that contains the checkpoints, as an absolute path."""
        return self._folder.directory

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        with _files.os_errors_as("steps", self.directory):
            return self._folder.steps()

    @property
    def pending(self) -> list[int]:
        """The steps whose saves are under way, in the order of the calls: the first is being written, the next waits.

        A save that has failed is none of them; the next call of `save`, `wait`, `restore` or `close` raises its error.
        """
        return self._background.steps()

    @property
    def latest(self) -> int | None:
        """The newest step that has a checkpoint, or None. Only `restore` checks whether it is whole."""
        return max(self.steps(), default=None)

    @property
    def best(self) -> int | None:
        """The best step by the metric, or None if no checkpoint has the metric."""
        return self._retention.best_of(self.steps())

    def metrics(self, step: SupportsIndex) -> dict[str, float]:
        """Returns the metrics that were saved with a step.

        Raises:
            CheckpointError: the checkpoint is damaged.
            CheckpointNotFoundError: the step has no checkpoint.
        """
        return self._retention.metrics(count("metrics", "step", step, 0))

    def path(self, step: SupportsIndex) -> Path:
        """Returns the folder of a step's checkpoint, which `load` and `verify` take."""
        return self._folder.path(count("path", "step", step, 0))

    # -- restoring -------------------------------------------------------------------------------------

    @overload
    def restore(
        self, step: SupportsIndex | None = None, *, like: None = None, **options: Unpack[LoadOptions]
    ) -> Restored | None: ...

    @overload
    def restore(
        self, step: SupportsIndex | None = None, *, like: _Tree, **options: Unpack[LoadOptions]
    ) -> _Tree | None: ...

    def restore(self, step: SupportsIndex | None = None, *, like: Any = None, **options: Unpack[LoadOptions]) -> Any:
        """Loads a checkpoint into the object, or into a copy of a tree: by default the newest that is whole.

        Newer checkpoints that are damaged are skipped with a warning.

        Args:
            step: the step to restore, ``manager.best`` for instance.
            like: a tree with the types, shapes and dtypes of what was saved as ``state=``; see `filled`.
            options: the options of `load`: ``strict``, ``rename``, ``cast``, ``only``, ``on_create``.

        Returns:
            The step that was restored, and the report of the load; with ``like``, a tree with the values; None if
            there is no checkpoint.

        Raises:
            CheckpointMismatchError: the checkpoint is whole, but does not match the object.
            CheckpointError: the checkpoint of ``step`` is damaged; or, without ``step``, all checkpoints are.
            CheckpointNotFoundError: ``step`` has no checkpoint; or another program has written one in the folder.

        >>> import tempfile
        >>> import numpy as np
        >>> import statevar as sv
        >>> with sv.CheckpointManager(tempfile.mkdtemp()) as manager:
        ...     manager.save(1, state=({"w": np.ones(2)}, 7))
        ...     manager.restore(like=({"w": np.zeros(2)}, 0))
        ({'w': array([1., 1.])}, 7)
        """
        self._check_usable("restore")
        group = self._group.doing("restore", self._name)
        with group.phase("start") as phase:
            self.wait()
            steps = phase.agree(self.steps() if group.leads else None, lambda found: found[0])
        options = LoadOptions({"alone": group.world is None, "timeout": group.seconds, **options})
        target = None if like is not None else self._target("restore", None)

        def read(step: int) -> Any:
            path = self.path(step)
            return load(target, path, **options) if like is None else filled(like, path, **options)

        if step is not None:
            step = count("restore", "step", step, 0)
            result = read(step)
            return Restored(step, {}, result) if like is None else result
        skipped: dict[int, str] = {}
        for each in reversed(steps):
            try:
                result = read(each)  # an error in one process is an error of the same class in all
            except CheckpointMismatchError:
                raise
            except (CheckpointError, OSError) as error:
                skipped[each] = str(error)
                if isinstance(error, CheckpointError):  # and not only impossible to read at the moment
                    self._damaged.add(each)
                continue
            if skipped:
                reasons = "; ".join(f"step {number}: {why}" for number, why in skipped.items())
                warnings.warn(
                    f"restored step {each}, because newer checkpoints are damaged: {reasons}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return Restored(each, skipped, result) if like is None else result
        if not skipped:
            with group.phase("nothing"):
                self._check_owner()
            return None
        problem = describe("restore", "every checkpoint is damaged, and nothing was loaded", str(self.directory))
        raise CheckpointError("\n".join([problem, *skipped.values()]))

    def _target(self, operation: str, state: Any) -> Any:
        """What is saved or loaded into: the manager's object, or a tree that was passed.

        Raises:
            ValueError: there are both, or none.
        """
        if (self._obj is None) is not (state is None):
            return self._obj if state is None else view(state)
        if state is None:
            problem = "the manager has no object"
            hint = (
                "pass the tree of this step, save(step, state=tree) and restore(like=tree), or make it with an object"
            )
        else:
            problem = "the manager has an object, and got a state as well"
            hint = "make the manager without an object: CheckpointManager(directory)"
        raise ValueError(describe(operation, problem, str(self.directory), hint))

    def _check_owner(self) -> None:
        """Raises CheckpointNotFoundError if the folder has a checkpoint of another program, and none of ours."""
        with _files.os_errors_as("restore", self.directory):
            other = owner_of_folder(self.directory)
        if other is not None:
            problem = f"the folder has no checkpoint of a CheckpointManager; it is {other.what}"
            hint = f"load it with sv.load(object, {str(self.directory)!r}), and give the manager a folder of its own"
            hint = hint if other.reader is not None else f"{other.hint} to sv.load; give the manager its own folder"
            raise CheckpointNotFoundError.of("restore", problem, str(self.directory), hint)

    def delete(self, step: SupportsIndex) -> None:
        """Removes the checkpoint of a step.

        Raises:
            CheckpointNotFoundError: the step has no checkpoint.
            StorageError: the system cannot remove it.
            ValueError: the processes delete different steps.
        """
        self._check_usable("delete")
        step = count("delete", "step", step, 0)
        group = self._group.doing("delete", self._name)
        with group.phase("begin") as phase:  # until all have come, each may still list the step
            self.wait()
            steps = phase.agree(step, lambda all_: all_)
        if other := next((index for index, each in enumerate(steps) if each != steps[0]), None):
            problem = f"process 0 deletes step {steps[0]}, and process {other} deletes step {steps[other]}"
            raise ValueError(describe("delete", problem, str(self.directory), "pass the same step in every process"))
        with group.phase("all"), _files.os_errors_as("delete", self.path(step)):
            if group.leads:
                with self._lock:
                    self._retention.delete(step)

    # -- closing -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Waits until all saves are on the disk, and unlocks the folder. A second call does nothing.

        Raises:
            StatevarError: one of the saves failed.
        """
        if self._folder.is_free or os.getpid() != self._process:
            return
        self._background.check_may_wait()
        try:
            self.wait()
        finally:
            self._background.close()
            self._folder.free()

    def _check_usable(self, operation: str) -> None:
        if os.getpid() != self._process:
            raise ConflictError.of(
                operation,
                "this manager belongs to another process",
                str(self.directory),
                "make a new manager in this process, for another folder",
            )
        if self._folder.is_free:
            raise ValueError(describe(operation, "the manager is closed", str(self.directory), "make a new one"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        writing = f", writing {pending}" if (pending := self.pending) else ""
        return f"<CheckpointManager at {str(self.directory)!r}{writing}>"


_UNTOUCHED = "earlier checkpoints are untouched"


def _same_step(answers: list[Any]) -> bool | str:
    """Whether process 0 has the step already; the problem if another process saves another step."""
    step, there = answers[0]
    for index, (other, _) in enumerate(answers):
        if other != step:
            return f"the step is {step} in process 0, and {other} in process {index}"
    return bool(there)


_managers: weakref.WeakSet[CheckpointManager] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for manager in list(_managers):
        manager.close()


def _forked() -> None:
    for manager in list(_managers):
        manager._folder.free()  # the lock belongs to the parent, and must end with it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
