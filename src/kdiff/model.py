"""KDiff: a network, its prediction target and a path from noise to data. Training loss, velocity, sampling, likelihood.

The network is any module called as `network(z, t, **conditions)`, z of shape (batch, ...), t of shape (batch,), that
returns a tensor shaped like z. It knows nothing of k; its output is u = a x − b n, which the target turns into a velocity.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdiff.path import GaussianPath, LinearPath, broadcast_time
from kdiff.sampling import Callback, Dopri5, EulerMaruyama, Solver, find_solver, find_times, guided_velocity
from kdiff.sampling.guidance import null_like
from kdiff.sampling.likelihood import Divergence, draw_probes, exact_divergence, hutchinson_divergence, log_likelihood
from kdiff.target import PAPER_CLAMP, LearnedK, Target, as_target
from kdiff.timesteps import Timesteps, Uniform


class KDiff(nn.Module):
    """A diffusion or flow model whose prediction target may be learned (k-Diff, arXiv 2601.21419).

    Args:
        network: called as network(z, t, **conditions); returns u, shaped like z.
        target: what u means: a `Target`, "noise", "velocity", "data", "learned" or a fixed k. Learned if left out.
        path: from noise to data; linear if left out.
        timesteps: the law of t in training; uniform if left out.
        null: the value that stands for "no condition", for each condition that can be left out: {"y": 10}.
        null_rate: the probability with which the loss, in training mode, replaces a sample's conditions by null, for guidance.
        loss_space: "v", the loss on the velocity, or "u", on the network's output, which the linear theory speaks of: its scale
            moves with k, so that it is no way to learn k.
        noise_scale: s of the noise n ~ N(0, s² I), of training and of the sampler's start (JiT at 512 pixels: 2). Larger noise
            is smaller data: k is for data in units of s.
        cosine_weight: of a second term of the loss, the mean over positions of 1 − cos(v̂_c, v_c), vectors over the second axis,
            channels (LightningDiT: 1). Like the first it is least for an exact network whatever k.
    """

    def __init__(
        self,
        network: nn.Module,
        target: Target | str | float | None = None,
        path: GaussianPath | None = None,
        timesteps: Timesteps | None = None,
        null: Mapping[str, Any] | None = None,
        null_rate: float = 0.0,
        loss_space: Literal["v", "u"] = "v",
        noise_scale: float = 1.0,
        cosine_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if loss_space not in ("v", "u"):
            raise ValueError(f"loss_space is {loss_space!r}; expected 'v' (the velocity) or 'u' (the network's output)")
        if not 0 <= null_rate <= 1 or (null_rate and not null):
            raise ValueError(f"null_rate is {null_rate} with null={null}; expected a probability, and a null to replace by")
        if not (math.isfinite(noise_scale) and noise_scale > 0 and math.isfinite(cosine_weight) and cosine_weight >= 0):
            raise ValueError(f"noise_scale is {noise_scale}, cosine_weight {cosine_weight}; expected > 0 and ≥ 0")
        if cosine_weight and loss_space == "u":
            raise ValueError("cosine_weight compares velocities; expected loss_space='v' with it")
        self.network = network
        self.target = LearnedK() if target is None else as_target(target)
        self.path = path or LinearPath()
        self.timesteps = timesteps or Uniform()
        self.null = dict(null or {})
        self.null_rate = null_rate
        self.loss_space = loss_space
        self.noise_scale, self.cosine_weight = float(noise_scale), float(cosine_weight)

    def predict(self, z: Tensor, t: Tensor | float, **conditions: Any) -> Tensor:
        """u, as the network returns it. z: (batch, ...); t: a number, (batch,) or (batch, 1, ...).

        A network in half precision is given z in it, and t in float32 all the same.
        """
        t = torch.as_tensor(t, device=z.device).to(torch.promote_types(z.dtype, torch.float32))
        u = self.network(self._in_its_precision(z), t.reshape(-1).expand(z.shape[0]), **conditions)
        if u.shape != z.shape:
            raise ValueError(
                f"the network returned {tuple(u.shape)} for an input of {tuple(z.shape)}; expected the shape of its input"
            )
        return u

    def terms(
        self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What the loss is made of; arguments as for `loss`.

        v̂_c − v_c (or û − u) for each entry of x, whose mean square is the loss; and the mean of 1 − cos(v̂_c, v_c), None where
        cosine_weight is 0.
        """
        if t is None:
            t = self.timesteps.sample(x.shape[0], device=x.device)
        if noise is None:
            noise = torch.randn_like(x) * self.noise_scale
        if self.null_rate and self.training:
            conditions = self._drop(conditions, x.shape[0], x.device)
        z = self.path.mix(x, noise, t)
        u_hat = self.predict(z, t, **conditions)
        if self.loss_space == "u":
            return self.target.output_error(u_hat, x, noise, t), None
        error = self.target.velocity_error(u_hat, x, noise, t, self.path)
        if not self.cosine_weight:
            return error, None
        v = self.target.loss_velocity(x, noise, t, self.path)
        return error, (1 - functional.cosine_similarity(v + error, v, dim=1)).mean()

    def loss(self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any) -> Tensor:
        """The loss E‖v̂_c − v_c‖² (or E‖û − u‖²), averaged over batch and dimensions: a scalar with gradients to network and k.

        Args:
            x: data, (batch, ...).
            t: times, (batch,); drawn from `timesteps` if left out.
            noise: n, shaped like x, of the model's `noise_scale`; drawn if left out.
            conditions: handed to the network.
        """
        error, cosine = self.terms(x, t, noise, **conditions)
        loss = error.square().mean()
        return loss if cosine is None else loss + self.cosine_weight * cosine

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss: what wrappers such as DistributedDataParallel call."""
        return self.loss(*args, **kwargs)

    def velocity(self, z: Tensor, t: Tensor | float, min_denominator: float = PAPER_CLAMP, **conditions: Any) -> Tensor:
        """The velocity at (z, t), shaped like z, for any solver; its clamp is a setting apart from the loss's."""
        u = self.predict(z, t, **conditions)
        return self.target.to_velocity(u, z, t, self.path, min_denominator)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        *,
        solver: str | Solver = "heun",
        steps: int = 50,
        times: str | Tensor | Sequence[float] | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        guidance_channels: Sequence[int] | None = None,
        guidance_model: KDiff | None = None,
        last_step: Literal["euler", "data"] = "euler",
        min_denominator: float = PAPER_CLAMP,
        callback: Callback | None = None,
        indices: Sequence[int] | None = None,
        seed: int = 0,
        **conditions: Any,
    ) -> Tensor:
        """Data from noise, shaped like it, in evaluation mode and without gradients.

        Args:
            noise: (batch, ...), the starting point; see `draw_noise`, and multiply by the model's `noise_scale`.
            solver: a name of `kdiff.sampling.SOLVERS`, "heun" or "dopri5(rtol=1e-6)", or a function like those there. None
                evaluates at t = 1; heun's step that ends there is Euler's.
            steps: of the grid, unless `times` lists it.
            times: increasing times from 0 to 1: a list, or a grid by name, "shifted(0.3)" or "karras"; uniform if left out.
            guidance: the scale w of guidance; 1 is none. Classifier-free, unless there is a `guidance_model`.
            guidance_interval: guide while low < t < high (low = 0 includes t = 0).
            guidance_rescale: φ, from 0 to 1: how far the guided data prediction gets the spread of the unguided one.
            guidance_channels: indices of the channels that guidance acts on; all if left out.
            guidance_model: a weaker model, on the same path, to guide away from (autoguidance).
            last_step: how the step to t = 1 is made. "euler" leaves it to the solver, under the clamp. With heun and euler this
                is the paper's sampler, and near k = 1 it leaves noise behind (k = 1, 50 Heun steps: standard deviation 0.017 in
                every empty direction even from a perfect network). "data" returns the data prediction there, without a clamp.
            min_denominator: the clamp of |den| in the sampler; 0 for none.
            callback: called as callback(step, t, z) after every step, and before the first as step 0.
            indices: the samples' numbers, for a solver that draws noise ("sde"); 0, 1, … if left out.
            seed: of the noise of such a solver.
            conditions: handed to the network.
        """
        if last_step not in ("euler", "data"):
            raise ValueError(f"last_step is {last_step!r}; expected 'euler' (the paper's) or 'data' (the data prediction)")
        if guidance_model is not None and repr(guidance_model.path) != repr(self.path):
            raise ValueError(f"guidance_model is on {guidance_model.path}, this model on {self.path}; expected the same path")
        grid = find_times(times, steps).to(noise.device)
        integrate = find_solver(solver, path=self.path, indices=indices, seed=seed)
        if isinstance(integrate, EulerMaruyama) and self.noise_scale != 1:
            raise ValueError(f"the solver {solver!r} knows noise of scale 1 alone; this model has {self.noise_scale:g}")
        if isinstance(integrate, Dopri5):  # it has no steps of its own beside t = 1 that "data" could end on
            grid = integrate.with_short_end(grid)
        if last_step == "data" and (grid[-1] < 1 or grid[0] > grid[1]):
            raise ValueError(f"last_step='data' ends at t = 1; the times end at {grid[-1]:g}")

        def velocity(clamp: float) -> Any:
            weak = None if guidance_model is None else guidance_model._clamped(clamp)
            options: Any = (guidance_interval, guidance_rescale, guidance_channels, weak, self.path)
            return guided_velocity(self._clamped(clamp), conditions, self.null, guidance, *options)

        with _evaluating(self, guidance_model):
            if last_step == "euler":
                return integrate(velocity(min_denominator), noise, grid, callback)
            z = integrate(velocity(min_denominator), noise, grid[:-1], callback) if len(grid) > 2 else noise
            x = self.path.data(z, velocity(0.0)(z, grid[-2]), grid[-2])
            if callback:
                callback(len(grid) - 1, grid[-1], x)
            return x

    def invert(
        self, x: Tensor, *, steps: int = 50, times: str | Tensor | Sequence[float] | None = None, **options: Any
    ) -> Tensor:
        """The noise, shaped like x, from which the flow leads to the data x: sampling backwards.

        Args:
            x: data, (batch, ...).
            steps: as for `sample`.
            times: as for `sample`; walked from 1 to 0 in whichever order they are given.
            options: further ones of `sample`, but for `last_step`, and conditions. `sample` with the same leads back to x, to
                within the error of the solver. Guidance makes that error larger.
        """
        grid = find_times(times, steps)
        return self.sample(x, times=grid.flip(0) if grid[0] < grid[-1] else grid, **options)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        *,
        solver: str | Solver = "heun",
        steps: int = 50,
        times: str | Tensor | Sequence[float] | None = None,
        probes: int | None = None,
        law: Literal["rademacher", "gaussian"] = "rademacher",
        indices: Sequence[int] | None = None,
        seed: int = 0,
        min_denominator: float = PAPER_CLAMP,
        **conditions: Any,
    ) -> Tensor:
        """log p(x | conditions) in nats, (batch,), of the density that the flow makes of noise; `bits_per_dim` converts it.

        For x as the model sees it, normalised: for data in units of s times as large, subtract D log s. Data that fill only a
        subspace have no density, and the figure then measures the clamp and the steps.

        Args:
            x: data, (batch, ...).
            solver: of the flow, not "sde"; "dopri5" chooses its steps itself.
            steps: as for `sample`; with twice as many the figure should not move.
            times: as for `sample`, from 0 to 1; walked backwards.
            probes: of Hutchinson's estimate of the divergence, a pass through the network and back each; if left out the
                divergence is exact, with a pass back for each dimension.
            law: of the probes, "rademacher" or "gaussian".
            indices: the samples' numbers, for their probes; 0, 1, … if left out.
            seed: of the probes.
            min_denominator: the clamp of |den|, as for `sample`: the density is that of the clamped flow.
            conditions: handed to the network.
        """
        grid = find_times(times, steps).to(x.device)
        divergence: Divergence = exact_divergence
        if probes is not None:
            numbers = range(len(x)) if indices is None else indices
            divergence = hutchinson_divergence(draw_probes(numbers, x.shape[1:], probes, law, seed).to(x))
        velocity = guided_velocity(self._clamped(min_denominator), conditions, self.null, scale=1.0)
        with _evaluating(self):
            return log_likelihood(
                velocity,
                x,
                grid.flip(0) if grid[0] < grid[-1] else grid,
                find_solver(solver, path=self.path),
                divergence,
                self.noise_scale,
            )

    def _clamped(self, clamp: float) -> Any:
        """`velocity` with this clamp, as a function of z, t and conditions."""

        def call(z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
            return self.velocity(z, t, clamp, **conditions)

        return call

    def parameter_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for an optimiser, each with a "name": "network", "network, undecayed" (vectors) and "target".

        The target's parameters have no weight decay, which would pull k to ½, and stay out of the norm that clips the
        network: clip `model.network.parameters()`, not `model.parameters()`.
        """
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = {
            "network": ([p for p in parameters if p.ndim > 1], weight_decay),
            "network, undecayed": ([p for p in parameters if p.ndim <= 1], 0.0),
            "target": ([p for p in self.target.parameters() if p.requires_grad], 0.0),
        }
        return [
            {"name": name, "params": list(params), "lr": lr, "weight_decay": decay}
            for name, (params, decay) in groups.items()
            if params
        ]

    def _in_its_precision(self, z: Tensor) -> Tensor:
        """z in half precision if the network is; autocast sees to that itself."""
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), z.dtype)
        return z.to(own) if own.itemsize < 4 and not torch.is_autocast_enabled(z.device.type) else z

    def _drop(self, conditions: dict[str, Any], batch: int, device: torch.device) -> dict[str, Any]:
        """Replace each sample's conditions by null with probability `null_rate`, all of them together."""
        drop = torch.rand(batch, device=device) < self.null_rate

        def replaced(name: str, value: Any) -> Any:
            if name not in self.null or not isinstance(value, Tensor):
                return value
            return torch.where(broadcast_time(drop, value), null_like(value, self.null[name]), value)

        return {name: replaced(name, value) for name, value in conditions.items()}


@contextlib.contextmanager
def _evaluating(*models: nn.Module | None) -> Iterator[None]:
    """In evaluation mode, each module's own mode restored afterwards."""
    modes = {module: module.training for model in models if model is not None for module in model.modules()}
    for model in models:
        if model is not None:
            model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
