"""What follows from a velocity field: samples from noise, noise from samples, likelihoods. A model is a `Flow`.

The flow is dz/dt = v(z, t), from noise at t = 0 to data at t = 1.
"""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdiff.config.sampling import find_sampler
from kdiff.path import PAPER_CLAMP, GaussianPath, raise_wrong_times
from kdiff.sampling.adaptive import Dopri5
from kdiff.sampling.finite import FiniteWatch
from kdiff.sampling.guidance import guided_velocity
from kdiff.sampling.likelihood import Divergence, Law, draw_probes, exact_divergence, hutchinson_divergence, log_likelihood
from kdiff.sampling.solvers import find_solver
from kdiff.sampling.stochastic import EulerMaruyama
from kdiff.sampling.times import find_times
from kdiff.sampling.walk import Callback, Solver


class Flow(nn.Module, ABC):
    """A velocity field on a path from noise to data.

    Attributes:
        path: the path from noise to data.
        null: for each condition that can be left out, the value that stands for "no condition".
        noise_scale: s of the noise n ~ N(0, s² I) at which the flow starts.
        guides_at_start: whether an interval of guidance includes its start, as in the sampler of LightningDiT.
    """

    path: GaussianPath
    null: dict[str, Any]
    noise_scale: float
    guides_at_start: bool = False

    @abstractmethod
    def velocity(self, z: Tensor, t: Tensor | float, min_denominator: float = PAPER_CLAMP, **conditions: Any) -> Tensor:
        """The velocity at (z, t), shaped like z; `min_denominator` clamps the denominator of the conversion to a velocity."""

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        *,
        sampler: str = "default",
        solver: str | Solver | None = None,
        steps: int | None = None,
        times: str | Tensor | Sequence[float] | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        guidance_channels: Sequence[int] | None = None,
        guidance_model: Flow | None = None,
        guide_on: Sequence[str] | None = None,
        last_step: Literal["euler", "data"] | None = None,
        min_denominator: float = PAPER_CLAMP,
        callback: Callback | None = None,
        indices: Sequence[int] | None = None,
        seed: int = 0,
        **conditions: Any,
    ) -> Tensor:
        """Data from noise, shaped like the noise, in evaluation mode and without gradients.

        Args:
            noise: (batch, ...), the starting point: noise from `draw_noise`, multiplied by the model's `noise_scale`.
            sampler: the solver, steps and last_step to use where they are left out: "default" (ab3, 18 steps, ends with the
                data prediction) or "paper" (heun, 50 steps of which the last is Euler's).
            solver: a name in `kdiff.sampling.SOLVERS`, such as "heun" or "dopri5(rtol=1e-6)", or a function with the signature
                of `Solver`. No solver evaluates at t = 1; heun's step to t = 1 is Euler's.
            steps: the number of steps of the grid, unless `times` lists it.
            times: increasing times from 0 to 1, as a list or a named grid, "shifted(0.3)" or "karras"; uniform if left out.
            guidance: the scale w of guidance; 1 is none. Guidance is classifier-free, unless there is a `guidance_model`.
            guidance_interval: guide while low < t < high (low = 0 includes t = 0); models that `guides_at_start` include low.
            guidance_rescale: φ from 0 (not at all) to 1: how far the guided data prediction gets the spread of the unguided
                one.
            guidance_channels: indices of the channels that guidance acts on; all if left out.
            guidance_model: a weaker model on the same path, to guide away from (autoguidance). It gets all conditions.
            guide_on: the names of the conditions that classifier-free guidance acts on: the reference is without these, and
                keeps all others. If left out, the reference is without all conditions.
            last_step: how the step to t = 1 is made. "data" returns the data prediction there, without a clamp. "euler" leaves
                the step to the solver, with the clamp; near k = 1 the samples then keep some noise (k = 1, 50 Heun steps:
                standard deviation 0.017 in every empty direction even from a perfect network). Times that do not end at t = 1
                have no such step.
            min_denominator: the clamp of |den| in the sampler; 0 for none.
            callback: called as callback(step, t, z) with the starting point as step 0, and after every step.
            indices: the numbers of the samples, for a solver that draws noise ("sde"); 0, 1, … if left out.
            seed: the seed of the noise that such a solver draws.
            conditions: passed to the network.

        Samples that are not finite are returned with a warning that says how many there are, and since which step.

        Raises:
            ValueError: an option does not fit, guidance has nothing to lead away from, or a time lies outside [0, 1].
            RuntimeError: dopri5 gives up.
        """
        named = find_sampler(sampler)
        if last_step not in ("euler", "data", None):
            raise ValueError(f"last_step is {last_step!r}; expected 'data' (the data prediction) or 'euler' (the paper's)")
        if guidance_model is not None and repr(guidance_model.path) != repr(self.path):
            raise ValueError(f"guidance_model is on {guidance_model.path}, this model on {self.path}; expected the same path")
        grid = find_times(times, named["steps"] if steps is None else steps).to(noise.device)
        integrate = find_solver(solver or named["solver"], path=self.path, indices=indices, seed=seed)
        if isinstance(integrate, EulerMaruyama) and self.noise_scale != 1:
            raise ValueError(f"the solver {solver!r} needs a noise_scale of 1; this model has {self.noise_scale:g}")
        if isinstance(integrate, Dopri5):  # dopri5 chooses its own steps, and last_step="data" needs a time close to 1
            grid = integrate.with_short_end(grid)
        ends_with_data = grid[-1] == 1 and grid[0] < 1
        if last_step == "data" and not ends_with_data:
            raise ValueError(f"last_step='data' needs times that end at t = 1; the times end at {grid[-1]:g}")

        def velocity(clamp: float) -> Any:
            weak = None if guidance_model is None else guidance_model._clamped(clamp)
            start = self.guides_at_start
            options: Any = (guidance_interval, guidance_rescale, guidance_channels, weak, self.path, start, guide_on)
            return guided_velocity(self._clamped(clamp), conditions, self.null, guidance, *options)

        watch = callback if isinstance(callback, FiniteWatch) else FiniteWatch(callback)
        # dopri5 would keep the states of all steps for a callback, and says itself where a velocity is not finite.
        seen = watch.then if isinstance(integrate, Dopri5) else watch
        with _evaluating(self, guidance_model):
            if not ends_with_data or (last_step or named["last_step"]) == "euler":
                x = integrate(velocity(min_denominator), noise, grid, seen)
            else:
                z = integrate(velocity(min_denominator), noise, grid[:-1], seen) if len(grid) > 2 else noise
                x = self.path.data(z, velocity(0.0)(z, grid[-2]), grid[-2])
                if seen:
                    seen(len(grid) - 1, grid[-1], x)
        raise_wrong_times()
        watch.close(x)
        if watch.wrong and watch is not callback:
            warnings.warn(str(watch), stacklevel=3)  # beyond torch.no_grad
        return x

    def invert(
        self, x: Tensor, *, steps: int = 50, times: str | Tensor | Sequence[float] | None = None, **options: Any
    ) -> Tensor:
        """The noise, shaped like x, from which the flow leads to the data x: sampling backwards.

        Args:
            x: data, (batch, ...).
            steps: the number of steps of the grid, unless `times` lists it.
            times: as for `sample`, in any order; the flow runs from 1 to 0.
            options: conditions and further options of `sample`, except `last_step`; the solver is heun if left out. `sample`
                with the same solver, steps and options and `last_step="euler"` leads back to x, up to the solver's error,
                which guidance makes larger.
        """
        backwards = find_times(times, steps).sort(descending=True).values
        return self.sample(x, times=backwards, **{"solver": "heun", **options})

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        *,
        solver: str | Solver = "heun",
        steps: int = 50,
        times: str | Tensor | Sequence[float] | None = None,
        probes: int | None = None,
        law: Law = "rademacher",
        indices: Sequence[int] | None = None,
        seed: int = 0,
        min_denominator: float = PAPER_CLAMP,
        **conditions: Any,
    ) -> Tensor:
        """log p(x | conditions) in nats, (batch,), for the density that the flow gives to data; see also `bits_per_dim`.

        x must be normalised as the model sees it; for the density of s x instead, subtract D log s. Data that fill only a
        subspace have no density, and the result then depends on the clamp and the number of steps.

        Args:
            x: data, (batch, ...).
            solver: a solver of the flow, so not "sde"; "dopri5" chooses its steps itself.
            steps: as for `sample`; the result should not change if their number is doubled.
            times: as for `sample`, from 0 to 1; the flow runs through them backwards.
            probes: the number of probes of Hutchinson's estimate of the divergence, each with one backward pass through the
                network. If left out, the divergence is exact and needs one backward pass for each dimension.
            law: the law of the probes, "rademacher" or "gaussian".
            indices: the numbers of the samples, which determine their probes; 0, 1, … if left out.
            seed: the seed of the probes.
            min_denominator: the clamp of |den|, as for `sample`; the density is that of the flow with this clamp.
            conditions: passed to the network.
        """
        backwards = find_times(times, steps).to(x.device).sort(descending=True).values
        divergence: Divergence = exact_divergence
        if probes is not None:
            numbers = range(len(x)) if indices is None else indices
            divergence = hutchinson_divergence(draw_probes(numbers, x.shape[1:], probes, law, seed).to(x))
        velocity = guided_velocity(self._clamped(min_denominator), conditions, self.null, scale=1.0)
        with _evaluating(self):
            found = log_likelihood(velocity, x, backwards, find_solver(solver, path=self.path), divergence, self.noise_scale)
        raise_wrong_times()
        if wrong := int((~found.isfinite()).sum()):
            warnings.warn(f"{wrong} of {len(found)} log-likelihoods are not finite numbers", stacklevel=3)
        return found

    def _clamped(self, clamp: float) -> Any:
        """`velocity` with this clamp, as a function of z, t and conditions."""
        return lambda z, t, **conditions: self.velocity(z, t, clamp, **conditions)


def _casting_once(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast as it is. Weights that a network casts within are kept until this context ends: one cast for all evaluations."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))


@contextlib.contextmanager
def _evaluating(*models: nn.Module | None) -> Iterator[None]:
    """Put models into evaluation mode, and restore each module's own mode afterwards."""
    modes = {module: module.training for model in models if model is not None for module in model.modules()}
    for model in models:
        if model is not None:
            model.eval()
    device = next((p.device.type for model in models if model is not None for p in model.parameters()), "cpu")
    try:
        with _casting_once(device):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
