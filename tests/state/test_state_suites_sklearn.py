"""The public suite for the state of scikit-learn, and what is its own about estimators."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.testing import StateSuite

pytest.importorskip("sklearn")

from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

_RANDOM = np.random.default_rng(0)
X = _RANDOM.normal(size=(30, 3))
Y = (X[:, 0] > 0).astype("int64")


class TestEstimators(StateSuite):
    counts = (8, 2000)

    def make(self) -> Any:
        thing = {"scale": StandardScaler(), "model": SGDClassifier(random_state=0)}
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        x = _RANDOM.normal(size=(20, 3))
        thing["model"].partial_fit(thing["scale"].partial_fit(x).transform(x), x[:, 0] > 0, classes=[False, True])

    def read(self, thing: Any) -> dict[str, Any]:
        return {
            f"{name}/{attribute}": np.asarray(value)
            for name, each in thing.items()
            for attribute, value in vars(each).items()
            if attribute not in each.get_params() and isinstance(value, np.ndarray | int | float)
        }


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        LinearRegression,
        lambda: SVC(),
        lambda: MiniBatchKMeans(2, n_init=1, random_state=0),
    ],
    ids=["pipeline", "linear", "svc", "k-means"],
)
def test_an_estimator_goes_back_to_a_snapshot_and_to_a_file(make: Any, tmp_path: Path) -> None:
    model = make().fit(X, Y)
    expected = model.predict(X).tolist()
    before = sv.snapshot({"model": model})
    sv.save(model, tmp_path / "x.safetensors")
    with sv.rollback(model):
        for each in sv.variables(model):
            if each.dtype_name.startswith("float"):
                each.assign(each.value * -3.0)
    assert model.predict(X).tolist() == expected
    if not isinstance(model, SVC):  # whose support vectors are others, and as many as the data wants
        model.fit(-X * 3.0, 1 - Y)
        sv.restore(before)
        assert model.predict(X).tolist() == expected
        model.fit(-X * 3.0, 1 - Y)
        sv.load(model, tmp_path / "x.safetensors")
        assert model.predict(X).tolist() == expected


def test_the_paths_in_a_pipeline_are_the_names_of_its_steps() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    found = sv.named_variables(model)
    assert "steps/standardscaler/mean_" in found
    assert found["steps/logisticregression/coef_"].shape == (1, 3)
    assert sv.get_value(found["steps/standardscaler/n_features_in_"]) == 3


def test_an_estimator_that_has_not_learned_takes_what_is_in_a_file(tmp_path: Path) -> None:
    old = LinearRegression().fit(X, Y)
    sv.save(old, tmp_path / "x.safetensors")
    new = LinearRegression()
    sv.load(new, tmp_path / "x.safetensors")
    assert new.predict(X).tolist() == old.predict(X).tolist()
    assert type(new.n_features_in_) is int
    other = StandardScaler()
    with pytest.raises(sv.errors.CheckpointMismatchError):
        sv.load({"a": other, "v": sv.Variable(0.0)}, tmp_path / "x.safetensors")
    assert "coef_" not in vars(other)


def test_a_rollback_undoes_the_first_fit() -> None:
    model = {"steps": make_pipeline(StandardScaler(), SGDClassifier()), "v": sv.Variable(1.0)}
    scaler, classifier = (each for _, each in model["steps"].steps)
    before = [set(vars(each)) for each in (scaler, classifier)]
    with sv.rollback(model):
        model["steps"].fit(X, Y)
    assert [set(vars(each)) for each in (scaler, classifier)] == before
    scaler.fit(X)
    mean = scaler.mean_.copy()
    with sv.rollback(model):
        model["steps"].fit(X + 1.0, Y)
        scaler.added_ = 3.0
    assert scaler.mean_.tolist() == mean.tolist()
    assert not hasattr(scaler, "added_")
    assert not hasattr(classifier, "coef_")


def test_names_and_lists_of_an_estimator_are_state() -> None:
    model = MLPClassifier((4,), max_iter=3, random_state=np.random.RandomState(1))
    labels = np.where(Y, "yes", "no")
    with pytest.warns(UserWarning, match="converge"):
        model.fit(X, labels)
    found = sv.named_variables({"m": model})
    assert {"m/coefs_/0", "m/_optimizer/ms/1", "m/loss_curve_", "m/classes_", "m/random_state"} <= set(found)
    twin = pickle.loads(pickle.dumps(model))
    before = sv.snapshot({"m": model})
    for each in (model.coefs_, model.intercepts_):
        for array in each:
            np.add(array, 1.0, out=array)
    model.classes_ = np.array(["a", "b"], model.classes_.dtype)
    sv.restore(before)
    assert model.predict(X).tolist() == twin.predict(X).tolist()
    model.partial_fit(X, labels)  # the curve of losses has grown
    with pytest.raises(sv.errors.ShapeError, match=r"changed the shape to \(4,\)"):
        sv.restore(before)


@pytest.mark.parametrize(
    "make", [DecisionTreeClassifier, lambda: KNeighborsClassifier(algorithm="kd_tree")], ids=["tree", "neighbors"]
)
def test_what_only_scikit_learn_can_read_is_an_error(make: Any) -> None:
    model = make().fit(X, Y)
    with pytest.raises(
        sv.errors.ForeignStateError, match="snapshot: the state of sklearn.*only scikit-learn.*at 'm/0/"
    ):
        sv.snapshot({"m": [model]})
    assert sv.variables({"m": make(), "v": (v := sv.Variable(1.0))}) == (v,)
