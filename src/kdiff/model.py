"""KDiff: a network, its prediction target and a path from noise to data. It gives the training loss and the velocity.

The network is any module that is called as `network(z, t, **conditions)`, with z of shape (batch, ...) and t of shape (batch,),
and that returns a tensor shaped like z. It knows nothing of k. Its output is u = a x − b n, which the target turns into a
velocity. Samples and likelihoods, which follow from a velocity, are in `kdiff.sampling.flow`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from kdiff.path import GaussianPath, at_least_float32, broadcast_time, check_shapes, checked_time, find_path, per_sample
from kdiff.sampling import Flow, Timesteps, Uniform
from kdiff.sampling.guidance import null_like
from kdiff.targets import PAPER_CLAMP, LearnedK, Target, Weighting, as_target, make_weighting
from kdiff.targets.calibration import Calibration
from kdiff.targets.self_consistent import SelfConsistent

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_to(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to "bf16" or "fp16" on a device; "no" changes nothing. Raises ValueError for another precision."""
    if precision == "no":
        return contextlib.nullcontext()
    if precision not in HALF:
        raise ValueError(f"precision is {precision!r}; expected no, {' or '.join(HALF)}")
    return torch.autocast(device.type, HALF[precision])


def _no_wider(value: Any, x: Tensor) -> Any:
    """A tensor of floats as wide as `x` at most (float32, if x is in half precision); any other value unchanged.

    A float64 tensor would make the network's input float64. A tensor of one number (rank 0) does not, and is left as it is.
    """
    if not (isinstance(value, Tensor) and value.ndim and value.is_floating_point()):
        return value
    return value.float() if value.itemsize > max(x.itemsize, 4) else value


def _gathered(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a model that `fully_shard` has sharded run this method like its forward, with its weights gathered."""
    name = method.__name__

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if hasattr(type(self), "unshard") and name not in vars(self):
            from torch.distributed.fsdp import register_fsdp_forward_method

            register_fsdp_forward_method(self, name)
            return getattr(self, name)(*args, **kwargs)
        return method(self, *args, **kwargs)

    return run


class KDiff(Flow):
    """A diffusion or flow model whose prediction target may be learned (k-Diff, arXiv 2601.21419).

    Args:
        network: a module called as network(z, t, **conditions); it returns u, shaped like z.
        target: the meaning of u: a `Target`, "noise", "velocity", "data", "learned" or a fixed k. If left out, learned.
        path: the path from noise to data: a `GaussianPath`, "linear" or "variance_preserving". If left out, linear.
        timesteps: the distribution of t in training. If left out, uniform.
        null: the value that stands for "no condition", for each condition that can be left out, as in {"y": 10}.
        null_rate: the probability with which the loss, in training mode, replaces a sample's conditions by null, for guidance.
            One number replaces all of them together. A mapping, as in {"y": 0.1, "params": 0.2}, replaces each with its own
            probability, independently of the others; conditions that it does not name are always kept.
        loss_space: "v" is the loss on the velocity. "u" is the loss on the network's output, for the linear theory; its scale
            changes with k, so that it cannot be used to learn k.
        noise_scale: the scale s of the noise n ~ N(0, s² I) in training and at the start of sampling (JiT at 512 pixels: 2). A
            larger s has the same effect as smaller data: k is meant for data in units of s.
        cosine_weight: the weight of a second loss term, the mean over positions of 1 − cos(v̂_c, v_c), where v̂_c and v_c are
            vectors over the second axis, channels (LightningDiT: 1). Like the first term, it is smallest for an exact network,
            whatever k is.
        weighting: the weight of the error over time: "none" (the paper's v-loss), "den" or "log" (`kdiff.targets.weighting`).

    The attribute `calibration` is None, or a correction of the velocity that was found for the trained model
    (`kdiff.training.calibrating`). The loss does not use it.

    The attribute `precision` is "no", or "bf16" or "fp16" for a network that runs under autocast. Everything else, conversions,
    loss and solvers, stays in float32.
    """

    precision: str = "no"

    def __init__(
        self,
        network: nn.Module,
        target: Target | str | float | None = None,
        path: GaussianPath | str | None = None,
        timesteps: Timesteps | None = None,
        null: Mapping[str, Any] | None = None,
        null_rate: float | Mapping[str, float] = 0.0,
        loss_space: Literal["v", "u"] = "v",
        noise_scale: float = 1.0,
        cosine_weight: float = 0.0,
        weighting: Weighting | str = "none",
    ) -> None:
        super().__init__()
        if loss_space not in ("v", "u"):
            raise ValueError(f"loss_space is {loss_space!r}; expected 'v' (the velocity) or 'u' (the network's output)")
        _check_rates(null_rate, null)
        if not (math.isfinite(noise_scale) and noise_scale > 0 and math.isfinite(cosine_weight) and cosine_weight >= 0):
            raise ValueError(f"noise_scale is {noise_scale}, cosine_weight is {cosine_weight}; expected > 0 and ≥ 0")
        if cosine_weight and loss_space == "u":
            raise ValueError("cosine_weight compares velocities, but loss_space is 'u'; expected loss_space='v'")
        if weighting != "none" and loss_space == "u":
            raise ValueError(
                f"weighting is {weighting!r}, which weighs the errors of the velocity, but loss_space is 'u'; expected "
                "weighting='none', or loss_space='v'"
            )
        self.network = network
        self.target = LearnedK() if target is None else as_target(target)
        if isinstance(self.target, SelfConsistent) and (loss_space == "u" or cosine_weight):
            raise ValueError(
                f"the target self_consistent has a loss of its own, on velocities; found loss_space={loss_space!r} and "
                f"cosine_weight={cosine_weight}, expected 'v' and 0"
            )
        self.path = path if isinstance(path, GaussianPath) else find_path(path or "linear")()
        self.timesteps = timesteps or Uniform()
        self.null, self.loss_space = dict(null or {}), loss_space
        self.null_rate = dict(null_rate) if isinstance(null_rate, Mapping) else null_rate
        self.noise_scale, self.cosine_weight = float(noise_scale), float(cosine_weight)
        self.calibration: Calibration | None
        self.register_module("calibration", None)
        self.weighting = make_weighting(weighting)

    def predict(self, z: Tensor, t: Tensor | float, **conditions: Any) -> Tensor:
        """The network's output u, shaped like z. z: (batch, ...); t: a number, (batch,) or (batch, 1, ...).

        A network in half precision receives z in half precision, but t in float32.
        """
        t = torch.as_tensor(checked_time(t), device=z.device).to(torch.promote_types(z.dtype, torch.float32))
        if t.numel() not in (1, len(z)) or (t.ndim > 1 and t.shape[0] != t.numel()):
            raise ValueError(f"t has shape {tuple(t.shape)}; expected a number, ({len(z)},) or ({len(z)}, 1, ...)")
        return self._answer(z, self.target.shown(t) if isinstance(self.target, SelfConsistent) else t, conditions)

    def _answer(self, z: Tensor, shown: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """The network's output for z and the times that the network is shown: a number, (batch,) or (batch, 1, ...)."""
        self._check_conditions(conditions, len(z))
        with autocast_to(self.precision, z.device):
            u = self.network(self._in_its_precision(z), shown.reshape(-1).expand(len(z)), **conditions)
        u = u if self.precision == "no" else at_least_float32(u)
        if u.shape != z.shape:
            raise ValueError(
                f"the network returned {tuple(u.shape)} for an input of {tuple(z.shape)}; expected the shape of its input"
            )
        return u

    def terms(
        self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The two terms of the loss; the arguments are those of `loss`.

        The first is v̂_c − v_c (or û − u) for each entry of x, whose mean square is the loss without a weighting. The second is
        the mean of 1 − cos(v̂_c, v_c); it is None if cosine_weight is 0.
        """
        # Checked and put in its shape once; the functions below find both done.
        t = broadcast_time(self.timesteps.sample(x.shape[0], device=x.device) if t is None else _no_wider(t, x), x)
        noise = _no_wider(noise, x)
        if noise is None:
            noise = torch.randn_like(x) * self.noise_scale
        check_shapes("x noise", x, noise)
        if self.null_rate and self.training:
            conditions = self._drop(conditions, x.shape[0], x.device)
        z = self.path.mix(x, noise, t)
        if isinstance(self.target, SelfConsistent):
            u_hat = torch.cat([self._answer(z, shown, conditions) for shown in self.target.asked(t)])
        else:
            u_hat = self.predict(z, t, **conditions)
        if self.loss_space == "u":
            return self.target.output_error(u_hat, x, noise, t), None
        error = self.target.velocity_error(u_hat, x, noise, t, self.path)
        if not self.cosine_weight:
            return error, None
        v = self.target.loss_velocity(x, noise, t, self.path)
        return error, (1 - functional.cosine_similarity(v + error, v, dim=1)).mean()

    @_gathered
    def loss(self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any) -> Tensor:
        """The loss E‖v̂_c − v_c‖² (or E‖û − u‖²), averaged over batch and dimensions: a scalar with gradients to network and k.

        The model's weighting applies, and the target's penalty is added, if it has one. In training mode each call updates the
        running means of the weighting "log".

        Args:
            x: data, (batch, ...).
            t: times, (batch,). If left out, they are drawn from `timesteps`. Times and noise in float64 are read in the
                precision of x, or in float32 if x is in half precision.
            noise: the noise n, shaped like x, with the model's `noise_scale`. If left out, it is drawn.
            conditions: passed on to the network. Those that `null` names are tensors (batch, ...).

        Raises:
            ValueError: a tensor has another shape, or a time lies outside [0, 1]; times on a device are judged later
                (`kdiff.path.raise_wrong_times`).
        """
        t = self.timesteps.sample(x.shape[0], device=x.device) if t is None else _no_wider(t, x)
        error, cosine = self.terms(x, t, noise, **conditions)
        loss = self.weighed(error, t)
        if self.training:
            self.weighting.observe(error, t)
            self.weighting.settle()
        loss = loss if cosine is None else loss + self.cosine_weight * cosine
        penalty = self.target.penalty()
        return loss if penalty is None else loss + penalty

    def weighed(self, error: Tensor, t: Tensor) -> Tensor:
        """The loss, a scalar, of the errors v̂_c − v_c that `terms` returned at the times t (batch,), under the weighting."""
        if isinstance(self.target, SelfConsistent):
            return self.target.weighed(self.weighting, error, t, self.path)
        return self.weighting(error, t, self.target, self.path)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss. Wrappers such as DistributedDataParallel call this method."""
        return self.loss(*args, **kwargs)

    @_gathered
    def velocity(self, z: Tensor, t: Tensor | float, min_denominator: float = PAPER_CLAMP, **conditions: Any) -> Tensor:
        """The velocity at (z, t), shaped like z, for any solver. Its clamp `min_denominator` is not that of the loss."""
        t = checked_time(t)
        u = self.predict(z, t, **conditions)
        v = self.target.to_velocity(u, z, t, self.path, min_denominator)
        return v if self.calibration is None else self.calibration(v, z, t, self.path)

    def parameter_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser, each with a "name": "network", "network, undecayed" (vectors) and "target".

        The target's parameters have no weight decay, which would pull k to ½. They should not enter the norm by which gradients
        are clipped: clip `model.network.parameters()`, not `model.parameters()`.
        """
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        if any(map(is_lazy, parameters)):
            raise ValueError("a layer of the network has no shape yet; call model.loss(x, …) once, then make the optimiser")
        groups = [
            ("network", [p for p in parameters if p.ndim > 1], weight_decay),
            ("network, undecayed", [p for p in parameters if p.ndim <= 1], 0.0),
            ("target", [p for p in self.target.parameters() if p.requires_grad], 0.0),
        ]
        return [{"name": name, "params": params, "lr": lr, "weight_decay": decay} for name, params, decay in groups if params]

    def _in_its_precision(self, z: Tensor) -> Tensor:
        """z in half precision if the network is in half precision. Autocast makes this change itself."""
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), z.dtype)
        return z.to(own) if own.itemsize < 4 and not torch.is_autocast_enabled(z.device.type) else z

    def _check_conditions(self, conditions: Mapping[str, Any], batch: int) -> None:
        """Raise ValueError if a condition with a null is not a tensor with a row for each sample."""
        for name in self.null:
            value = conditions.get(name)
            if value is not None and not (isinstance(value, Tensor) and value.ndim and len(value) == batch):
                found = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"
                raise ValueError(f"{name} {found}; expected a tensor with one entry for each of the {batch} samples")

    def _drop(self, conditions: dict[str, Any], batch: int, device: torch.device) -> dict[str, Any]:
        """Replace conditions of a sample by null: all together with probability `null_rate`, or each with its own."""
        self._check_conditions(conditions, batch)
        drop: Mapping[str, Tensor]
        if isinstance(self.null_rate, Mapping):
            # A draw for each rate, also if its condition is not given, so that one condition does not change another's draws.
            drop = {name: torch.rand(batch, device=device) < rate for name, rate in self.null_rate.items()}
        else:
            drop = dict.fromkeys(self.null, torch.rand(batch, device=device) < self.null_rate)
        return conditions | {
            name: torch.where(per_sample(drop[name], value, name), null_like(value, self.null[name]), value)
            for name, value in conditions.items()
            if name in drop and isinstance(value, Tensor)
        }


def _check_rates(null_rate: float | Mapping[str, float], null: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless the rates are probabilities, and conditions with a rate above 0 have a null."""
    if not isinstance(null_rate, Mapping):
        if not 0 <= null_rate <= 1 or (null_rate and not null):
            raise ValueError(f"null_rate is {null_rate} with null={null}; expected a probability, and a null if it is above 0")
        return
    if wrong := {name: rate for name, rate in null_rate.items() if not 0 <= rate <= 1 or (rate and name not in (null or {}))}:
        raise ValueError(f"null_rate is {wrong} with null={null}; expected a probability, and a null if it is above 0")
