"""What a comparison runs, and whether it continues the one in its folder: the same data, recipe, seeds and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdiff.config.parts import Part, Spec, parse
from kdiff.config.plain import Precision
from kdiff.config.recipes import EARLIER, EARLIER_NETWORK, RecipeName, chosen_recipe
from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import read_json
from kdiff.networks.choice import is_auto
from kdiff.run.folder import precision_of, read_run_config
from kdiff.targets import fixed_k

BACK = "restore it from a copy, or remove it, and the finished runs are collected again"
STORED = {
    "data": (str, {"name": str}),
    "seed": int,
    "seeds": int,
    "targets": [(str, float, {"name": str})],
    "grid?": int,
    "recipe?": (str, None),
    "network?": (str, {"name": str}),
    "precision?": str,
}


def with_grid(targets: Sequence[Spec], grid: int) -> list[Spec]:
    """The targets and a grid of fixed k: the fixed ones in order of k, then the others. A k that has a name keeps it.

    The values of the grid are rounded to four digits: 0.3333 and 0.6667.
    """
    if not grid:
        return list(targets)
    given = [(fixed_k(target), target) for target in targets]
    known = {k for k, _ in given}
    points = [round(i / (grid - 1), 4) for i in range(grid)]
    fixed: list[tuple[float, Spec]] = [(k, target) for k, target in given if k is not None]
    fixed += [(k, k) for k in points if k not in known]
    fixed.sort(key=lambda pair: pair[0])
    return [*(target for _, target in fixed), *(target for k, target in given if k is None)]


def check_same(config: CompareConfig, out: Path) -> None:
    """Refuse to write over the results of another comparison. The same comparison with more targets or seeds may continue.

    Only data, seeds and targets are compared here. The other settings of a run are compared when the run is resumed.
    """
    if not (out / "results.json").exists():
        return
    stored = read_json(out / "results.json", {"config": STORED}, BACK)["config"]
    data, now = str(parse(stored["data"])), str(config.data)
    recipes = (stored.get("recipe", EARLIER), find_recipe(config, out))
    if recipes[0] != recipes[1]:
        raise ValueError(
            f"{out} holds a comparison under the recipe {recipes[0]}, but this one is under {recipes[1]}; choose another "
            f"folder with --out, or type --recipe {recipes[0]}"
        )
    if data != now:
        raise ValueError(f"{out} holds a comparison on {data}, but this one is on {now}; choose another folder with --out")
    seeds = sorted(set(seed_range(stored["seed"], stored["seeds"])) - set(seed_range(config.seed, config.seeds)))
    if seeds:
        raise ValueError(
            f"{out} holds a comparison with the seeds {', '.join(map(str, seeds))} too; choose another folder with --out, or "
            "include these seeds with --seed and --seeds"
        )
    there = {str(parse(target)) for target in with_grid(stored["targets"], stored.get("grid", 0))}
    lost = sorted(there - {str(parse(target)) for target in with_grid(config.targets, config.grid)})
    if lost:
        raise ValueError(f"{out} holds a comparison with {', '.join(lost)}; choose another folder with --out, or include them")


def find_recipe(config: CompareConfig, out: Path) -> RecipeName:
    """The recipe of a comparison; if it names none, that of the comparison in the folder, or else the default."""
    if config.recipe is None and (out / "results.json").exists():
        found: RecipeName = read_json(out / "results.json", {"config": STORED}, BACK)["config"].get("recipe", EARLIER)
        return found
    begun = next(out.glob("runs/*/*/seed_*/config.yaml"), None)
    if config.recipe is None and begun is not None:  # a comparison that was interrupted
        found = read_run_config(begun.parent, TrainConfig).recipe
        return found
    return chosen_recipe(config.recipe, config.loss_space)


def find_network(config: CompareConfig, out: Path) -> Part:
    """The network of a comparison; if it is to be chosen, that of the comparison in the folder if there is one."""
    if is_auto(config.network) and (out / "results.json").exists():
        return parse(read_json(out / "results.json", {"config": STORED}, BACK)["config"].get("network", EARLIER_NETWORK))
    begun = next(out.glob("runs/*/*/seed_*/config.yaml"), None)
    if is_auto(config.network) and begun is not None:
        found: Part = read_run_config(begun.parent, TrainConfig).network
        return found
    return config.network


def find_precision(config: CompareConfig, out: Path) -> Precision:
    """The precision of a comparison; if it is to be chosen, that of the comparison in the folder if there is one."""
    if config.precision != "auto":
        return config.precision
    if (out / "results.json").exists():
        found: Precision = read_json(out / "results.json", {"config": STORED}, BACK)["config"].get("precision", "no")
        return found
    begun = next(out.glob("runs/*/*/seed_*/config.yaml"), None)
    return config.precision if begun is None else precision_of(TrainConfig(precision="auto"), begun.parent, resume=True)


def seed_range(first: int, count: int) -> range:
    """The seeds of a comparison."""
    return range(first, first + count)
