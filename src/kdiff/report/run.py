"""A run shown: its curves, its samples, and a description in words."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.arguments import COMPONENTS
from kdiff.components import parse
from kdiff.data import Normalisation
from kdiff.evaluation.config import sampler_options
from kdiff.files import write_json
from kdiff.report.samples import INK, Images, Points, View, is_image, new_figure, save_figure, save_samples, view_of
from kdiff.training.checkpoint import list_checkpoints, save_tensors
from kdiff.training.config import TrainConfig, as_dict
from kdiff.training.folder import warn
from kdiff.training.generate import generate
from kdiff.training.run import Run, describe_environment

SAID = ("data", "network")  # of the settings, elsewhere in what describes a run
ENDINGS = (".png", ".safetensors", ".json")


def _image_shape(run: Run) -> tuple[int, ...] | None:
    """The shape of the pictures that samples of a run are drawn as: latents are decoded. None if they are drawn as points."""
    shape = tuple(run.latents["images"]["shape"]) if run.latents else run.shape
    return shape if is_image(shape) else None


def seen(run: Run, x: Tensor, view: View | None = None) -> tuple[Tensor, View]:
    """What is drawn for samples x of a run (normalised), and how, if that is not known yet."""
    if run.latents and _image_shape(run):
        return run.decode(run.normalisation.undo(x)), view or Images(-1, 1)
    return x, view or _view(run, x)


def _view(run: Run, x: Tensor) -> View:
    """How to draw samples x of a run (normalised). Without its data, which sampling does not need, as they lie themselves."""
    if _image_shape(run):
        return Images(run.data["min"], run.data["max"])
    try:
        dataset = run.dataset()
    except (ValueError, OSError):
        return Points(x)
    return view_of(dataset.part("train")[0], dataset.manifold)


def draw_run(run: Run) -> list[Path]:
    """training.png (loss, its two parts, k), samples/ and denoising.png of a run's weights; returns the pictures."""
    curves = run.folder / "training.png"
    rows = run.metrics()
    figure = new_figure(8, 3)
    loss, k = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    # A single line of metrics makes no curve.
    line: dict[str, Any] = {"linewidth": 1.2, "marker": "." if len(rows) < 3 else ""}
    for name, label, colour in (
        ("loss", "v-loss", INK),
        ("loss_along", "along the principal directions", "#4c72b0"),
        ("loss_across", "across them", "#dd8452"),
    ):
        if name in rows[0]:
            loss.plot(steps, [row[name] for row in rows], label=label, color=colour, **line)
    loss.set(xlabel="step", yscale="log")
    loss.set_title("loss", fontsize=9)
    loss.legend(fontsize=7, frameon=False)
    if "k" in rows[0]:
        k.plot(steps, [row["k"] for row in rows], color="#55a868", **line)
    k.set(xlabel="step", ylim=(-0.03, 1.03))
    k.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    k.set_title("k", fontsize=9)
    for axes in (loss, k):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.xaxis.label.set_size(8)
    save_figure(figure, curves)
    return [curves, draw_samples(run), draw_denoising(run)]


def draw_samples(run: Run) -> Path:
    """samples/step_….png and its files, drawn as the run's configuration says: those that kdiff sample draws."""
    stem = run.folder / "samples" / f"step_{run.step:08d}_seed_0"
    return sample_to_files(run, shown_samples(run), 0, stem, **sampler_options(run.config.sampling))[0]


def shown_samples(run: Run) -> int:
    """How many samples are drawn of a run."""
    return Images.shown if _image_shape(run) else Points.shown


class SampleGrids:
    """Draws samples of a run as it trains, into its samples/: at every step of the same noise and labels, in the same place."""

    def __init__(self) -> None:
        self._view: View | None = None

    def __call__(self, run: Run) -> None:
        """One picture. What goes wrong with the file is a warning: a picture is no reason to end a run."""
        path = run.folder / "samples" / f"step_{run.step:08d}_seed_0.png"
        if path.exists():  # a run that goes on passes the same steps with the same weights
            return
        options = sampler_options(run.config.sampling)
        x, _ = generate(run.model, shown_samples(run), run.shape, run.class_counts, **options)
        pictures, self._view = seen(run, x, self._view)
        try:
            path.parent.mkdir(exist_ok=True)
            save_samples(path, pictures, self._view, _title(run))
        except OSError as error:
            warn(run.folder, f"no picture of the samples at step {run.step}: {error}")


def draw_denoising(run: Run) -> Path:
    """denoising.png: how noise becomes samples, a column for each time. Images: a row for each sample; points: one row."""
    states: list[tuple[str, Tensor]] = []
    shape = _image_shape(run)
    num, columns, every = (6, 9, 6) if shape else (Points.shown // 2, 5, 12)

    def keep(step: int, t: Tensor, z: Tensor) -> None:
        if step % every == 0:
            states.append((f"t = {t:g}", z.cpu()))

    options: dict[str, Any] = {"steps": every * (columns - 1), "last_step": "data", "batch_size": num, "callback": keep}
    x, _ = generate(run.model, num, run.shape, run.class_counts, **options)
    _, view = seen(run, x)
    if isinstance(view, Images) and shape:
        height, width = shape[1:]
        figure = new_figure(columns * 0.8, num * 0.8 * height / width + 0.5)
        axes = figure.add_subplot()
        view.draw(axes, torch.stack([seen(run, z, view)[0] for _, z in states], dim=1).flatten(0, 1), columns)
        centres = [(i + 0.5) * (width + 1) - 1 for i in range(columns)]
        axes.set_xticks(centres, [title for title, _ in states], fontsize=7)
        axes.tick_params(length=0)
    else:
        figure = new_figure(columns * 2.0, 2.3)
        for axes, (title, z) in zip(figure.subplots(1, columns), states):
            view.draw(axes, z)
            axes.set_title(title, fontsize=8)
    figure.suptitle(_title(run), fontsize=9, color=INK)
    path = run.folder / "denoising.png"
    save_figure(figure, path)
    return path


def _title(run: Run) -> str:
    return f"{run.data['name']}, {parse(run.config.target)}, step {run.step}"


def sample_to_files(run: Run, num: int, seed: int, stem: Path | None, weaker: Run | None = None, **options: Any) -> list[Path]:
    """Draw samples and write a picture, the numbers (safetensors: x in the data's units, y) and a stamp (JSON).

    Of a run on latents the numbers have the decoded images too, in their own units. `weaker`: a run to guide away from.
    """
    if weaker and weaker.shape != run.shape:
        raise ValueError(
            f"{weaker.folder} makes samples of shape {weaker.shape}, {run.folder} of {run.shape}; expected the same"
        )
    if weaker:
        for what, theirs, ours in (
            ("noise_scale", weaker.model.noise_scale, run.model.noise_scale),
            ("normalisation", weaker.data["normalisation"], run.data["normalisation"]),
        ):
            if theirs != ours:
                raise ValueError(f"{weaker.folder} has the {what} {theirs}, {run.folder} {ours}; expected the same")
    stem = stem or run.folder / "samples" / f"step_{run.step:08d}_seed_{seed}{_otherwise(run, weaker, options)}"
    stem = stem.with_suffix("") if stem.suffix in ENDINGS else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    x, y = run.sample(num, seed, guidance_model=weaker.model if weaker else None, progress="sampling", **options)
    files = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    pictures, view = seen(run, run.normalisation.apply(x))
    tensors = {"x": x} if y is None else {"x": x, "y": y}
    if run.latents and _image_shape(run):
        tensors["images"] = Normalisation.from_description(run.latents["images"]["normalisation"]).undo(pictures)
    save_tensors(files[1], tensors)
    stamp = {"run": str(run.folder), "step": run.step, "weights": run.weights, "num": num, "seed": seed, "options": options}
    if weaker:
        stamp["guided_away_from"] = {"run": str(weaker.folder), "step": weaker.step, "weights": weaker.weights}
    decoded = {"autoencoder": run.latents["autoencoder"]} if run.latents else {}
    write_json(files[2], {**stamp, **decoded, "environment": describe_environment()})
    save_samples(files[0], pictures, view, _title(run))
    return files


def _otherwise(run: Run, weaker: Run | None, options: dict[str, Any]) -> str:
    """What a file's name says of samples that are drawn otherwise than training does, so that they take no one's place."""
    own = sampler_options(run.config.sampling)
    guidance = options.get("guidance", own["guidance"])
    told = f"_guidance_{guidance:g}" if {guidance, own["guidance"]} != {1} else ""
    other: dict[str, Any] = {name: value for name, value in options.items() if name != "guidance" and value != own.get(name)}
    if run.weights != f"ema {run.config.ema[0]:g}":
        other["weights"] = run.weights
    if weaker:
        other["weaker"] = (str(weaker.folder), weaker.step, weaker.weights)
    digest = hashlib.blake2b(repr(sorted(other.items())).encode(), digest_size=3).hexdigest()
    return told + (f"_other_{digest}" if other else "")


def settings(config: TrainConfig) -> dict[str, str]:
    """Every setting as text: components in their short form, parts of a setting by their own names, "sampling.steps"."""
    found: dict[str, str] = {}
    for name, value in as_dict(config).items():
        if name in COMPONENTS:
            found[name] = "None" if value is None else str(parse(value))
        elif isinstance(value, dict):
            found |= {f"{name}.{part}": str(one) for part, one in value.items()}
        else:
            found[name] = str(value)
    return found


def describe_run(run: Run) -> str:
    """What a run folder holds, in words for a person."""
    data, rows = run.data, run.metrics()
    network = run.model.network
    parameters = sum(p.numel() for p in network.parameters())
    checkpoints = ", ".join(str(int(path.name.removeprefix("step_"))) for path in list_checkpoints(run.folder / "checkpoints"))
    last = rows[-1] if rows else {}
    split = f" (along {last['loss_along']:.4g}, across {last['loss_across']:.4g})" if "loss_along" in last else ""
    lines = {
        "run": run.folder,
        "data": f"{data['name']}: {data['counts']['train']} training samples of shape {tuple(data['shape'])}, "
        f"{data['num_classes'] or 'no'} classes, normalised by {data['normalisation']['kind']!r}",
        "variance": f"total {data['total_variance']:.4g} in {math.prod(data['shape'])} dimensions, after normalisation",
        "network": f"{type(network).__name__}, {parameters:,} parameters",
        "target": f"{run.model.target}, {run.weights}",
        "path": f"{run.model.path}, times {run.model.timesteps}",
        "progress": f"step {last.get('step', 0)} of {run.config.steps}",
        "loss": f"{last.get('loss', float('nan')):.4g}{split}",
        "checkpoints": checkpoints,
        "settings": ", ".join(f"{name} {value}" for name, value in settings(run.config).items() if name not in SAID),
    }
    return "\n".join(f"{name:12}{value}" for name, value in lines.items())
