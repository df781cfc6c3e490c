"""Finds for each weight of the target the weights of the source from which a rule makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import CheckpointMismatchError
from .rule import Rule, Rules, captured, filled

__all__ = ["Kinds", "Plan", "Rows", "Step", "planned", "step_of"]

#: The kind of the layer at a path; None if it is not known.
Kinds = Callable[[str], str | None]


class Step(NamedTuple):
    """How one weight of the target is made.

    Attributes:
        sources: the names of the weights that it is made from.
        rule: the rule; None if the weight has the same name and axes in both.
        number: which of the arrays of the rule's target it is.
        shape: the shape of the result.
        sizes: the length of each axis of the rule.
        exact: whether another dtype is no mismatch, because the value is an integer in each.
        factor: what the values are multiplied by.
    """

    sources: tuple[str, ...]
    rule: Rule | None
    number: int
    shape: Shape
    sizes: Mapping[str, int]
    exact: bool = False
    factor: float = 1.0

    @property
    def lossy(self) -> str:
        """The side of the rule whose arrays are summed; empty if the step can be undone exactly."""
        axes = None if self.rule is None else self.rule.parsed()
        return "" if axes is None else axes.summed

    def apply(self, arrays: Sequence[HostArray], name: str) -> HostArray:
        """Makes the array for the target from those of the source.

        Raises:
            CheckpointMismatchError: the target has no place for a value that is not zero.
        """
        axes = None if self.rule is None else self.rule.parsed()
        if self.rule is None or axes is None:
            return arrays[0]
        whole = arrays[0] if len(arrays) == 1 else np.stack(arrays)
        if axes.summed == "left":
            if self.rule.zeros:
                self._check_zeros(whole[1:], name)
            whole = whole.sum(0)  # of two: exact as an addition is
        made = axes.apply(whole, self.sizes)
        several = len(self.rule.targets()) > 1
        if axes.summed == "right":
            if several:
                return made if self.number == 0 else np.zeros_like(made)
            made = np.concatenate([made[None], np.zeros((self.shape[0] - 1, *made.shape), made.dtype)])
        return np.ascontiguousarray(made[self.number] if several else made)

    def _check_zeros(self, others: HostArray, name: str) -> None:
        assert self.rule is not None
        axes = self.rule.parsed()
        assert axes is not None
        before = axes.left.axes()
        place = next(i for i, axis in enumerate(before) if self.rule.zeros in axis.labels)
        parts = others.reshape(len(others), *(self.sizes[axis.name] for axis in before))
        if parts.take(before[place].labels.index(self.rule.zeros), place + 1).any():
            raise CheckpointMismatchError.of(
                "load",
                f"the second bias of gate {self.rule.zeros!r} in {self.sources[-1]!r} is not zero, and has no place",
                name,
            )


@dataclass
class Plan:
    """What is to be made, and what is to be reported.

    Attributes:
        steps: by the name of a weight of the target.
        failed: the weights of the target for which there are sources that do not fit, with the reason.
        skipped: the names in either that the other library does not have.
        assumed: the weights that could have other axes, by name, with the reason.
        read: names in the source that were read and are the same as what is loaded.
        unused: the rules with lengths, which are those of one model, that fit no weight of it.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    failed: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    unused: list[Rule] = field(default_factory=list)


class Rows:
    """The rules for a weight of the target, found by the last segment of its name."""

    def __init__(self, rules: Rules, kinds: Kinds) -> None:
        self.kinds = kinds
        self._by_leaf: dict[str, list[tuple[int, Rule, int, str]]] = {}
        for order, rule in enumerate(rules):
            for number, pattern in enumerate(rule.targets()):
                leaf = pattern.rpartition("/")[2]
                self._by_leaf.setdefault("*" if "*" in leaf else leaf, []).append((order, rule, number, pattern))

    def of(self, name: str) -> Iterator[tuple[Rule, int, tuple[str, ...], Sequence[str]]]:
        """Yields each rule, the number of the array in it, the names that it needs, and what the stars stand for."""
        found = [*self._by_leaf.get(name.rpartition("/")[2], ()), *self._by_leaf.get("*", ())]
        for _, rule, number, pattern in sorted(found, key=lambda row: row[0]):
            texts = captured(pattern, name)
            if texts is not None and _is_for(rule, texts, self.kinds):
                yield rule, number, tuple(filled(each, texts) for each in rule.sources()), texts


def planned(
    sources: Mapping[str, Shape | None],
    targets: Mapping[str, Shape | None],
    rules: Rules,
    kinds: Kinds,
) -> Plan:
    """Finds a step for each weight of the target that a rule, or the same name, makes from weights of the source."""
    plan = Plan()
    rows = Rows(rules, kinds)
    for name, shape in targets.items():
        _plan_one(plan, name, shape, rows, sources)
    used = {source for step in plan.steps.values() for source in step.sources}
    dropping = [(rule, pattern) for rule in rules if rule.target is None for pattern in rule.sources()]
    for source in sources:
        if source not in used and any(
            (texts := captured(pattern, source)) is not None and _is_for(rule, texts, kinds)
            for rule, pattern in dropping
        ):
            plan.skipped.append(source)
    known = {str(step.rule) for step in plan.steps.values()}
    tried = " ".join(reason for _, reason in plan.failed.values())
    plan.unused = [rule for rule in rules if rule.sizes and str(rule) not in known and str(rule) not in tried]
    return plan


def _plan_one(plan: Plan, name: str, shape: Shape | None, rows: Rows, sources: Mapping[str, Shape | None]) -> None:
    fitting: list[tuple[Step, bool]] = []  # each with whether the kind of the layer is known
    failed: list[tuple[tuple[str, ...], str]] = []
    for rule, number, needed, texts in rows.of(name):
        if rule.source is None:
            if name not in sources and not fitting and not failed:
                plan.skipped.append(name)
                return
            continue
        if not all(each in sources for each in needed):
            continue
        step = step_of(needed, [sources[each] for each in needed], rule, number, shape)
        if isinstance(step, str):
            failed.append((needed, f"{step}, by the rule {rule}"))
        else:
            fitting.append((step, not rule.kind or (bool(texts) and rows.kinds(texts[0]) is not None)))
            if fitting[0][1]:
                break  # nothing is assumed
    if not fitting and name in sources and (not failed or sources[name] == shape):
        fitting.append((Step((name,), None, 0, sources[name] or (), {}), True))
    if fitting:
        plan.steps[name] = fitting[0][0]
        if not fitting[0][1]:
            _note_assumed(plan, name, [step for step, _ in fitting], sources)
    elif failed:
        plan.failed[name] = failed[0]


def _is_for(rule: Rule, texts: Sequence[str], kinds: Kinds) -> bool:
    """Whether a rule is for the kind of layer, or the kind is not known."""
    return not rule.kind or not texts or kinds(texts[0]) in (None, rule.kind)


def step_of(
    names: tuple[str, ...], shapes: Sequence[Shape | None], rule: Rule, number: int, target: Shape | None
) -> Step | str:
    """The step of a rule; a text that says why the rule does not fit the shapes."""
    axes = rule.parsed()
    several = len(rule.targets())
    if None in shapes:
        return Step(names, None, 0, (), {})  # saved without a value
    first = shapes[0]
    assert first is not None
    if axes is None:
        if target is not None and first != target:
            return f"expected shape {target}, got {first}"
        return Step(names, rule, number, first, {})
    if len(set(shapes)) > 1:
        return f"{' and '.join(names)} have different shapes"
    left = (len(names), *first) if len(names) > 1 else first
    right = None if target is None else (several, *target) if several > 1 else target
    if axes.summed == "left":
        left = left[1:]
    elif axes.summed == "right" and right is not None:
        right = right[1:]
    if right is not None and None in right:
        right = None  # a declared shape with an open axis
    sizes = axes.sizes(left, right, rule.sizes)
    if isinstance(sizes, str):
        return sizes
    made = axes.shape(sizes)
    if axes.summed == "right":
        made = made if several > 1 else (2, *made) if target is None else (target[0], *made)
    elif several > 1:
        made = made[1:]
    return Step(names, rule, number, made, sizes)


def _note_assumed(plan: Plan, name: str, fitting: list[Step], sources: Mapping[str, Shape | None]) -> None:
    """Reports a weight whose axes follow from nothing but its name."""
    step = fitting[0]
    axes = None if step.rule is None else step.rule.parsed()
    if step.rule is None or axes is None:
        return
    other = {each.rule.axes for each in fitting if each.rule is not None and _moves(each) != _moves(step)}
    if other:
        plan.assumed[name] = f"{step.rule.axes!r}; {' or '.join(map(repr, sorted(other)))} would fit too"
    elif len(step.sources) == 1 and step.shape == sources[step.sources[0]] and len(step.shape) > 1:
        plan.assumed[name] = f"{step.rule.axes!r}; the array has the same shape without it"


def _moves(step: Step) -> tuple[object, ...]:
    """What a step does with the axes, whatever their names."""
    assert step.rule is not None
    axes = step.rule.parsed()
    if axes is None:
        return ()
    before = axes.left.axes()
    place = {axis.name: i for i, axis in enumerate(before)}
    lengths = [[step.sizes[axis.name] for axis in group] for side in (axes.left, axes.right) for group in side.groups]
    after = [(place[axis.name], axis.backwards, axis.labels) for axis in axes.right.axes()]
    return axes.summed, [axis.backwards for axis in before], after, lengths
