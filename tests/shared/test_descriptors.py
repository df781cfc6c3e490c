"""A process that may open no more files: an error that says so, and forks that go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Opens pools until it may open no more files, forks, and says what the parent and the child could write then.
PROGRAM = """
import os, resource, sys
import numpy as np
import statevar as sv
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
variables = []
try:
    for i in range(64):
        variables.append(sv.Variable(np.zeros(20000), shared=f"{sys.argv[1]}/{i}.svs/v"))
except sv.errors.StorageError as error:
    print(error)
kept = [os.dup(0) for _ in range(2) if len(os.listdir("/proc/self/fd")) < 64]
reads = [v.value for v in variables]
pid = os.fork()
for v in variables:
    v += 1
    v.value
if pid == 0:
    os._exit(0)
print(os.waitpid(pid, 0)[1])
print({float(v[0]) for v in variables}, {float(each[0]) for each in reads})
"""


def test_a_process_that_may_open_no_more_files_gets_an_error_that_says_so_and_can_fork(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert run.stderr == ""
    problem, status, values = run.stdout.splitlines()
    assert problem.startswith("share: no further file can be opened (Too many open files)")
    assert problem.endswith("Hint: keep the variables in fewer pools, or raise the limit: ulimit -n 4096.")
    assert status == "0"
    assert values == "{2.0} {0.0}"
