"""Published models as kdiff models: the meaning of their output, their path, and the direction of their time.

    architecture     output u          target                  path                   the network's time
    jit              x                 a = 1, b = 0            linear                 t
    sit              x − n             a = 1, b = 1            linear                 t
    lightningdit     x − n             a = 1, b = 1            linear                 t
    dit              +n                a = 0, b = −1           variance-preserving    step 0 … 999 of DDPM, 999 noise
    uvit             +n                a = 0, b = −1           variance-preserving    999 s, or a step 1 … 1000, large for noise

Of their samplers, those of jit and lightningdit can guide in an interval of t: jit's leaves out both ends (but includes t = 0),
lightningdit's includes its start. A model of either samples by its own rule.

For a network on a variance-preserving path z = √ᾱ x + √(1 − ᾱ) n, only the log-SNR λ = log(ᾱ/(1 − ᾱ)) of z matters. So the
network can use kdiff's variance-preserving path, for any law of ᾱ in its training: at time t it gets its own time with the
same λ. Levels noisier or cleaner than all that it was trained on are replaced by the noisiest or the cleanest of these.
Discrete steps are interpolated linearly in λ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdiff.model import KDiff
from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.official import is_official
from kdiff.networks.uvit import UViT
from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath, checked_time, full_precision
from kdiff.targets import FixedK, GeneralTarget, Target

Clock = Callable[[Tensor], Tensor]  # log-SNR → the network's own time


def step_clock(betas: Tensor, first: int = 0) -> Clock:
    """The clock of a model with discrete steps numbered from `first`: ᾱ_i = Π_{j ≤ i} (1 − β_j)."""
    log_alpha_bar = torch.log1p(-betas.double()).cumsum(0)
    # Interpolation needs rising λ: from the last step, which is noise, to the first.
    levels = (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))).flip(0)

    def clock(log_snr: Tensor) -> Tensor:
        table = levels.to(log_snr.device)
        inside = log_snr.double().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, inside.contiguous()).clamp(1, len(table) - 1)
        share = (inside - table[upper - 1]) / (table[upper] - table[upper - 1])
        return (len(table) - 1 - (upper - 1 + share)) + first

    return clock


# The thousand steps of DDPM (arXiv 2006.11239) for DiT, and of latent diffusion (arXiv 2112.10752) for U-ViT on latents.
DDPM_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
LATENT_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
VP_BETAS = 0.1, 20.0  # β₀ and β₁ of the variance-preserving SDE (arXiv 2011.13456)


def vp_clock(log_snr: Tensor) -> Tensor:
    """999 s, s in [0, 1] from log ᾱ = −β₀ s − (β₁ − β₀) s²/2: the variance-preserving SDE of U-ViT on pixels."""
    first, slope = VP_BETAS[0], VP_BETAS[1] - VP_BETAS[0]
    decay = functional.softplus(-log_snr.double())  # −log ᾱ
    # This form of the quadratic's root subtracts no nearly equal numbers.
    s = 2 * decay / (first + torch.sqrt(first**2 + 2 * slope * decay))
    return 999 * s.nan_to_num(nan=1.0).clamp(0, 1)


class ByItsClock(nn.Module):
    """Wraps a network so that it gets its own time instead of t; of its output channels, the first C (those of z) are u.

    Args:
        network: called as network(z, time, **conditions).
        path: the path on which t is counted.
        clock: maps the log-SNR at t to the network's time.
    """

    def __init__(self, network: nn.Module, path: GaussianPath, clock: Clock) -> None:
        super().__init__()
        self.network, self.path, self.clock = network, path, clock

    def forward(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """u, shaped like z; t: (batch,), 0 for noise and 1 for data."""
        # The network's time is computed in float64 and passed in the dtype of t, as in the network's training.
        return self.network(z, self._time(t).to(t.dtype), **conditions)[:, : z.shape[1]]

    @full_precision
    def _time(self, t: Tensor) -> Tensor:
        t = checked_time(t).double()
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return self.clock(2 * (alpha.log() - sigma.log()))


CLOCKS: dict[str, Clock] = {"ddpm": step_clock(DDPM_BETAS), "latent": step_clock(LATENT_BETAS, first=1), "vp": vp_clock}
NOISIEST = {  # log ᾱ
    "ddpm": torch.log1p(-DDPM_BETAS).sum().item(),
    "latent": torch.log1p(-LATENT_BETAS).sum().item(),
    "vp": -(VP_BETAS[0] + VP_BETAS[1]) / 2,
}


def as_model(architecture: str, network: nn.Module, *, clock: str | Clock | None = None, noise_scale: float = 1.0) -> KDiff:
    """A published network (`kdiff.networks.from_official`) as a model for sampling and further training.

    The velocity of noise predictors (DiT, U-ViT) is undefined at t = 0, where z is only noise. Sample from `noisiest_time` on
    with min_denominator=0, as in `model.sample(noise, times=[…], min_denominator=0)`.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: a network with weights of that architecture, which takes its own times.
        clock: only for noise predictors: "ddpm" (DiT), "latent" (U-ViT on latents), "vp" (U-ViT on pixels), or a function from
            log-SNR to the network's time. If left out, DiT uses "ddpm"; U-ViT needs a clock.
        noise_scale: the scale of the noise in its training: 2 for JiT at 512 pixels.

    Raises:
        ValueError: the architecture or the clock is unknown; the clock is missing for U-ViT, or given to a network that needs
            none; a noise predictor has a noise scale other than 1; the network has another architecture, or scales its time
            itself.
    """
    velocity, noise = GeneralTarget(1.0, 1.0), GeneralTarget(0.0, -1.0)
    meaning: dict[str, Target] = {"jit": FixedK("data"), "sit": velocity, "lightningdit": velocity, "dit": noise, "uvit": noise}
    if architecture not in meaning:
        raise ValueError(f"no architecture is called {architecture!r}; expected one of {', '.join(meaning)}")
    _check(architecture, network)
    classes, labels = getattr(network, "num_classes", 0), getattr(network, "y_embedder", None)
    null = {"y": classes} if classes and getattr(labels, "null_class", True) else None
    predicts_noise = architecture in ("dit", "uvit")
    if predicts_noise and noise_scale != 1:
        raise ValueError(f"noise_scale is {noise_scale}; expected 1, because {architecture} was trained with noise of scale 1")
    if not predicts_noise:
        if clock is not None:
            raise ValueError(f"leave clock out for {architecture}: its time runs from 0 to 1; only dit and uvit need a clock")
        model = KDiff(network, meaning[architecture], LinearPath(), null=null, noise_scale=noise_scale)
        model.guides_at_start = architecture == "lightningdit"
        return model
    if clock is None and architecture == "dit":
        clock = "ddpm"
    if clock is None or (isinstance(clock, str) and clock not in CLOCKS):
        raise ValueError(f"clock is {clock!r}; expected {', '.join(map(repr, CLOCKS))} or a function from log-SNR to time")
    path = VariancePreservingPath()
    made = CLOCKS[clock] if isinstance(clock, str) else clock
    return KDiff(ByItsClock(network, path, made), meaning[architecture], path, null=null)


def _check(architecture: str, network: nn.Module) -> None:
    """Refuse a network of this package with another architecture; other networks cannot be checked."""
    if isinstance(network, ModulatedTransformer | UViT) and not is_official(architecture, network):
        raise ValueError(f"this {type(network).__name__} is not of the architecture {architecture!r}; name its architecture")
    if getattr(network, "time_scale", 1.0) != 1.0:
        raise ValueError(
            f"this network multiplies its time by {network.time_scale:g}, but it gets times from 0 to 1000 here; build it with "
            "time_scale=1, as `from_official` does"
        )


def noisiest_time(clock: str = "ddpm") -> float:
    """The time t on the variance-preserving path of the noisiest level in the training of models with this clock.

    There ᾱ = 4.0e-5 (ddpm), 4.7e-3 (latent) or 4.3e-5 (vp), and α = √ᾱ = sin(πt/2).
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock is {clock!r}; expected one of {', '.join(CLOCKS)}")
    return 2 / math.pi * math.asin(math.exp(NOISIEST[clock] / 2))
