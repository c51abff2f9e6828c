"""Recipes: the weight of the loss over time, and where a learned k starts and how fast it moves.

    balanced    the error at each time is divided by its running mean (weighting "log"); a learned k starts at 0.9, ten times
                as fast as a weight of the network. The default.
    plain       the v-loss without weights; a learned k starts at 0.5, ten times as fast as a weight. The default until
                there were recipes.
    paper       the v-loss without weights; a learned k starts at 0.5 and moves like a weight of the network (arXiv 2601.21419).

A recipe fills in what a target leaves out: `learned(init=0.7)` starts at 0.7 under every recipe, and the option `weighting`,
which every target has, comes before the recipe's, as in `velocity(weighting=none)`. The target `paper` is the paper's under
every recipe. `kdiff.targets.weighting` has the formulas of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from kdiff.config.parts import Part, Spec, parse

RecipeName = Literal["balanced", "plain", "paper"]
WEIGHTINGS = ("none", "den", "log")


@dataclass(frozen=True)
class Recipe:
    """The weighting of the loss, and the start and the pace of a learned k."""

    weighting: str
    init: float
    rate: float


RECIPES: dict[str, Recipe] = {
    "balanced": Recipe("log", 0.9, 10.0),
    "plain": Recipe("none", 0.5, 10.0),
    "paper": Recipe("none", 0.5, 1.0),
}
DEFAULT: RecipeName = "balanced"
EARLIER: RecipeName = "plain"  # of configurations that were written before there were recipes
EARLIER_NETWORK = "MLP"  # of configurations without a network that were written before networks were chosen for the data


def chosen_recipe(recipe: str | None, loss_space: str = "v") -> RecipeName:
    """The name of the recipe; if it is None, the default. A loss on u has no weight over time, so its default is "plain".

    Raises:
        ValueError: no recipe has this name, or it weighs the errors of a velocity although the loss is on u.
    """
    if recipe is None:
        return EARLIER if loss_space == "u" else DEFAULT
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; expected {' or '.join(RECIPES)}")
    if loss_space == "u" and RECIPES[recipe].weighting != "none":
        raise ValueError(
            f"recipe is {recipe}, which weighs the errors of the velocity, but loss_space is u; expected --recipe plain with "
            "--loss_space u, or --loss_space v"
        )
    return cast(RecipeName, recipe)


def without_weighting(target: Spec) -> tuple[Part, str | None]:
    """The target without its option `weighting`, and the value of this option; None if it is left out.

    Raises:
        ValueError: no weighting has this name.
    """
    part = parse(target)
    options = dict(part.options)
    weighting = options.pop("weighting", None)
    if weighting is not None and weighting not in WEIGHTINGS:
        raise ValueError(f"weighting of {part} is {weighting!r}; expected {', '.join(WEIGHTINGS)}")
    return Part(part.name, options, part.values), weighting


def resolved(target: Spec, recipe: str) -> tuple[Part, str]:
    """The target with what the recipe fills in, and the name of the weighting.

    Raises:
        ValueError: no weighting has this name.
    """
    part, weighting = without_weighting(target)
    if part.name == "paper":
        return part, weighting or RECIPES["paper"].weighting
    filling = RECIPES[recipe]
    if part.name == "learned":
        named = {"init": filling.init, "rate": filling.rate}
        left_out = {name: value for place, (name, value) in enumerate(named.items()) if place >= len(part.values)}
        part = Part(part.name, {**left_out, **part.options}, part.values)
    return part, weighting or filling.weighting
