"""Latents: is k between velocity and data, ≈ 0.66? At two compression rates, normalised by channel or as they are.

The paper (arXiv 2601.21419) trains on the latents of VA-VAE and finds k ≈ 0.66 there, 1.0 on pixels. Here small autoencoders
(`kdiff train-autoencoder`) make latents of half and of a quarter of the side, of the same pictures, and one network reads
pixels and latents in equally many tokens, each for the same part of the picture:

    colour emoji, 32 × 32     16 tokens of 192 numbers (pixels), 64 (half), 16 (a quarter)
    Fashion-MNIST, 28 × 28    49 tokens of 16, 16, 4

The rule says D/(D + d): fewer numbers for the same pictures, a smaller k. The linear theory says D/(D + E‖x‖²), and
normalising by channel makes E‖x‖² equal D: ½, whatever the latents. So normalisation must move k by the theory, in the
direction in which it moves E‖x‖²/D, and need not by the rule, as it does not change d.

The autoencoders are trained before the runs, once, and kept with the latents in the cache folder (`kdiff.data.cache`), for any
number of studies; seeds are of the runs on them. The times that are reported do not hold theirs.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdiff.components import parse
from kdiff.data.cache import cache_folder
from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, markdown
from kdiff.experiments.compare import deviation, table, with_spread
from kdiff.experiments.evidence import last_move, learned_k, logit, moves_one_way
from kdiff.experiments.paired import as_good, intervals, log_ratios
from kdiff.experiments.panels import TARGETS, draw_distances, draw_samples, of_targets
from kdiff.experiments.predictions import predictions, second_moments
from kdiff.files import read_json
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.training.config import TrainConfig
from kdiff.training.latent_config import AutoencoderConfig
from kdiff.training.own_latents import make_latents

PAPERS = 0.66
BETWEEN = (0.52, 0.95)  # clear of velocity's ½, and of what `pixel` takes for 1
RESTING = 0.02  # k that moves by less in the last quarter of the steps has come to rest
LEVELS = {"half": [16, 32], "a quarter": [16, 32, 64]}  # channels; sides are halved between them
SCALINGS = {"by channel": "channels", "as they are": "none"}
SHOWN = 6  # samples of each target in the picture


@dataclass(frozen=True)
class Pictures:
    """What is encoded: data, and the patch that the network reads of pixels."""

    data: str
    patch: int


PICTURES = {"glyphs": Pictures("glyphs(size=32)", 8), "Fashion": Pictures("fashion", 4)}
JUDGED = "glyphs"  # with every target; in Fashion-MNIST k alone is looked at


def autoencoder(kind: str, level: str, full: bool) -> AutoencoderConfig:
    """A small autoencoder of some pictures, four channels of latents."""
    config = AutoencoderConfig(data=PICTURES[kind].data, channels=LEVELS[level])
    return config if full else replace(config, steps=100)


def folder(config: AutoencoderConfig, what: str) -> Path:
    """Where an autoencoder ("autoencoder") or its latents ("latents") are kept: in the cache, by the autoencoder's settings."""
    name = hashlib.blake2b(repr(config).encode(), digest_size=8).hexdigest()
    return cache_folder() / "autoencoders" / f"{parse(config.data).name}_{name}" / what


def made(full: bool) -> list[tuple[str, str]]:
    """Pictures and level of all latents."""
    return [(kind, level) for kind in PICTURES for level in LEVELS] if full else [(JUDGED, "a quarter")]


def prepare(full: bool) -> None:
    """Train the autoencoders and encode the pictures, as far as that is not done."""
    for kind, level in made(full):
        config = autoencoder(kind, level, full)
        make_latents(config, folder(config, "autoencoder"), folder(config, "latents"), f"{kind}, {level}")


def pixels(kind: str) -> str:
    """The name of the cell of pixels."""
    return f"{kind}, pixels"


def latents(kind: str, level: str, scaling: str = "by channel") -> str:
    """The name of a cell of latents."""
    return f"{kind}, {level}, {scaling}"


def settings(patch: int, full: bool) -> TrainConfig:
    """JiT of 4 blocks × 96, without context tokens."""
    network = f"JiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4, bottleneck=64, context_tokens=0)"
    return TrainConfig(network=network, steps=2000 if full else 150, batch_size=64, log_every=10)


def latent_cell(kind: str, level: str, scaling: str, full: bool) -> TrainConfig:
    """A run on latents, whose patches are smaller than those of pixels by as much as the latents are."""
    data = {"name": str(folder(autoencoder(kind, level, full), "latents")), "normalise": SCALINGS[scaling]}
    return replace(settings(PICTURES[kind].patch // 2 ** (len(LEVELS[level]) - 1), full), data=data)


def plan(full: bool) -> list[Group]:
    """Normalised latents of glyphs with every target, judged; everything else for k alone."""
    seeds = range(3 if full else 1)
    judged: dict[str, TrainConfig] = {}
    others: dict[str, TrainConfig] = {}
    for kind in dict.fromkeys(kind for kind, _ in made(full)):
        others[pixels(kind)] = replace(settings(PICTURES[kind].patch, full), data=PICTURES[kind].data)
    for kind, level in made(full):
        for scaling in SCALINGS:
            which = judged if (kind, scaling) == (JUDGED, "by channel") else others
            which[latents(kind, level, scaling)] = latent_cell(kind, level, scaling, full)
    targets = ["velocity", "data", "learned"] if full else ["velocity", "learned"]
    return [Group(judged, targets, seeds, num_samples=1000 if full else 1), Group(others, ["learned"], seeds)]


def between(study: Study) -> Finding:
    """k at rest strictly between velocity and data, on every latent normalised by channel; refuted where it rests outside."""
    ks = {name: learned_k(study, name) for name in (latents(kind, level) for kind, level in made(study.full))}
    outside = [name for name, found in ks.items() if not all(BETWEEN[0] < k < BETWEEN[1] for k in found.values())]
    moving = [name for name in ks if abs(last_move(study, name)) >= RESTING]
    refuting = [name for name in outside if name not in moving]
    verdict: Verdict = "refuted" if refuting else "inconclusive" if outside or moving else "confirmed"
    # A short run is between them on its way, wherever it goes.
    verdict = verdict if study.full else "inconclusive"
    text = [f"{name} {_spread(found)} (last quarter {last_move(study, name):+.3f})" for name, found in ks.items()]
    statement = f"on latents k ends between velocity and data prediction, in {BETWEEN}, where the paper has {PAPERS}"
    return Finding(statement, verdict, "; ".join(text))


def falls(study: Study) -> Finding:
    """k from pixels to latents of half the side to a quarter, paired over seeds."""
    series = {}
    for kind in dict.fromkeys(kind for kind, _ in made(study.full)):
        steps = [pixels(kind), *(latents(kind, level) for other, level in made(study.full) if other == kind)]
        series[kind] = [learned_k(study, name) for name in steps]
    return moves_one_way("k is smaller on latents than on the pixels, and the smaller the latents", series, False, study.full)


def shifts(study: Study) -> Finding:
    """Whether k without normalisation differs from k with it, in the direction of D/(D + E‖x‖²)."""
    differences, expected = {}, {}
    for kind, level in made(study.full):
        plain, scaled = (learned_k(study, latents(kind, level, scaling)) for scaling in ("as they are", "by channel"))
        name = f"{kind}, {level}"
        differences[name] = [logit(plain[seed]) - logit(scaled[seed]) for seed in scaled]
        theory = [predictions(_data(study, latents(kind, level, scaling)))["loss on u"] for scaling in SCALINGS]
        expected[name] = logit(theory[1]) - logit(theory[0])
    _, each = intervals(differences)
    moved = [name for name, found in each.items() if found.low > 0 or found.high < 0]
    against = [name for name in moved if each[name].mean * expected[name] < 0]
    verdict: Verdict = "refuted" if against and study.full else "confirmed" if len(moved) == len(each) else "inconclusive"
    text = [f"{name} {found} (theory {expected[name]:+.2g})" for name, found in each.items()]
    statement = "normalising by channel moves k, in the direction in which it moves D/(D + E‖x‖²)"
    return Finding(statement, verdict, f"logit of k without it minus logit of k with it: {'; '.join(text)}", decides=False)


def quality(study: Study) -> Finding:
    """Learned k beside velocity prediction, which is what latent models are trained for, Fréchet distance, clean last step."""
    cells = [latents(kind, level) for kind, level in made(study.full) if kind == JUDGED]
    ours, theirs = ([study.values("frechet", cell=name, target=target) for name in cells] for target in ("learned", "velocity"))
    verdict, text = as_good({name: log_ratios(a, b) for name, a, b in zip(cells, ours, theirs)})
    statement = "on latents learned k gives samples as good as velocity prediction's (Fréchet distance, clean)"
    return Finding(statement, verdict if study.full else "inconclusive", f"learned / velocity: {text}")


def examine(study: Study) -> Outcome:
    """k, its theories, and the samples."""
    findings = [between(study), falls(study), shifts(study), quality(study)]
    parts = ["k, and what linear theories say of it (`kdiff.theory.optimal_k`)", _k_table(study)]
    for name in dict.fromkeys(row["cell"] for row in study.rows if "measure" in row):
        parts += [name, table([row for row in study.rows if row["cell"] == name])]
    parts += ["The autoencoders", _autoencoder_table(study.full)]
    return Outcome(findings, "\n\n".join(parts), [_preparation(study.full)])


def _data(study: Study, name: str) -> str:
    return next(str(parse(job.config.data)) for job in study.jobs if job.cell == name)


def _spread(ks: Mapping[int, float]) -> str:
    return with_spread(statistics.mean(ks.values()), deviation(list(ks.values())))


def _k_table(study: Study) -> str:
    lines = []
    for name in dict.fromkeys(job.cell for job in study.jobs):
        moments, theory = second_moments(_data(study, name)), predictions(_data(study, name))
        facts = [str(len(moments)), f"{moments.mean():.3g}"]
        k = [_spread(learned_k(study, name)), f"{last_move(study, name):+.3f}"]
        lines.append([name, *facts, *k, *(f"{value:.4g}" for value in theory.values())])
    header = ["pictures", "D", "E‖x‖²/D", "learned k", "its move in the last quarter"]
    return markdown([*header, *(f"theory, {what}" for what in theory)], lines)


def _trained(config: AutoencoderConfig) -> dict[str, Any]:
    facts: dict[str, Any] = read_json(folder(config, "autoencoder") / "finished.json")
    return facts


def _preparation(full: bool) -> str:
    hours = sum(_trained(autoencoder(kind, level, full))["seconds"] for kind, level in made(full)) / 3600
    return f"Training the autoencoders took {hours:.2g} hours more, before the runs; they are kept in the cache."


def _autoencoder_table(full: bool) -> str:
    lines = []
    for kind, level in made(full):
        config = autoencoder(kind, level, full)
        facts = _trained(config)
        size = " × ".join(map(str, read_json(folder(config, "latents") / "latents.json")["shape"]))
        lines.append(
            [kind, level, size, str(config.steps), f"{facts['heldout']['psnr']:.3g} dB", f"{facts['seconds'] / 60:.1f}"]
        )
    return markdown(["pictures", "side", "latents", "steps", "PSNR, held out", "minutes"], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k from pixels to latents; the distances; and samples, decoded, the same noise for all targets."""
    judged = [latents(kind, level) for kind, level in made(study.full) if kind == JUDGED]
    figure = new_figure(10, 8)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.1))
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    left, right = above.subplots(1, 2, width_ratios=(1.6, 1))
    labels = list(dict.fromkeys(job.cell for job in study.jobs))
    labels.sort(key=lambda name: (name.split(", ")[0], "pixels" not in name, name))
    for i, name in enumerate(labels):
        ks = list(learned_k(study, name).values())
        left.plot(
            [i] * len(ks), ks, "o", color=TARGETS["learned"], markersize=5, alpha=0.8, label="learned" if i == 0 else None
        )
        theory = predictions(_data(study, name))["loss on u"]
        left.plot([i], [theory], "_", color=INK, markersize=12, label="D/(D + E‖x‖²)" if i == 0 else None)
    left.axhline(PAPERS, color="#999999", linewidth=1, linestyle=":", label="0.66, the paper's on VA-VAE", zorder=0)
    left.set_xticks(range(len(labels)), [name.replace(", ", "\n") for name in labels], fontsize=6.5)
    left.set(ylabel="k")
    left.legend(frameon=False, fontsize=7)
    left.spines[["top", "right"]].set_visible(False)
    draw_distances(right, study, {name: name.replace(", ", "\n") for name in judged})
    right.set_title("Fréchet distance, clean last step (a point per seed)", fontsize=9, color=INK)
    for name, axes in zip(judged, below.subplots(1, len(judged), squeeze=False)[0]):
        draw_samples(axes, study, of_targets(study, name), SHOWN, name)
    save_figure(figure, path)


CLAIM = Claim(
    name="latent",
    title="in the latent space of images k lies between velocity and data",
    says=f"On latents k comes to rest between velocity and data prediction (k ≈ {PAPERS} on VA-VAE), below the k of pixels, "
    "and learned k gives samples as good as velocity prediction's.",
    varied="Colour emoji at 32 and Fashion-MNIST at 28 pixels: pixels, and latents of half and of a quarter of the side (4 "
    "channels, small autoencoders trained here), normalised by channel or not; 3 seeds. On normalised latents of emoji "
    "velocity, data and learned prediction; elsewhere learned alone.",
    measured="k, beside linear theories of it; Fréchet distance of 1,000 samples in the features of a classifier of the "
    "latents, under both samplers.",
    refuted_if=f"on latents normalised by channel k rests outside {BETWEEN} (moving less than {RESTING} in the last quarter); "
    "or k rises from pixels to latents or from larger to smaller latents (paired over seeds); or learned k is told apart from "
    "velocity as worse. Beside the claim: whether normalisation moves k as the linear theory says.",
    core_hours=(0.08, 4.4),
    plan=plan,
    examine=examine,
    draw=draw,
    prepare=prepare,
)
