"""Latents: does k lie between velocity and data, at about 0.66? At two compression rates, normalised by channel or not.

The paper (arXiv 2601.21419) finds k ≈ 0.66 on the latents of VA-VAE, and 1.0 on pixels. Here small autoencoders (`kdiff
train-autoencoder`) make latents of half and of a quarter of the side from the same pictures. One network reads pixels and
latents as the same number of tokens, each for the same part of the picture:

    colour emoji, 32 × 32     16 tokens of 192 numbers (pixels), 64 (half), 16 (a quarter)
    Fashion-MNIST, 28 × 28    49 tokens of 16, 16, 4

By the rule D/(D + d), fewer numbers for the same pictures give a smaller k. By the linear theory k is D/(D + E‖x‖²).
Normalising by channel makes E‖x‖² equal to D, so that k is ½ for all latents. So by the theory normalisation must change k, in
the direction in which it changes D/(D + E‖x‖²); by the rule it need not, because it does not change d.

The autoencoders are trained once, before the runs, and kept with their latents in the cache folder (`kdiff.files.cache`) for
any number of studies. Seeds differ in the runs on the latents. The reported times do not include the training of the
autoencoders.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdiff.claims.claim import SMALL_JIT, Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.evidence import last_move, learned_k, logit, moves_one_way, spread
from kdiff.claims.panels import beside_samples, draw_ends, tidy
from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.config.training import TrainConfig
from kdiff.data.latents import read_manifest
from kdiff.files.cache import cache_folder
from kdiff.report.drawing import INK, save_figure
from kdiff.run.contents import read_finished
from kdiff.studies.comparison import table
from kdiff.studies.paired import as_good, intervals, log_ratios
from kdiff.studies.predictions import predictions, second_moments
from kdiff.studies.tables import markdown
from kdiff.training.own_latents import make_latents

PAPERS = 0.66
BETWEEN = (0.52, 0.95)  # away from ½ (velocity), and from the 0.95 that `pixel` counts as 1
RESTING = 0.02  # k is at rest if it moves by less than this in the last quarter of the steps
LEVELS = {"half": [16, 32], "a quarter": [16, 32, 64]}  # channels of the levels, between which the side is halved
SCALINGS = {"by channel": "channels", "as they are": "none"}


@dataclass(frozen=True)
class Pictures:
    """Data to encode, and the patch size of the network on pixels."""

    data: str
    patch: int


PICTURES = {"glyphs": Pictures("glyphs(size=32)", 8), "Fashion": Pictures("fashion", 4)}
JUDGED = "glyphs"  # these have every target; on Fashion-MNIST only k is measured


def autoencoder(kind: str, level: str, full: bool) -> AutoencoderConfig:
    """A small autoencoder for some pictures, with four channels of latents."""
    config = AutoencoderConfig(data=PICTURES[kind].data, channels=LEVELS[level])
    return config if full else replace(config, steps=100)


def folder(config: AutoencoderConfig, what: str) -> Path:
    """The folder of an autoencoder ("autoencoder") or of its latents ("latents"), in the cache, named by its settings."""
    name = hashlib.blake2b(repr(config).encode(), digest_size=8).hexdigest()
    return cache_folder() / "autoencoders" / f"{config.data.name}_{name}" / what


def made(full: bool) -> list[tuple[str, str]]:
    """The pictures and the level of all latents."""
    return [(kind, level) for kind in PICTURES for level in LEVELS] if full else [(JUDGED, "a quarter")]


def prepare(full: bool) -> None:
    """Train the autoencoders and encode the pictures, unless this is done already."""
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
    return TrainConfig(network=SMALL_JIT.format(patch=patch), steps=2000 if full else 150, batch_size=64, log_every=10)


def latent_cell(kind: str, level: str, scaling: str, full: bool) -> TrainConfig:
    """A run on latents; patches are smaller than those of pixels by the same factor as the latents."""
    data = {"name": str(folder(autoencoder(kind, level, full), "latents")), "normalise": SCALINGS[scaling]}
    return replace(settings(PICTURES[kind].patch // 2 ** (len(LEVELS[level]) - 1), full), data=data)


def plan(full: bool) -> list[Group]:
    """Normalised latents of glyphs with every target and evaluated samples; everything else for k alone."""
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
    """Whether k is at rest between velocity and data on all latents normalised by channel; refuted if it rests outside."""
    ks = {name: learned_k(study, name) for name in (latents(kind, level) for kind, level in made(study.full))}
    outside = [name for name, found in ks.items() if not all(BETWEEN[0] < k < BETWEEN[1] for k in found.values())]
    moving = [name for name in ks if abs(last_move(study, name)) >= RESTING]
    refuting = [name for name in outside if name not in moving]
    # In a short run k is between them on its way, wherever it ends.
    verdict = decided(study.full and not outside and not moving, study.full and bool(refuting))
    text = [f"{name} {spread(found.values())} (last quarter {last_move(study, name):+.3f})" for name, found in ks.items()]
    statement = f"on latents k ends between velocity and data prediction, in {BETWEEN}; the paper has {PAPERS}"
    return Finding(statement, verdict, "; ".join(text))


def falls(study: Study) -> Finding:
    """Whether k falls from pixels to latents of half the side, and from these to a quarter, paired over seeds."""
    series = {}
    for kind in dict.fromkeys(kind for kind, _ in made(study.full)):
        steps = [pixels(kind), *(latents(kind, level) for other, level in made(study.full) if other == kind)]
        series[kind] = [learned_k(study, name) for name in steps]
    return moves_one_way("k is smaller on latents than on pixels, and smaller on smaller latents", series, False, study.full)


def shifts(study: Study) -> Finding:
    """Whether k without normalisation differs from k with it, in the direction of D/(D + E‖x‖²)."""
    differences, expected = {}, {}
    for kind, level in made(study.full):
        plain, scaled = (learned_k(study, latents(kind, level, scaling)) for scaling in ("as they are", "by channel"))
        name = f"{kind}, {level}"
        differences[name] = [logit(plain[seed]) - logit(scaled[seed]) for seed in scaled]
        theory = [predictions(study.data(latents(kind, level, scaling)))["loss on u"] for scaling in SCALINGS]
        expected[name] = logit(theory[1]) - logit(theory[0])
    _, each = intervals(differences)
    moved = [name for name, found in each.items() if found.low > 0 or found.high < 0]
    against = [name for name in moved if each[name].mean * expected[name] < 0]
    refuted = bool(against) and study.full
    text = [f"{name} {found} (theory {expected[name]:+.2g})" for name, found in each.items()]
    return Finding(
        "normalising by channel changes k, in the direction in which it changes D/(D + E‖x‖²)",
        decided(len(moved) == len(each) and not refuted, refuted),
        f"logit of k without normalisation minus logit of k with it: {'; '.join(text)}",
        decides=False,
    )


def quality(study: Study) -> Finding:
    """Learned k against velocity prediction, the usual target of latent models: Fréchet distance, clean last step."""
    cells = [latents(kind, level) for kind, level in made(study.full) if kind == JUDGED]
    ours, theirs = ([study.values("frechet", cell=name, target=target) for name in cells] for target in ("learned", "velocity"))
    verdict, text = as_good({name: log_ratios(a, b) for name, a, b in zip(cells, ours, theirs)})
    statement = "on latents the samples of learned k are as good as those of velocity prediction (Fréchet distance, clean)"
    return Finding(statement, verdict if study.full else "inconclusive", f"learned divided by velocity: {text}")


def examine(study: Study) -> Outcome:
    """k, the predictions of the theories, and the samples."""
    findings = [between(study), falls(study), shifts(study), quality(study)]
    parts = ["k, and its predictions by the linear theories (`kdiff.theory.optimal_k`)", _k_table(study)]
    for name in dict.fromkeys(row["cell"] for row in study.rows if "measure" in row):
        parts += [name, table([row for row in study.rows if row["cell"] == name])]
    parts += ["The autoencoders", _autoencoder_table(study.full)]
    return Outcome(findings, "\n\n".join(parts), [_preparation(study.full)])


def _k_table(study: Study) -> str:
    lines = []
    for name in study.cells:
        moments, theory = second_moments(study.data(name)), predictions(study.data(name))
        facts = [str(len(moments)), f"{moments.mean():.3g}"]
        k = [spread(learned_k(study, name).values()), f"{last_move(study, name):+.3f}"]
        lines.append([name, *facts, *k, *(f"{value:.4g}" for value in theory.values())])
    header = ["pictures", "D", "E‖x‖²/D", "learned k", "change of k in the last quarter"]
    return markdown([*header, *(f"theory, {what}" for what in theory)], lines)


def _trained(config: AutoencoderConfig) -> dict[str, Any]:
    return read_finished(folder(config, "autoencoder"))


def _preparation(full: bool) -> str:
    hours = sum(_trained(autoencoder(kind, level, full))["seconds"] for kind, level in made(full)) / 3600
    return f"Training the autoencoders before the runs took {hours:.2g} hours more; they are kept in the cache."


def _autoencoder_table(full: bool) -> str:
    lines = []
    for kind, level in made(full):
        config = autoencoder(kind, level, full)
        facts = _trained(config)
        size = " × ".join(map(str, read_manifest(folder(config, "latents"))["shape"]))
        lines.append(
            [kind, level, size, str(config.steps), f"{facts['heldout']['psnr']:.3g} dB", f"{facts['seconds'] / 60:.1f}"]
        )
    return markdown(["pictures", "side", "latents", "steps", "PSNR, held out", "minutes"], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k on pixels and on latents; the distances; and decoded samples from the same noise for all targets."""
    judged = [latents(kind, level) for kind, level in made(study.full) if kind == JUDGED]
    figure, left = beside_samples(study, judged, size=(10, 8), heights=(1, 1.1))
    names = sorted(study.cells, key=lambda name: (name.split(", ")[0], "pixels" not in name, name))
    draw_ends(left, study, {name: name.replace(", ", "\n") for name in names}, size=6.5)
    for i, name in enumerate(names):
        theory = predictions(study.data(name))["loss on u"]
        left.plot([i], [theory], "_", color=INK, markersize=12, label="D/(D + E‖x‖²)" if i == 0 else None)
    left.axhline(PAPERS, color="#999999", linewidth=1, linestyle=":", label="0.66, in the paper on VA-VAE", zorder=0)
    left.set(ylabel="k")
    tidy(left, fontsize=7)
    save_figure(figure, path)


CLAIM = Claim(
    name="latent",
    title="does k lie between velocity and data in the latent space of images?",
    says=f"On latents k comes to rest between velocity and data prediction (k ≈ {PAPERS} on VA-VAE), below the k of pixels; "
    "and the samples of learned k are as good as those of velocity prediction.",
    varied="Colour emoji at 32 pixels and Fashion-MNIST at 28 pixels: pixels, and latents of half and of a quarter of the "
    "side (4 channels, from small autoencoders trained here), normalised by channel or not; 3 seeds. Velocity, data and "
    "learned prediction on the normalised latents of emoji; learned prediction alone elsewhere.",
    measured="k, compared with its predictions by linear theories; Fréchet distance of 1,000 samples in the features of a "
    "classifier of the latents, under both samplers.",
    refuted_if=f"on latents normalised by channel k is at rest outside {BETWEEN} (at rest: it moves by less than {RESTING} in "
    "the last quarter); or k rises from pixels to latents, or from larger to smaller latents (paired over seeds); or learned "
    "k is significantly worse than velocity prediction. Not part of the claim: whether normalisation changes k as the linear "
    "theory says.",
    core_hours=(0.08, 4.4),
    plan=plan,
    examine=examine,
    draw=draw,
    prepare=prepare,
)
