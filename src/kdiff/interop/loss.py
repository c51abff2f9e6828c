"""The loss of a learned target for training scripts of diffusers, in their own terms.

    script    z = (1 − σ) x + σ n,        the model is asked for n − x,       weighted mean square of the difference
    here      t = 1 − σ,                  it is asked for u = k x − (1 − k) n,     ‖v̂_c − v_c‖² by `kdiff.target`

The script keeps its data, noise, sigmas, weighting and optimiser. Of its lines two change: the loss, and what is handed to the
scheduler when it samples. The loss has a parameter, which belongs into the optimiser and into what is saved.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdiff.precision import at_least_float32
from kdiff.target import PAPER_CLAMP, LearnedK, Target, as_target


class KDiffLoss(nn.Module):
    """The v-loss of a prediction target, called as loss_fn(model_pred, model_input, noise, sigmas).

    Args:
        target: what the model is asked for: a `Target`, its name or a fixed k, as for `KDiff`; learned if left out.
        scale: u = scale · model_pred. −½ for a model that was trained for n − x: with k = ½ at the start, what it says stays
            what it said, and fine-tuning goes on from there. 1 for a new one.

    Raises:
        ValueError: a scale of 0.
    """

    def __init__(self, target: Target | str | float | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if not scale:
            raise ValueError("scale is 0; expected 1, or -0.5 for a model that was trained for noise − data")
        self.target = LearnedK() if target is None else as_target(target)
        self.scale = scale

    def forward(
        self, model_pred: Tensor, model_input: Tensor, noise: Tensor, sigmas: Tensor, weighting: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar with gradients to the model and to k.

        Args:
            model_pred: what the model returned for (1 − σ) x + σ n.
            model_input: clean latents x, (batch, ...).
            noise: n, shaped like them.
            sigmas: σ, (batch,) or (batch, 1, ...); timesteps / 1000.
            weighting: of the squares, broadcasting to x, as `compute_loss_weighting_for_sd3` gives it; none if left out.

        Raises:
            ValueError: a model_pred or noise of another shape than model_input.
        """
        if not model_pred.shape == model_input.shape == noise.shape:
            raise ValueError(
                f"model_pred has shape {tuple(model_pred.shape)}, model_input {tuple(model_input.shape)}, noise "
                f"{tuple(noise.shape)}; expected the same. Of a model that returns a variance too, take the first half of the "
                "channels"
            )
        u, t = self.scale * at_least_float32(model_pred), self._time(sigmas)
        if weighting is None:
            return self.target.loss(u, model_input, noise, t)
        # As the target weighs nothing, its error is squared here.
        return (at_least_float32(weighting) * self.target.velocity_error(u, model_input, noise, t).square()).mean()

    def model_output(
        self, model_pred: Tensor, sample: Tensor, sigmas: Tensor | float, min_denominator: float = PAPER_CLAMP
    ) -> Tensor:
        """n̂ − x̂, what a flow-matching scheduler's `step` wants, of what the model returned for the noisy `sample` at σ.

        Args:
            model_pred: shaped like sample.
            sample: (batch, ...).
            sigmas: σ, a number, (batch,) or (batch, 1, ...).
            min_denominator: the clamp of |den|; 0 for none, as at the last step.
        """
        u = self.scale * at_least_float32(model_pred)
        return -self.target.to_velocity(u, sample, self._time(sigmas), min_denominator=min_denominator)

    @staticmethod
    def _time(sigmas: Tensor | float) -> Tensor | float:
        """1 − σ, not in half precision, where 1 − 0.001 is 1."""
        return 1 - at_least_float32(sigmas) if isinstance(sigmas, Tensor) else 1 - sigmas
