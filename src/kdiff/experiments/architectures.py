"""Architectures: does learned k match or beat velocity and data prediction in JiT, DiT, U-ViT and LightningDiT alike?

Four networks of about 750,000 parameters read the same 16 patches of the same pictures, whose patches hold fewer numbers than
the networks are wide (Fashion-MNIST, 49) or more (colour emoji, 192):

    JiT            patches through a bottleneck, modulated blocks, rotary positions, SwiGLU
    DiT            patches, modulated blocks
    LightningDiT   DiT with rotary positions, SwiGLU and RMSNorm
    U-ViT          patches, time and label as tokens of plain blocks, skips from early blocks to late ones

The paper (arXiv 2601.21419) reports that learned k matches or outperforms fixed targets across architectures. Its rule
D/(D + d) knows of the data alone, so by it k should be the same in all four.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study
from kdiff.experiments.evidence import FACTOR, alike, last_move, learned_k, still_moving
from kdiff.experiments.panels import TARGETS, draw_distances, draw_samples
from kdiff.experiments.quality import by_target, quality_rows, reaches_the_best, target_table
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.training.config import TrainConfig

# Four blocks, four heads. Nothing modulates U-ViT's blocks (five, with the one in the middle), so it is wider.
NETWORKS = {
    "JiT": "JiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4, bottleneck=64, context_tokens=0)",
    "DiT": "DiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4)",
    "LightningDiT": "LightningDiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4)",
    "U-ViT": "UViT(patch_size={patch}, hidden_size=104, depth=4, num_heads=4, time_scale=999.0)",
}
PICTURES = {"Fashion 28, patch 7": ("fashion", 7), "glyphs 32, patch 8": ("glyphs(size=32)", 8)}
SMALL = {"digits 8, patch 4": ("digits", 4)}
SHOWN = 8  # samples of each architecture in the picture


def pictures(full: bool) -> dict[str, tuple[str, int]]:
    """Data and patch size by name."""
    return PICTURES if full else SMALL


def cell(network: str, pictures: str) -> str:
    """The name of a cell."""
    return f"{network}, {pictures}"


def cells(full: bool) -> dict[str, TrainConfig]:
    """Every network on every kind of pictures."""
    settings: dict[str, Any] = {"steps": 2000 if full else 150, "batch_size": 64, "log_every": 10}
    if not full:
        settings["ema"] = [0.98]  # 0.999 would average over more steps than there are
    return {
        cell(network, name): TrainConfig(data=data, network=spec.format(patch=patch), **settings)
        for name, (data, patch) in pictures(full).items()
        for network, spec in NETWORKS.items()
    }


def plan(full: bool) -> list[Group]:
    """All networks, pictures and targets."""
    return [Group(cells(full), ["velocity", "data", "learned"], range(3 if full else 1), num_samples=1000 if full else 1)]


def examine(study: Study) -> Outcome:
    """Learned k's samples against the better of the two fixed targets; k from network to network."""
    rows = {name: quality_rows(study, name) for name in cells(study.full)}
    values = {name: by_target(found) for name, found in rows.items()}
    fixed = {name: {target: v for target, v in found.items() if target != "learned"} for name, found in values.items()}
    findings = [
        reaches_the_best(
            "in every architecture learned k's samples are as good as those of the better of velocity and data prediction",
            {name: found["learned"] for name, found in values.items()},
            fixed,
            "learned k's Fréchet distance",
        ),
        *[same_k(study, name) for name in pictures(study.full)],
    ]
    beside = {(name, "learned"): f"{last_move(study, name):+.3f}" for name in rows}
    return Outcome(findings, target_table(rows, "network, pictures", "k's move in the last quarter", beside))


def same_k(study: Study, name: str) -> Finding:
    """Whether (1 − k)/k is alike in all networks on the same pictures; by the rule of d it is d/D, whatever the network."""
    ks = {cell(network, name): learned_k(study, cell(network, name)) for network in NETWORKS}
    statement = f"{name}: k is the same in every architecture, (1 − k)/k within a factor of {FACTOR}"
    found = replace(alike(statement, [ks], moving=still_moving(study, ks)), decides=False)
    # Before k has moved much it is the same everywhere.
    return found if study.full else replace(found, verdict="inconclusive")


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """A column per kind of pictures: distances, k, and samples with learned k (the same noise for all networks)."""
    kinds = list(pictures(study.full))
    figure = new_figure(5.2 * len(kinds), 8)
    columns = figure.subplots(3, len(kinds), squeeze=False, height_ratios=(1, 0.8, 1)).T
    for name, (above, middle, below) in zip(kinds, columns):
        labels = {cell(network, name): network for network in NETWORKS}
        draw_distances(above, study, labels)
        above.set_title(f"{name}: Fréchet distance, clean (a point per seed)", fontsize=9, color=INK)
        for i, found in enumerate(learned_k(study, one) for one in labels):
            middle.plot([i] * len(found), list(found.values()), "o", color=TARGETS["learned"], markersize=5, alpha=0.8)
        middle.set_xticks(range(len(labels)), list(labels.values()), fontsize=7)
        middle.set(xlim=(-0.6, len(labels) - 0.4), ylim=(0.45, 1.02), ylabel="learned k")
        middle.spines[["top", "right"]].set_visible(False)
        lines = {network: (one, "learned") for one, network in labels.items()}
        draw_samples(below, study, lines, SHOWN, "samples, learned k")
    save_figure(figure, path)


CLAIM = Claim(
    name="architectures",
    title="learned k in JiT, DiT, U-ViT and LightningDiT",
    says="Learned k matches or outperforms fixed prediction targets across architectures.",
    varied="Four architectures of about 750,000 parameters with 16 patches, on Fashion-MNIST (patches of 49 numbers) and on "
    "colour emoji (192); velocity, data and learned prediction; 3 seeds.",
    measured="Fréchet distance of 1,000 samples in the features of the data's own classifier, under both samplers; k.",
    refuted_if="in some architecture, on either kind of pictures, learned k is told apart as at least 2 % worse than velocity "
    "or than data prediction (paired over seeds, 95 % for all comparisons together). Confirmed if over all cells it is, with "
    "95 % confidence, at most 10 % worse than the better of the two. Beside the claim: whether k depends on the architecture.",
    core_hours=(0.06, 5.4),
    plan=plan,
    examine=examine,
    draw=draw,
)
