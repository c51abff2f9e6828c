"""A trained model as a flow-matching model of diffusers: it predicts noise − data, at timesteps that fall from 1000 to 0.

    diffusers    z = (1 − σ) x + σ n,    timestep = 1000 σ,    output = dz/dσ = n − x
    kdiff        z = t x + (1 − t) n,    t = 1 − σ,            v = dz/dt = x − n = −output

So the output is −v. The run's own target computes v from the network's output, so a scheduler gets a velocity for any k.

A model on the variance-preserving path z' = α x + σ' n is used on the linear path: z'/(α + σ') lies on the linear path at
t = α/(α + σ'), and the velocity there is x̂ − n̂, with the data and the noise that the model predicts. The flow is the same, but
its steps differ.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from kdiff.config.parts import Spec
from kdiff.config.recipes import EARLIER, RecipeName
from kdiff.config.training import ModelConfig
from kdiff.path import LinearPath, VariancePreservingPath, broadcast_time, full_precision
from kdiff.run.build import build_model
from kdiff.run.calibrations import built_calibration
from kdiff.run.given import specs_of
from kdiff.targets import PAPER_CLAMP

TIMESTEPS = 1000  # diffusers' schedulers have timestep = 1000 σ


class KDiffTransformer(ModelMixin, ConfigMixin):
    """The network and the target of a run, as a component of a diffusers pipeline.

    k has the value from training, stays in float32, and is not trained further.

    Args:
        network: as in the run's config.yaml; a user's own class must be importable where the model is loaded.
        target: as in the run's config.yaml.
        shape: the shape of a sample.
        num_classes: the number of classes; 0 without labels.
        path: linear or variance_preserving.
        noise_scale: the standard deviation of the noise from which sampling starts.
        min_denominator: the clamp of |den| in the conversion to a velocity.
        null_rate: how often training hid a sample's class; after 0 the model knows no "no class", and guidance is refused.
        calibration: from `kdiff.run.calibrations.plain_calibration`, for a run with a calibration, whose numbers are among the
            weights.
        conditions: the entry `conditions` of the run's data.json: kind, shape and normalisation of each condition besides the
            label; None without them.
        null_rates: how often training hid each condition, as in the run's config.yaml; None for `null_rate` for all together.
        recipe: the run's recipe, which fills in what the target leaves out. An export without it was made before there were
            recipes.

    Raises:
        ValueError: the path is neither linear nor variance_preserving, or a weight is complex.
    """

    # diffusers keeps these modules in float32 when the model is loaded in half precision.
    _keep_in_fp32_modules = ["target", "calibration"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        network: Spec,
        target: Spec,
        shape: list[int],
        num_classes: int = 0,
        path: Spec = "linear",
        noise_scale: float = 1.0,
        min_denominator: float = PAPER_CLAMP,
        null_rate: float = ModelConfig.null_rate,
        calibration: dict[str, Any] | None = None,
        recipe: RecipeName = EARLIER,
        conditions: dict[str, Any] | None = None,
        null_rates: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        rates: dict[str, Any] = {"null_rate": null_rate, "null_rates": null_rates or {}}
        config = ModelConfig(network=network, recipe=recipe, path=path, noise_scale=noise_scale, **rates)
        specs = specs_of({"conditions": conditions or {}})
        self.model = build_model(config, target, tuple(shape), num_classes, conditions=specs)
        self.model.target.requires_grad_(False)
        if calibration is not None:
            self.model.calibration = built_calibration(calibration)
        if complex_ones := [name for name, value in self.model.state_dict().items() if value.is_complex()]:
            raise ValueError(
                f"{complex_ones[0]} is complex, and diffusers loads real weights only; expected a network with real weights"
            )
        if not isinstance(self.model.path, LinearPath | VariancePreservingPath):
            raise ValueError(
                f"the model's path is {self.model.path}; expected LinearPath or VariancePreservingPath, because the flow "
                "schedulers of diffusers use the linear path, and only these two can be converted to it"
            )

    @classmethod
    def from_pretrained(cls, *place: Any, **options: Any) -> Any:
        """Load the model as diffusers does, also in half precision."""
        loaded = super().from_pretrained(*place, **options)
        network = (loaded[0] if isinstance(loaded, tuple) else loaded).model.network
        # Tables of positions are not among the weights, so diffusers would leave them in float32.
        network.to(next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32))
        return loaded

    def check_loadable(self) -> None:
        """Raise ValueError if diffusers, which first builds a model without memory for its weights, could not load this one."""
        try:
            with init_empty_weights():
                type(self)(**{name: value for name, value in self.config.items() if not name.startswith("_")})
        except ValueError as error:
            if "UninitializedParameter" in str(error):
                raise ValueError(
                    "the network has lazily shaped layers, which diffusers cannot load; expected layers with their sizes, such "
                    "as nn.Linear(3, 8) in place of nn.LazyLinear(8)"
                ) from None
            raise

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        min_denominator: float | None = None,
        return_dict: bool = True,
        **conditions: Tensor,
    ) -> Any:
        """n̂ − x̂, shaped like `hidden_states`, of type `sample_dtype`.

        Args:
            hidden_states: z, (batch, *shape), on the linear path; used in float64 if the network is, otherwise in float32.
            timestep: 1000 σ, a number or (batch,).
            class_labels: (batch,) int64; num_classes means "no class", which is also the default.
            min_denominator: a clamp to use instead of the configured one; 0 for no clamp.
            return_dict: True to return a `Transformer2DModelOutput`, False for a tuple of one tensor.
            conditions: the model's other conditions by name, normalised, (batch, ...) each.
        """
        hidden_states = hidden_states.to(self.sample_dtype)
        conditions = conditions if class_labels is None else {"y": class_labels, **conditions}
        clamp = self.config.min_denominator if min_denominator is None else min_denominator
        t = self.time(timestep, hidden_states)
        if isinstance(self.model.path, LinearPath):
            output = -self.model.velocity(hidden_states, t, clamp, **conditions)
        else:
            output = self._from_variance_preserving(hidden_states, t, clamp, conditions)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    @property
    def sample_dtype(self) -> torch.dtype:
        """The type of samples: float64 if the network is in float64, else float32."""
        own = (p.dtype for p in self.model.network.parameters() if p.is_floating_point())
        return torch.promote_types(next(own, torch.float32), torch.float32)

    @staticmethod
    def time(timestep: Tensor | float, like: Tensor) -> Tensor:
        """t = 1 − timestep/1000, in float32."""
        # The difference comes first, because it is exact near 1000; then only the division rounds.
        timestep = torch.as_tensor(timestep, device=like.device).to(torch.float32)
        return (TIMESTEPS - timestep) / TIMESTEPS

    @full_precision
    def _from_variance_preserving(self, z: Tensor, t: Tensor, clamp: float, conditions: dict[str, Any]) -> Tensor:
        path = self.model.path
        angle = torch.atan2(t, 1 - t) * (2 / math.pi)  # the time at which α : σ' is t : 1 − t
        wide = broadcast_time(angle, z)
        z = z * (path.alpha(wide) + path.sigma(wide))
        v = self.model.velocity(z, angle, clamp, **conditions)
        return path.noise(z, v, angle) - path.data(z, v, angle)
