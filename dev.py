"""Sets up environments of its own and runs the main job or the tests in them. Needs Python and pip only.

python dev.py digits [--backend jax]    trains on real data; NumPy by default
python dev.py quick                     lint, types, and the tests on NumPy without the slow ones: about a minute
python dev.py test [PYTEST ARGUMENTS]   everything that must pass before a change lands
python dev.py full                      the same with nothing left out: all of it on all versions, about an hour
python dev.py check                     lint and types only
python dev.py wheel                     builds the wheel and runs the quick tests on it, in a clean environment
python dev.py docs [serve]              builds the documentation site in the folder site, or serves it while you write
python dev.py env                       makes the test environment and prints where it is

`test` without arguments is lint, types, the documentation site, and four runs of the tests:

1. the quick ones on the built wheel, outside of the checkout, with NumPy and no other backend, in the newest versions
   (constraints-newest.txt) on the newest Python that this machine has, which is python3.13 or python3.12, on the path
   or among pyenv's;
2. all of them on all four backends with the versions of constraints.txt, and every example in the documentation;
3. on an older JAX (constraints-older.txt), those that call it (`CALL_JAX`): a test with a backend among its parameters
   runs for JAX only, and one without runs if "jax" stands anywhere in its file (`--touching` in tests/conftest.py);
4. the same ones on the newest JAX and Python. Where there is no newer Python, the last line says so.

The last two leave out the slow tests, which have run in the second. What explores (schedules of threads, the moments of
a write, kills) tries less than it can: `thorough` in tests/helpers.py says how much. `full` leaves nothing out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
BACKENDS = ("numpy", "jax", "torch", "tensorflow")
NEWER = ("python3.13", "python3.12")  # those for which constraints-newest.txt has versions, newest first
WORKERS = ("--numprocesses", str(os.cpu_count() or 1), "--dist", "worksteal")
PYTEST = ("-m", "pytest", "--require-backends", *WORKERS)
CALL_JAX = (
    *("tests/backends", "tests/transforms", "tests/state/test_foreign_jax.py", "tests/variable/test_protocols_jax.py"),
    *("tests/shared/test_shared_variables.py", "tests/shared/test_compiled.py", "tests/shared/test_arrays.py"),
    *(
        "tests/variable/test_random_keys.py",
        "tests/variable/test_rows_on_jax.py",
        "tests/variable/test_sharding_jax.py",
    ),
)
QUICK = ("--backends=numpy", "-m", "not slow", *WORKERS, "tests")


class Interpreter(NamedTuple):
    """A Python that can make virtual environments."""

    path: str
    version: str


THIS = Interpreter(sys.executable, sys.version)


def environment(name: str, *extras: str, constraints: str = "constraints.txt", base: Interpreter = THIS) -> str:
    """The Python of a virtual environment that has the project and these extras; made when it is first needed."""
    folder = ROOT / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256(
        b"".join((ROOT / file).read_bytes() for file in ("pyproject.toml", constraints))
        + f"{extras} {base.version}".encode()
    ).hexdigest()
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {folder.name} (first run, or the requirements have changed) …", flush=True)
        run(base.path, "-m", "venv", "--clear", folder)
        install(python, constraints, "--editable", f".[{','.join(extras)}]" if extras else ".")
        if "test" in extras:
            # Keras 2, which asks for TensorFlow's package for GPUs beside that for CPUs.
            install(python, constraints, "--no-deps", "tf_keras==2.21.0")
        stamp.write_text(wanted)
    return str(python)


def install(python: object, constraints: str, *what: object) -> None:
    """Installs packages into an environment, in the versions that a file of constraints names."""
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--constraint", constraints, *what)


def run(*command: object, folder: Path = ROOT) -> None:
    """Runs a command in the project's folder; a failure ends the script with its exit status."""
    status = subprocess.run([str(part) for part in command], cwd=folder, check=False).returncode
    if status:
        raise SystemExit(status)


def newest() -> Interpreter | None:
    """The newest Python of `NEWER` that works: one of pyenv that is not chosen is on the path and only prints help."""
    probe = "import ensurepip, ssl, sys, venv; print(sys.version)"
    for path in candidates():
        found = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
        if not found.returncode:
            return Interpreter(path, found.stdout)
    return None


def candidates() -> Iterator[str]:
    """Where a newer Python may be."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for name in NEWER:
        if path := shutil.which(name):
            yield path
        version = name.removeprefix("python")
        patches = sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"), key=lambda path: (len(str(path)), path))
        yield from (str(path) for path in reversed(patches))


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


def quick(python: str) -> None:
    """What to run while writing."""
    check(python)
    run(python, "-m", "pytest", *QUICK)


def test(arguments: list[str]) -> None:
    """Everything that must pass before a change lands, or the tests that some arguments of pytest choose."""
    if arguments:
        run(environment("test", "test"), "-m", "pytest", "--require-backends", *arguments)
        return
    base = newest()
    with ThreadPoolExecutor() as pool:  # pip mostly waits for the network, so that tests may run beside it
        pinned = pool.submit(environment, "test", "test")
        older = pool.submit(environment, "older", "older", constraints="constraints-older.txt")
        newer = base and pool.submit(environment, "newest", "older", constraints="constraints-newest.txt", base=base)
        site = pool.submit(docs, [])
        wheel(base)
        check(pinned.result())
        site.result()
    run(pinned.result(), *PYTEST)
    run_versions(older.result(), newer.result() if newer else None, "-m", "not slow", *CALL_JAX)


def full() -> None:
    """Every test on all versions, at every moment and in every order that it can try."""
    os.environ["STATEVAR_EXHAUSTIVE"] = "1"
    base = newest()
    newer = base and environment("newest", "older", constraints="constraints-newest.txt", base=base)
    docs([])
    wheel(base)
    check(environment("test", "test"))
    run(environment("test", "test"), *PYTEST)
    run_versions(environment("older", "older", constraints="constraints-older.txt"), newer, "tests")
    if newer:
        run(newer, *PYTEST, "--backends=numpy", "tests")


def docs(arguments: list[str]) -> None:
    """Builds the documentation site, where a warning is an error, or does what the arguments ask of mkdocs."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # an advertisement of another program
    run(environment("docs", "docs"), "-m", "mkdocs", *(arguments or ("build", "--strict")))


def run_versions(older: str, newer: str | None, *arguments: str) -> None:
    """Runs tests that can touch JAX on an older one, and on the newest Python and JAX where there is a newer Python."""
    touching = ("--backends=jax", "--touching=jax")
    run(older, *PYTEST, *touching, *arguments)
    if newer:
        run(newer, *PYTEST, *touching, *arguments)
        print("Everything passed, on the newest versions too.")
    else:
        print(f"Passed, but NOT RUN on the newest versions: this machine has no {' or '.join(NEWER)}.")


def wheel(base: Interpreter | None) -> None:
    """Tests what users install, on the newest Python: nothing of the checkout can be imported."""
    constraints = "constraints-newest.txt" if base else "constraints.txt"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run((base or THIS).path, "-m", "venv", folder / "venv")
        python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        run(python, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT)
        (built,) = folder.glob("*.whl")
        complete(built)
        tools = (
            "autograd",
            "frontrun",
            "hypothesis",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "rich",
            "scikit-learn",
        )
        install(python, constraints, built, *tools)
        for each in ("README.md", "conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / each, folder)
        for each in ("benchmarks", "docs", "examples", "tests"):
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        run(python, "-m", "pytest", *QUICK, folder=folder)


def complete(built: Path) -> None:
    """Ends the script if a file of the package is not in the wheel."""
    source = ROOT / "src"
    wanted = {path.relative_to(source).as_posix() for path in source.glob("statevar/**/*") if path.is_file()}
    missing = {each for each in wanted if "__pycache__" not in each} - set(zipfile.ZipFile(built).namelist())
    if missing:
        raise SystemExit(f"not in the wheel: {sorted(missing)}")


def main(arguments: list[str]) -> None:
    """Runs the command named first."""
    match arguments:
        case ["digits", *rest]:
            digits(rest)
        case ["test", *rest]:
            test(rest)
        case ["quick"]:
            quick(environment("test", "test"))
        case ["full"]:
            full()
        case ["check"]:
            check(environment("test", "test"))
        case ["wheel"]:
            wheel(newest())
        case ["docs", *rest]:
            docs(rest)
        case ["env"]:
            print(environment("test", "test"))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
