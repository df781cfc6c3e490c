"""The weights of one library as if they had been saved by the other: made by rules when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..._arrays.dtypes import STORED
from ..._arrays.shapes import DeclaredShape, Shape
from ..._arrays.types import HostArray
from ..._state.paths import Paths, followed
from ...errors import CheckpointError
from .._formats.safetensors.values import VariableRecord
from .._memory import Loadable
from .._pieces.blocks import Block
from .optimizers import slots_planned
from .plan import Kinds, Plan, Rows, Step, step_of
from .rule import Rule, Rules

__all__ = ["Translated", "translated"]


class Translated:
    """A source whose names are those of the target. Each array is made when it is asked for.

    Attributes:
        plan: how each is made.
        left: the names in the source, after renaming, from which nothing is made.
    """

    checks_blocks = True

    def __init__(
        self,
        source: Loadable,
        plan: Plan,
        names: Mapping[str, str],
        left: list[str],
        found: Paths,
        rows: Rows,
    ) -> None:
        self._source = source
        self._names = names
        self._dtypes = {path: variable.dtype_name for path, variable in found.variables.items()}
        self._found = found
        self._rows = rows
        self._needed: dict[str, list[tuple[Rule, int, str]]] = {}
        self.plan = plan
        self.left = left
        self.path = source.path
        self.identity = source.identity
        self.aliases: Mapping[str, str] = {}
        self.numbers = frozenset(
            name for name, step in plan.steps.items() if any(names[each] in source.numbers for each in step.sources)
        )
        self.variables: Mapping[str, VariableRecord] = {
            name: self._record(name, step) for name, step in plan.steps.items()
        }

    def checksum(self, path: str) -> str | None:
        step = self.plan.steps[path]
        parts = [self._source.checksum(self._names[name]) for name in step.sources]
        known = [part for part in parts if part is not None]
        return f"{known} {step.rule and step.rule.axes} {step.number}" if len(known) == len(parts) else None

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        steps = {name: self.plan.steps[name] for name in names}
        real = {name: [self._names[each] for each in step.sources] for name, step in steps.items()}
        read = self._source.arrays({each for several in real.values() for each in several})
        made: dict[str, HostArray | CheckpointError] = {}
        for name, step in steps.items():
            parts: list[HostArray] = []
            for array in (read[each] for each in real[name] if each in read):
                if isinstance(array, CheckpointError):
                    made[name] = array
                    break
                parts.append(array)
            else:
                if len(parts) == len(step.sources):  # else one was saved without a value
                    array = step.apply(parts, name)
                    if step.factor != 1.0:
                        array = (array * step.factor).astype(array.dtype)
                    made[name] = array.astype(STORED[self._dtypes[name]]) if step.exact else array
        return made

    def block(self, name: str, block: Block) -> HostArray:
        array = self.arrays([name])[name]
        if isinstance(array, CheckpointError):
            raise array
        return array if array.shape == block.sizes else array[block.index_in((0,) * array.ndim)].copy()

    def damage(self, names: Iterable[str]) -> Mapping[str, CheckpointError]:
        return {}

    def needed(self, paths: Iterable[str]) -> list[str]:
        """The names in the source from which rules would make the weights at these paths, if they were there."""
        for path in paths:
            for rule, number, names, _ in self._rows.of(path):
                for name in names:
                    self._needed.setdefault(name, []).append((rule, number, path))
        return list(self._needed)

    def facts(self, name: str) -> tuple[str, Shape | None] | None:
        """The dtype and shape of a weight of the source."""
        record = self._source.variables.get(self._names.get(name, ""))
        return None if record is None else (record.dtype, record.shape)

    def fits(self, name: str, needed: str) -> bool:
        """Whether a weight of the source has a shape that the weight under another name could have."""
        facts = self.facts(name)
        if facts is None or facts[1] is None:
            return False
        for rule, number, path in self._needed.get(needed, ()):
            several = [facts[1]] * len(rule.sources())
            shape = _closed(self._found.variables[path].declared_shape)
            if not isinstance(step_of((name,) * len(several), several, rule, number, shape), str):
                return True
        return False

    def close(self) -> None:
        self._source.close()

    def _record(self, name: str, step: Step) -> VariableRecord:
        records = [self._source.variables[self._names[name]] for name in step.sources]
        shape = None if any(record.shape is None for record in records) else step.shape
        dtype = self._dtypes[name] if step.exact else records[0].dtype
        return records[0]._replace(dtype=dtype, shape=shape, declared=step.shape)


def translated(
    source: Loadable,
    sources: Mapping[str, str],
    aliases: Mapping[str, str],
    found: Paths,
    rules: Rules,
    kinds: Kinds,
    optimizers: tuple[Kinds, Kinds],
) -> Translated:
    """Returns the source in the names and axes of the target.

    Args:
        source: the weights.
        sources: by name after renaming, the name in the source.
        aliases: by further name, the name after renaming.
        found: the variables of the target.
        rules: the rules.
        kinds: the kind of layer at a path of the target.
        optimizers: the class of the optimizer at a path of the source, and of the target.
    """
    more = {alias: sources[first] for alias, first in aliases.items() if first in sources}
    names = {**sources, **more}
    paths = _with_slashes({path: path for path in found.variables})

    def known(path: str) -> str | None:
        return rules.kinds.get(path) or kinds(path)

    plan = slots_planned(
        {name: source.variables[real].shape for name, real in names.items()},
        {name: _closed(found.variables[path].declared_shape) for name, path in paths.items()},
        rules,
        known,
        lambda wanted: _read(source, {name: names[name] for name in wanted}),
        lambda wanted: {name: found.variables[paths[name]].numpy() for name in wanted},
        optimizers,
    )
    plan.steps = {paths[name]: step for name, step in plan.steps.items()}
    plan.failed = {paths[name]: reason for name, reason in plan.failed.items()}
    plan.assumed = {paths[name]: reason for name, reason in plan.assumed.items()}
    plan.skipped = [paths.get(name, name) for name in plan.skipped]
    used = {each for step in plan.steps.values() for each in step.sources} | set(plan.read) | set(plan.skipped)
    used |= {each for needed, _ in plan.failed.values() for each in needed}
    twice = {names[name] for name in used if name in names} if more else set()
    left = [
        name
        for name, real in names.items()
        if name not in used
        and real not in twice
        and not _is_alias(source, names, name, followed(name, found.aliases), used)
    ]
    return Translated(source, plan, names, left, found, Rows(rules, known))


def _read(source: Loadable, names: Mapping[str, str]) -> dict[str, HostArray]:
    """Reads arrays by name.

    Raises:
        CheckpointError: one is damaged.
    """
    read = source.arrays(names.values())
    arrays: dict[str, HostArray] = {}
    for name, real in names.items():
        array = read.get(real)
        if isinstance(array, CheckpointError):
            raise array
        if array is not None:
            arrays[name] = array
    return arrays


def _with_slashes(names: Mapping[str, str]) -> dict[str, str]:
    """The names as paths: where none of them has a slash, a dot separates, as in the names of torch."""
    dotted = not any("/" in name for name in names)
    return {name.replace(".", "/") if dotted else name: real for name, real in names.items()}


def _closed(shape: DeclaredShape) -> Shape | None:
    """A declared shape, if the variable can have no other."""
    return None if shape is ... or None in shape else tuple(length for length in shape if length is not None)


def _is_alias(source: Loadable, names: Mapping[str, str], name: str, first: str, used: set[str]) -> bool:
    """Whether a weight is another name of one that was taken: the target has one layer where the source lists two."""
    if name == first or first not in used:
        return False
    mine = source.checksum(names[name])
    return mine is not None and mine == source.checksum(names[first])
