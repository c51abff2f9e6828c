"""The loss of a learned target for training scripts of diffusers, in their notation.

    script    z = (1 − σ) x + σ n,        the model predicts n − x,                 weighted mean square of the difference
    here      t = 1 − σ,                  it predicts u = k x − (1 − k) n,          ‖v̂_c − v_c‖² by `kdiff.targets`

The script keeps its data, noise, sigmas, weighting and optimiser. Two of its lines change: the loss, and the prediction for the
scheduler in sampling. The loss has a parameter, which must be given to the optimiser and saved with the weights.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdiff.path import at_least_float32, check_shapes, checked_time, per_sample
from kdiff.targets import PAPER_CLAMP, LearnedK, Target, as_target

SIGMAS = "σ in [0, 1], which is timesteps / 1000 (0 is data, 1 is noise)"


class KDiffLoss(nn.Module):
    """The v-loss of a prediction target, called as loss_fn(model_pred, model_input, noise, sigmas).

    Args:
        target: the target that the model predicts: a `Target`, its name or a fixed k, as for `KDiff`; learned if left out.
        scale: u = scale · model_pred. 1 for a new model. −½ to fine-tune a model that was trained for n − x: with k = ½ at the
            start, its prediction then means the same as before.

    Raises:
        ValueError: scale is 0 or not finite.
    """

    def __init__(self, target: Target | str | float | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if not scale or not math.isfinite(scale):
            raise ValueError(f"scale is {scale}; expected 1, or -0.5 for a model that was trained for noise − data")
        self.target = LearnedK() if target is None else as_target(target)
        self.scale = scale

    def forward(
        self, model_pred: Tensor, model_input: Tensor, noise: Tensor, sigmas: Tensor, weighting: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar with gradients to the model and to k.

        Args:
            model_pred: the model's output for (1 − σ) x + σ n.
            model_input: clean latents x, (batch, ...).
            noise: n, shaped like x.
            sigmas: σ = timesteps / 1000, (batch,) or (batch, 1, ...).
            weighting: weights of the squared errors, (batch,) or (batch, 1, ...), as from `compute_loss_weighting_for_sd3`; 1
                if left out.

        Raises:
            ValueError: model_pred, model_input and noise have different shapes, sigmas or weighting have another shape, or a σ
                lies outside [0, 1].
        """
        if not model_pred.shape == model_input.shape == noise.shape:
            raise ValueError(
                f"model_pred has shape {tuple(model_pred.shape)}, model_input {tuple(model_input.shape)}, noise "
                f"{tuple(noise.shape)}; expected the same shapes. If the model also returns a variance, use only the first "
                "half of its channels"
            )
        u, t = self.scale * at_least_float32(model_pred), self._time(sigmas)
        if weighting is None:
            return self.target.loss(u, model_input, noise, t)
        # `Target.loss` takes no weights, so the error is squared here.
        weights = at_least_float32(weighting)
        if isinstance(weights, Tensor):
            weights = per_sample(weights, model_input, "weighting")
        return (weights * self.target.velocity_error(u, model_input, noise, t).square()).mean()

    def model_output(
        self, model_pred: Tensor, sample: Tensor, sigmas: Tensor | float, min_denominator: float = PAPER_CLAMP
    ) -> Tensor:
        """n̂ − x̂, the input of a flow-matching scheduler's `step`, from the model's output for the noisy `sample` at σ.

        Args:
            model_pred: the model's output, shaped like sample.
            sample: (batch, ...).
            sigmas: σ, a number, (batch,) or (batch, 1, ...).
            min_denominator: the clamp of |den|; 0 for no clamp, as at the last step.

        Raises:
            ValueError: model_pred and sample have different shapes, or a σ lies outside [0, 1].
        """
        check_shapes("sample model_pred", sample, model_pred)
        u = self.scale * at_least_float32(model_pred)
        return -self.target.to_velocity(u, sample, self._time(sigmas), min_denominator=min_denominator)

    @staticmethod
    def _time(sigmas: Tensor | float) -> Tensor | float:
        """1 − σ in float32 or better; in half precision 1 − 0.001 is 1."""
        sigmas = checked_time(sigmas, "sigmas", SIGMAS)
        return 1 - at_least_float32(sigmas) if isinstance(sigmas, Tensor) else 1 - sigmas
