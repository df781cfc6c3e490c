"""Sets up an environment of its own and runs the main job or the tests in it. Needs Python and pip only.

python dev.py digits [--backend jax]    trains on real data; NumPy by default
python dev.py test [PYTEST ARGUMENTS]   lint, types, the tests on all four backends, and once more on an older JAX
python dev.py check                     lint and types only
python dev.py env                       makes the test environment and prints where it is
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BACKENDS = ("numpy", "jax", "torch", "tensorflow")


def environment(name: str, *extras: str, constraints: str = "constraints.txt") -> str:
    """The Python of a virtual environment that holds the project and its extras; made on first use."""
    folder = ROOT / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256(
        b"".join((ROOT / file).read_bytes() for file in ("pyproject.toml", constraints))
        + f"{extras} {sys.version}".encode()
    ).hexdigest()
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {folder.name} (first run, or the requirements have changed) …", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        project = f".[{','.join(extras)}]" if extras else "."
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run(*pip, "--constraint", constraints, "--editable", project)
        stamp.write_text(wanted)
    return str(python)


def run(*command: object) -> None:
    """Runs a command in the project's folder; a failure ends the script with its exit status."""
    status = subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(status)


def digits(arguments: list[str]) -> None:
    """Trains the example; a backend other than NumPy is installed for it."""
    chosen = next((name for name in BACKENDS[1:] if any(name in argument for argument in arguments)), None)
    extras = ("examples", chosen) if chosen else ("examples",)
    run(environment("-".join(extras), *extras), "examples/digits.py", *arguments)


def check(python: str) -> None:
    """Lint, format and types."""
    run(python, "-m", "ruff", "check", ".")
    run(python, "-m", "ruff", "format", "--check", ".")
    run(python, "-m", "mypy")


def test(arguments: list[str]) -> None:
    """Everything that must pass before a change lands."""
    python = environment("test", "test")
    if not arguments:
        check(python)
    workers = ["--numprocesses", str(os.cpu_count() or 1)]
    run(python, "-m", "pytest", "--require-backends", *(arguments or workers))
    if not arguments:
        older = environment("older", "older", constraints="constraints-older.txt")
        run(older, "-m", "pytest", "--require-backends", "--backends=numpy,jax", *workers, "tests")


def main(arguments: list[str]) -> None:
    """Runs the command named first."""
    match arguments:
        case ["digits", *rest]:
            digits(rest)
        case ["test", *rest]:
            test(rest)
        case ["check"]:
            check(environment("test", "test"))
        case ["env"]:
            print(environment("test", "test"))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
