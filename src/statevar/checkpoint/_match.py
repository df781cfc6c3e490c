"""Matches the variables of an object with those of a file, and reports the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from .._arrays.dtypes import KEYS
from .._arrays.shapes import fits
from .._core.variable import Variable
from .._public import public
from .._state.paths import Paths, Rename, followed, path_matches, renamed
from ..errors import CheckpointMismatchError
from ._advice import advice
from ._memory import Loadable
from ._pending import Pending
from ._rules.translation import Translated
from ._shown import Result

__all__ = [
    "LoadOptions",
    "LoadReport",
    "Offer",
    "Rename",
    "advise",
    "amend",
    "matched",
    "offered",
    "patterns",
    "problem_of",
]


class LoadOptions(TypedDict, total=False):
    """The options of `load` that other functions pass on to it, for type checkers."""

    strict: bool
    rename: Rename | None
    rules: Iterable[Sequence[Any]] | None
    cast: bool
    only: str | Iterable[str] | None
    separator: str | None
    on_create: bool
    alone: bool
    timeout: float


@public("statevar.checkpoint")
@dataclass(repr=False)
class LoadReport(Result):
    """The result of a load. All paths are object paths, so those of the file are given after renaming.

    Attributes:
        loaded: the variables that were loaded.
        missing: the variables that only the object has.
        unexpected: the variables that only the file has.
        mismatched: the variables that both have and that do not match, each with the reason.
        skipped: names in either that a rule leaves out, because the other library has no such state.
        assumed: the variables whose axes were chosen by their names only, and could be others, each with the reason.
        notes: sentences about what is not the same: a sum of two biases, another epsilon.
        hint: a ``rename`` that makes names match which do not; empty if none was found.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hint: str = ""
    _pending: Pending | None = field(default=None, repr=False)

    def _shown_fields(self) -> Iterator[tuple[str, Any]]:
        always = ("loaded", "missing", "unexpected", "mismatched")
        for name in (*always, *(name for name in ("skipped", "assumed", "notes", "hint") if getattr(self, name))):
            yield name, getattr(self, name)

    def _head(self) -> str:
        counts = {name: len(value) for name, value in self._shown_fields() if isinstance(value, list | dict)}
        words = [f"{count:,} {name}" for name, count in counts.items() if count or name == "loaded"]
        return ", ".join([*words, *([f"{len(self.pending):,} pending"] if self.pending else [])])

    def _lists(self) -> Mapping[str, Sequence[str]]:
        return {
            "mismatched": [f"{path}: {why}" for path, why in self.mismatched.items()],
            "missing": self.missing,
            "unexpected": self.unexpected,
            "skipped": self.skipped,
            "assumed": [f"{path}: {why}" for path, why in self.assumed.items()],
            "pending": self.pending,
            "notes": self.notes,
            "hint": [self.hint] if self.hint else [],
        }

    @property
    def pending(self) -> list[str]:
        """The paths of the values that wait for their variables to be created, after a load with ``on_create``."""
        return [] if self._pending is None else self._pending.paths()

    def fill(self) -> list[str]:
        """Fills the variables that were created since the load, and returns their paths.

        This happens by itself when a variable is set as an attribute of a `Module`, but not when it is put into a list
        or dict.
        """
        return [] if self._pending is None else self._pending.fill()

    def assert_consumed(self) -> None:
        """Raises CheckpointMismatchError if a value of the file was not loaded because no variable has its path."""
        self.fill()
        left = self.pending or self.unexpected
        if left:
            raise CheckpointMismatchError.of("load", f"the object has no variable for {_listed(left)}")

    def problems(self) -> list[str]:
        lines = [f"  mismatched  {path}: {why}" for path, why in self.mismatched.items()]
        lines += [f"  missing     {path}" for path in self.missing]
        lines += [f"  unexpected  {path}" for path in self.unexpected]
        return lines + ([f"Hint: {self.hint}."] if self.hint and lines else [])


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")


@dataclass
class Offer:
    """The variables of a file, by object path: the file path after renaming."""

    #: By object path, the file path.
    sources: dict[str, str]
    #: By object path of an alias, the object path of the variable or container.
    aliases: dict[str, str]

    def find(self, path: str) -> str | None:
        """Returns the file path for an object path, through aliases; None if the file has no such variable."""
        return self.sources.get(followed(path, self.aliases))


def offered(checkpoint: Loadable, rename: Rename | None) -> Offer:
    offer = Offer({}, {})
    for source in checkpoint.variables:
        path = renamed(source, rename)
        if path is None:
            continue
        if path in offer.sources:
            raise CheckpointMismatchError.of(
                "load", f"rename maps both {offer.sources[path]!r} and {source!r} to {path!r}", str(checkpoint.path)
            )
        offer.sources[path] = source
    for alias, first in checkpoint.aliases.items():
        if rename is not None and not isinstance(rename, Mapping) and first not in checkpoint.variables:
            continue  # an alias of a container: a rename function knows only paths of variables
        path, target = renamed(alias, rename), renamed(first, rename) if first else first
        if path is not None and target is not None and path not in offer.sources:
            offer.aliases[path] = target
    return offer


def matched(
    found: Paths, checkpoint: Loadable, offer: Offer, wanted: Callable[[str], bool], *, cast: bool
) -> tuple[LoadReport, dict[str, tuple[Variable, str]]]:
    """Compares an object with a file. Returns the report, and by object path the (variable, file path) to load."""
    report = LoadReport()
    first = {path: offer.find(path) for path in found.variables}
    more: dict[str, list[str]] = {}  # several variables of the file that are one in the object
    taken = set(first.values())
    for path, source in offer.sources.items():
        if source in taken:
            continue
        here = followed(path, found.aliases)
        if here in first:
            more.setdefault(here, []).append(source)
        elif wanted(path):
            report.unexpected.append(path)
    plan = {}
    for path, variable in found.variables.items():
        if not wanted(path):
            continue
        sources = [each for each in (first[path], *more.get(path, ())) if each is not None]
        if not sources:
            report.missing.append(path)
        elif problem := problem_of(variable, checkpoint, sources, cast=cast):
            report.mismatched[path] = problem
        else:
            plan[path] = variable, sources[0]
    return report, plan


def problem_of(variable: Variable, checkpoint: Loadable, sources: list[str], *, cast: bool) -> str:
    saved = checkpoint.variables[sources[0]]
    if len(sources) > 1 and len({checkpoint.checksum(each) or each for each in sources}) > 1:
        return f"one variable in the object, and different ones in the file: {', '.join(sources)}"
    if saved.dtype != variable.dtype_name and (saved.dtype in KEYS or variable.dtype_name in KEYS):
        return f"expected {variable.dtype_name}, got {saved.dtype}; a random key needs a variable of its implementation"
    if saved.dtype != variable.dtype_name and not cast and sources[0] not in checkpoint.numbers:
        return f"expected {variable.dtype_name}, got {saved.dtype}; pass cast=True to cast it"
    if saved.shape is not None and not fits(saved.shape, variable.declared_shape):
        return f"expected shape {variable.declared_shape}, got {saved.shape}"
    return ""


def amend(report: LoadReport, moved: Translated, wanted: Callable[[str], bool]) -> None:
    """Adds to a report what the rules say of it."""
    plan = moved.plan
    report.mismatched |= {path: reason for path, (_, reason) in plan.failed.items() if wanted(path)}
    report.skipped = list(plan.skipped)
    report.missing = [path for path in report.missing if path not in plan.failed and path not in plan.skipped]
    report.unexpected += [name for name in moved.left if wanted(name)]
    report.assumed = dict(plan.assumed)
    for rule in plan.unused:
        beginning = "" if str(rule.source).startswith("*") else f"; the names are whole paths, as '*/{rule.source}' is"
        report.notes.append(f"the rule {rule} was used for no weight{beginning}")
    for path, step in plan.steps.items():
        if step.factor != 1.0:
            report.notes.append(f"{path} is {step.sources[0]} times {step.factor:.6g}, because of the learning rate")
        if step.lossy == "left":
            report.notes.append(
                f"{path} is the sum of {' and '.join(step.sources)}; it comes back as the first of them"
            )
        elif step.lossy == "right" and step.number == 0:
            report.notes.append(f"{path} has the whole of {step.sources[0]}, and the bias beside it is zero")


def advise(
    report: LoadReport,
    found: Paths,
    checkpoint: Loadable,
    offer: Offer,
    rename: Rename | None,
    moved: Translated | None,
    *,
    strict: bool,
) -> None:
    """Adds to a report the ``rename`` that makes names match."""
    if not report.missing or not report.unexpected or not (rename is None or isinstance(rename, Mapping)):
        return
    records = checkpoint.variables
    names = {offer.sources.get(path, path): path for path in report.unexpected} if moved is None else report.unexpected
    dotted = moved is None and not any("/" in name for name in names) and any("/" in path for path in report.missing)

    def key(name: str) -> tuple[Any, ...] | None:
        if moved is not None:
            return moved.facts(name)
        if name in found.variables and name not in names:
            variable = found.variables[name]
            return variable.dtype_name, variable.declared_shape
        record = records[real.get(name, name)]
        return record.dtype, record.shape

    def fits_name(name: str, path: str) -> bool:
        if moved is not None:
            return moved.fits(name, path)
        record, variable = records[real.get(name, name)], found.variables[path]
        return record.dtype == variable.dtype_name and (
            record.shape is None or fits(record.shape, variable.declared_shape)
        )

    real = {name.replace(".", "/"): name for name in names} if dotted else {}
    missing = report.missing if moved is None else moved.needed(report.missing)
    open_names = [name for name in real or names if name not in missing]
    used = {head: other for head, other in (rename or {}).items() if _occurs(head, checkpoint)}
    open_paths = [path for path in missing if path not in real]
    hint = advice(open_names, open_paths, fits_name, key, used, strict=strict, alternatives=moved is not None)
    report.hint = ", and ".join(
        each for each in (_DOTS if real.keys() & set(missing) or (real and hint) else "", hint) if each
    )


def _occurs(head: str, checkpoint: Loadable) -> bool:
    """Whether a key of ``rename`` is the beginning of a name. One that is not is an error of typing."""
    return any(name == head or name.startswith(f"{head}/") for name in (*checkpoint.variables, *checkpoint.aliases))


_DOTS = "the names in the file have dots: pass separator='.'"


def patterns(only: str | Iterable[str] | None) -> Callable[[str], bool]:
    return (lambda _: True) if only is None else path_matches(only)
