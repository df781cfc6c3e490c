"""The processes of tf.distribute, which speak through TensorFlow's coordination service.

MultiWorkerMirroredStrategy starts that service, as the first thing in a program.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

from ..._arrays.launch import Launch
from ..._arrays.world import Engine, World
from ...errors import ProcessError

__all__ = ["ENGINE", "TensorFlowWorld"]

_CONFIG = "TF_CONFIG"
_JOBS = ("chief", "worker")  # whose processes train, in this order
_PREFIX = "statevar/"
_SOON = 0.25  # seconds in which an answer comes, since this store cannot be asked without waiting


class TensorFlowWorld(World):
    """This process among the workers of a cluster."""

    engine = "tensorflow"

    def __init__(self, context: Any, cluster: str, index: int, count: int) -> None:
        super().__init__(index, count)
        self.context = context
        self.cluster = cluster
        self._errors = sys.modules["tensorflow"].errors

    def _set(self, key: str, value: bytes) -> None:
        text = base64.b64encode(value).decode()  # this store takes text only
        try:
            try:
                self.context.set_config_key_value(_PREFIX + key, text)
            except self._errors.AlreadyExistsError:
                self.context.delete_config_key_value(_PREFIX + key)
                self.context.set_config_key_value(_PREFIX + key, text)
        except (self._errors.OpError, ValueError) as error:
            raise self.gone(error) from error

    def _get(self, key: str, seconds: float) -> bytes | None:
        try:
            text = self.context.get_config_key_value(_PREFIX + key, int(max(seconds, _SOON) * 1000))
        except (self._errors.DeadlineExceededError, self._errors.NotFoundError):
            return None
        except (self._errors.OpError, ValueError) as error:
            raise self.gone(error) from error
        return base64.b64decode(text)

    def _delete(self, key: str) -> None:
        try:
            self.context.delete_config_key_value(_PREFIX + key)
        except (self._errors.OpError, ValueError) as error:
            raise self.gone(error) from error


class _TensorFlowEngine(Engine):
    """Whether TensorFlow is meant is asked before anybody needs it, so only `start` imports it."""

    def __init__(self) -> None:
        self._world: TensorFlowWorld | None = None
        #: The strategy that `start` has made.
        self.strategy: Any = None

    def world(self) -> World | None:
        module = sys.modules.get("tensorflow.python.eager.context")
        context = None if module is None else module.context_safe()
        server = getattr(context, "_collective_ops_server_def", None)
        if server is None:
            return None
        counts = {job.name: len(job.tasks) for job in server.cluster.job}
        place = _place(counts, server.job_name, server.task_index)
        if place is None:
            return None
        cluster = repr((server.cluster.SerializeToString(deterministic=True), place))
        if self._world is None or self._world.cluster != cluster:
            self._world = TensorFlowWorld(context, cluster, *place)
        return self._world

    def asked(self, environment: Mapping[str, str]) -> int | None:
        launch = self._launch(environment)
        return None if launch is None else launch.count

    def start(self, environment: Mapping[str, str], seconds: float) -> None:
        import tensorflow as tf  # noqa: PLC0415  # see the class

        launch = self._launch(environment)
        assert launch is not None  # by the contract
        try:
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise launch.failed(error, seconds) from error

    def stop(self) -> None:
        # TensorFlow has no call for it: the service ends with the process.
        self.strategy = None

    def _launch(self, environment: Mapping[str, str]) -> Launch | None:
        text = environment.get(_CONFIG, "")
        if not text.strip():
            return None
        try:
            config = json.loads(text)
            addresses = {job: list(tasks) for job, tasks in config.get("cluster", {}).items()}
            task = config.get("task", {})
            job, index = task.get("type", ""), int(task.get("index", 0))
        except (ValueError, TypeError, AttributeError) as error:
            raise ProcessError.of(
                "initialize",
                f"{_CONFIG} cannot be read ({error})",
                hint='{"cluster": {"worker": ["host1:1234", "host2:1234"]}, "task": {"type": "worker", "index": 0}}',
            ) from error
        counts = {name: len(tasks) for name, tasks in addresses.items()}
        if not any(counts.get(each) for each in _JOBS):
            return None
        place = _place(counts, job, index)
        if place is None:
            known = " and ".join(f"{count} of {name}" for name, count in counts.items())
            raise ProcessError.of(
                "initialize",
                f"{_CONFIG} calls this process task {index} of {job or 'no job'}, and its cluster has {known}",
                hint="its task needs a type, chief or worker, and an index that the cluster has",
            )
        leader = next(addresses[each][0] for each in _JOBS if addresses.get(each))
        host, _, port = str(leader).rpartition(":")
        return Launch(*place, host, int(port) if port.isdigit() else 0, None)


def _place(counts: Mapping[str, int], job: str, index: int) -> tuple[int, int] | None:
    """The number of a process, and how many there are; None for a process that does not train."""
    if job not in _JOBS or not 0 <= index < counts.get(job, 0):
        return None
    before = sum(counts.get(each, 0) for each in _JOBS[: _JOBS.index(job)])
    return before + index, sum(counts.get(each, 0) for each in _JOBS)


ENGINE = _TensorFlowEngine()
