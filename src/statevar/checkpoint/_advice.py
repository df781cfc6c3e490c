"""The `rename` that makes the names of a file those of an object, found when they do not match."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

__all__ = ["advice"]

#: Whether the tensor with a name of the file fits the variable with a path of the object.
Fits = Callable[[str, str], bool]

_MOST = 5000  # names, above which nothing is searched
_SIMILAR = 200  # names, above which none are compared letter by letter
_LISTED = 12  # beginnings, in one advice
_ALIKE, _CLEARLY = 0.5, 0.1  # of two texts, and by how much more than of two others
_FEW = 16  # beginnings of paths that have the same end, above which the end tells nothing


def advice(
    unexpected: Sequence[str],
    missing: Sequence[str],
    fits: Fits,
    key: Callable[[str], Hashable],
    given: Mapping[str, str] | None = None,
    *,
    strict: bool = True,
    alternatives: bool = False,
) -> str:
    """Returns a sentence with a `rename` that can be pasted; empty if none was found.

    Args:
        unexpected: names of the file that fit nothing.
        missing: paths of the object that have no name in the file.
        fits: whether a name and a path fit, by shape and dtype.
        key: the shape and dtype of a name or path, for an order among those that have the same.
        given: the ``rename`` that was passed, which stays in the new one.
        strict: whether what is left over then is an error, so that the advice must speak of it.
        alternatives: whether ``missing`` has several paths for one name, so that some will be left over.

    >>> names = ["model/conv/kernel", "model/conv/bias"]
    >>> advice(names, ["conv/kernel", "conv/bias"], lambda name, path: True, lambda name: ())
    "all 2 unexpected names begin with 'model/' and fit without it: rename={'model': ''}"
    """
    if not unexpected or not missing or max(len(unexpected), len(missing)) > _MOST:
        return ""
    wanted = set(missing)
    rename, how = _by_prefix(unexpected, wanted, fits)
    renamed = {name: _moved(name, rename) for name in unexpected}
    if not wanted.issuperset(renamed.values()) and not given and (call := _function(unexpected, wanted, fits)):
        return call
    taken = {path for name, path in renamed.items() if path in wanted and fits(name, path)}
    left = [name for name, path in renamed.items() if path not in taken]
    open_paths = [path for path in missing if path not in taken]
    pairs = _by_order(left, open_paths, key)
    left = [name for name in left if name not in pairs]
    open_paths = [path for path in open_paths if path not in pairs.values()]
    pairs |= _by_similarity(left, open_paths, fits)
    rest = not pairs.keys() >= set(left) or not (alternatives or set(pairs.values()) >= set(open_paths))
    if pairs:
        how = how or "these have the same shapes; check that they are the same"
        rename = rename | _shortened(pairs, unexpected)
    if not rename:
        return ""
    end = ", and strict=False if the rest may be left out" if rest and strict else ""
    return f"{how}: rename={dict(given or {}) | rename!r}{end}"


def _by_prefix(unexpected: Sequence[str], wanted: set[str], fits: Fits) -> tuple[dict[str, str], str]:
    """Finds the beginning that most names have in place of another one, then that of those which are left."""
    heads: dict[str, list[str]] = {}  # by the end of a path, what stands before it
    for path in wanted:
        for head, end in _splits(path):
            heads.setdefault(end, []).append(head)
    rename: dict[str, str] = {}
    left, taken = list(unexpected), set[str]()
    while left and len(rename) < _LISTED:
        votes: dict[str, Counter[str]] = {}
        for name in left:
            for head, end in _splits(name):
                others = heads.get(end, ())
                for other in others if head and len(others) <= _FEW else ():
                    path = f"{other}/{end}" if other else end
                    if head != other and path not in taken and fits(name, path):
                        votes.setdefault(head, Counter())[other] += 1
        chosen = [(votes[head][best], head, best) for head in votes if (best := _chosen(head, votes[head])) is not None]
        if not chosen:
            break
        count, head, other = max(chosen, key=lambda each: (each[0], -len(each[1]) - len(each[2])))
        if count < 2 and len(unexpected) > 1:
            break
        rename[head] = other
        moved = {name for name in left if name.startswith(f"{head}/")}
        taken |= {_moved(name, {head: other}) for name in moved}
        left = [name for name in left if name not in moved]
    if not rename:
        return {}, ""
    head, other = next(iter(rename.items()))
    if not left and len(rename) == 1:
        how = "fit without it" if not other else f"fit with {other + '/'!r} in its place"
        return rename, f"all {len(unexpected)} unexpected names begin with {head + '/'!r} and {how}"
    return rename, "these names fit under another beginning"


def _chosen(head: str, votes: Counter[str]) -> str | None:
    """The beginning with the most votes; of several, the one that is most like the old one, if one is."""
    most = max(votes.values())
    return _clearly([other for other in votes if votes[other] == most], head)


def _clearly(others: Iterable[str], name: str) -> str | None:
    """The path that is most like another one; None if a second one is about as much like it."""
    near = sorted(zip(_likeness(name, paths := list(others)), paths, strict=True), reverse=True)
    if not near or (len(near) > 1 and (near[0][0] < _ALIKE or near[0][0] - near[1][0] < _CLEARLY)):
        return None
    return near[0][1]


def _likeness(name: str, others: Sequence[str]) -> list[float]:
    """How much each path is like another one. The segments that all of them have would drown the difference."""
    parts = [each.split("/") for each in (name, *others)]
    for end in (0, -1):
        while len(others) > 1 and all(parts) and len({each[end] for each in parts}) == 1:
            for each in parts:
                each.pop(end)
    mine, *theirs = ("/".join(each) for each in parts)
    return [1.0 if mine == other else difflib.SequenceMatcher(None, mine, other).ratio() for other in theirs]


def _function(unexpected: Sequence[str], wanted: set[str], fits: Fits) -> str:
    """Returns the advice of a function that adds the same to all names, or removes it; empty if there is none."""

    def fit(names: Iterable[str]) -> bool:
        return all(path in wanted and fits(name, path) for name, path in zip(unexpected, names, strict=True))

    first = unexpected[0]
    many = f"all {len(unexpected)} unexpected names"
    for path in wanted:
        prefix = path.removesuffix(first)
        if prefix.endswith("/") and path.endswith(first) and fit(prefix + name for name in unexpected):
            return f"{many} fit below {prefix!r}: rename=lambda name: {prefix!r} + name"
    parts = first.split("/")
    for count in range(1, len(parts)):
        end = "/" + "/".join(parts[-count:])
        if all(name.endswith(end) for name in unexpected) and fit(name.removesuffix(end) for name in unexpected):
            return f"{many} end with {end!r} and fit without it: rename=lambda name: name.removesuffix({end!r})"
    for segment in dict.fromkeys(parts[:-1]):
        if fit(f"/{name}".replace(f"/{segment}/", "/")[1:] for name in unexpected):
            call = f'f"/{{name}}".replace("/{segment}/", "/")[1:]'
            return f"{many} fit without {segment!r}: rename=lambda name: {call}"
    return ""


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """Each way to divide a path into a beginning, which may be empty, and an end."""
    parts = name.split("/")
    for i in range(len(parts)):
        yield "/".join(parts[:i]), "/".join(parts[i:])


def _moved(name: str, rename: Mapping[str, str]) -> str:
    for head, other in rename.items():
        if name == head or name.startswith(f"{head}/"):
            return (other + name[len(head) :]).strip("/")
    return name


def _by_order(unexpected: Sequence[str], missing: Sequence[str], key: Callable[[str], Hashable]) -> dict[str, str]:
    """Pairs names with paths of the same shape and dtype, if there are as many of both.

    First those that end alike, then those of the same layer, then those without a choice, then those of layers that are
    the same by what has been found.
    """
    pairs: dict[str, str] = {}
    layers: dict[str, str] = {}  # of the file, and what they are in the object
    theirs = {_spelled(_layer(path)): _layer(path) for path in missing}

    def groups(
        of_name: Callable[[str], Hashable], of_path: Callable[[str], Hashable]
    ) -> list[tuple[list[str], list[str]]]:
        found: dict[Hashable, tuple[list[str], list[str]]] = {}
        taken = set(pairs.values())
        for side, names, of in ((0, unexpected, of_name), (1, missing, of_path)):
            for name in names:
                if name not in pairs and name not in taken:
                    found.setdefault((key(name), of(name)), ([], []))[side].append(name)
        return [(mine, other) for mine, other in found.values() if mine and len(mine) == len(other)]

    def layer_of(name: str) -> str | None:
        layer = _layer(name)
        return theirs.get(_spelled(layer)) or layers.get(layer, f"/{layer}")  # no path begins with a slash

    for mine, other in groups(_last, _last):
        pairs |= _assigned(mine, other)
    for mine, other in groups(layer_of, _layer):
        pairs |= _assigned(mine, other)
    for mine, other in groups(lambda _: "", lambda _: ""):
        if len(mine) == 1:  # names that differ: only if there is no choice
            pairs[mine[0]] = other[0]
    for name, path in pairs.items():
        layers.setdefault(_layer(name), _layer(path))
    for mine, other in groups(layer_of, _layer):
        pairs |= _assigned(mine, other)
    return pairs


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _layer(name: str) -> str:
    """The path of the layer of a weight. Keras keeps the weights of a layer in a folder ``vars``, in their order."""
    return name.rpartition("/")[0].removesuffix("/vars")


def _spelled(path: str) -> str:
    """A path without the underscores before its segments: files of Keras leave them out."""
    return "/".join(each.lstrip("_") for each in path.split("/"))


def _assigned(names: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Pairs as many names as paths: those that are clearly alike, else in their order.

    Names that differ only in numbers are in an order, as those of layers that are counted: from another number perhaps.
    """
    if len(names) > 1 and min(len({_NUMBER.sub("", each) for each in side}) for side in (names, paths)) > 1:
        alike = {name: path for name in names if (path := _clearly(paths, name)) is not None}
        if len(set(alike.values())) == len(names):
            return alike
    return dict(zip(names, paths, strict=True))


_NUMBER = re.compile("[0-9]+")


def _by_similarity(unexpected: Sequence[str], missing: Sequence[str], fits: Fits) -> dict[str, str]:
    if max(len(unexpected), len(missing)) > _SIMILAR:
        return {}
    pairs: dict[str, str] = {}
    for name in unexpected:
        free = [path for path in missing if path not in pairs.values() and fits(name, path)]
        same = [path for path in free if _last(path) == _last(name)]
        near = same if len(same) == 1 else difflib.get_close_matches(name, free, 3)
        best = near[0] if len(near) == 1 else _clearly(near, name)
        if best is not None:
            pairs[name] = best
    return pairs


def _shortened(pairs: Mapping[str, str], unexpected: Sequence[str]) -> dict[str, str]:
    """The pairs by layer instead of by weight, where all weights of a layer stay in one layer under their names."""
    heads: dict[str, set[str] | None] = {}
    for name in unexpected:
        head, _, leaf = name.rpartition("/")
        other, _, other_leaf = pairs.get(name, "").rpartition("/")
        found = heads.setdefault(head, set())
        if not head or leaf != other_leaf:
            heads[head] = None
        elif found is not None:
            found.add(other)
    short: dict[str, str] = {}
    for name, path in pairs.items():
        head = name.rpartition("/")[0]
        others = heads[head]
        if others is not None and len(others) == 1:
            short[head] = path.rpartition("/")[0]
        else:
            short[name] = path
    return short
