"""KDiff: a network, its prediction target and a path from noise to data. Training loss, velocity, sampling.

The network is any module called as `network(z, t, **conditions)`, z of shape (batch, ...), t of shape (batch,), that
returns a tensor shaped like z. It knows nothing of k; its output is u = a x − b n, which the target turns into a velocity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdiff.path import GaussianPath, LinearPath, broadcast_time
from kdiff.sampling import Solver, check_times, classifier_free, find_solver, uniform_times
from kdiff.sampling.guidance import null_like
from kdiff.sampling.solvers import Callback
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
    ) -> None:
        super().__init__()
        if loss_space not in ("v", "u"):
            raise ValueError(f"loss_space is {loss_space!r}; expected 'v' (the velocity) or 'u' (the network's output)")
        if not 0 <= null_rate <= 1 or (null_rate and not null):
            raise ValueError(f"null_rate is {null_rate} with null={null}; expected a probability, and a null to replace by")
        self.network = network
        self.target = LearnedK() if target is None else as_target(target)
        self.path = path or LinearPath()
        self.timesteps = timesteps or Uniform()
        self.null = dict(null or {})
        self.null_rate = null_rate
        self.loss_space = loss_space

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

    def error(self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any) -> Tensor:
        """v̂_c − v_c (or û − u) for each entry of x, whose mean square is the loss; arguments as for `loss`."""
        if t is None:
            t = self.timesteps.sample(x.shape[0], device=x.device)
        if noise is None:
            noise = torch.randn_like(x)
        if self.null_rate and self.training:
            conditions = self._drop(conditions, x.shape[0], x.device)
        z = self.path.mix(x, noise, t)
        u_hat = self.predict(z, t, **conditions)
        if self.loss_space == "u":
            return self.target.output_error(u_hat, x, noise, t)
        return self.target.velocity_error(u_hat, x, noise, t, self.path)

    def loss(self, x: Tensor, t: Tensor | None = None, noise: Tensor | None = None, **conditions: Any) -> Tensor:
        """The loss E‖v̂_c − v_c‖² (or E‖û − u‖²), averaged over batch and dimensions: a scalar with gradients to network and k.

        Args:
            x: data, (batch, ...).
            t: times, (batch,); drawn from `timesteps` if left out.
            noise: shaped like x; drawn if left out.
            conditions: handed to the network.
        """
        return self.error(x, t, noise, **conditions).square().mean()

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
        times: Tensor | Sequence[float] | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        last_step: Literal["euler", "data"] = "euler",
        min_denominator: float = PAPER_CLAMP,
        callback: Callback | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Data from noise, shaped like it, in evaluation mode and without gradients.

        Args:
            noise: (batch, ...), the starting point; see `draw_noise`.
            solver: "heun" (its step to t = 1 is Euler's), "euler" or a function like those in `kdiff.sampling`.
            steps: of the uniform grid, if no `times` are given.
            times: increasing times from 0 to 1.
            guidance: the scale w of classifier-free guidance; 1 is none.
            guidance_interval: guide while low < t < high (low = 0 includes t = 0).
            last_step: how the step to t = 1 is made. "euler" is the paper's, under the clamp: near k = 1 it leaves noise
                behind (k = 1, 50 Heun steps: standard deviation 0.017 in every empty direction even from a perfect network).
                "data" returns the data prediction there, without a clamp, at the same cost.
            min_denominator: the clamp of |den| in the sampler; 0 for none.
            callback: called as callback(step, t, z) after every step, and before the first as step 0.
            conditions: handed to the network.
        """
        if last_step not in ("euler", "data"):
            raise ValueError(f"last_step is {last_step!r}; expected 'euler' (the paper's) or 'data' (the data prediction)")
        grid = (uniform_times(steps) if times is None else check_times(times)).to(noise.device)
        if last_step == "data" and (grid[-1] < 1 or grid[0] > grid[1]):
            raise ValueError(f"last_step='data' ends at t = 1; the times end at {grid[-1]:g}")

        def velocity(clamp: float) -> Any:
            def call(z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
                return self.velocity(z, t, clamp, **conditions)

            return classifier_free(call, conditions, self.null, guidance, guidance_interval)

        integrate, modes = find_solver(solver), {module: module.training for module in self.modules()}
        self.eval()
        try:
            if last_step == "euler":
                return integrate(velocity(min_denominator), noise, grid, callback)
            z = integrate(velocity(min_denominator), noise, grid[:-1], callback) if len(grid) > 2 else noise
            x = self.path.data(z, velocity(0.0)(z, grid[-2]), grid[-2])
            if callback:
                callback(len(grid) - 1, grid[-1], x)
            return x
        finally:
            for module, training in modes.items():
                module.training = training

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
