"""Samples that are not finite: how many there are, and at which step the first of them stopped being finite."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiff.sampling.walk import Callback


class FiniteWatch:
    """A `Callback` that notices samples that are NaN or infinite, in one batch or in several.

    It reads nothing back from a device before the end of a batch. A caller who passes a watch to `Flow.sample` or
    `kdiff.run.generate.generate` reports what it found; without one they warn themselves.

    Args:
        then: a callback that is called as well.
        before: the number of steps that were made before the first one that is watched.
        after: the number of steps that follow the last one that is watched.
    """

    def __init__(self, then: Callback | None = None, before: int = 0, after: int = 0) -> None:
        self.then, self.before, self.after = then, before, after
        self.total = self.wrong = 0
        self._batch: list[tuple[int, Tensor, Tensor]] = []
        self._began: tuple[int, int, float] | None = None  # the step, the number of steps, and the time

    def __call__(self, step: int, t: Tensor, z: Tensor) -> None:
        """Note which samples of the batch are finite after this step."""
        self._batch.append((step, t, _finite(z)))
        if self.then:
            self.then(step, t, z)

    def close(self, x: Tensor) -> None:
        """Count the finished samples x (batch, ...), after their last step."""
        wrong = int((~_finite(x)).sum())
        self.total, self.wrong = self.total + len(x), self.wrong + wrong
        for step, t, finite in self._batch if wrong else []:
            if not finite.all():
                began = (self.before + step, self.before + self._batch[-1][0] + self.after, float(t))
                self._began = min(began, self._began or began)
                break
        self._batch.clear()

    def __str__(self) -> str:
        """How many samples are not finite, and since when."""
        since = ""
        if self._began:
            step, steps, t = self._began
            since = f"; the first at step {step} of {steps} (t = {t:.4g})"
        return f"{self.wrong} of {self.total} samples are not finite numbers (NaN or infinite){since}"


def check_finite(x: Tensor, what: str) -> None:
    """Raise RuntimeError (a run that failed, and not a user's mistake) unless all drawn samples x (batch, ...) are finite."""
    if wrong := int((~_finite(x)).sum()):
        raise RuntimeError(
            f"{wrong} of {len(x)} {what} are not finite numbers (NaN or infinite), so they cannot be judged; kdiff sample with "
            "the same options shows them. Try another sampler (more steps, guidance closer to 1) or another checkpoint"
        )


def _finite(z: Tensor) -> Tensor:
    """Whether each sample of z (batch, ...) is finite, (batch,)."""
    return torch.isfinite(z).reshape(len(z), z[:1].numel()).all(dim=1)
