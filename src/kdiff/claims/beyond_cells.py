"""The cells, the split, the measures, the targets and the seeds of the study `beyond`, fixed before its first run.

A cell is one combination of data, network and training. Half of the cells are for development: recipes, weights, calibration
and targets may be chosen by what is found there. The other half is held out: nothing may be chosen there but the best of a
grid, and this by other seeds than those that judge it. F, G and S are settings of the pilot studies that suggested the
hypotheses (F and S as they were, G with half of the steps), so they are cells of development; so is every data set with a
network that a pilot looked at. For the choice of all other cells only the time of a step and the first losses were looked at,
never the quality of samples. Four more cells repeat two of the held-out ones with four times the training and with twice the
width, for the recipes alone.

The measure of a cell is one distance, which is better when it is lower:

    frechet      Fréchet distance to held-out data in the features of the data's own classifier (labelled images, latents)
    manifold     √(p SW² + off²) on a known manifold over p dimensions (see `kdiff.claims.quality`)
    sliced       sliced Wasserstein distance to held-out rows (all other data)

Beside it stands the copying ratio, the median distance to the nearest training sample over that of held-out data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kdiff.claims.beyond_data import find_tokens
from kdiff.claims.claim import SMALL_JIT
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig

Part = Literal["development", "held-out", "persistence"]
Kind = Literal["image", "latent", "toy", "table"]
Measure = Literal["frechet", "manifold", "sliced"]

CHOOSING = (0, 1, 2)  # seeds that choose the best of a grid on held-out cells
JUDGING = (3, 4, 5, 6, 7)  # seeds that judge it, the recipes and the baselines there
DEVELOPING = (0,)  # seeds on development cells; (0, 1, 2) for what is to be concluded there
NUM_SAMPLES = 2000

WEIGHTINGS = ("none", "den", "log")
FULL_GRID = tuple(i / 10 for i in range(11))  # on development cells
FROZEN_GRID = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # on held-out cells
RECIPE = "learned"  # the default recipe of kdiff, which every cell names: weighting log, k from 0.9
PLAIN = "learned(init=0.5, rate=10, weighting='none')"  # the default before there were recipes
PAPER = "paper"  # the paper's learned k at its own pace, without weights
RECIPES = (RECIPE, PLAIN, PAPER)
NOISE = "noise(weighting='none')"  # velocity and data prediction are k = 0.5 and 1 under no weight
OF_TIME = "two_ended(weighting='log')"  # k falls with t: data prediction early, velocity prediction late
SELF_CONSISTENT = "self_consistent(weighting='den')"  # two targets of one network; a step costs twice as much


def fixed(k: float, weighting: str) -> str:
    """The target of a fixed k under a weighting."""
    return str(parse(f"{k:g}(weighting={weighting})"))


def off_line(basis: str) -> tuple[str, ...]:
    """The targets off the line, in the principal directions of the whole sample ("principal") or of its patches ("patch")."""
    return tuple(str(parse(f"{name}(basis={basis}, weighting=log)")) for name in ("asymflow", "spectral", "wiener"))


@dataclass(frozen=True)
class StudyCell:
    """A cell: what is trained, its part of the study, its measure, and the seconds that one run takes on one core.

    `seconds` are those of training and of judging, measured on one x86-64 core while other work ran on its neighbour.
    """

    config: TrainConfig
    part: Part
    kind: Kind
    measure: Measure
    seconds: tuple[float, float]

    @property
    def basis(self) -> str:
        """The basis of the targets off the line."""
        return "principal" if self.config.network.name == "MLP" else "patch"


def _cell(
    part: Part, kind: Kind, measure: Measure, data: Any, network: str, steps: int, batch: int, seconds: tuple[float, float]
) -> StudyCell:
    config = TrainConfig(
        data=data,
        network=network,
        recipe="balanced",
        steps=steps,
        batch_size=batch,
        ema=[0.999, 0.99],  # samples are drawn with the first one; the second one is a control
        log_every=steps // 40,
        split_loss=False,
    )
    return StudyCell(config, part, kind, measure, seconds)


def _unlabelled(of: str) -> dict[str, str]:
    return {"name": "kdiff.claims.beyond_data.unlabelled", "of": of}


def _latents(of: str) -> dict[str, Any]:
    return {"name": "kdiff.claims.beyond_data.own_latents_of", "of": of, "channels": [16, 32]}


def _jit(patch: int, bottleneck: int, width: int = 64) -> str:
    return f"JiT(patch_size={patch}, hidden_size={width}, depth=3, num_heads=4, bottleneck={bottleneck}, context_tokens=0)"


def _dit(patch: int, depth: int, width: int = 64) -> str:
    return f"DiT(patch_size={patch}, hidden_size={width}, depth={depth}, num_heads=4)"


def _uvit(patch: int, width: int) -> str:
    return f"UViT(patch_size={patch}, hidden_size={width}, depth=2, num_heads=4, time_scale=999.0)"


SMALL_MLP, MLP = "MLP(width=128, depth=3)", "MLP(width=256, depth=4)"
GREY, COLOUR, LARGE = "fashion", "glyphs(size=32)", "glyphs(size=64)"
SPHERE = "sphere(ambient_dim=64, intrinsic_dim=4, embedding=curved)"
SHEET = "gaussian(ambient_dim=32, intrinsic_dim=2, embedding=curved)"
RING = _unlabelled("gaussian_mixture(ambient_dim=16, intrinsic_dim=4)")
SPIRAL, MOONS = _unlabelled("spiral(ambient_dim=256)"), _unlabelled("moons(ambient_dim=512, noise=0.1)")
PHOTOS = "photo_patches(size=8, colour=True)"
TABLE, TOKENS = "kdiff.claims.beyond_data.table(of=breast_cancer)", "kdiff.claims.beyond_data.tokens"

CELLS: dict[str, StudyCell] = {
    "D1 spiral (S), MLP": _cell("development", "toy", "manifold", SPIRAL, SMALL_MLP, 3000, 256, (22, 1)),
    "D2 bent sheet, MLP": _cell("development", "toy", "manifold", SHEET, SMALL_MLP, 3000, 128, (13, 1)),
    "D3 ring, MLP": _cell("development", "toy", "manifold", RING, SMALL_MLP, 3000, 128, (14, 1)),
    "D4 digits, MLP": _cell("development", "image", "frechet", "digits", MLP, 4000, 128, (29, 1)),
    "D5 digits, DiT": _cell("development", "image", "frechet", "digits", _dit(4, 3), 2000, 64, (42, 3)),
    "D6 Fashion (F), JiT": _cell("development", "image", "frechet", GREY, SMALL_JIT.format(patch=7), 2000, 64, (110, 17)),
    "D7 glyphs (G), JiT": _cell("development", "image", "frechet", COLOUR, SMALL_JIT.format(patch=8), 1000, 64, (100, 21)),
    "D8 Fashion latents, U-ViT": _cell("development", "latent", "frechet", _latents(GREY), _uvit(7, 64), 2000, 64, (44, 4)),
    "D9 VA-VAE tokens, MLP": _cell("development", "latent", "sliced", TOKENS, MLP, 4000, 128, (29, 1)),
    "H1 bent sphere, MLP": _cell("held-out", "toy", "manifold", SPHERE, SMALL_MLP, 3000, 128, (14, 1)),
    "H2 noisy moons, MLP": _cell("held-out", "toy", "manifold", MOONS, SMALL_MLP, 3000, 128, (22, 1)),
    "H3 digits, DiT": _cell("held-out", "image", "frechet", "digits", _dit(2, 2), 1500, 32, (25, 4)),
    "H4 Fashion, JiT, short": _cell("held-out", "image", "frechet", GREY, _jit(7, 16), 1000, 32, (25, 10)),
    "H5 Fashion, U-ViT, long": _cell("held-out", "image", "frechet", GREY, _uvit(7, 48), 4000, 32, (105, 7)),
    "H6 glyphs 64, JiT": _cell("held-out", "image", "frechet", LARGE, _jit(16, 64), 1000, 32, (43, 15)),
    "H7 photo patches, JiT": _cell("held-out", "image", "sliced", PHOTOS, _jit(4, 16), 1500, 32, (30, 4)),
    "H8 glyph latents, DiT": _cell("held-out", "latent", "frechet", _latents(COLOUR), _dit(4, 2), 1500, 32, (29, 6)),
    "H9 table, MLP": _cell("held-out", "table", "sliced", TABLE, SMALL_MLP, 2000, 128, (11, 1)),
    "P1 H3, four times as long": _cell("persistence", "image", "frechet", "digits", _dit(2, 2), 6000, 32, (106, 5)),
    "P2 H3, twice as wide": _cell("persistence", "image", "frechet", "digits", _dit(2, 2, 128), 1500, 32, (54, 8)),
    "P3 H4, four times as long": _cell("persistence", "image", "frechet", GREY, _jit(7, 16), 4000, 32, (72, 8)),
    "P4 H4, twice as wide": _cell("persistence", "image", "frechet", GREY, _jit(7, 16, 128), 1000, 32, (63, 14)),
}


def cells(part: Part) -> dict[str, StudyCell]:
    """The cells of a part. The cell of VA-VAE tokens is among them only if their file is found."""
    there = find_tokens() is not None
    return {name: cell for name, cell in CELLS.items() if cell.part == part and (there or str(cell.config.data) != TOKENS)}


def configs(part: Part) -> dict[str, TrainConfig]:
    """The configurations of a part's cells by name."""
    return {name: cell.config for name, cell in cells(part).items()}


def hours(part: Part, runs: int) -> float:
    """The core-hours of this many runs of every cell of a part."""
    return runs * sum(sum(cell.seconds) for cell in CELLS.values() if cell.part == part) / 3600
