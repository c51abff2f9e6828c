"""Published models as kdiff models: what their output means, the path they were trained on, and which way their time runs.

    architecture     output u          target                  path                   the network's time
    jit              x                 a = 1, b = 0            linear                 t
    sit              x − n             a = 1, b = 1            linear                 t
    lightningdit     x − n             a = 1, b = 1            linear                 t
    dit              +n                a = 0, b = −1           variance-preserving    step 0 … 999 of DDPM, 999 noise
    uvit             +n                a = 0, b = −1           variance-preserving    999 s, or a step 1 … 1000, large for noise

A network on a variance-preserving path z = √ᾱ x + √(1 − ᾱ) n knows z by its log-SNR λ = log(ᾱ/(1 − ᾱ)) alone. So it is used
on kdiff's path of that kind, whatever law of ᾱ it was trained with: at time t it is handed the time of its own at which λ is
that of t. Beyond the noisiest and the cleanest level that it knows it is handed that level. Steps between two whole ones are
interpolated, linearly in λ.
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
from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath
from kdiff.precision import full_precision
from kdiff.target import FixedK, GeneralTarget, Target

Clock = Callable[[Tensor], Tensor]  # log-SNR → the network's own time


def step_clock(betas: Tensor, first: int = 0) -> Clock:
    """The clock of a model of discrete steps, the first of them called `first`: ᾱ_i = Π_{j ≤ i} (1 − β_j)."""
    log_alpha_bar = torch.log1p(-betas.double()).cumsum(0)
    # Rising in λ, as interpolation wants it: from the last step, noise, to the first.
    levels = (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))).flip(0)

    def clock(log_snr: Tensor) -> Tensor:
        table = levels.to(log_snr.device)
        inside = log_snr.double().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, inside.contiguous()).clamp(1, len(table) - 1)
        share = (inside - table[upper - 1]) / (table[upper] - table[upper - 1])
        return (len(table) - 1 - (upper - 1 + share)) + first

    return clock


# DDPM's thousand steps (arXiv 2006.11239), those of DiT; and latent diffusion's (arXiv 2112.10752), of U-ViT on latents.
DDPM_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
LATENT_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
VP_BETAS = 0.1, 20.0  # of the variance-preserving SDE (arXiv 2011.13456)


def vp_clock(log_snr: Tensor) -> Tensor:
    """999 s, s in [0, 1] from log ᾱ = −β₀ s − (β₁ − β₀) s²/2: the variance-preserving SDE of U-ViT on pixels."""
    first, slope = VP_BETAS[0], VP_BETAS[1] - VP_BETAS[0]
    decay = functional.softplus(-log_snr.double())  # −log ᾱ
    # The root of the quadratic without a difference of nearly equal numbers.
    s = 2 * decay / (first + torch.sqrt(first**2 + 2 * slope * decay))
    return 999 * s.nan_to_num(nan=1.0).clamp(0, 1)


class ByItsClock(nn.Module):
    """A network that is handed its own time instead of t, and of whose channels the first C are u.

    Args:
        network: called as network(z, time, **conditions).
        path: on which t counts.
        clock: from the log-SNR at t to the network's time.
    """

    def __init__(self, network: nn.Module, path: GaussianPath, clock: Clock) -> None:
        super().__init__()
        self.network, self.path, self.clock = network, path, clock

    def forward(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """u, shaped like z; t: (batch,), 0 noise and 1 data."""
        # float32 of the right size as the network was trained with: a thousand steps have seven digits left for the sinusoid.
        return self.network(z, self._time(t).to(t.dtype), **conditions)[:, : z.shape[1]]

    @full_precision
    def _time(self, t: Tensor) -> Tensor:
        t = t.double()
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return self.clock(2 * (alpha.log() - sigma.log()))


CLOCKS: dict[str, Clock] = {"ddpm": step_clock(DDPM_BETAS), "latent": step_clock(LATENT_BETAS, first=1), "vp": vp_clock}
NOISIEST = {  # log ᾱ
    "ddpm": torch.log1p(-DDPM_BETAS).sum().item(),
    "latent": torch.log1p(-LATENT_BETAS).sum().item(),
    "vp": -(VP_BETAS[0] + VP_BETAS[1]) / 2,
}


def as_model(architecture: str, network: nn.Module, *, clock: str | Clock | None = None, noise_scale: float = 1.0) -> KDiff:
    """A published network (`kdiff.networks.from_official`) as a model: it samples, and can be trained on.

    Noise predictors (DiT, U-ViT) mean nothing at t = 0, where z is all noise: sample from `noisiest_time` on and with
    min_denominator=0, as in `model.sample(noise, times=[…], min_denominator=0)`.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: with that architecture's weights, in its own times.
        clock: of a noise predictor: "ddpm" (DiT's), "latent" (U-ViT on latents), "vp" (U-ViT on pixels), or a function from
            log-SNR to the network's time. DiT has "ddpm" if left out; U-ViT needs one.
        noise_scale: of the noise that it was trained with: 2 for JiT at 512 pixels.

    Raises:
        ValueError: an unknown architecture or clock; a clock for a network that needs none, or none for U-ViT; a noise scale
            for a noise predictor; one of `kdiff.networks` that is of another architecture, or does to its time what the clock
            does.
    """
    meaning: dict[str, Target] = {
        "jit": FixedK("data"),
        "sit": GeneralTarget(1.0, 1.0),
        "lightningdit": GeneralTarget(1.0, 1.0),
        "dit": GeneralTarget(0.0, -1.0),
        "uvit": GeneralTarget(0.0, -1.0),
    }
    if architecture not in meaning:
        raise ValueError(f"no architecture is called {architecture!r}; expected one of {', '.join(meaning)}")
    _check(architecture, network)
    classes, labels = getattr(network, "num_classes", 0), getattr(network, "y_embedder", None)
    null = {"y": classes} if classes and getattr(labels, "null_class", True) else None
    predicts_noise = architecture in ("dit", "uvit")
    if predicts_noise and noise_scale != 1:
        raise ValueError(f"noise_scale is {noise_scale}; {architecture} was trained with noise of scale 1")
    if not predicts_noise:
        if clock is not None:
            raise ValueError(f"{architecture} counts time from 0 to 1 as kdiff does; clock is for dit and uvit")
        return KDiff(network, meaning[architecture], LinearPath(), null=null, noise_scale=noise_scale)
    if clock is None and architecture == "dit":
        clock = "ddpm"
    if clock is None or (isinstance(clock, str) and clock not in CLOCKS):
        raise ValueError(f"clock is {clock!r}; expected {', '.join(map(repr, CLOCKS))} or a function from log-SNR to the time")
    path = VariancePreservingPath()
    made = CLOCKS[clock] if isinstance(clock, str) else clock
    return KDiff(ByItsClock(network, path, made), meaning[architecture], path, null=null)


def _check(architecture: str, network: nn.Module) -> None:
    """Refuses a network of this package that is not of this architecture; one from elsewhere must be known to its owner."""
    if isinstance(network, ModulatedTransformer | UViT) and not is_official(architecture, network):
        raise ValueError(f"this {type(network).__name__} is not of the architecture {architecture!r}; name its own")
    if getattr(network, "time_scale", 1.0) != 1.0:
        raise ValueError(
            f"this network multiplies its time by {network.time_scale:g}, and is handed times from 0 to 1000 here; make it "
            "with time_scale=1, as `from_official` does"
        )


def noisiest_time(clock: str = "ddpm") -> float:
    """The t on the variance-preserving path of the noisiest level that models of this clock know.

    ᾱ = 4.0e-5 (ddpm), 4.7e-3 (latent), 4.3e-5 (vp) there, and α = √ᾱ = sin(πt/2).
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock is {clock!r}; expected one of {', '.join(CLOCKS)}")
    return 2 / math.pi * math.asin(math.exp(NOISIEST[clock] / 2))
