"""A run shown: its curves, its samples, and a description in words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from kdiff.files import write_json
from kdiff.report.samples import INK, Projection, is_image, new_figure, save_figure, save_samples
from kdiff.training.checkpoint import list_checkpoints, save_tensors
from kdiff.training.config import as_dict
from kdiff.training.run import Run, describe_environment


def _projection(run: Run) -> Projection | None:
    """None for images. Other samples are drawn in the place of the training data, which must still be there."""
    if is_image(run.shape):
        return None
    dataset = run.dataset()
    return Projection(dataset.part("train")[0], dataset.manifold)


def _draw(run: Run, x: Tensor, path: Path, title: str) -> None:
    save_samples(path, run.normalisation.apply(x), _projection(run), title)


def draw_run(run: Run) -> list[Path]:
    """training.png (loss, its two parts, k) and samples/ of the newest checkpoint; returns the pictures."""
    curves = run.folder / "training.png"
    rows = run.metrics()
    figure = new_figure(8, 3)
    loss, k = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for name, label, colour in (
        ("loss", "v-loss", INK),
        ("loss_along", "along the principal directions", "#4c72b0"),
        ("loss_across", "across them", "#dd8452"),
    ):
        if name in rows[0]:
            loss.plot(steps, [row[name] for row in rows], label=label, color=colour, linewidth=1.2)
    loss.set(xlabel="step", yscale="log")
    loss.set_title("loss", fontsize=9)
    loss.legend(fontsize=7, frameon=False)
    if "k" in rows[0]:
        k.plot(steps, [row["k"] for row in rows], color="#55a868", linewidth=1.4)
    k.set(xlabel="step", ylim=(-0.03, 1.03))
    k.set_yticks([0, 0.5, 1], ["0  noise", "½  velocity", "1  data"])
    k.set_title("k", fontsize=9)
    for axes in (loss, k):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    save_figure(figure, curves)
    return [curves, sample_to_files(run, 64 if is_image(run.shape) else 2000, 0, None, last_step="data")[0]]


def sample_to_files(run: Run, num: int, seed: int, stem: Path | None, **options: Any) -> list[Path]:
    """Draw samples and write a picture, the numbers (safetensors: x in the data's units, y) and a stamp (JSON)."""
    stem = stem or run.folder / "samples" / f"step_{run.step:08d}_seed_{seed}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    x, y = run.sample(num, seed, **options)
    files = [stem.with_name(stem.name + ending) for ending in (".png", ".safetensors", ".json")]
    save_tensors(files[1], {"x": x} if y is None else {"x": x, "y": y})
    stamp = {"run": str(run.folder), "step": run.step, "weights": run.weights, "num": num, "seed": seed, "options": options}
    write_json(files[2], {**stamp, "environment": describe_environment()})
    shown = x[:64] if is_image(run.shape) else x
    _draw(run, shown, files[0], f"{run.data['name']}, {run.config.target}, step {run.step}")
    return files


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
        "settings": ", ".join(
            f"{name} {value}" for name, value in as_dict(run.config).items() if name not in ("data", "network")
        ),
    }
    return "\n".join(f"{name:12}{value}" for name, value in lines.items())
