"""Rules that turn the weights of one library into those of another: the notation, the matching, the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.checkpoint import Rules
from statevar.errors import CheckpointMismatchError


def model(**shapes: tuple[int, ...]) -> dict[str, Any]:
    """Variables of zeros by path, in which ``__`` stands for a slash."""
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        *parents, leaf = name.split("__")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = sv.Variable(np.zeros(shape, "float32"))
    return found


def counted(*shape: int) -> Any:
    return np.arange(math.prod(shape), dtype="float32").reshape(shape)


def moved(array: Any, axes: str, shape: tuple[int, ...], sizes: dict[str, int] | None = None) -> Any:
    target = {"b": sv.Variable(np.zeros(shape, "float32"))}
    sv.load(target, {"a": array}, rules=[("a", "b", axes, sizes or {})])
    return target["b"].numpy()


# -- the notation ----------------------------------------------------------------------------------------------------


def test_axes_are_those_of_numpy() -> None:
    x = counted(2, 3, 4, 5)
    same = np.testing.assert_array_equal
    same(moved(x, "o i h w -> h w i o", (4, 5, 3, 2)), x.transpose(2, 3, 1, 0))
    same(moved(x, "i o h w -> -h -w i o", (4, 5, 2, 3)), x.transpose(2, 3, 0, 1)[::-1, ::-1])
    same(moved(x, "a b c d -> (a b) (c d)", (6, 20)), x.reshape(6, 20))
    same(moved(counted(2, 1, 3), "m 1 w -> w 1 m 1", (3, 1, 2, 1)), counted(2, 3).T.reshape(3, 1, 2, 1))
    flat = counted(5, 24)
    expected = flat.reshape(5, 2, 3, 4).transpose(2, 3, 1, 0).reshape(24, 5)
    same(moved(flat, "o (c h w) -> (h w c) o", (24, 5), {"h": 3, "w": 4}), expected)
    gates = counted(6, 2)
    same(moved(gates, "([r z n] h) x -> x ([z r n] h)", (2, 6)), gates[[2, 3, 0, 1, 4, 5]].T)


NAMES = st.permutations("abcde").flatmap(
    lambda names: st.tuples(st.just(names), st.permutations(names), st.lists(st.booleans(), min_size=10, max_size=10))
)


@settings(max_examples=60)
@given(NAMES, st.lists(st.integers(1, 3), min_size=5, max_size=5), st.sets(st.sampled_from("abcde")))
def test_a_rule_and_its_inverse_give_the_same_array(names: Any, lengths: list[int], backwards: set[str]) -> None:
    left, right, cuts = names
    sizes = dict(zip("abcde", lengths, strict=True))

    def side(order: Any, cuts: list[bool], flip: set[str]) -> tuple[str, tuple[int, ...]]:
        groups: list[list[str]] = [[order[0]]]
        for name, cut in zip(order[1:], cuts, strict=False):
            groups.append([name]) if cut else groups[-1].append(name)
        text = " ".join(f"({' '.join(f'-{each}' if each in flip else each for each in group)})" for group in groups)
        return text, tuple(math.prod(sizes[each] for each in group) for group in groups)

    first, before = side(left, cuts[:5], set())
    second, after = side(right, cuts[5:], backwards)
    x = counted(*before)
    there = moved(x, f"{first} -> {second}", after, sizes)
    assert sorted(there.ravel()) == sorted(x.ravel())
    np.testing.assert_array_equal(moved(there, f"{second} -> {first}", before, sizes), x)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (("a", "b", "o i > i o"), "there must be exactly one '->'"),
        (("a", "b", "o i -> i"), "'o' is on one side only"),
        (("a", "b", "o o -> o"), "'o' is twice on one side"),
        (("a", "b", "o (i h -> h i o"), "a '(' without a ')'"),
        (("a", "b", "o i) -> i o"), "a ')' without a '('"),
        (("a", "b", "((o i) h) -> h o i"), "a bracket in a bracket"),
        (("a", "b", "o ... -> ... o"), "'...' is no axis"),
        (("a", "b", "[r r] -> [r r]"), "'[r r]' needs different names"),
        (("a", "b", "+ o -> + o"), "'+' is on both sides"),
        (("a", "b", 3), "expected axes as a text, got 3"),
        (("a", "b", "o i -> i o", {"h": 3}), "'h' is none of the axes"),
        (("a", "b", "o i -> i o", 3), "expected the lengths of axes by name, got 3"),
        (("*/a", "b"), "the patterns must have the same number of '*'"),
        ((3, "b"), "expected a pattern, a tuple of patterns or None, got 3"),
        (("a", ()), "expected a pattern, a tuple of patterns or None, got ()"),
        ((None, None), "both sides are None"),
        ((("a", "b"), "c"), "several arrays need axes, whose first one counts the arrays"),
        ((("a", "b"), "c", "(o i) h -> h o i"), "the first of the axes '(o i) h' must count 2 arrays"),
        ((("a", "b"), "c", "[r z n] h -> h [r z n]"), "the first of the axes '[r z n] h' must count 2 arrays"),
    ],
)
def test_a_malformed_rule_is_an_error_that_says_what_is_wrong(rule: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="^rules: ") as caught:
        Rules([rule])
    text = str(caught.value)
    assert text.startswith(f"rules: {problem}, in the rule (")
    assert text.endswith(
        'Hint: a rule is ("*/weight", "*/kernel", "o i -> i o"): two patterns, the second may be None, and axes.'
    )


@pytest.mark.parametrize("rows", ["a", {"a": "b"}, 3, [("a",)], ["ab"]])
def test_what_is_no_list_of_rules_is_refused(rows: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^rules: .* Hint: a rule is"):
        Rules(rows)


def test_rules_are_a_sequence() -> None:
    rules = Rules([("a", "b", "o i -> i o")])
    assert rules == Rules([["a", "b", "o i -> i o"]])
    assert hash(rules) == hash(Rules([("a", "b", "o i -> i o")]))
    assert rules != [("a", "b")]
    more = [("x", None)]
    assert more + rules == Rules([*more, *rules])
    assert rules + more == Rules([*rules, *more])
    assert rules[:1] == rules
    assert repr(rules) == "<Rules: 1 rows>"
    assert rules.inverse().inverse() == rules
    everything = sv.rules("torch", "nnx")
    assert everything.inverse() == sv.rules("nnx", "torch")
    assert everything.inverse().libraries == ("nnx", "torch")


def test_what_there_are_no_rules_for_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^rules: there are no rules from 'torch' to 'jax'. Hint: use sv.rules\('torch', 'nnx'\)"
    ):
        sv.rules("torch", "jax")
    with pytest.raises(
        ValueError, match="there are no rules from 'nnx' to 'nnx'. Hint: the libraries are torch, keras"
    ):
        sv.rules("nnx", "nnx")
    with pytest.raises(ValueError, match="'dense' is no kind of layer. Hint: the kinds are attention, batch_norm"):
        sv.rules("torch", "nnx", kinds={"fc": "dense"})


# -- matching -----------------------------------------------------------------------------------------------------


def test_a_star_is_carried_over_and_a_leading_one_may_be_nothing() -> None:
    rules = Rules([("*/mid*/weight", "top/*/k*", "")])
    target = model(top__a__b__k7=(2,))
    sv.load(target, {"a/b/mid7/weight": counted(2)}, rules=rules)
    target = model(top__k=(2,))
    assert sv.load(target, {"mid/weight": counted(2)}, rules=rules).loaded == ["top/k"]


def test_the_first_rule_that_fits_counts_and_the_same_name_comes_last() -> None:
    target = model(fc__kernel=(3, 2), fc__scale=(3,), conv__kernel=(1, 2, 3))
    source = {"fc.weight": counted(2, 3), "fc.scale": counted(3), "conv.weight": counted(3, 2, 1)}
    rules = [("fc/weight", "fc/kernel", "a b -> b a"), *sv.rules("torch", "nnx")]
    assert sv.load(target, source, rules=rules).loaded == ["fc/kernel", "fc/scale", "conv/kernel"]


def test_a_weight_is_split_and_joined() -> None:
    packed, parts = counted(6, 4), model(q=(4, 2), k=(4, 2), v=(4, 2))
    rules = Rules([("packed", ("q", "k", "v"), "(p o) i -> p i o")])
    sv.load(parts, {"packed": packed}, rules=rules)
    np.testing.assert_array_equal(parts["k"].numpy(), packed[2:4].T)
    back = model(packed=(6, 4))
    sv.load(back, parts, rules=rules.inverse())
    np.testing.assert_array_equal(back["packed"].numpy(), packed)
    with pytest.raises(CheckpointMismatchError, match="missing     packed"):
        sv.load(back, {"q": parts["q"], "k": parts["k"]}, rules=rules.inverse())


def test_a_sum_is_reported_in_both_directions() -> None:
    rules = Rules([(("a", "b"), "c", "+ h -> h")])
    target = model(c=(3,))
    report = sv.load(target, {"a": counted(3), "b": counted(3)}, rules=rules)
    assert report.notes == ["c is the sum of a and b; it comes back as the first of them"]
    np.testing.assert_array_equal(target["c"].numpy(), counted(3) * 2)
    back = model(a=(3,), b=(3,))
    back["b"].assign_add(1.0)
    report = sv.load(back, target, rules=rules.inverse())
    assert report.notes == ["a has the whole of c, and the bias beside it is zero"]
    np.testing.assert_array_equal(back["a"].numpy(), counted(3) * 2)
    assert not back["b"].numpy().any()


def test_a_bias_that_has_no_place_is_an_error() -> None:
    """The GRU of nnx has one bias, and that of torch has two, of which one is inside the reset gate."""
    target = model(rnn__dense_i__bias=(6,))
    source = {"rnn/bias_ih_l0": counted(6), "rnn/bias_hh_l0": counted(6)}
    with pytest.raises(CheckpointMismatchError, match="the second bias of gate 'n' in 'rnn/bias_hh_l0' is not zero"):
        sv.load(target, source, rules=sv.rules("torch", "nnx"))
    assert not target["rnn"]["dense_i"]["bias"].numpy().any()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ((7, 3), "'(h w c) o' does not fit the shape (12, 5)"),
        ((5, 12, 1), "'o (c h w)' has 2 axes, and the array of shape (5, 12, 1) has 3"),
        ((5, 12), "the lengths of h and w are not known; add {'w': ...} to the rule"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_rule(source: tuple[int, ...], problem: str) -> None:
    sizes = {} if source == (5, 12) else {"h": 2, "w": 2}
    rule = ("fc/weight", "fc/kernel", "o (c h w) -> (h w c) o", sizes | ({"c": 3} if source == (5, 12) else {}))
    target = model(fc__kernel=(12, 5))
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, {"fc/weight": counted(*source)}, rules=[rule])
    assert f"  mismatched  fc/kernel: {problem}, by the rule ('fc/weight', 'fc/kernel', " in str(caught.value) or (
        source == (7, 3) and "does not fit the shape" in str(caught.value)
    )


def test_what_the_other_library_does_not_have_is_skipped_and_said() -> None:
    rules = sv.rules("torch", "keras")
    target = model(bn__gamma=(2,))
    report = sv.load(target, {"bn.weight": counted(2), "bn.num_batches_tracked": np.int64(3)}, rules=rules)
    assert report.skipped == ["bn/num_batches_tracked"]
    assert "skipped=['bn/num_batches_tracked']" in repr(report)
    back = model(bn__weight=(2,)) | {}
    back["bn"]["num_batches_tracked"] = sv.Variable(7)
    report = sv.load(back, target, rules=rules.inverse())
    assert (report.loaded, report.skipped) == (["bn/weight"], ["bn/num_batches_tracked"])
    assert int(back["bn"]["num_batches_tracked"]) == 7


def test_axes_that_follow_from_a_name_only_are_reported() -> None:
    """No shape can tell whether a square matrix has been transposed."""
    target = model(fc__kernel=(4, 4), up__kernel=(2, 2, 3, 3), flat__kernel=(4, 5))
    source = {"fc.weight": counted(4, 4), "up.weight": counted(3, 3, 2, 2), "flat.weight": counted(5, 4)}
    report = sv.load(target, source, rules=sv.rules("torch", "nnx"))
    assert report.assumed == {
        "fc/kernel": "'o i -> i o'; the array has the same shape without it",
        "up/kernel": "'o i h w -> h w i o'; 'i o h w -> -h -w i o' would fit too",
    }
    rules = sv.rules("torch", "nnx", kinds={"fc": "linear", "up": "conv_transpose"})
    report = sv.load(target, source, rules=rules)
    assert report.assumed == {}
    up = target["up"]["kernel"].numpy()
    np.testing.assert_array_equal(up, source["up.weight"].transpose(2, 3, 0, 1)[::-1, ::-1])


def test_a_rule_of_a_model_that_fits_no_weight_is_reported() -> None:
    flatten = ("out/weight", "out/kernel", "o (c h) -> (h c) o", {"h": 2})
    kernel = sv.Variable(np.zeros((6, 5), "float32"))
    weight = np.ones((5, 6), "float32")
    rules = sv.rules("torch", "nnx", flatten)
    assert not sv.load({"out": {"kernel": kernel}}, {"out/weight": weight}, rules=rules).notes
    (note,) = sv.load({"net": {"out": {"kernel": kernel}}}, {"net/out/weight": weight}, rules=rules).notes
    assert note.startswith(
        "the rule ('out/weight', 'out/kernel', 'o (c h) -> (h c) o') was used for no weight; the names"
    )


def test_rename_comes_before_the_rules() -> None:
    target = model(encoder__fc__kernel=(2, 3))
    rules = sv.rules("torch", "linen")
    linen = {"params": target}
    source = {"module.fc.weight": counted(3, 2)}
    assert sv.load(linen, source, rules=rules, rename={"module": "encoder"}).loaded == ["params/encoder/fc/kernel"]
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(linen, source, rules=rules)
    assert str(caught.value).endswith(
        "Hint: all 1 unexpected names begin with 'module/' and fit with 'encoder/' in its place: "
        "rename={'module': 'encoder'}."
    )


def test_a_tied_weight_of_the_source_is_taken_once() -> None:
    shared = counted(4, 3)
    target = model(embed__embedding=(4, 3))
    first = {"embed": {"weight": sv.Variable(shared)}}
    first["again"] = first["embed"]
    assert sv.load(target, first, rules=sv.rules("torch", "nnx")).loaded == ["embed/embedding"]


def test_rules_work_on_files_and_leave_the_object_alone_on_an_error(tmp_path: Path) -> None:
    saved = model(fc__weight=(3, 2), fc__bias=(3,))["fc"]
    sv.save({f"fc.{name}": v for name, v in saved.items()}, tmp_path / "a")
    target = model(fc__kernel=(2, 3), fc__bias=(3,))
    assert sv.load(target, tmp_path / "a", rules=sv.rules("torch", "nnx")).loaded == ["fc/kernel", "fc/bias"]
    target["more"] = sv.Variable(1.0)
    with pytest.raises(CheckpointMismatchError, match="missing     more"):
        sv.load(target, tmp_path / "a", rules=sv.rules("torch", "nnx"))
    assert [v.version for v in sv.named_variables(target).values()] == [1, 1, 0]
    assert sv.load(target, tmp_path / "a", rules=sv.rules("torch", "nnx"), only="fc/*").loaded == [
        "fc/kernel",
        "fc/bias",
    ]
    with pytest.raises(ValueError, match="on_create=True does not work with rules"):
        sv.load(target, tmp_path / "a", rules=[("a", "b")], on_create=True)


# -- arrays in memory -------------------------------------------------------------------------------------------------


def test_a_mapping_is_loaded_as_a_file_is(backend: str) -> None:
    target: Any = {"layers": [sv.Variable([0.0, 0.0], backend=backend)], "steps": sv.Variable(0, backend=backend)}
    source: Any = {"layers": [sv.Variable([1.0, 2.0], backend=backend).value], "steps": np.int32(3)}
    assert sv.load(target, source).loaded == ["layers/0", "steps"]
    assert target["layers"][0].numpy().tolist() == [1.0, 2.0]
    assert sv.load(target, {"layers/0": np.ones(2, "float32")}, strict=False).loaded == ["layers/0"]
    other = {"layers": [sv.Variable([7.0, 7.0], backend=backend)], "steps": sv.Variable(9, backend=backend)}
    assert sv.load(target, other).loaded == ["layers/0", "steps"]
    assert int(target["steps"]) == 9
    source["layers"][0] = np.zeros(2)
    with pytest.raises(CheckpointMismatchError, match="expected float32, got float64; pass cast=True"):
        sv.load(target, source)
    with pytest.raises(TypeError, match="load: expected an array, got str, at 'steps'. Hint: pass a mapping"):
        sv.load(target, {"steps": "three"})


def test_a_mapping_may_contain_objects() -> None:
    class Part(sv.Module):
        def __init__(self) -> None:
            self.w = sv.Variable([1.0, 2.0])

    target = {"part": Part(), "extra": sv.Variable(0.0), "more": {"v": sv.Variable(0.0)}}
    source = {
        "part": Part(),
        "extra": np.full((), 3, "float32"),
        "more": {"v": sv.Variable(5.0)},
        "note": "of yesterday",
    }
    source["part"].w.assign([7.0, 8.0])  # type: ignore[attr-defined]
    assert sv.load(target, source).loaded == ["part/w", "extra", "more/v"]
    assert [v.numpy().tolist() for v in sv.named_variables(target).values()] == [[7.0, 8.0], 3.0, 5.0]
    with pytest.raises(ValueError, match="load: two arrays have this name, at 'a/b'"):
        sv.load(target, {"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}, separator=".")


def test_nothing_that_fits_is_an_error_also_if_not_strict() -> None:
    target = model(conv__kernel=(2,), conv__bias=(1,))
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, {"model/conv/kernel": counted(2), "model/conv/bias": counted(1)}, strict=False)
    assert str(caught.value).splitlines() == [
        "load: nothing in the file fits the object.",
        "  missing     conv/kernel",
        "  missing     conv/bias",
        "  unexpected  model/conv/kernel",
        "  unexpected  model/conv/bias",
        "Hint: all 2 unexpected names begin with 'model/' and fit without it: rename={'model': ''}.",
    ]


# -- the rename that is proposed --------------------------------------------------------------------------------------

WEIGHTS = [
    *(
        f"{part}/{layer}/{leaf}"
        for part in ("encoder", "decoder")
        for layer in ("0", "1")
        for leaf in ("kernel", "bias")
    ),
    "head/kernel",
]
SHAPES = {"kernel": (3, 2), "bias": (2,)}

CASES: dict[str, dict[str, str]] = {
    "DataParallel": {name: f"module.{name.replace('/', '.')}" for name in WEIGHTS},
    "Lightning": {name: f"model/{name}" for name in WEIGHTS},
    "torch.compile": {name: f"_orig_mod/{name}" for name in WEIGHTS},
    "compile in DataParallel": {name: f"module/_orig_mod/{name}" for name in WEIGHTS},
    "linen": {name: f"params/{name}" for name in WEIGHTS},
    "encoder and backbone": {name: name.replace("encoder", "backbone") for name in WEIGHTS},
    "a part of a larger model": {name: f"student/net/{name}" for name in WEIGHTS}
    | {f"teacher {name}": f"teacher/net/{name}/frozen" for name in WEIGHTS[:1]},
    "two parts": {name: name.replace("encoder", "enc/layers").replace("decoder", "dec/layers") for name in WEIGHTS},
    "attributes of TensorFlow": {name: f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in WEIGHTS},
    "values of nnx": {name: f"{name}/value" for name in WEIGHTS},
    "wrapped layers": {name: name.replace("/", "/_fsdp_wrapped_module/", 1) for name in WEIGHTS[:8]}
    | {"head/kernel": "head/_fsdp_wrapped_module/kernel"},
    "numbered layers": {name: f"dense_{i // 2 + 4}/{name.rpartition('/')[2]}" for i, name in enumerate(WEIGHTS)},
    "one level too few": {name: "/".join(name.split("/")[1:]) for name in WEIGHTS[:4]},
    "dots": {name: name.replace("/", ".") for name in WEIGHTS},
}


@pytest.mark.parametrize("case", CASES)
def test_the_proposed_rename_works_when_it_is_pasted(case: str) -> None:
    names = CASES[case]
    shapes = {name: SHAPES[name.rpartition("/")[2]] for name in names if not name.startswith("teacher")}
    target = model(**{name.replace("/", "__"): shape for name, shape in shapes.items()})
    saved = {name: counted(*SHAPES["bias" if name.endswith("bias") else "kernel"]) + i for i, name in enumerate(names)}
    source = {names[name]: array for name, array in saved.items()}
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, source)
    hint = str(caught.value).partition("\nHint: ")[2].removesuffix(".")
    assert hint, caught.value
    options: Any = {}
    if "pass separator='.'" in hint:
        options["separator"] = "."
    if "rename=" in hint:
        rename, also, _ = hint.partition("rename=")[2].partition(", and strict=False")
        options |= {"rename": eval(rename), "strict": not also}
    assert ("teacher" in str(names)) == (not options.get("strict", True))  # of which the model has nothing
    report = sv.load(target, source, **options)
    assert set(report.loaded) == set(shapes)
    for path, v in sv.named_variables(target).items():
        np.testing.assert_array_equal(v.numpy(), saved[path])


def test_a_rename_that_was_given_stays_in_the_proposal() -> None:
    target = model(a__kernel=(2,), a__bias=(2,), b__kernel=(3,))
    source = {"x/kernel": counted(2), "x/bias": counted(2), "y/kernel": counted(3)}
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, source, rename={"y": "b"})
    assert str(caught.value).endswith("rename={'y': 'b', 'x': 'a'}.")


def test_no_rename_is_proposed_for_what_is_other_in_shape() -> None:
    target = model(a__kernel=(2,), b__bias=(3,))
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(target, {"model/a/kernel": counted(5), "model/b/bias": counted(7)})
    assert "Hint" not in str(caught.value)
