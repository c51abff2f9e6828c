"""The network that suits the data, by one rule from the shape of a sample and the work that a training may cost.

    vectors (D,), and grids of fewer than 128 places      MLP
    signals (C, L), images (C, H, W), volumes             JiT, the largest of the ladder below whose training fits the budget

    tokens at most    16   64   64   64   64   64  256  256  256   256
    width             64   64   96  128  192  256  384  512  768  1024
    depth              4    4    4    6    8   10   12   12   12    24

The patch gives the most tokens up to that number, and is as close to a square or a cube as it can be. A training costs steps ·
batch_size · FLOPs of a sample, forward and backward. The budget is 10¹⁴ FLOPs, about half an hour of one core of a CPU at 50
GFLOP/s, so that the same data and settings have the same network on every machine. `auto(budget='30m')` gives a time instead,
and `kdiff.training.choosing` measures which networks train in that time. A training that draws few samples is counted as one of
128,000: a short trial gets a network of the size that its real training would have, and that fits into memory.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kdiff.config.parts import Part
from kdiff.config.values import Misfit, fitted, said
from kdiff.networks.embedding import CONVOLUTIONS, by, tiling
from kdiff.networks.jit import JiT

AUTO = "auto"
BUDGET = 1e14
FEWEST_DRAWS = 128_000  # 1,000 steps of 128 samples
SPEED = 5e10  # FLOPs a second of one core, where nothing was measured
SMALL = 128  # places of a grid; with fewer, a sample is read as a vector
LADDER = (
    *((16, 64, 4), (64, 64, 4), (64, 96, 4), (64, 128, 6), (64, 192, 8), (64, 256, 10)),
    *((256, 384, 12), (256, 512, 12), (256, 768, 12), (256, 1024, 24)),
)  # tokens at most, width, depth
FEWEST, MOST = 4, 256  # tokens
LONGEST = 4  # times the shortest side of a patch
TRANSFORMER = {each.name for each in fields(JiT)} - {"image_size", "channels", "num_classes", "depth"}  # its own options
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
KINDS = {1: "signals", 2: "images or fields", 3: "volumes"}


@dataclass(frozen=True)
class Choice:
    """A network, why it was chosen, and the FLOPs of a sample, forward and backward."""

    network: Part
    why: str
    flops: float


def is_auto(network: Part) -> bool:
    """Whether the network is to be chosen for the data."""
    return network.name == AUTO


def budget_seconds(network: Part) -> float | None:
    """The time that `auto` is given for a training, in seconds; None if it has no option `budget`.

    Raises:
        ValueError: the budget is no time.
    """
    budget = network.options.get("budget")
    if budget is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smhd])", str(budget).strip())
    if not found or not float(found[1]):
        raise ValueError(f"budget is {budget!r}; expected a time such as 90s, 30m, 2h or 1d")
    return float(found[1]) * SECONDS[found[2]]


def choose(network: Part, shape: Sequence[int], draws: int, budget: float = BUDGET) -> Choice:
    """The network for samples of this shape; `network` is `auto`, whose other options are passed on to the chosen network.

    Args:
        network: `auto`; an option of the MLP alone (width) or of the transformer alone (patch_size, …) decides for it.
        shape: the shape of a sample, channels first.
        draws: the number of samples that a training draws, steps · batch_size; fewer than 128,000 count as that many.
        budget: the FLOPs that a training may cost.
    """
    steps = candidates(network, shape)
    fitting = [each for each in steps if each.flops * max(draws, FEWEST_DRAWS) <= budget] or steps[:1]
    return fitting[-1]


def candidates(network: Part, shape: Sequence[int]) -> list[Choice]:
    """The networks of the ladder for samples of this shape, smallest first; the MLP alone where no transformer is to be had."""
    shape, options = tuple(shape), {name: value for name, value in network.options.items() if name != "budget"}
    grid = shape[1:]
    reason = _why_mlp(shape, options)
    if not reason:
        found = [each for tokens, width, depth in LADDER if (each := _transformer(shape, tokens, width, depth, options))]
        if found:
            return found
        reason = (
            f"no nearly square patch cuts samples of {by(grid)} into {FEWEST} to {MOST} tokens; for a patch transformer, pad "
            "or crop them to sizes with more divisors"
        )
    return [Choice(Part("MLP", options, network.values), reason, _mlp_flops(math.prod(shape), options))]


def _why_mlp(shape: tuple[int, ...], options: Mapping[str, Any]) -> str:
    """Why samples of this shape get an MLP; empty if they get a transformer, should a patch fit."""
    grid, places = shape[1:], math.prod(shape[1:])
    own = any(name in TRANSFORMER for name in options)
    if "width" in options:
        return "the option width belongs to the MLP"
    if not grid:
        return f"the samples are vectors of {shape[0]} numbers"
    if len(grid) not in CONVOLUTIONS:
        return f"the samples have {len(grid)} axes besides their channels, and patches have at most 3"
    if len(grid) == 1 and 2 * shape[0] >= grid[0] and not own:
        return (
            f"samples of shape {shape} could be grey images or signals of {shape[0]} channels; save grey images as (N, 1, H, "
            "W), or ask for a transformer on signals, as in --network.patch_size 4"
        )
    if places < SMALL and not own:
        return f"samples of {by(grid)} have {places} places, fewer than {SMALL}, so they are read as vectors"
    return ""


def _transformer(shape: tuple[int, ...], tokens: int, width: int, depth: int, options: Mapping[str, Any]) -> Choice | None:
    """The transformer of a step of the ladder; None if no patch fits."""
    grid = shape[1:]
    patch = _given(options, "patch_size", None, int | list[int]) or patch_for(grid, tokens)
    if patch is None:
        return None
    sides = tiling(grid, patch).patch
    entries = shape[0] * math.prod(sides)
    width, depth = _given(options, "hidden_size", width), _given(options, "depth", depth)
    settings = {
        "patch_size": sides[0] if len(set(sides)) == 1 else list(sides),
        "hidden_size": width,
        "depth": depth,
        "num_heads": max(1, width // (32 if width < 384 else 64)),
        "bottleneck": min(128, width, entries),
        "context_tokens": 0,
        **options,
    }
    count = math.prod(size // side for size, side in zip(grid, sides))
    why = f"the samples are {KINDS[len(grid)]} of {by(grid)}, cut into {count:.0f} tokens by patches of {by(sides)}"
    return Choice(Part("JiT", settings), why, _jit_flops(count, entries, (width, depth, _given(settings, "bottleneck", 1))))


def patch_for(grid: Sequence[int], tokens: int) -> tuple[int, ...] | None:
    """The sides of a patch that cuts a grid into at most this number of tokens; up to 256 if else there are few.

    Of all patches that divide the grid, it is the one with the largest tokens / (longest side / shortest side)². None if there
    is none with at least 4 tokens and sides of at most four times the shortest.
    """
    sides = [[side for side in range(1, size + 1) if size % side == 0] for size in grid]
    for most in (tokens, min(4 * tokens, MOST)):
        found = [(math.prod(s // p for s, p in zip(grid, patch)), patch) for patch in itertools.product(*sides)]
        found = [(count, patch) for count, patch in found if FEWEST <= count <= most and max(patch) <= LONGEST * min(patch)]
        count, patch = max(found, key=lambda each: (each[0] / (max(each[1]) / min(each[1])) ** 2, each[0]), default=(0, ()))
        if count >= tokens / 4:
            return patch
    return patch or None


def _given(options: Mapping[str, Any], name: str, otherwise: Any, kind: Any = int) -> Any:
    """The value of an option, checked because FLOPs are counted with it; `otherwise` if it is left out."""
    if name not in options:
        return otherwise
    try:
        return fitted(options[name], kind)
    except Misfit as error:
        raise ValueError(f"{name} of the network is {said(options[name])}; expected {error}") from None


def _jit_flops(tokens: int, entries: int, sizes: tuple[int, int, int]) -> float:
    """FLOPs of matrix products and attention, forward and backward, which is three times forward."""
    width, depth, narrow = sizes
    per_token = 12 * width**2 * depth + narrow * (entries + width) + width * entries
    per_sample = (6 * depth + 3) * width**2 + 256 * width
    return 3.0 * (2 * (tokens * per_token + per_sample) + 4 * tokens**2 * width * depth)


def _mlp_flops(dimension: int, options: Mapping[str, Any]) -> float:
    width, depth = _given(options, "width", 256), _given(options, "depth", 4)
    return 6.0 * (2 * dimension * width + (depth - 1) * width**2 + 33 * width)
