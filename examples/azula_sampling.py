"""Sample a kdiff model with the samplers of azula (pip install azula).

    python examples/azula_sampling.py --steps 400

In azula, time runs from data (t = 0) to noise (t = 1). A sampler needs a denoiser, which gives the mean of x given z_t, and a
schedule, which gives α and σ. For any prediction target, both follow from the velocity and the path: x̂ = `path.data(z, v, t)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from azula.sample import DDIMSampler, DDPMSampler
from torch import Tensor

import kdiff
from kdiff.networks import MLP
from kdiff.sampling import guided_velocity


class PathSchedule(Schedule):
    """α and σ of a path as functions of azula's time."""

    def __init__(self, path: kdiff.GaussianPath) -> None:
        self.path = path

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(1 − t) and σ(1 − t)."""
        return self.path.alpha(1 - t), self.path.sigma(1 - t)


class VelocityDenoiser(Denoiser):
    """The data prediction of a velocity on a path."""

    def __init__(self, velocity: Callable[..., Tensor], path: kdiff.GaussianPath) -> None:
        super().__init__()
        self.velocity, self.path, self.schedule = velocity, path, PathSchedule(path)

    def forward(self, x_t: Tensor, t: Tensor, **conditions: Tensor) -> DiracPosterior:
        """x̂ = (σ v − σ' z)/(α'σ − σ'α)."""
        return DiracPosterior(self.path.data(x_t, self.velocity(x_t, 1 - t, **conditions), 1 - t))


def main() -> dict[str, float]:
    """Train a small model and sample it with azula and with kdiff; returns the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--sampling-steps", type=int, default=50)
    options = parser.parse_args()
    torch.manual_seed(0)

    data = kdiff.load_data("digits")
    x, y = data.part("train")
    model = kdiff.KDiff(MLP(data.shape, num_classes=10, width=128, depth=3), null={"y": 10}, null_rate=0.1)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3))
    for _ in range(options.steps):
        chosen = torch.randint(len(x), (128,))
        loss = model.loss(x[chosen], y=y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.4f}, k {model.target.k:.4f}")
    model.eval()

    noise, labels = kdiff.draw_noise(32, data.shape), torch.arange(32) % 10
    found = {}

    # On the linear path a DDIM step equals an Euler step, so the samples are the same. (azula's EulerSampler divides by α,
    # which is 0 at the start of this path. Its DDIMSampler takes the same step without this division.)
    denoiser = VelocityDenoiser(model.velocity, model.path).eval()
    theirs = DDIMSampler(denoiser, steps=options.sampling_steps, silent=True)(noise, y=labels)
    ours = model.sample(noise, solver="euler", steps=options.sampling_steps, last_step="euler", y=labels)
    found["DDIM and euler"] = (theirs - ours).abs().max().item()

    # With guidance, guide the velocity first. The guided velocity contains the conditions.
    guided = guided_velocity(model.velocity, {"y": labels}, model.null, scale=2.0)
    theirs = DDIMSampler(VelocityDenoiser(guided, model.path), steps=options.sampling_steps, silent=True)(noise)
    ours = model.sample(noise, solver="euler", steps=options.sampling_steps, guidance=2.0, y=labels)
    found["DDIM and euler, guided"] = (theirs - ours).abs().max().item()
    for name, difference in found.items():
        print(f"{name}: largest difference {difference:.1e}")

    # Ancestral sampling, with new noise in every step, which kdiff does not have.
    ancestral = DDPMSampler(denoiser, steps=options.sampling_steps, silent=True)(noise, y=labels)
    print(f"DDPM: values from {ancestral.min():.2f} to {ancestral.max():.2f}; the data have values from -1 to 1")
    return found


if __name__ == "__main__":
    main()
