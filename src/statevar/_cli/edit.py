"""``statevar edit``: changes values and flags in a file, all or nothing."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path

from .._core.tables import escaped
from ..checkpoint._checkpoint import Checkpoint, open_checkpoint
from ..checkpoint._rewriting import Change, layout_of, rewrite, undisturbed, write_file
from .assignments import parsed
from .edited import Edited
from .exits import CommandError, Exit
from .options import add_path, completed_by_names
from .output import say
from .paths import place_of

__all__ = ["arguments", "run"]

_EPILOG = """\
A CHANGE is NAME=VALUE or NAME[INDEX]=VALUE, with an index of NumPy; also += -= *= /= //= %= and **=.
VALUE is a number (also nan, inf, true, false, 1+2j), a list of them, or @FILE.npy. For a variable of strings it is the
text itself, unless it begins with a quote, @ or [. NAME.trainable=false, NAME.autocast=true and NAME.aggregation=sum
change flags. Nothing is evaluated, and a value that the dtype cannot represent is an error.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add_path(parser)
    completed_by_names(parser.add_argument("changes", metavar="CHANGE", nargs="+", help="'NAME[INDEX]=VALUE'"))
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would change, and write nothing")
    parser.add_argument("--backup", action="store_true", help="keep the present file as PATH.bak")
    parser.add_argument("-o", "--output", metavar="OUT", help="write OUT, a file of ours, and leave PATH as it is")


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    place = place_of(options.path, options.step)
    in_place = not options.dry_run and options.output is None
    with ExitStack() as stack:
        if in_place:
            stack.enter_context(undisturbed(place))
        checkpoint = stack.enter_context(open_checkpoint(place))
        _check_layout(options, checkpoint)
        changes = _changes(checkpoint, options.changes)
        if options.dry_run:
            say("nothing was written (--dry-run)")
        elif options.output is not None:
            write_file(checkpoint, Path(options.output), changes)
            say(f"wrote {escaped(options.output)}")
        elif not changes:
            say("nothing changes, so nothing was written")
        else:
            rewrite(checkpoint, changes, _backup_of(place) if options.backup else None)
            say(f"wrote {escaped(place)}")
    return Exit.OK


def _check_layout(options: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Raises CommandError if the checkpoint cannot be changed as asked."""
    output = options.output
    if output == "":  # of a variable of the shell that is not set
        raise CommandError("-o got an empty path", hint="pass the path of the new file, or leave out -o")
    if output is not None and output.lower().endswith(_OTHERS):
        raise CommandError(f"-o writes a file of statevar, and {output!r} has another ending", hint="statevar convert")
    layout = layout_of(checkpoint)
    if output is None and layout == "other":
        problem = f"{options.path} was written by another program, and statevar does not write over it"
        raise CommandError(problem, hint=f"pass -o OUT, or: statevar convert {options.path} NEW.safetensors")
    if output is None and layout == "pieces":
        problem = f"{options.path} has the parts of several processes or devices, which are not changed where they are"
        raise CommandError(problem, hint="pass -o OUT, which writes one file")
    if options.backup and (output is not None or layout != "file"):
        raise CommandError("--backup is for a single file that is changed where it is", hint="pass -o OUT instead")


_OTHERS = (".npz", ".npy", ".h5", ".hdf5", ".keras", ".pt", ".pth", ".bin", ".gguf", ".msgpack", ".pkl", ".ckpt")


def _backup_of(place: Path) -> Path:
    real = Path(os.path.realpath(place))
    backup = real.with_name(f"{real.name}.bak")
    if backup.exists():
        raise CommandError(f"there is a backup already: {backup}", hint="remove it, or give it another name")
    return backup


# -- what changes ----------------------------------------------------------------------------------------------


def _changes(checkpoint: Checkpoint, texts: list[str]) -> dict[str, Change]:
    """What all changes make of the variables, by path; those that stay as they are are left out. Says each."""
    wanted = [parsed(text, checkpoint) for text in texts]
    edited: dict[str, Edited] = {}
    for each in wanted:
        if each.path not in edited:
            edited[each.path] = Edited(checkpoint, each.path)
        say(f"{escaped(each.place)}: {edited[each.path].apply(each)}")
    found = {path: each.change() for path, each in edited.items()}
    return {path: change for path, change in found.items() if change is not None}
