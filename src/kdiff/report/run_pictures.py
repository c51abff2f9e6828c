"""Pictures of a run's curves and samples, and files of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.config.sampling import sampler_options
from kdiff.data import Normalisation
from kdiff.files.atomic import write_json
from kdiff.files.tensors import save_tensors
from kdiff.report.curve import LOSSES, shown_losses
from kdiff.report.drawing import (
    INK,
    ImageView,
    Points,
    View,
    new_figure,
    plain,
    save_figure,
    save_samples,
    scale_to,
)
from kdiff.report.field_view import FieldView, SignalView
from kdiff.report.run_view import image_shape, seen, view_kind
from kdiff.report.sample_table import columns_of, write_table
from kdiff.run.agreement import differences
from kdiff.run.environment import describe_environment
from kdiff.run.folder import warn
from kdiff.run.generate import generate
from kdiff.run.given import own_units
from kdiff.run.run import Run
from kdiff.sampling.finite import FiniteWatch

ENDINGS = (".png", ".safetensors", ".json")
DENOISED: dict[type[View], int] = {FieldView: 4, SignalView: 3}  # samples in a picture of denoising
STAMPED = 64  # numbers of a condition that a stamp lists
NOT_FINITE = "_not_finite"  # ends the names of files of samples that are not all finite


class NotFinite(RuntimeError):
    """Some of the samples that were written are NaN or infinite."""

    def __init__(self, found: str, files: list[Path]) -> None:
        super().__init__(
            f"{found}. They were written to {files[1]}. Try another sampler (more steps, guidance closer to 1) or another "
            "checkpoint"
        )
        self.files = files


def draw_run(run: Run) -> list[Path]:
    """Draw training.png (loss, its two parts, k), a picture in samples/, and denoising.png; returns the pictures."""
    curves, rows = run.folder / "training.png", run.metrics()
    figure = new_figure(8, 3)
    loss, own = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    # One or two lines of metrics are hard to see as a curve, so they get markers.
    line: dict[str, Any] = {"linewidth": 1.2, "marker": "." if len(rows) < 3 else ""}
    for name in shown_losses(rows):
        label, colour = LOSSES[name] if name != "loss" else (f"{run.config.loss_space}-loss", INK)
        loss.plot(steps, [row.get(name) for row in rows], label=label, color=colour, **line)
    loss.set(xlabel="step", yscale="log")
    legend = {"loc": "best"} if rows else {}
    plain(loss, "loss", size=8, label=8, **legend)
    target = run.model.target.describe()
    main = next(iter(target.scalars), "")
    if main:
        own.plot(steps, [row.get(main) for row in rows], color="#55a868", **line)
    own.set(xlabel="step")
    scale_to(own, target.axis)
    plain(own, main, size=8, label=8)
    run.place.check()
    save_figure(figure, curves)
    return [curves, draw_samples(run), draw_denoising(run)]


def draw_samples(run: Run) -> Path:
    """Draw samples/step_….png and its files with the options of the run's configuration, as `kdiff sample` does.

    Samples that are not finite do not end a training or a report: a warning says so, and the names of the files too.
    """
    stem = run.folder / "samples" / f"step_{run.step:08d}_seed_0"
    try:
        return sample_to_files(run, shown_samples(run), 0, stem, **sampler_options(run.config.sampling))[0]
    except NotFinite as error:
        warn(run.folder, str(error))
        return error.files[0]


def shown_samples(run: Run) -> int:
    """How many samples of a run a picture shows."""
    return view_kind(run).shown


class SampleGrids:
    """Draws samples into RUN/samples during training, always from the same noise and labels, so each sample keeps its place."""

    def __init__(self) -> None:
        self._view: View | None = None

    def __call__(self, run: Run) -> None:
        """Draw one picture. If the file cannot be written, a warning says so and the run continues."""
        path = run.folder / "samples" / f"step_{run.step:08d}_seed_0.png"
        if path.exists():  # a resumed run passes the same steps with the same weights
            return
        options = sampler_options(run.config.sampling)
        x, _ = generate(run.model, shown_samples(run), run.shape, run.given, **options)
        pictures, self._view = seen(run, x, self._view)
        run.place.check()
        try:
            path.parent.mkdir(exist_ok=True)
            save_samples(path, pictures, self._view, _title(run))
        except OSError as error:
            warn(run.folder, f"the picture of the samples at step {run.step} was not written: {error}")


def draw_denoising(run: Run) -> Path:
    """Draw denoising.png: how noise becomes samples, a column for each time. Images have a row each; others have one row."""
    states: list[tuple[str, Tensor]] = []
    shape = image_shape(run)
    num, columns, every = (6, 9, 6) if shape else (DENOISED.get(view_kind(run), Points.shown // 2), 5, 12)

    def keep(step: int, t: Tensor, z: Tensor) -> None:
        if step % every == 0:
            states.append((f"t = {t:g}", z.cpu()))

    options: dict[str, Any] = {"steps": every * (columns - 1), "last_step": "data", "batch_size": num, "callback": keep}
    x, _ = generate(run.model, num, run.shape, run.given, **options)
    _, view = seen(run, x)
    if isinstance(view, ImageView) and shape:
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
            view.draw(axes, z, columns=2)
            axes.set_title(title, fontsize=8)
    figure.suptitle(_title(run), fontsize=9, color=INK)
    path = run.folder / "denoising.png"
    run.place.check()
    save_figure(figure, path)
    return path


def _title(run: Run) -> str:
    return f"{run.data['name']}, target {run.config.target}, step {run.step}"


def sample_to_files(
    run: Run,
    num: int | None,
    seed: int,
    stem: Path | None,
    weaker: Run | None = None,
    conditions: Mapping[str, Any] | None = None,
    ensemble: int = 1,
    **options: Any,
) -> list[Path]:
    """Draw samples and write a picture, the values (safetensors: x in the data's units, y) and a stamp (JSON).

    Samples of a table are also written as CSV, with the names of its columns.

    The values of a run with conditions also hold those of each sample, in their own units, as condition.NAME.

    The values of a run on latents also hold the decoded images, in units of their own.

    Args:
        run: the run that samples are drawn from.
        num: the number of samples; None for the number that `Run.sample` draws.
        seed: the seed of their noise and labels.
        stem: the path of the files without their endings; a name in RUN/samples if left out.
        weaker: the run of a weaker model, from which guidance leads away.
        conditions: as for `Run.sample`.
        ensemble: as for `Run.sample`.
        options: the options of `Run.sample`.

    Raises:
        ValueError: the two runs differ in the shape of samples, the noise scale or the normalisation.
        NotFinite: some samples are not finite. The files are written, with names that end in "_not_finite".
        FolderReplaced: the files belong in the run folder, which was removed or replaced since the run was read.
    """
    if weaker:
        found = differences(weaker.data, run.data, weaker.folder)
        theirs, ours = weaker.model.noise_scale, run.model.noise_scale
        if theirs != ours:
            found["noise_scale"] = f"the noise of {weaker.folder} has the scale {theirs}, that of {run.folder} {ours}"
        if found:
            raise ValueError(f"{weaker.folder} cannot guide {run.folder}: {'; '.join(found.values())}; expected the same")
    given = run.given_by(conditions, ensemble)
    num = given.usual if num is None else num
    asked: dict[str, Any] = {"conditions": _digest_of(given.rows)} if conditions else {}
    asked |= {"ensemble": ensemble} if ensemble > 1 else {}
    stem = stem or run.folder / "samples" / f"step_{run.step:08d}_seed_{seed}{_otherwise(run, weaker, options | asked)}"
    stem = stem.with_suffix("") if stem.suffix in ENDINGS else stem
    run.place.check(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    watch = FiniteWatch()
    how: dict[str, Any] = {"guidance_model": weaker.model if weaker else None, "callback": watch, "progress": "sampling"}
    x, y = run.sample(num, seed, conditions=given, **how, **options)
    if not watch.wrong:
        watch = FiniteWatch()  # the samples are finite as the model sees them, but perhaps not in the data's own units
        absent = run.normalisation.absent
        watch.close(x if absent is None else x.masked_fill(absent.to(x.device), 0.0))
    if watch.wrong:
        stem = stem.with_name(stem.name + NOT_FINITE)
    files = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    pictures, view = seen(run, run.normalisation.apply(x))
    tensors = {"x": x} if y is None else {"x": x, "y": y}
    own = own_units(run.data, {name: rows for name, rows in given.chosen(range(num)).items() if name != "y"})
    tensors |= {f"condition.{name}": values for name, values in own.items()}
    if run.latents and image_shape(run):
        tensors["images"] = Normalisation.from_description(run.latents["images"]["normalisation"]).undo(pictures)
    run.place.check(stem)
    save_tensors(files[1], tensors)
    stamp = {"run": str(run.folder), "step": run.step, "weights": run.weights, "num": num, "seed": seed, "options": options}
    stamp |= {"calibrated": run.calibrated, "precision": run.model.precision}
    if given.rows:
        stamp["conditions"] = _in_stamp(own_units(run.data, given.rows), examples=not conditions)
        stamp["ensemble"] = given.ensemble
    if weaker:
        stamp["guided_away_from"] = {"run": str(weaker.folder), "step": weaker.step, "weights": weaker.weights}
    decoded = {"autoencoder": run.latents["autoencoder"]} if run.latents else {}
    write_json(files[2], {**stamp, **decoded, "environment": describe_environment()})
    run.place.check(stem)
    save_samples(files[0], pictures, view, _title(run))
    if columns_of(run.data, x):
        files.append(stem.with_name(f"{stem.name}.csv"))
        write_table(files[-1], run.data, x, y, own)
    if watch.wrong:
        raise NotFinite(str(watch), files)
    return files


def _digest_of(rows: Mapping[str, Tensor]) -> str:
    """A hash of the rows of conditions."""
    digest = hashlib.blake2b(digest_size=8)
    for name, values in sorted(rows.items()):
        digest.update(name.encode() + values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _in_stamp(rows: Mapping[str, Tensor], examples: bool) -> dict[str, Any]:
    """What the stamp says of the conditions: the numbers of one short row, or how many rows there are and where they are."""
    where = "examples of the run, in turn" if examples else "rows, in the file of the samples"
    short = {name: len(values) == 1 and values.numel() <= STAMPED for name, values in rows.items()}
    return {name: values[0].tolist() if short[name] else f"{len(values)} {where}" for name, values in rows.items()}


def _otherwise(run: Run, weaker: Run | None, options: dict[str, Any]) -> str:
    """The end of the name of files drawn with options other than those of training, so that no other file is overwritten."""
    own = sampler_options(run.config.sampling)
    guidance = options.get("guidance", own["guidance"])
    told = f"_guidance_{guidance:g}" if {guidance, own["guidance"]} != {1} else ""
    other: dict[str, Any] = {name: value for name, value in options.items() if name != "guidance" and value != own.get(name)}
    if run.weights != f"ema {run.config.ema[0]:g}":
        other["weights"] = run.weights
    if run.calibrated:
        other["calibrated"] = True
    if run.model.precision != "no":
        other["precision"] = run.model.precision
    if weaker:
        other["weaker"] = (str(weaker.folder), weaker.step, weaker.weights)
    digest = hashlib.blake2b(repr(sorted(other.items())).encode(), digest_size=3).hexdigest()
    return told + (f"_other_{digest}" if other else "")
