"""The recipes: a file in examples/, a page in docs/recipes/, and a row here. They run on every library.

What a recipe claims, beside other libraries' own, is in test_what_recipes_claim.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT
from tests.together.examples import example

PAGES = ROOT / "docs/recipes"


class Recipe(NamedTuple):
    """How a test runs a recipe: small."""

    name: str
    arguments: str
    needs: Mapping[str, tuple[str, ...]]  #: by library, the packages that it imports there
    exact: float = 1e-4  #: how far the libraries may be from each other, as a part of the figure

    def __str__(self) -> str:
        return self.name


GRADIENTS = {"numpy": ("autograd",)}
RECIPES = (
    Recipe("optimizers", "--steps 5", {**GRADIENTS, "jax": ("optax",), "tensorflow": ("keras",)}),
    Recipe("kalman", "--steps 3 --length 4", GRADIENTS),
    Recipe("wave_equation", "--steps 30 --size 24", {}),
    Recipe("batch_norm", "--steps 5", {**GRADIENTS, "tensorflow": ("keras",)}),
    Recipe("word_vectors", "--steps 5 --size 100", GRADIENTS),
    Recipe("ising", "--steps 10 --size 8", {}),
    Recipe("dqn", "--steps 4", {**GRADIENTS, "jax": ("optax",), "tensorflow": ("keras",)}),
    Recipe("online_service", "--steps 2", {}),
)
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=str)


@cache
def on_numpy(name: str, arguments: str) -> dict[str, float]:
    found: dict[str, float] = example(name).main([*arguments.split(), "--rounds=0"])
    return found


def import_what_it_needs(recipe: Recipe, *libraries: str) -> None:
    for library in libraries:
        for package in recipe.needs.get(library, ()):
            pytest.importorskip(package)


@each_recipe
@pytest.mark.usefixtures("compiled_quickly")
def test_a_recipe_finds_the_same_on_every_library(
    recipe: Recipe, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one round of the speed comparison, so that the plain programs run too."""
    import_what_it_needs(recipe, "numpy", backend)
    found = example(recipe.name).main(["--backend", backend, *recipe.arguments.split(), "--rounds=1"])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"{backend}: ") for line in lines)
    assert re.fullmatch(rf"{backend}: \S.*: [\d.]+ (µs|ms), [\d.]+ of \S.*", lines[-1]), lines[-1]
    assert found == pytest.approx(on_numpy(recipe.name, recipe.arguments), rel=recipe.exact)


@pytest.mark.parametrize("recipe", [each for each in RECIPES if each.name in ("kalman", "wave_equation")], ids=str)
def test_a_picture_can_be_made_again_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    """One is an SVG, the other a PNG."""
    import_what_it_needs(recipe, "numpy")
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"{name}{picture_of(recipe).suffix}" for name in ("first", "second")]
    for file in files:
        example(recipe.name).main([*recipe.arguments.split(), "--rounds=0", "--picture", str(file)])
    assert files[0].read_bytes() == files[1].read_bytes()


def picture_of(recipe: Recipe) -> Path:
    (found,) = (PAGES / "images").glob(f"{recipe.name}.*")
    return found


@pytest.mark.parametrize("recipe", RECIPES[:1] + RECIPES[3:], ids=str)  # the others are drawn twice, above
def test_a_picture_is_drawn(recipe: Recipe, tmp_path: Path) -> None:
    import_what_it_needs(recipe, "numpy")
    pytest.importorskip("matplotlib")
    file = tmp_path / f"picture{picture_of(recipe).suffix}"
    example(recipe.name).main([*recipe.arguments.split(), "--rounds=0", "--picture", str(file)])
    assert file.stat().st_size > 1000


@each_recipe
def test_a_page_shows_the_code_that_runs_and_how_its_picture_is_made(recipe: Recipe) -> None:
    page, code = (PAGES / f"{recipe.name}.md").read_text(), (ROOT / f"examples/{recipe.name}.py").read_text()
    shown = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown
    for part in shown:
        assert part in code, f"this is not in the file:\n{part}"
    picture = picture_of(recipe)
    assert f"](images/{picture.name})" in page
    assert f"python examples/{recipe.name}.py --picture docs/recipes/images/{picture.name}" in page
    assert f"](../../examples/{recipe.name}.py)" in page
    assert picture.stat().st_size < 60_000
    assert f"]({recipe.name}.md)" in (PAGES / "index.md").read_text()


def test_every_page_and_every_picture_has_a_row() -> None:
    names = {each.name for each in RECIPES}
    assert {page.stem for page in PAGES.glob("*.md")} == names | {"index"}
    assert {picture.stem for picture in (PAGES / "images").iterdir()} == names


def test_speeds_are_the_best_of_turns(capsys: pytest.CaptureFixture[str]) -> None:
    """Each program takes its turns, and what waits is waited for."""
    compare, calls = example("recipe").compare, []

    class Later:
        def __float__(self) -> float:
            calls.append("waited")
            return 0.0

    def step(name: str) -> Later:
        calls.append(name)
        return Later()

    ratios = compare("numpy: a step", lambda: step("ours"), {"theirs": lambda: step("theirs")}, 2)
    assert list(ratios) == ["theirs"]
    assert ratios["theirs"] > 0
    turns = [name for name, after in pairwise(calls) if after == "waited"]
    assert turns == ["ours"] * 4 + ["theirs"] * 4 + ["ours", "theirs"] * 2
    assert capsys.readouterr().out.endswith(f", {ratios['theirs']:.2f} of theirs\n")
    assert compare("numpy: a step", lambda: step("ours"), {}, 0) == {}
