"""`statevar completion`: a script for a shell, which completes commands, options, files, and the names in a file.

The scripts ask this module for the words that may come next, with a hidden option. Names come from a file that may be
hostile, so that no script expands or runs what it gets.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..errors import StatevarError
from .exits import CommandError, Exit
from .main import COMMANDS, parser_of
from .output import say

__all__ = ["arguments", "following", "run"]

#: What stands in the place of words: the shell completes files itself.
FILES = None

_MOST = 2000  # names: nobody reads more


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    # What the scripts ask for: for bash the line up to the cursor, for the others its words.
    parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _HOW_TO


def run(options: argparse.Namespace) -> int:
    if options.words is None:
        say(_SCRIPTS[options.shell])
        return Exit.OK
    words, quote = _words_of(*options.words[:1] or [""]) if options.shell == "bash" else (options.words or [""], "")
    found = following(words)
    say("files" if found is FILES else "words")
    for word, text in islice(found or (), _MOST):
        if options.shell == "bash":
            if (line := _for_bash(word, words[-1], quote)) is not None:
                say(line)
        else:
            say(f"{word}\t{text}" if text else word)
    return Exit.OK


def following(words: Sequence[str]) -> Iterator[tuple[str, str]] | None:
    """The words that may stand in the place of the last one, and begin as it does, each with its description.

    Args:
        words: the words of the command line after `statevar`, without quotes; the last one may be empty.

    Returns:
        Pairs of a word and its description; None if files belong there.
    """
    *before, current = words
    command = next((each for each in before if not each.startswith("-")), None)
    if command is None:
        return _beginning(current, {**COMMANDS, "--help": "how to use it", "--version": "the version"}.items())
    if command not in COMMANDS:
        return iter(())
    actions = _actions(command)
    by_option = {option: action for action in actions for option in action.option_strings}
    positional: list[str] = []
    waiting: argparse.Action | None = None  # the option whose value is the next word
    for word in before[before.index(command) + 1 :]:
        if waiting is not None:
            waiting = None
        elif word in by_option:
            waiting = by_option[word] if by_option[word].nargs != 0 else None
        elif not word.startswith("-"):
            positional.append(word)
    if waiting is None and current.startswith("-"):
        texts = ((option, action.help or "") for option, action in by_option.items())
        return _beginning(current, ((option, text) for option, text in texts if text != argparse.SUPPRESS))
    if waiting is None:
        waiting = next(islice((each for each in actions if _is_free(each, positional, actions)), 1), None)
    if waiting is None:
        return iter(())
    if waiting.choices is not None:
        return _beginning(current, ((str(each), "") for each in waiting.choices))
    if getattr(waiting, "completes_names", False):
        return _names(positional[0], current) if positional else iter(())
    is_file = not waiting.option_strings or waiting.metavar in ("FILE", "OUT")
    return FILES if is_file else iter(())


def _is_free(action: argparse.Action, positional: list[str], actions: list[argparse.Action]) -> bool:
    """Whether the next argument that is no option belongs to an action."""
    places = [each for each in actions if not each.option_strings and each.help != argparse.SUPPRESS]
    if action not in places:
        return False
    return places.index(action) == len(positional) or (action is places[-1] and action.nargs in ("+", "*"))


def _beginning(current: str, words: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return (each for each in words if each[0].startswith(current))


def _actions(command: str) -> list[argparse.Action]:
    """The arguments of a command."""
    subparsers = next(each for each in parser_of(command)._actions if isinstance(each, argparse._SubParsersAction))
    actions: list[argparse.Action] = subparsers.choices[command]._actions
    return actions


def _names(path: str, current: str) -> Iterator[tuple[str, str]]:
    """The names in a file that begin in some way. Those that a terminal cannot show are left out."""
    from .._core.tables import shape_text  # these are only for names
    from .paths import opened

    with suppress(StatevarError, CommandError, OSError), opened(str(Path(path).expanduser())) as checkpoint:
        for name, record in checkpoint.variables.items():
            if name.startswith(current) and name.isprintable():
                shape = "no value" if record.shape is None else shape_text(record.shape)
                yield name, f"{shape} {record.dtype}"


# -- bash, whose words are as they were typed -----------------------------------------------------------------------


def _words_of(line: str) -> tuple[list[str], str]:
    """The words of a line after its first, without quotes, and the quote that is still open."""
    for quote in ("", "'", '"'):
        with suppress(ValueError):
            words = shlex.split(line + quote)[1:]
            if not quote and (line[-1:].isspace() or not words):
                words.append("")
            return words, quote
    return [""], ""


def _for_bash(word: str, current: str, quote: str) -> str | None:
    r"""A word as readline inserts it: quoted, and without what stands before the last : or =, which break words.

    >>> print(_for_bash("dense:0/a b", "dense:0/", ""))
    0/a\ b
    """
    if quote:
        return None if quote in word or (quote == '"' and re.search(r"[$`\\!]", word)) else word
    kept = max(current.rfind(each) for each in ":=") + 1
    return re.sub(r"([^\w@%+=:,./~^-])", r"\\\1", word[kept:])


_HOW_TO = """\
bash, in ~/.bashrc:    source <(statevar completion bash)
zsh, in ~/.zshrc:      source <(statevar completion zsh)      (after compinit)
fish:                  statevar completion fish > ~/.config/fish/completions/statevar.fish
"""

_SCRIPTS = {
    "bash": """\
# Completion of statevar for bash. Nothing that comes from a file is expanded or run.
_statevar() {
    local kind line
    COMPREPLY=()
    {
        IFS= read -r kind
        while IFS= read -r line; do COMPREPLY+=("$line"); done
    } < <(command statevar completion bash --words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
# Where there is no word, readline completes files.
complete -o default -F _statevar statevar""",
    "zsh": """\
#compdef statevar
# Completion of statevar for zsh. Nothing that comes from a file is expanded or run.
_statevar() {
    local line
    local -a found names texts
    local -a before=("${(@Q)words[2,CURRENT-1]}")
    found=("${(@f)$(command statevar completion zsh --words "$before[@]" "${(Q)PREFIX}" 2>/dev/null)}")
    if [[ $found[1] == files ]]; then
        _files
        return
    fi
    for line in "${(@)found[2,-1]}"; do
        names+=("${line%%$'\\t'*}")
        texts+=("${line/$'\\t'/  -- }")
    done
    compadd -l -d texts -a names
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _statevar "$@"; else compdef _statevar statevar; fi""",
    "fish": """\
# Completion of statevar for fish. Nothing that comes from a file is expanded or run.
function __statevar_words
    set -l words (commandline -opc) (commandline -ct)
    set -l found (command statevar completion fish --words $words[2..-1] 2>/dev/null)
    if test "$found[1]" = files
        __fish_complete_path $words[-1]
    else
        printf '%s\\n' $found[2..-1]
    end
end
complete -c statevar -f -a '(__statevar_words)'""",
}
