"""Tests that interrupt or kill run in a process of their own: what comes late ends that process, and not the run.

A test is marked with ``@pytest.mark.own_process``, and all its cases run in one new process, which the next such test
replaces. ``shared=True`` puts all tests of a file that say so into one process: enough for errors that are raised at a
chosen place, and no framework is imported anew for each. The process runs the whole test, with its fixtures. A test
that fails there, hangs there, or ends the process fails here, with the text of the failure.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

#: Seconds for one test: a deadline for what hangs, far above what any of them takes on a busy machine.
LIMIT = 300.0
#: How much is shown of what a process has printed before its end.
SHOWN = 6000


class Outcome(NamedTuple):
    """What became of one phase of a test."""

    result: str
    text: str


class OwnProcess:
    """A pytest in another process, which runs the tests of one file that it is asked for."""

    def __init__(self, file: Path, options: Sequence[str] = (), limit: float = LIMIT) -> None:
        number, name = tempfile.mkstemp(suffix=".log")
        os.close(number)
        self._log, self.limit = Path(name), limit
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = [str(file), *options, "-p", "no:cacheprovider", "--timeout=0", "--capture=sys"]
        self._process = context.Process(target=_serve, args=(theirs, arguments, name))
        self._process.start()
        theirs.close()

    def run(self, nodeid: str) -> list[Outcome]:
        """What became of a test. That it ends the process, or hangs, is a failure of the test."""
        try:
            self._connection.send(nodeid)
            if not self._connection.poll(self.limit):
                return [self._ended(f"has not ended after {self.limit:g} seconds")]
            outcomes: list[Outcome]
            outcomes, goes_on = self._connection.recv()
        except (EOFError, OSError):
            return [self._ended("has ended its process")]
        if not goes_on:
            self._process.join(self.limit)
        return outcomes

    def _ended(self, how: str) -> Outcome:
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGABRT)  # pytest's faulthandler prints where its threads are
        self._process.join(self.limit)
        printed = self._log.read_text(errors="replace")[-SHOWN:]
        return Outcome("failed", f"The test {how}, exit status {self._process.exitcode}. It has printed:\n{printed}")

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        self._connection.close()
        self._process.join(self.limit)
        self._process.kill()
        self._log.unlink()


def _serve(connection: Connection, arguments: list[str], log: str) -> None:
    """What the other process does."""
    number = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    raise SystemExit(pytest.main(arguments, plugins=[_Server(connection)]))


class _Server:
    """Runs the tests that it is asked for, in place of all that were collected."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outcomes: list[Outcome] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        while True:
            try:
                item = items[self._connection.recv()]
            except EOFError:
                return True
            self._outcomes = []
            try:
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            except KeyboardInterrupt:  # pytest lets nothing else through
                self._outcomes.append(Outcome("failed", traceback.format_exc()))
                self._connection.send((self._outcomes, False))
                raise
            self._connection.send((self._outcomes, True))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if isinstance(report.longrepr, tuple):  # of a test that was skipped
            text = report.longrepr[2].removeprefix("Skipped: ")
        else:
            printed = [f"-- {title} --\n{content}" for title, content in report.sections]
            text = "\n".join([report.longreprtext, *printed])
        self._outcomes.append(Outcome(report.outcome, text))


class _Client:
    """The plugin of the run itself: hands the marked tests over."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._process: OwnProcess | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        mark = pyfuncitem.get_closest_marker("own_process")
        if mark is None:
            return None
        key = (pyfuncitem.path, "" if mark.kwargs.get("shared") else pyfuncitem.originalname)
        if self._process is None or key != self._key or not self._process.is_alive():
            self.pytest_unconfigure()
            self._process, self._key = OwnProcess(pyfuncitem.path, _options(pyfuncitem.config)), key
        outcomes = self._process.run(pyfuncitem.nodeid)
        if failures := [each.text for each in outcomes if each.result == "failed"]:
            pytest.fail("\n".join(failures), pytrace=False)
        for each in outcomes:
            if each.result == "skipped":
                pytest.skip(each.text)
        return True

    def pytest_unconfigure(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def _options(config: pytest.Config) -> list[str]:
    """What the other pytest must know of this one."""
    given = {name: config.getoption(name, None) for name in ("--backends", "--device")}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    place = [f"--rootdir={config.rootpath}", *options]
    if config.inipath is not None:
        place += ["-c", str(config.inipath)]
    return [*place, *(["--require-backends"] if config.getoption("--require-backends") else [])]


def install(config: pytest.Config) -> None:
    """The mark, and who obeys it: not the other process, which runs the test."""
    config.addinivalue_line("markers", "own_process(shared=False): runs in another process, see tests/processes.py")
    if not any(isinstance(each, _Server) for each in config.pluginmanager.get_plugins()):
        config.pluginmanager.register(_Client())
