"""A trained model as diffusers wants a flow-matching model: noise − data, at timesteps that fall from 1000 to 0.

    diffusers    z = (1 − σ) x + σ n,    timestep = 1000 σ,    output = dz/dσ = n − x
    kdiff        z = t x + (1 − t) n,    t = 1 − σ,            v = dz/dt = x − n = −output

so that the output is −v, with v made of what the network says by the run's own target. Whatever k is, a scheduler sees a
velocity.

A model on the variance-preserving path z' = α x + σ' n is used on the linear one: z'/(α + σ') lies on the linear path at
t = α/(α + σ'), and the velocity there is x̂ − n̂ of the data and the noise that the model sees. It is the same flow, walked
with other steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from kdiff.components import Spec
from kdiff.path import LinearPath, VariancePreservingPath, broadcast_time
from kdiff.precision import full_precision
from kdiff.target import PAPER_CLAMP
from kdiff.training.build import build_model
from kdiff.training.config import ModelConfig

TIMESTEPS = 1000  # of diffusers' schedulers: timestep = 1000 σ


class KDiffTransformer(ModelMixin, ConfigMixin):
    """The network and the target of a run, as a component of a diffusers pipeline.

    k is what the weights were trained to; it is kept in float32, and is not trained on.

    Args:
        network: as in the run's config.yaml; a class path of the user's own must be importable where this is loaded.
        target: as in the run's config.yaml.
        shape: of a sample.
        num_classes: 0 without labels.
        path: linear or variance_preserving.
        noise_scale: standard deviation of the noise to start from.
        min_denominator: the clamp of |den| in the conversion to a velocity.

    Raises:
        ValueError: a path that is neither.
    """

    # By diffusers' rule: these stay as they are when the rest is loaded in half precision.
    _keep_in_fp32_modules = ["target"]  # noqa: RUF012

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
    ) -> None:
        super().__init__()
        config = ModelConfig(network=network, path=path, noise_scale=noise_scale)
        self.model = build_model(config, target, tuple(shape), num_classes)
        self.model.target.requires_grad_(False)
        if not isinstance(self.model.path, LinearPath | VariancePreservingPath):
            raise ValueError(
                f"the model is on {self.model.path}; diffusers' flow schedulers are on the linear path, and only models on "
                "LinearPath and VariancePreservingPath can be taken there"
            )

    @classmethod
    def from_pretrained(cls, *place: Any, **options: Any) -> Any:
        """As of every model, in half precision too."""
        loaded = super().from_pretrained(*place, **options)
        network = (loaded[0] if isinstance(loaded, tuple) else loaded).model.network
        # Tables of positions are not among the weights, and would stay in float32.
        network.to(next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32))
        return loaded

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        min_denominator: float | None = None,
        return_dict: bool = True,
    ) -> Any:
        """n̂ − x̂, shaped like `hidden_states`, float32 or better.

        Args:
            hidden_states: z, (batch, *shape), on the linear path.
            timestep: 1000 σ, a number or (batch,).
            class_labels: (batch,) int64; num_classes, or left out, for "no class".
            min_denominator: another clamp than the configured one; 0 for none.
            return_dict: the output as `Transformer2DModelOutput`, else as a tuple of one.
        """
        conditions = {} if class_labels is None else {"y": class_labels}
        clamp = self.config.min_denominator if min_denominator is None else min_denominator
        t = self.time(timestep, hidden_states)
        if isinstance(self.model.path, LinearPath):
            output = -self.model.velocity(hidden_states, t, clamp, **conditions)
        else:
            output = self._from_variance_preserving(hidden_states, t, clamp, conditions)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    @staticmethod
    def time(timestep: Tensor | float, like: Tensor) -> Tensor:
        """t = 1 − timestep/1000, in float32."""
        # The difference first: near 1000 it is exact, and the quotient then has the rounding of t alone.
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
