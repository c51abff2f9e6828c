"""The exact denoiser of a set of points: the output of a network that fits its training data perfectly.

For data that are one of the points x_i, with equal probability, and z = α x + σ n, n ~ N(0, I),

    E[x | z, t] = Σ_i w_i x_i,    w = softmax_i(−|z − α x_i|² / (2σ²)),    E[n | z, t] = (z − α E[x | z, t]) / σ

(Karras et al., 2022, appendix B.3). Encoded for the target, u = a E[x|z,t] − b E[n|z,t], it takes the place of a trained
network. Whatever is then wrong with the samples comes from the sampler alone: from its steps and its clamp.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdiff.evaluation.neighbours import as_double
from kdiff.path import GaussianPath, at_least_float32
from kdiff.targets import SelfConsistent, Target

ELEMENTS = 2**23  # weights held at once, one per sample and point: 64 MiB in float64


class ExactDenoiser(nn.Module):
    """E[u | z, t] of the empirical distribution of `points`, used as the network of a `KDiff` of the same target and path.

    Without a clamp and with enough steps its samples are points of the set. It computes in float64, where the error of the
    exponent is about 1e-16 (|x| / σ)², and needs N · D float64 values for the points while it runs.

    Args:
        points: (N, *shape), N at least 1. A buffer that checkpoints leave out.
        target: the target to encode for, the same object as KDiff's. It is not a submodule: its parameters stay KDiff's.
        path: the path of the noisy samples; the same as KDiff's.
        labels: (N,) integers, the condition `y` of each point.
        noise_scale: the standard deviation of the noise; the same as KDiff's.

    Raises:
        ValueError: no points, or labels that are not (N,).
    """

    points: Tensor
    labels: Tensor | None

    def __init__(
        self, points: Tensor, target: Target, path: GaussianPath, labels: Tensor | None = None, noise_scale: float = 1.0
    ) -> None:
        super().__init__()
        if points.ndim < 2 or points.numel() == 0:
            raise ValueError(f"points must have shape (N, *shape) with N at least 1, got {tuple(points.shape)}")
        if labels is not None and labels.shape != points.shape[:1]:
            raise ValueError(f"labels must have shape ({len(points)},), one for each point, got {tuple(labels.shape)}")
        self.path, self.noise_scale = path, noise_scale
        self.encode = target.encode
        self.true_time = target.true_time if isinstance(target, SelfConsistent) else None
        self.register_buffer("points", points.detach(), persistent=False)
        self.register_buffer("labels", None if labels is None else labels.detach(), persistent=False)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[u | z, t, y], shaped like z, in float32 or better.

        At t = 0 the estimate of the data is the mean of the points. At t = 1, where σ = 0, it is z itself, without noise.

        Args:
            z: (batch, *shape).
            t: (batch,), or one time for all.
            y: (batch,) labels: only points of that label count. A label that no point has, such as the null class of guidance,
                stands for all points.

        Raises:
            ValueError: z not shaped like the points, or `y` for points without labels.
        """
        if z.shape[1:] != self.points.shape[1:]:
            raise ValueError(f"z has shape {tuple(z.shape)}; the points have shape {tuple(self.points.shape[1:])} each")
        if y is not None and self.labels is None:
            raise ValueError("y was given, but the points have no labels: pass ExactDenoiser(..., labels=...)")
        t = self.true_time(t) if self.true_time else t
        points, t = as_double(self.points.flatten(1)), t.expand(len(z))
        like = at_least_float32(z)
        u = like.new_empty(z.shape)
        for rows, own in self._by_label(None if y is None else y.expand(len(z)), len(z)):
            among = points if own is None else points[own.to(points.device)]
            for part in rows.split(max(1, ELEMENTS // len(among))):
                x_hat, n_hat = self._denoise(z[part].flatten(1), t[part, None], among)
                u[part] = self.encode(x_hat.to(like).view_as(z[part]), n_hat.to(like).view_as(z[part]), t[part])
        return u

    def _by_label(self, y: Tensor | None, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The rows of a batch with the same label, and the numbers of the points that count for them; None for all points.

        A sample is compared with the points of its label only, which saves most of the work if there are many classes.
        """
        if y is None or self.labels is None:
            yield torch.arange(count, device=self.points.device), None
            return
        for label in y.unique():
            own = (self.labels == label).nonzero().flatten()
            yield (y == label).nonzero().flatten(), own if len(own) else None

    def _denoise(self, z: Tensor, t: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | z, t] and E[n | z, t] among these points, in float64, (batch, D) like z; t is (batch, 1)."""
        z, t = as_double(z), as_double(t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        clean = sigma == 0  # z is the data: no posterior to compute, and nothing to divide by
        safe = torch.where(clean, 1.0, sigma)
        # −|z − α x_i|² / (2σ²s²) without |z|², which is the same for every point and cancels in the softmax.
        logits = (alpha * (z @ points.T) - alpha.square() / 2 * points.square().sum(dim=1)) / (safe * self.noise_scale).square()
        x_hat = torch.where(clean, z / torch.where(clean, alpha, 1.0), logits.softmax(dim=1) @ points)
        return x_hat, torch.where(clean, 0.0, (z - alpha * x_hat) / safe)
