"""How samples of a run are drawn: as its data are, or decoded if the run is on latents."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiff.data.samples import is_image
from kdiff.report.drawing import ImageView, Points, View, view_for, view_of
from kdiff.run.run import Run


def image_shape(run: Run) -> tuple[int, ...] | None:
    """The shape of the images that samples of a run are drawn as, decoded if the run is on latents; None for points."""
    shape = tuple(run.latents["images"]["shape"]) if run.latents else run.shape
    return shape if is_image(shape) else None


def seen(run: Run, x: Tensor, view: View | None = None) -> tuple[Tensor, View]:
    """What is drawn for normalised samples x of a run, decoded if the run is on latents, and the view (`view` if given)."""
    if run.latents and image_shape(run):
        return run.decode(run.normalisation.undo(x)), view or ImageView(-1, 1)
    return x, view or view_of_run(run, x)


def view_of_run(run: Run, x: Tensor) -> View:
    """The view for normalised samples x of a run. If the run's data cannot be loaded, the samples themselves set the view."""
    if image_shape(run):
        return ImageView(run.data["min"], run.data["max"])
    try:
        dataset = run.dataset()
    except (ValueError, OSError):
        finite = x[x.isfinite().flatten(1).all(1)]
        finite = finite if len(finite) else torch.zeros_like(x[:1])
        return Points(finite) if run.latents else view_of(finite)
    return view_of(dataset.part("train")[0], dataset.manifold)


def view_kind(run: Run) -> type[View]:
    """The class of the view for samples of a run."""
    if run.latents:
        return ImageView if image_shape(run) else Points
    return view_for(run.shape)
