"""Architectures: is learned k as good as velocity and data prediction, or better, in JiT, DiT, U-ViT and LightningDiT?

Four networks of about 750,000 parameters read the same 16 patches of the same pictures. A patch holds fewer numbers than the
networks are wide (Fashion-MNIST, 49) or more (colour emoji, 192):

    JiT            patches through a bottleneck, modulated blocks, rotary positions, SwiGLU
    DiT            patches, modulated blocks
    LightningDiT   DiT with rotary positions, SwiGLU and RMSNorm
    U-ViT          patches, time and label as tokens of plain blocks, skips from early blocks to late ones

The paper (arXiv 2601.21419) reports that learned k matches or outperforms fixed targets across architectures. Its rule D/(D +
d) depends on the data alone, so by this rule k should be the same in all four.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdiff.claims.claim import SMALL_JIT, Claim, Finding, Group, Outcome, Study
from kdiff.claims.evidence import FACTOR, alike, last_move, learned_k, still_moving
from kdiff.claims.panels import draw_distances, draw_ends, draw_samples, tidy
from kdiff.claims.quality import by_target, quality_rows, reaches_the_best, target_table
from kdiff.config.training import TrainConfig
from kdiff.report.drawing import new_figure, save_figure

# Four blocks and four heads each. The blocks of U-ViT (five, with the one in the middle) have no modulation, so it is wider.
NETWORKS = {
    "JiT": SMALL_JIT,
    "DiT": "DiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4)",
    "LightningDiT": "LightningDiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4)",
    "U-ViT": "UViT(patch_size={patch}, hidden_size=104, depth=4, num_heads=4, time_scale=999.0)",
}
PICTURES = {"Fashion 28, patch 7": ("fashion", 7), "glyphs 32, patch 8": ("glyphs(size=32)", 8)}
SMALL = {"digits 8, patch 4": ("digits", 4)}
SHOWN = 8  # samples of each architecture in the picture


def pictures(full: bool) -> dict[str, tuple[str, int]]:
    """The data and the patch size, by the name of the pictures."""
    return PICTURES if full else SMALL


def cell(network: str, pictures: str) -> str:
    """The name of a cell."""
    return f"{network}, {pictures}"


def cells(full: bool) -> dict[str, TrainConfig]:
    """The settings of every network on every kind of pictures."""
    settings: dict[str, Any] = {"steps": 2000 if full else 150, "batch_size": 64, "log_every": 10}
    if not full:
        settings["ema"] = [0.98]  # 0.999 averages over more steps than a quick run has
    return {
        cell(network, name): TrainConfig(data=data, network=spec.format(patch=patch), **settings)
        for name, (data, patch) in pictures(full).items()
        for network, spec in NETWORKS.items()
    }


def plan(full: bool) -> list[Group]:
    """All networks and pictures with every target."""
    return [Group(cells(full), ["velocity", "data", "learned"], range(3 if full else 1), num_samples=1000 if full else 1)]


def examine(study: Study) -> Outcome:
    """The samples of learned k against those of the better of the two fixed targets, and k in different networks."""
    rows = {name: quality_rows(study, name) for name in cells(study.full)}
    values = {name: by_target(found) for name, found in rows.items()}
    fixed = {name: {target: v for target, v in found.items() if target != "learned"} for name, found in values.items()}
    learned = {name: found["learned"] for name, found in values.items()}
    best = "in every architecture the samples of learned k are as good as those of the better of velocity and data prediction"
    findings = [reaches_the_best(best, learned, fixed, "Fréchet distance of learned k")]
    findings += [same_k(study, name) for name in pictures(study.full)]
    beside = {(name, "learned"): f"{last_move(study, name):+.3f}" for name in rows}
    return Outcome(findings, target_table(rows, "network, pictures", "change of k in the last quarter", beside))


def same_k(study: Study, name: str) -> Finding:
    """Whether (1 − k)/k is alike in all networks on the same pictures; by the rule it is d/D, whatever the network."""
    ks = {cell(network, name): learned_k(study, cell(network, name)) for network in NETWORKS}
    statement = f"{name}: k is the same in every architecture, (1 − k)/k within a factor of {FACTOR}"
    found = replace(alike(statement, [ks], moving=still_moving(study, ks)), decides=False)
    # Before k has moved far from its start, it is the same everywhere.
    return found if study.full else replace(found, verdict="inconclusive")


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """A column for each kind of pictures: distances, k, and samples with learned k (from the same noise in all networks)."""
    kinds = list(pictures(study.full))
    figure = new_figure(5.2 * len(kinds), 8)
    columns = figure.subplots(3, len(kinds), squeeze=False, height_ratios=(1, 0.8, 1)).T
    for name, (above, middle, below) in zip(kinds, columns):
        labels = {cell(network, name): network for network in NETWORKS}
        draw_distances(above, study, labels, f"{name}: Fréchet distance, clean (a point for each seed)")
        draw_ends(middle, study, labels)
        middle.set(xlim=(-0.6, len(labels) - 0.4), ylim=(0.45, 1.02), ylabel="learned k")
        tidy(middle)
        lines = {network: (one, "learned") for one, network in labels.items()}
        draw_samples(below, study, lines, SHOWN, "samples, learned k")
    save_figure(figure, path)


CLAIM = Claim(
    name="architectures",
    title="is learned k as good as fixed targets in JiT, DiT, U-ViT and LightningDiT?",
    says="Learned k matches or outperforms fixed prediction targets across architectures.",
    varied="Four architectures of about 750,000 parameters with 16 patches, on Fashion-MNIST (patches of 49 numbers) and on "
    "colour emoji (patches of 192 numbers); velocity, data and learned prediction; 3 seeds.",
    measured="Fréchet distance of 1,000 samples in the features of a classifier of the same data, under both samplers; k.",
    refuted_if="in some architecture and on one of the two kinds of pictures, learned k is at least 2 % worse than velocity "
    "or data prediction (paired over seeds, with 95 % confidence for all comparisons together). Confirmed if, over all cells, "
    "it is at most 10 % worse than the better of the two, with 95 % confidence. Not part of the claim: whether k depends on "
    "the architecture.",
    core_hours=(0.06, 5.4),
    plan=plan,
    examine=examine,
    draw=draw,
)
