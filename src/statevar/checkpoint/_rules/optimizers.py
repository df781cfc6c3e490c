"""The states of optimizers: the averages of a parameter are moved by the rule of the parameter.

Known are Adam and AdamW, SGD with momentum, and RMSprop. Any other optimizer is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import CheckpointMismatchError
from .plan import Kinds, Plan, Step, planned
from .rule import Rules

__all__ = ["slots_planned"]

#: The classes of optimizers that are moved, and what Keras names the variables of others by.
_MOVED = ("Adam", "AdamW", "SGD", "RMSprop", "Optimizer")
_CLASSES_OF_KERAS = {"lion": "Lion", "lamb": "Lamb", "nadam": "Nadam", "adamax": "Adamax", "muon": "Muon"}

Read = Callable[[Iterable[str]], Mapping[str, HostArray]]


class _Layout(NamedTuple):
    """How a library names what an optimizer keeps for a parameter.

    Attributes:
        slots: by its name there, what it is.
        before: whether the name stands before the path of the parameter, ``mu/conv/kernel``, and not after it.
        counts: the names of the number of updates.
        rest: names of other state of an optimizer, which is not moved.
        others: names by which optimizers are known that are not moved.
    """

    slots: Mapping[str, str]
    before: bool
    counts: tuple[str, ...]
    rest: tuple[str, ...]
    others: Mapping[str, str]


_OPTAX = _Layout(
    {"mu": "first", "nu": "second", "trace": "sum"},
    before=True,
    counts=("count", "step"),
    rest=("hyperparams", "learning_rate"),
    others={
        "sum_of_squares": "Adagrad",
        "e_g": "Adadelta",
        "nu_max": "AMSGrad",
        "v_row": "Adafactor",
        "prev_updates": "Rprop",
    },
)

_LAYOUTS = {
    "torch": _Layout(
        {
            "exp_avg": "first",
            "exp_avg_sq": "second",
            "square_avg": "second",
            "momentum_buffer": "sum",
            "step": "count",
        },
        before=False,
        counts=(),
        rest=("param_groups", "defaults"),
        others={
            "max_exp_avg_sq": "AMSGrad",
            "acc_delta": "Adadelta",
            "exp_inf": "Adamax",
            "mu_product": "NAdam",
            "step_size": "Rprop",
            "grad_avg": "centered RMSprop",
            "ax": "ASGD",
            "sum": "Adagrad",
        },
    ),
    "keras": _Layout(
        {"momentum": "first", "velocity": "second"},
        before=False,
        counts=("iteration", "iterations"),
        rest=("learning_rate",),
        others={
            "velocity_hat": "AMSGrad",
            "accumulator": "Adagrad",
            "accumulated_grad": "Adadelta",
            "u_product": "Nadam",
            "average_gradient": "centered RMSprop",
            "norm": "Adamax",
        },
    ),
    "nnx": _OPTAX,
    "linen": _OPTAX,
}


@dataclass
class _Part:
    """The weights of one side, apart from the states of its optimizers.

    Attributes:
        weights: the names that are no state of an optimizer.
        slots: for each kind of state, the path of a parameter and the name of its state.
        counts: the names of numbers of updates.
        rest: the names of other states of optimizers.
    """

    weights: dict[str, Shape | None] = field(default_factory=dict)
    slots: dict[str, dict[str, str]] = field(default_factory=dict)
    counts: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


def slots_planned(
    sources: Mapping[str, Shape | None],
    targets: Mapping[str, Shape | None],
    rules: Rules,
    kinds: Kinds,
    read: Read,
    current: Read,
    optimizers: tuple[Kinds, Kinds],
) -> Plan:
    """Does what `planned` does, also for the states of optimizers if the rules are between two libraries.

    Args:
        read: reads arrays of the source by name: the numbers of updates must be the same for all parameters.
        current: reads arrays of the target by name: the learning rate.
        optimizers: the class of the optimizer at a path of the source, and of the target, as far as they are objects.
    """
    if rules.libraries is None:
        return planned(sources, targets, rules, kinds)
    mine, other = (
        _parted(names, _LAYOUTS[library], library, classes)
        for names, library, classes in zip((sources, targets), rules.libraries, optimizers, strict=True)
    )
    _check(mine, other, rules.libraries)
    factor = 1.0
    if "sum" in other.slots and "sum" in mine.slots:
        if rules.libraries[1] == "keras":
            factor = -_learning_rate(other, current)
        elif rules.libraries[0] == "keras":
            factor = -1.0 / _learning_rate(mine, read)
    plan = planned(mine.weights, other.weights, rules, kinds)
    plan.skipped += mine.rest + other.rest
    for slot, names in other.slots.items():
        from_names = mine.slots.get(slot, {})
        part = planned(
            {path: sources[name] for path, name in from_names.items()},
            {path: targets[name] for path, name in names.items()},
            rules,
            kinds,
        )
        for path, step in part.steps.items():
            needed = tuple(from_names[each] for each in step.sources)
            plan.steps[names[path]] = step._replace(sources=needed, factor=factor if slot == "sum" else 1.0)
        for path, (needed, reason) in part.failed.items():
            plan.failed[names[path]] = tuple(from_names[each] for each in needed), reason
        plan.skipped += [names.get(each) or from_names[each] for each in part.skipped]
    if "sum" in other.slots and not (mine.counts and other.counts):  # SGD of torch counts no updates
        plan.skipped += mine.counts + other.counts
    else:
        _plan_counts(plan, mine.counts, other.counts, read)
    return plan


def _plan_counts(plan: Plan, counts: list[str], targets: list[str], read: Read) -> None:
    if not counts or not targets:
        return
    numbers = {name: array.item() for name, array in read(counts).items()}
    if len(set(numbers.values())) > 1:
        low, high = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
        reason = (
            f"the parameters have different numbers of updates: {numbers[low]} at {low!r}, {numbers[high]} at {high!r}"
        )
        plan.failed |= dict.fromkeys(targets, (tuple(counts), reason))
    else:
        plan.steps |= {name: Step((counts[0],), None, 0, (), {}, exact=True) for name in targets}
        plan.read += counts


def _check(mine: _Part, other: _Part, libraries: tuple[str, str]) -> None:
    """Refuses states that mean another thing in another library."""
    for part, library in ((mine, libraries[0]), (other, libraries[1])):
        has = part.slots.keys()
        if {"second", "sum"} <= has:
            raise _refused("RMSprop with momentum", part.slots["sum"], library)
        if "first" in has and "second" not in has:
            raise _refused("Lion", part.slots["first"], library)


def _learning_rate(part: _Part, read: Read) -> float:
    """The learning rate, which is a factor of what SGD keeps in Keras.

    Raises:
        CheckpointMismatchError: there is none, or it is zero.
    """
    names = [name for name in part.rest if name.rpartition("/")[2] == "learning_rate"]
    found = float(read(names)[names[0]]) if len(names) == 1 else 0.0
    if not found:
        problem = "the momentum of SGD in keras is a multiple of the learning rate, which is not known"
        hint = "load the optimizer with its learning_rate, or the model without its optimizer"
        raise CheckpointMismatchError.of("load", problem, next(iter(part.slots["sum"].values())), hint)
    return found


def _refused(optimizer: str, names: Mapping[str, str] | Iterable[str], library: str) -> CheckpointMismatchError:
    name = next(iter(names.values() if isinstance(names, Mapping) else names))
    return CheckpointMismatchError.of(
        "load",
        f"the state of {optimizer} in {library} is not moved to another library",
        name,
        "states of Adam, AdamW, SGD with momentum and RMSprop are moved; load the model without its optimizer",
    )


def _parted(names: Mapping[str, Shape | None], layout: _Layout, library: str, classes: Kinds) -> _Part:
    part = _Part()
    states = _states_before(names, layout) if layout.before else _states_after(names, layout, library)
    if not states:
        part.weights = dict(names)
        return part
    for state_root in {state.root for state in states.values()}:
        cls = classes(state_root) or _CLASSES_OF_KERAS.get(state_root.rpartition("/")[2], "")
        if cls and cls not in _MOVED:
            raise _refused(cls, [next(name for name in states if states[name].root == state_root)], library)
    root = "/".join(_shared([each.root.split("/") for each in states.values()]))
    weights = {name: shape for name, shape in names.items() if name not in states}
    for name, shape in weights.items():
        leaf = name.rpartition("/")[2]
        below = not root or name.startswith(f"{root}/")
        if below and leaf in layout.counts and shape in ((), None):
            part.counts.append(name)
        elif below and any(each in layout.rest for each in name.split("/")):
            part.rest.append(name)
        else:
            part.weights[name] = shape
    paths = _parameters(states, part.weights)
    for name, state in states.items():
        if state.slot == "count":
            part.counts.append(name)
            continue
        known = part.slots.setdefault(state.slot, {})
        path = paths[state.parameter]
        if path in known:
            problem = f"two optimizers have a state of the parameter {path!r}: {known[path]!r} and {name!r}"
            raise CheckpointMismatchError.of("load", problem, hint="load them one after the other")
        known[path] = name
    if library == "keras" and "first" in part.slots and "second" not in part.slots:
        part.slots["sum"] = part.slots.pop("first")
    if library == "keras" and "first" in part.slots and "rm_sprop" in root:
        raise _refused("RMSprop with momentum", part.slots["first"], library)
    return part


class _State(NamedTuple):
    """A state of an optimizer: of which optimizer and parameter, and what it is."""

    root: str
    parameter: str
    slot: str


def _states_after(names: Mapping[str, Shape | None], layout: _Layout, library: str) -> dict[str, _State]:
    """The states with names such as ``optimizer/conv/weight/exp_avg``, or ``adam/conv_kernel_momentum`` of Keras."""
    flat = {end.replace("/", "_"): name for end, name in _ends(names).items()} if library == "keras" else {}
    by_parameter: dict[str, dict[str, str]] = {}
    for name in names:
        parameter, _, leaf = name.rpartition("/")
        if leaf in layout.slots or leaf in layout.others:
            by_parameter.setdefault(parameter, {})[leaf] = name
            continue
        for slot in (*layout.slots, *layout.others) if flat else ():
            if leaf.endswith(f"_{slot}") and (found := _of_flat(leaf.removesuffix(f"_{slot}"), flat)):
                by_parameter.setdefault(f"{parameter}/{found}" if parameter else found, {})[slot] = name
    states: dict[str, _State] = {}
    for parameter, leaves in by_parameter.items():
        if len(leaves) == 1 and leaves.keys() <= {"step", "sum", "norm", "ax"}:
            continue  # a weight of a model that has such a name
        if unknown := [leaf for leaf in leaves if leaf in layout.others]:
            raise _refused(layout.others[unknown[0]], [leaves[unknown[0]]], library)
        root = parameter.partition("/")[0]
        states |= {name: _State(root, parameter, layout.slots[leaf]) for leaf, name in leaves.items()}
    return states


def _states_before(names: Mapping[str, Shape | None], layout: _Layout) -> dict[str, _State]:
    """The states with names such as ``optimizer/opt_state/0/mu/conv/kernel``."""
    states: dict[str, _State] = {}
    for name in names:
        parts = name.split("/")
        for i, segment in enumerate(parts[:-1]):
            if segment in layout.others:
                raise _refused(layout.others[segment], [name], "optax")
            if segment in layout.slots:
                root = parts[:i]
                while root and (root[-1].isdigit() or root[-1] in ("opt_state", "inner_state")):
                    root.pop()
                states[name] = _State("/".join(root), "/".join(parts[i + 1 :]), layout.slots[segment])
                break
    return states


def _ends(names: Iterable[str]) -> dict[str, str]:
    """By each end of a path, the path; empty if two paths end so."""
    ends: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for i in range(len(parts)):
            end = "/".join(parts[i:])
            ends[end] = "" if end in ends else name
    return ends


def _of_flat(text: str, flat: Mapping[str, str]) -> str:
    """The path of the parameter that Keras writes as ``model_conv_kernel``; empty if none ends so."""
    while text:
        if found := flat.get(text):
            return found
        text = text.partition("_")[2]
    return ""


def _parameters(states: Mapping[str, _State], weights: Mapping[str, Shape | None]) -> dict[str, str]:
    """For the path of a parameter in an optimizer, its path in the model, or what follows the part that all share."""
    ends = _ends(weights)
    found: dict[str, str] = {}
    wanted = list(dict.fromkeys(state.parameter for state in states.values()))
    for parameter in wanted:
        parts = parameter.split("/")
        known = ("/".join(parts[i:]) for i in range(len(parts)))
        if (path := next((ends[end] for end in known if ends.get(end)), None)) is not None:
            found[parameter] = path
    if len(found) == len(wanted):
        return found
    shared = len(_shared([parameter.split("/")[:-1] for parameter in wanted]))
    return {parameter: "/".join(parameter.split("/")[shared:]) for parameter in wanted}


def _shared(paths: list[list[str]]) -> list[str]:
    """The segments with which all paths begin."""
    low, high = min(paths), max(paths)
    count = next((i for i, (mine, other) in enumerate(zip(low, high, strict=False)) if mine != other), len(low))
    return low[:count]
