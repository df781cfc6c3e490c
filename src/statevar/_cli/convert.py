"""``statevar convert``: from every format that is read to those that are written, with a check of what was written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from .._core.tables import escaped
from ..checkpoint import _files
from ..checkpoint._checkpoint import Checkpoint, open_checkpoint
from ..checkpoint._rewriting import write_file, write_folder
from ..checkpoint._save import parsed_size
from ..errors import BackendNotInstalledError
from .comparison import Comparison, compare, compare_one, counted
from .exits import CommandError, Exit
from .exports import write_hdf5, write_npy, write_npz
from .options import PATH, add_only, add_step
from .output import complain, say
from .paths import place_of, selected

__all__ = ["arguments", "run"]

_Writer: TypeAlias = "Callable[[Checkpoint, list[str], Path], None]"

#: What writes a file of another program, by its ending.
_WRITERS: dict[str, _Writer] = {
    ".npz": write_npz,
    ".npy": write_npy,
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
}
_EPILOG = """\
B is a file of ours if it ends with .safetensors; a folder with an index if it ends with / or is an empty folder; else a
file that NumPy (.npz, or .npy for one array) or h5py (.h5) reads. Every value is read back and compared. What a format
has no room for, such as flags, is said on the standard error.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("a", metavar="A", help=PATH)
    parser.add_argument("b", metavar="B", help="what to write: NAME.safetensors, .npz, .npy or .h5, or FOLDER/")
    add_step(parser)
    add_only(parser)
    parser.add_argument(
        "--shard-size", metavar="SIZE", default="5GB", help="the size of each file in a folder (default: 5GB)"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        return _run(options)
    except TypeError as error:  # another program has metadata that is no JSON
        if not str(error).startswith("save: the metadata cannot be stored"):
            raise
        raise CommandError(f"{options.a} has other metadata than a file can store: {error}") from None


def _run(options: argparse.Namespace) -> int:
    if not options.b:  # of a variable of the shell that is not set
        raise CommandError("B is an empty path", hint="pass the path of the new file")
    source, target = place_of(options.a, options.step), Path(options.b)
    with open_checkpoint(source) as checkpoint:
        names = selected(checkpoint.variables, options.only, options.a)
        if target.exists() and source.exists() and target.samefile(source):
            raise CommandError(f"{options.a} and {options.b} are the same file")
        count = len(names)
        if options.b.endswith(("/", os.sep)) or target.is_dir():
            size = _size(options.shard_size)
            if target.is_dir() and any(target.iterdir()):
                raise CommandError(f"{options.b} is a folder that is not empty", hint="name a new folder, or a file")
            write_folder(checkpoint, target, size, names)
            _check_whole(checkpoint, target, names)
        elif target.suffix.lower() == ".safetensors":
            write_file(checkpoint, target, only=names)
            _check_whole(checkpoint, target, names)
        elif (writer := _WRITERS.get(target.suffix.lower())) is not None:
            count = _export(checkpoint, target, writer, names)
        else:
            known = ", ".join((".safetensors", *_WRITERS))
            raise CommandError(f"{options.b} ends with none of {known}", hint=f"{options.b}/ is a folder")
    say(f"wrote {escaped(options.b)}: {counted(count)}, all verified")
    return Exit.OK


def _size(text: str) -> int:
    try:
        return parsed_size(text)
    except ValueError:
        raise CommandError(f"expected a size such as 5GB, got {text!r}") from None


def _check_whole(checkpoint: Checkpoint, target: Path, names: list[str]) -> None:
    """Reads a checkpoint of ours that was written, and compares everything.

    Raises:
        CommandError: something is not as it was.
    """
    with open_checkpoint(target) as written:
        found = compare(checkpoint, written, _in(checkpoint, names))
    if not found.is_same:
        raise CommandError(f"{target} is not what was to be written: {'; '.join(found.lines())}", Exit.DAMAGED)


def _in(checkpoint: Checkpoint, names: list[str]) -> Callable[[str], bool] | None:
    return None if len(names) == len(checkpoint.variables) else set(names).__contains__


def _export(checkpoint: Checkpoint, target: Path, writer: _Writer, names: list[str]) -> int:
    """Writes a file of another program aside, checks it, puts it in its place, and says what it does not keep.

    Returns the number of variables in it.
    """
    place = Path(os.path.realpath(target))  # a link is followed
    with _files.os_errors_as("convert", target), _aside(place) as new:
        try:
            writer(checkpoint, names, new)
        except BackendNotInstalledError as error:
            raise error._at("convert", str(target)) from error
        with open_checkpoint(new) as written:
            found, count = _compared(checkpoint, written, names), len(written.variables)
        lost = _lost(checkpoint, found, target)
        _finish(new, _files.attributes(place))
        new.replace(place)
        _files.sync_folder(place.parent)
    for each in lost:
        complain("convert", f"{target} does not keep {each}")
    return count


def _compared(checkpoint: Checkpoint, written: Checkpoint, names: list[str]) -> Comparison:
    if [*names] == [*written.variables] or len(written.variables) != 1 or len(names) != 1:
        return compare(checkpoint, written, _in(checkpoint, names))
    found = Comparison()  # the array in a .npy file has the name of the file
    compare_one(found, names[0], (checkpoint, names[0]), (written, next(iter(written.variables))))
    return found


def _finish(new: Path, attributes: _files.Attributes | None) -> None:
    """Gives a file the attributes of the one that it will replace, and waits until it is on the disk."""
    file = os.open(new, os.O_RDWR)
    try:
        if attributes is not None:
            _files.set_attributes(file, attributes)
        _files.sync(file)
    finally:
        _files.close(file)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """The path of a temporary file beside a target, which is removed if it is there when the block ends."""
    new = target.with_name(f".{os.urandom(4).hex()}.tmp{target.suffix}")
    try:
        yield new
    finally:
        with suppress(FileNotFoundError):
            new.unlink()


def _lost(checkpoint: Checkpoint, found: Comparison, target: Path) -> list[str]:
    """What a file of another program has no room for, as phrases.

    Raises:
        CommandError: a value is not as it was.
    """
    missing = [path for path in found.removed if checkpoint.variables[path].shape is None]
    wrong = [path for path in found.removed if path not in missing] + [*found.added, *found.values]
    wrong += [path for path, facts in found.facts.items() if facts.keys() & {"dtype", "shape"}]
    if wrong:
        problem = f"{target} would not have the values of {_some(wrong)}, so nothing was written"
        raise CommandError(problem, Exit.DAMAGED, "convert to .safetensors, or leave them out with --only")
    by_fact: dict[str, list[str]] = {}
    for path, facts in found.facts.items():
        for name in facts:
            by_fact.setdefault(_FACTS.get(name, name), []).append(path)
    lost = [f"{what} of {_some(paths)}" for what, paths in by_fact.items()]
    if missing:
        lost.append(f"{_some(missing)}, which {'has' if len(missing) == 1 else 'have'} no value")
    if found.aliases:
        lost.append(f"the aliases {_some([f'{path} = {first}' for path, first, _ in found.aliases])}")
    return lost + [f"the {what}: {_some([*keys])}" for what, keys in found.texts.items()]


_FACTS = {"trainable": "the flag trainable", "autocast": "the flag autocast", "declared": "the declared shape"}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
