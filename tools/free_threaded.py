"""Runs the tests of threads and laws on a Python without the GIL, with NumPy. CI does not need it.

python tools/free_threaded.py /path/to/python3.13t [PYTEST ARGUMENTS]

Such a Python can be built from its source, for example from Debian's package: ``./configure --disable-gil``, ``make``
and ``make install`` take about ten minutes on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-free-threaded"
#: The last versions that have wheels for Python 3.13 without the GIL.
PACKAGES: tuple[str, ...] = (
    "numpy<2.5",
    "ml_dtypes",
    "xxhash<4",
    "array-api-compat",
    "autograd",
    "pytest",
    "pytest-timeout",
)
PACKAGES += ("hypothesis<6.148",)
#: Without the tests that a scheduler steps through: it has no wheel for this Python.
TESTS: tuple[str, ...] = ("--ignore=tests/together/test_schedules.py",)
TESTS += ("tests/variable", "tests/state", "tests/together", "tests/backends", "tests/checkpoint/test_manager.py")


def main(python: str, *arguments: str) -> int:
    """Makes the environment if it is not there, and runs the tests in it. Returns the exit status of pytest."""
    inside = str(FOLDER / "bin" / "python")
    if not FOLDER.exists():
        subprocess.run([python, "-m", "venv", "--without-pip", FOLDER], check=True)
        pip = [sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", "--only-binary", ":all:"]
        subprocess.run([*pip, *PACKAGES], check=True)
    probe = "import sys, numpy, xxhash, ml_dtypes; raise SystemExit(sys._is_gil_enabled())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHON_GIL": "0"}
    if subprocess.run([inside, "-c", probe], env=environment, check=False).returncode:
        print(f"{python} has the GIL: build one with --disable-gil.")
        return 2
    pytest = [inside, "-m", "pytest", "-p", "no:cacheprovider", "--backends=numpy", "--timeout=300"]
    return subprocess.run([*pytest, *(arguments or TESTS)], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(*sys.argv[1:]))
